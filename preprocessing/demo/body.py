"""The driver's body and head: joints for a pose; face, hair, limbs, clothes and hands drawn around them."""

import dataclasses
import itertools

import numpy as np

from preprocessing.demo.raster import Canvas, Colour
from preprocessing.demo.scene import Driver, shaded

WHITE: Colour = (245, 243, 238)
DARK: Colour = (26, 22, 24)


@dataclasses.dataclass(frozen=True)
class HeadFrame:
    """Where the head is and how it is turned: local coordinates are (forward, up, to the driver's right)."""

    centre: np.ndarray  # shape (3,), metres
    axes: np.ndarray  # shape (3, 3): rows forward, up, right, of length 1
    size: float

    def at(self, forward: float, up: float, right: float) -> np.ndarray:
        """A point of the head, metres in an average head -> metres in the car, shape (3,)."""
        return self.centre + self.size * (np.array([forward, up, right]) @ self.axes)


def head_frame(centre: np.ndarray, yaw: float, pitch: float, roll: float, size: float) -> HeadFrame:
    """Turns a head. Radians: yaw 0 looks ahead and pi/2 into the camera; positive pitch looks down; positive roll
    leans to the passenger.
    """
    forward = np.array([np.cos(yaw), 0.0, np.sin(yaw)])
    right = np.array([-np.sin(yaw), 0.0, np.cos(yaw)])
    up = np.array([0.0, 1.0, 0.0])
    forward, up = np.cos(pitch) * forward - np.sin(pitch) * up, np.cos(pitch) * up + np.sin(pitch) * forward
    up, right = np.cos(roll) * up + np.sin(roll) * right, np.cos(roll) * right - np.sin(roll) * up
    return HeadFrame(centre, np.stack([forward, up, right]), size)


def draw_head(canvas: Canvas, driver: Driver, frame: HeadFrame, mouth_open: float) -> None:
    """Draws the head; `mouth_open` from 0 (shut) to 1 (talking)."""
    at, size = frame.at, frame.size

    def ball(place: tuple[float, float, float], radius: float, colour: Colour, matt: float = 1.0) -> None:
        canvas.cone(at(*place), at(*place), radius * size, radius * size, colour, matt=matt)

    def cone(
        start: tuple[float, float, float], end: tuple[float, float, float], radii: tuple[float, float], colour: Colour
    ) -> None:
        canvas.cone(at(*start), at(*end), radii[0] * size, radii[1] * size, colour)

    skin = driver.skin
    cone((-0.03, 0.025, 0), (0.005, 0.025, 0), (0.086, 0.082), skin)
    cone((0.01, 0.03, 0), (0.046, -0.088 - 0.012 * mouth_open, 0), (0.0895, 0.048), skin)
    cone((0.097, 0.012, 0), (0.12, -0.026, 0), (0.01, 0.017), shaded(skin, 1.03))
    for side in (-1.0, 1.0):
        cone((-0.006, 0.012, side * 0.09), (0.0, -0.022, side * 0.086), (0.02, 0.013), shaded(skin, 0.9))
        ball((0.087, 0.008, side * 0.034), 0.0155, WHITE, 0.5)
        ball((0.0985, 0.006, side * 0.036), 0.0085, DARK)
        cone((0.1, 0.036, side * 0.016), (0.086, 0.038, side * 0.054), (0.006, 0.005), shaded(driver.hair, 0.7))
    if "beard" in driver.face:
        beard = shaded(driver.hair, 0.85)
        cone((0.018, -0.055, -0.058), (0.05, -0.095, 0), (0.026, 0.044), beard)
        cone((0.018, -0.055, 0.058), (0.05, -0.095, 0), (0.026, 0.044), beard)
        cone((0.093, -0.044, -0.03), (0.093, -0.044, 0.03), (0.009, 0.009), beard)
    _draw_mouth(canvas, frame, shaded(skin, 0.75), mouth_open)
    _draw_glasses(canvas, driver, frame)
    _draw_hair(canvas, driver, frame)


def _draw_mouth(canvas: Canvas, frame: HeadFrame, lips: Colour, mouth_open: float) -> None:
    at, size = frame.at, frame.size
    red, green, blue = lips
    lips = (min(255.0, red * 1.05 + 20), green * 0.62, blue * 0.66)
    low = -0.066 - 0.012 * mouth_open
    lip = (0.010 + 0.013 * mouth_open) * size
    for side in (-1.0, 1.0):
        canvas.cone(at(0.0955, low, 0.0), at(0.086, low, side * 0.024), lip, lip * 0.8, lips)
    if mouth_open > 0.2:
        inside = lip * 0.7
        canvas.cone(at(0.101, low, -0.019), at(0.101, low, 0.019), inside, inside, (70, 18, 22))
        teeth = low + 0.009 * mouth_open
        canvas.cone(at(0.110, teeth, -0.015), at(0.110, teeth, 0.015), 0.006 * size, 0.006 * size, WHITE)


def _draw_glasses(canvas: Canvas, driver: Driver, frame: HeadFrame) -> None:
    if "glasses" not in driver.face:
        return
    at, size = frame.at, frame.size
    thin = 0.0038 * size
    for side in (-1.0, 1.0):
        angles = np.linspace(0, 2 * np.pi, 11)
        rim = [at(0.108, 0.006 + 0.022 * np.sin(angle), side * (0.036 + 0.027 * np.cos(angle))) for angle in angles]
        if driver.face.startswith("sun"):
            canvas.polygon(np.stack(rim[:-1]), (22, 20, 26))
        for start, end in itertools.pairwise(rim):
            canvas.cone(start, end, thin, thin, (30, 28, 34))
        canvas.cone(at(0.104, 0.012, side * 0.063), at(0.0, 0.014, side * 0.097), thin, thin, (30, 28, 34))
    canvas.cone(at(0.114, 0.01, -0.01), at(0.114, 0.01, 0.01), thin, thin, (30, 28, 34))


def _draw_hair(canvas: Canvas, driver: Driver, frame: HeadFrame) -> None:
    at, size, hair, style = frame.at, frame.size, driver.hair, driver.hair_style
    if style == "bald":
        for side in (-1.0, 1.0):
            canvas.cone(at(-0.055, -0.01, side * 0.05), at(-0.02, 0.0, side * 0.068), 0.043 * size, 0.026 * size, hair)
        return
    if style == "cap":
        colour = driver.trousers
        canvas.cone(at(-0.03, 0.05, 0), at(0.0, 0.058, 0), 0.094 * size, 0.091 * size, colour)
        for side in (-1.0, 0.0, 1.0):
            end = at(0.165 - 0.012 * abs(side), 0.062, side * 0.045)
            canvas.cone(at(0.06, 0.075, side * 0.05), end, 0.014 * size, 0.009 * size, shaded(colour, 0.75))
        canvas.cone(at(-0.06, -0.01, 0), at(-0.045, 0.01, 0), 0.07 * size, 0.085 * size, hair)
        return
    canvas.cone(at(-0.045, 0.042, 0), at(-0.008, 0.056, 0), 0.098 * size, 0.095 * size, hair)
    canvas.cone(at(-0.06, -0.03, 0), at(-0.05, 0.02, 0), 0.062 * size, 0.088 * size, hair)
    if style == "long":
        for side in (-1.0, 1.0):
            top, middle = at(-0.035, 0.02, side * 0.062), at(-0.045, -0.09, side * 0.07)
            canvas.cone(top, middle, 0.045 * size, 0.04 * size, hair)
            canvas.cone(middle, at(-0.04, -0.19, side * 0.075), 0.04 * size, 0.03 * size, shaded(hair, 1.12))
        canvas.cone(at(-0.07, -0.02, 0), at(-0.085, -0.19, 0), 0.07 * size, 0.05 * size, shaded(hair, 0.9))
    elif style == "curly":
        for turn in np.linspace(-2.3, 2.3, 11):
            for height in (0.02, 0.085):
                back = -0.045 - 0.07 * np.cos(turn) * (1.1 - 4 * height)
                place = at(back, height + 0.02, 0.095 * np.sin(turn) * (1.15 - 4 * height))
                canvas.cone(place, place, 0.043 * size, 0.043 * size, shaded(hair, 0.9 + 0.25 * (turn % 0.5)))
    elif style == "bun":
        canvas.cone(at(-0.13, 0.07, 0), at(-0.14, 0.075, 0), 0.045 * size, 0.045 * size, hair)


UPPER_ARM, FOREARM, PALM = 0.29, 0.255, 0.05  # metres; the palm counts from the wrist to its middle
HEAD_SIZE = 1.16  # a little too large, so that faces read in small pictures
LONGEST_STRETCH = 1.1  # how far shoulder and wrist may give beyond the arm's length


@dataclasses.dataclass(frozen=True)
class Trunk:
    """The pose of trunk and head. Angles in radians."""

    lean: float  # forward
    twist: float  # the chest turned to the passenger
    sway: float  # tilted to the passenger
    head_yaw: float
    head_pitch: float
    head_roll: float
    mouth_open: float  # 0 to 1


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """Joints in metres, shape (3,) each. The right side is the near one, the left the far one."""

    hip: np.ndarray
    chest: np.ndarray
    axes: np.ndarray  # of the chest, shape (3, 3): rows forward, up, right
    near_shoulder: np.ndarray
    far_shoulder: np.ndarray
    head: HeadFrame


@dataclasses.dataclass(frozen=True)
class Hand:
    """A hand's place: the middle of the palm, and directions of length 1; shape (3,) each."""

    palm: np.ndarray
    direction: np.ndarray  # from the wrist to the fingers
    axis: np.ndarray  # along what it holds; the fingers stand beside one another along it
    wrap: np.ndarray  # where the finger tips bend to
    elbow: np.ndarray  # where the elbow points
    elbow_place: np.ndarray | None = None  # where it is, metres, if the pose says it outright


def unit(*vector: float) -> np.ndarray:
    """A vector of length 1."""
    array = np.array(vector, dtype=float)
    return array / np.linalg.norm(array)


def skeleton(driver: Driver, trunk: Trunk) -> Skeleton:
    size = driver.size
    lean, sway, twist = trunk.lean, trunk.sway, trunk.twist
    up = unit(np.sin(lean), np.cos(lean), np.sin(sway))
    forward = np.array([np.cos(twist), 0.0, np.sin(twist)])
    forward -= up * (forward @ up)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    hip = np.array([-0.02 + driver.seat_shift, 0.05, 0.0])
    chest = hip + up * 0.33 * size
    half = 0.175 * size * driver.girth**0.4
    collar = hip + up * 0.47 * size
    near, far = collar + right * half, collar - right * half
    neck = collar + up * 0.07 * size
    face = np.array([np.cos(trunk.head_yaw), 0.0, np.sin(trunk.head_yaw)])
    centre = neck + np.array([0.0, 0.09 * size, 0.0]) + 0.04 * face + 0.02 * up
    head = head_frame(centre, trunk.head_yaw, trunk.head_pitch, trunk.head_roll, size * HEAD_SIZE)
    return Skeleton(hip, chest, np.stack([forward, up, right]), near, far, head)


def elbow_of(shoulder: np.ndarray, wrist: np.ndarray, towards: np.ndarray, size: float) -> np.ndarray:
    """The elbow of an arm whose ends are given, bent in the direction `towards`; shapes (3,), metres."""
    upper, fore = UPPER_ARM * size, FOREARM * size
    reach = wrist - shoulder
    distance = max(float(np.linalg.norm(reach)), 1e-6)
    line = reach / distance
    stretch = max(distance / (upper + fore) * 1.001, 1.0)
    upper, fore = upper * stretch, fore * stretch
    along = (upper**2 - fore**2 + distance**2) / (2 * distance)
    bend = towards - line * (towards @ line)
    bend /= max(float(np.linalg.norm(bend)), 1e-6)
    return shoulder + line * along + bend * np.sqrt(max(upper**2 - along**2, 0.0))


def wrist_of(joint: np.ndarray, hand: Hand, size: float) -> np.ndarray:
    """The wrist behind a palm, never farther from the shoulder than an arm can reach; shape (3,), metres."""
    wrist = hand.palm - hand.direction * PALM * size
    reach = wrist - joint
    longest = (UPPER_ARM + FOREARM) * size * LONGEST_STRETCH
    return joint + reach * min(1.0, longest / max(float(np.linalg.norm(reach)), 1e-6))


def draw_arm(canvas: Canvas, driver: Driver, shoulder: np.ndarray, hand: Hand) -> None:
    size, skin, sleeve = driver.size, driver.skin, driver.shirt
    wrist = wrist_of(shoulder, hand, size)
    elbow = hand.elbow_place if hand.elbow_place is not None else elbow_of(shoulder, wrist, hand.elbow, size)
    thick = size * driver.girth**0.5
    if driver.long_sleeves:
        canvas.cone(shoulder, elbow, 0.062 * thick, 0.048 * thick, sleeve, pattern=driver.shirt_pattern)
        cuff = elbow + (wrist - elbow) * 0.9
        canvas.cone(elbow, cuff, 0.049 * thick, 0.036 * thick, sleeve, pattern=driver.shirt_pattern)
        canvas.cone(cuff, wrist, 0.028 * thick, 0.027 * thick, skin)
    else:
        hem = shoulder + (elbow - shoulder) * 0.6
        canvas.cone(shoulder, elbow, 0.05 * thick, 0.041 * thick, skin)
        canvas.cone(shoulder, hem, 0.063 * thick, 0.056 * thick, sleeve, pattern=driver.shirt_pattern)
        canvas.cone(elbow, wrist, 0.043 * thick, 0.028 * thick, skin)
    _draw_hand(canvas, hand, wrist, skin, size)


def _draw_hand(canvas: Canvas, hand: Hand, wrist: np.ndarray, skin: Colour, size: float) -> None:
    palm = wrist + hand.direction * PALM * size
    knuckles = palm + hand.direction * 0.022 * size
    canvas.cone(wrist, palm, 0.028 * size, 0.036 * size, skin)
    for number, share in enumerate((-1.0, -0.35, 0.3, 0.95)):
        root = knuckles + hand.axis * share * 0.03 * size
        middle = root + (hand.direction * 0.55 + hand.wrap * 0.45) * 0.045 * size
        tip = middle + hand.wrap * (0.034 - 0.004 * number) * size
        shade = shaded(skin, 0.93 + 0.05 * (number % 2))
        canvas.cone(root, middle, 0.0125 * size, 0.0115 * size, shade)
        canvas.cone(middle, tip, 0.0115 * size, 0.0095 * size, shade)
    thumb = palm + hand.axis * 0.045 * size
    canvas.cone(palm, thumb, 0.017 * size, 0.014 * size, skin)
    canvas.cone(thumb, thumb + (hand.direction + hand.axis * 0.3) * 0.04 * size, 0.013 * size, 0.01 * size, skin)


def draw_trunk(canvas: Canvas, driver: Driver, bones: Skeleton, trunk: Trunk) -> None:
    """Draws legs, trunk, seat belt, neck and head."""
    size, girth = driver.size, driver.girth
    forward, up, right = bones.axes
    for side in (-1, 1):
        hip = np.array([0.02 + driver.seat_shift, 0.0, side * 0.1])
        knee = np.array([0.47 + driver.seat_shift, 0.07, side * 0.13])
        canvas.cone(hip, knee, 0.098 * size * girth, 0.07 * size, driver.trousers)
        canvas.cone(knee, knee + np.array([0.25, -0.36, 0.0]), 0.07 * size, 0.05 * size, driver.trousers)
    for side in (-1, 1):
        low = bones.hip + right * side * 0.055
        high = bones.chest + right * side * 0.075 * size
        canvas.cone(
            low, high, 0.12 * size * girth, 0.105 * size * girth**0.5, driver.shirt, pattern=driver.shirt_pattern
        )
    inner = 0.8
    collar = (bones.near_shoulder + bones.far_shoulder) / 2
    start = collar + (bones.near_shoulder - collar) * inner
    end = collar + (bones.far_shoulder - collar) * inner
    canvas.cone(start, end, 0.067 * size, 0.067 * size, driver.shirt, pattern=driver.shirt_pattern)
    thick = 0.1 * size * girth**0.5
    top = collar - up * 0.01 + forward * (0.052 * size) - right * 0.13 * size
    middle = bones.chest + forward * (thick + 0.002) + right * 0.0
    bottom = bones.hip + forward * 0.085 * girth + right * 0.14 * girth + up * 0.02
    for begin, finish in ((top, middle), (middle, bottom)):
        canvas.cone(begin, finish, 0.021, 0.021, driver.belt)
    base, jaw = collar + up * 0.02, bones.head.at(-0.02, -0.05, 0.0)
    canvas.cone(base, jaw, 0.062 * size, 0.054 * size, shaded(driver.skin, 0.86))
    draw_head(canvas, driver, bones.head, trunk.mouth_open)

"""The driver's body: where the joints are for a pose, and limbs, clothes and hands drawn around them."""

import dataclasses

import numpy as np

from preprocessing.demo.appearance import Colour, Driver, shaded
from preprocessing.demo.head import HeadFrame, draw_head, head_frame
from preprocessing.demo.raster import Canvas

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
    """Joints of the driver in this pose."""
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
    """Draws an arm from the shoulder to the finger tips."""
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

"""The ten behaviours as poses, and sequences of frames, as a video camera would take them.

A pose is a function of the driver and of twelve `habits` between -1 and 1, which differ from sequence to sequence
and hardly from frame to frame.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from preprocessing.demo.body import Hand, Skeleton, Trunk, draw_arm, draw_trunk, skeleton, unit
from preprocessing.demo.raster import HEIGHT, WIDTH, Canvas
from preprocessing.demo.scene import Driver, draw_cabin, draw_street, panel_point, shaded, street_view, wheel_point

NUMBER_OF_HABITS = 12
DOWN_OUT = {"near": unit(-0.2, -1.0, 0.45), "far": unit(-0.2, -1.0, -0.45)}  # where resting elbows point

Draw = Callable[[Canvas], None]


@dataclasses.dataclass(frozen=True)
class Pose:
    """One pose of one driver."""

    trunk: Trunk
    bones: Skeleton
    near: Hand  # the right hand, on the camera's side
    far: Hand  # the left hand
    things: tuple[Draw, ...] = ()


def draw_person(canvas: Canvas, driver: Driver, pose: Pose) -> None:
    draw_trunk(canvas, driver, pose.bones, pose.trunk)
    draw_arm(canvas, driver, pose.bones.far_shoulder, pose.far)
    for thing in pose.things:
        thing(canvas)
    draw_arm(canvas, driver, pose.bones.near_shoulder, pose.near)


def pose_of(behaviour: str, driver: Driver, habits: np.ndarray) -> Pose:
    """The pose of a behaviour, 'c0' to 'c9'; habits of shape (12,), about -1 to 1."""
    trunk = _trunk(behaviour, habits)
    bones = skeleton(driver, trunk)
    near = _on_wheel(driver, "near", 1.1 + 0.25 * habits[0])
    far = _on_wheel(driver, "far", -0.95 + 0.45 * habits[1])
    if behaviour in _HANDS:
        return _HANDS[behaviour](driver, trunk, bones, near, far, habits)
    return Pose(trunk, bones, near, far)


def _trunk(behaviour: str, habits: np.ndarray) -> Trunk:
    """Trunk and head; the last habits."""
    lean, twist, yaw, pitch, roll = (float(value) for value in habits[-5:])
    trunk = Trunk(
        lean=-0.14 + 0.05 * lean,
        twist=0.05 + 0.06 * twist,
        sway=0.0,
        head_yaw=0.2 + 0.16 * yaw,
        head_pitch=0.02 + 0.07 * pitch,
        head_roll=0.04 * roll,
        mouth_open=0.0,
    )
    changes: dict[str, dict[str, float]] = {
        "c1": {"head_pitch": 0.42 + 0.12 * pitch, "head_yaw": 0.32 + 0.15 * yaw},
        "c2": {"head_yaw": 0.25 + 0.18 * yaw, "head_roll": 0.1 + 0.05 * roll},
        "c3": {"head_pitch": 0.3 + 0.12 * pitch, "head_yaw": 0.1 + 0.15 * yaw},
        "c4": {"head_yaw": 0.62 + 0.18 * yaw, "head_roll": -0.1 + 0.05 * roll},
        "c5": {"lean": 0.1 + 0.06 * lean, "head_yaw": 0.4 + 0.2 * yaw, "head_pitch": 0.25 + 0.1 * pitch},
        "c6": {"head_yaw": 0.3 + 0.16 * yaw, "head_pitch": -0.16 + 0.08 * pitch},
        "c7": {
            "lean": -0.05 + 0.08 * lean,
            "twist": 0.75 + 0.15 * twist,
            "sway": 0.2 + 0.05 * roll,
            "head_yaw": 2.35 + 0.3 * yaw,
            "head_pitch": 0.25 + 0.1 * pitch,
        },
        "c8": {"head_yaw": 0.3 + 0.2 * yaw, "head_roll": 0.12 + 0.08 * roll},
        "c9": {
            "head_yaw": 1.4 + 0.15 * yaw,
            "twist": 0.3 + 0.08 * twist,
            "sway": 0.1,
            "mouth_open": 0.75 + 0.25 * pitch,
        },
    }
    return dataclasses.replace(trunk, **changes.get(behaviour, {}))


def _on_wheel(driver: Driver, side: str, angle: float) -> Hand:
    rim, axis = wheel_point(driver, angle)
    inward = -0.2 if side == "near" else 0.2
    direction = unit(0.9, 0.25, inward)
    palm = rim - direction * 0.02 + np.array([-0.01, 0.01, 0.0])
    return Hand(palm, direction, axis, unit(0.3, -0.4, inward * 4), DOWN_OUT[side])


def _phone(driver: Driver, centre: np.ndarray, along: np.ndarray, normal: np.ndarray) -> Draw:
    """A telephone whose screen looks along `normal` and whose long side lies along `along`."""
    normal = normal / np.linalg.norm(normal)
    along = along - normal * (along @ normal)
    along /= np.linalg.norm(along)
    across = np.cross(along, normal)

    def draw(canvas: Canvas) -> None:
        sizes = (0.043, 0.086, 0.009)
        canvas.box(centre, np.stack([across, along, normal]), sizes, driver.phone)
        lift = normal * 0.0105
        corners = [(-0.036, -0.068), (0.036, -0.068), (0.036, 0.072), (-0.036, 0.072)]
        screen = np.stack([centre + lift + across * wide + along * high for wide, high in corners])
        if normal @ (canvas.camera.position - centre) > 0:
            canvas.polygon(screen, (140, 210, 255))

    return draw


def _texting(
    driver: Driver, trunk: Trunk, bones: Skeleton, near: Hand, far: Hand, habits: np.ndarray, side: str
) -> Pose:
    sign = 1.0 if side == "near" else -1.0
    place = np.array([0.27, 0.40, 0.15]) if side == "near" else np.array([0.33, 0.51, -0.13])
    place = place + np.array([0.04, 0.045, 0.03]) * habits[2:5]
    normal = unit(-0.6 + 0.15 * habits[5], 0.4, 0.6)
    along = unit(0.45, 0.85, 0.0)
    direction = unit(0.7, 0.6, -0.25 * sign)
    hand = Hand(place - along * 0.05 - normal * 0.012, direction, along, unit(0.2, 0.2, -sign), DOWN_OUT[side])
    thing = _phone(driver, place + direction * 0.03 + along * 0.02, along, normal)
    near, far = (hand, far) if side == "near" else (near, hand)
    return Pose(trunk, bones, near, far, (thing,))


def _calling(
    driver: Driver, trunk: Trunk, bones: Skeleton, near: Hand, far: Hand, habits: np.ndarray, side: str
) -> Pose:
    sign = 1.0 if side == "near" else -1.0
    head = bones.head
    forward, up, right = head.axes
    out = right * sign
    centre = head.at(0.02 + 0.012 * habits[2], -0.035 + 0.015 * habits[3], sign * 0.118)
    if side == "far":
        centre = head.at(0.055 + 0.012 * habits[2], -0.035 + 0.015 * habits[3], -0.135)
    along = forward * (0.45 + 0.2 * habits[4]) - up * 0.85
    direction = up * 0.9 + forward * 0.05 - out * 0.15
    direction /= np.linalg.norm(direction)
    palm = centre + out * 0.03 - direction * 0.085
    shoulder = bones.near_shoulder if side == "near" else bones.far_shoulder
    bend = np.array([0.21, -0.15 + 0.05 * habits[5], 0.1 * sign]) * driver.size
    hand = Hand(palm, direction, forward, unit(*(up * 0.8 - out * 0.4)), out, shoulder + bend)
    near, far = (hand, far) if side == "near" else (near, hand)
    return Pose(trunk, bones, near, far, (_phone(driver, centre, along, -out),))


def _radio(driver: Driver, trunk: Trunk, bones: Skeleton, near: Hand, far: Hand, habits: np.ndarray) -> Pose:
    target = panel_point(0.4 + 0.1 * habits[2], 0.5 + 0.25 * habits[3])
    direction = unit(0.9, -0.35, 0.1)
    palm = target - direction * 0.1
    hand = Hand(palm, direction, unit(0.0, 0.3, 1.0), unit(0.9, -0.5, 0.0), DOWN_OUT["near"])
    return Pose(trunk, bones, hand, far)


def _drinking(driver: Driver, trunk: Trunk, bones: Skeleton, near: Hand, far: Hand, habits: np.ndarray) -> Pose:
    head = bones.head
    forward, up, right = head.axes
    mouth = head.at(0.112, -0.072, 0.0)
    axis = forward * 0.85 + up * (0.05 + 0.25 * habits[2]) + right * 0.25
    axis /= np.linalg.norm(axis)
    foot = mouth + axis * 0.17
    grip = mouth + axis * 0.1

    def cup(canvas: Canvas) -> None:
        canvas.cone(mouth, foot, 0.06, 0.048, driver.cup, flat_ends=True)
        canvas.cone(mouth + axis * 0.05, mouth + axis * 0.13, 0.0595, 0.0525, shaded(driver.cup, 0.6), flat_ends=True)
        canvas.cone(mouth - axis * 0.004, mouth + axis * 0.02, 0.063, 0.064, (250, 250, 250), flat_ends=True)
        turns = np.linspace(0, 2 * np.pi, 17)[:-1]
        across = np.cross(axis, up)
        across /= np.linalg.norm(across)
        other = np.cross(axis, across)
        disc = [foot + 0.048 * (np.cos(turn) * across + np.sin(turn) * other) for turn in turns]
        canvas.polygon(np.stack(disc), shaded(driver.cup, 0.8))

    direction = unit(*(up * 0.9 - forward * 0.2 - right * 0.1))
    palm = grip - up * 0.085 + right * 0.03
    bend = np.array([0.26, -0.14 + 0.05 * habits[3], 0.12 + 0.03 * habits[4]]) * driver.size
    hand = Hand(palm, direction, axis, unit(*(up * 0.9 + right * 0.1)), right, bones.near_shoulder + bend)
    return Pose(trunk, bones, hand, far, (cup,))


def _reaching_back(driver: Driver, trunk: Trunk, bones: Skeleton, near: Hand, far: Hand, habits: np.ndarray) -> Pose:
    palm = np.array([-0.31, 0.41, 0.35]) + np.array([0.05, 0.08, 0.04]) * habits[2:5]
    direction = palm - bones.near_shoulder
    hand = Hand(palm, unit(*direction), unit(0.0, 1.0, 0.2), unit(-1.0, -0.4, 0.1), unit(0.2, -1.0, 0.4))
    return Pose(trunk, bones, hand, far)


def _hair(driver: Driver, trunk: Trunk, bones: Skeleton, near: Hand, far: Hand, habits: np.ndarray) -> Pose:
    head = bones.head
    forward, up, right = head.axes
    palm = head.at(-0.02 + 0.04 * habits[2], 0.14 + 0.015 * habits[3], 0.075)
    direction = unit(*(forward * 0.5 + up * 0.45 - right * 0.6))
    bend = np.array([-0.09, 0.18 + 0.04 * habits[4], 0.17]) * driver.size
    hand = Hand(palm, direction, forward, unit(*(-right - up * 0.35)), right, bones.near_shoulder + bend)
    return Pose(trunk, bones, hand, far)


_HANDS: dict[str, Callable[[Driver, Trunk, Skeleton, Hand, Hand, np.ndarray], Pose]] = {
    "c1": functools.partial(_texting, side="near"),
    "c2": functools.partial(_calling, side="near"),
    "c3": functools.partial(_texting, side="far"),
    "c4": functools.partial(_calling, side="far"),
    "c5": _radio,
    "c6": _drinking,
    "c7": _reaching_back,
    "c8": _hair,
}


WOBBLE = 0.05  # standard deviation of a habit from frame to frame


@dataclasses.dataclass(frozen=True)
class Studio:
    """What stays the same for a driver: the empty car, the light over the picture, the sensor's noise."""

    driver: Driver
    car: Canvas
    outside: slice  # the rows in which a window shows the world outside
    window: np.ndarray  # shape (rows, 640, 1), float32: the share of it, 0 to 1
    light: np.ndarray  # shape (480, 640, 3), float32, factors
    noise: np.ndarray  # shape (960, 1280, 1), float32, grey levels


def studio(driver: Driver, rng: np.random.Generator) -> Studio:
    car = Canvas(driver.camera(), driver.light)
    draw_cabin(car, driver)
    across = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    fall = 1 + np.float32(driver.gradient[0]) * across + np.float32(driver.gradient[1]) * down
    fall = fall * (1 - 0.12 * (across**2 + down**2)) * np.float32(driver.exposure)
    light = fall[..., None] * np.asarray(driver.cast, np.float32)
    noise = rng.standard_normal((2 * HEIGHT, 2 * WIDTH, 1), dtype=np.float32) * np.float32(driver.noise)
    share = np.zeros((HEIGHT, WIDTH, 1), np.float32) if car.window is None else car.window
    rows = np.flatnonzero(share.any(axis=(1, 2)))
    outside = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
    return Studio(driver, car, outside, share[outside], light.astype(np.float32), noise)


def film(room: Studio, behaviour: str, frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """One sequence: the same pose, street and camera, each drifting a little; shape (480, 640, 3), uint8, BGR."""
    habits = rng.uniform(-1, 1, NUMBER_OF_HABITS)
    street = draw_street(rng)
    offset, speed = rng.uniform(0, street.shape[1]), rng.uniform(-14, 14)
    bump = rng.uniform(-6, 6, 2)
    exposure = rng.uniform(0.93, 1.07)
    for _ in range(frames):
        habits = habits + WOBBLE * rng.standard_normal(NUMBER_OF_HABITS)
        offset += speed
        canvas = room.car.copy()
        canvas.pixels[room.outside] += room.window * street_view(street, offset)[room.outside]
        draw_person(canvas, room.driver, pose_of(behaviour, room.driver, habits))
        yield _exposed(room, canvas, exposure, bump + rng.normal(0, 0.7, 2), rng)


def _exposed(room: Studio, canvas: Canvas, exposure: float, shift: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From light to a picture: haze, exposure, colour cast, shake, noise."""
    picture = canvas.pixels
    small = cv2.resize(picture, (WIDTH // 16, HEIGHT // 16), interpolation=cv2.INTER_AREA)
    glow = cv2.resize(cv2.blur(small, (15, 15)), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    picture += np.float32(room.driver.haze) * (glow + 60)
    picture *= room.light * np.float32(exposure)
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    shaken = cv2.warpAffine(picture, move, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    top, left = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
    noisy = shaken[..., ::-1] + room.noise[top : top + HEIGHT, left : left + WIDTH]
    return np.clip(noisy, 0, 255).astype(np.uint8)

"""What differs between drivers, from a seed of each: body, clothes, light, camera; and the car around them."""

import colorsys
import dataclasses
import itertools

import cv2
import numpy as np

from preprocessing.demo.raster import HEIGHT, WIDTH, Camera, Canvas, Colour, Light, Pattern

SKINS: tuple[Colour, ...] = (
    (244, 206, 180), (232, 184, 152), (216, 164, 126), (190, 134, 98), (154, 102, 72), (112, 72, 50), (82, 54, 40),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = ((28, 24, 24), (58, 40, 30), (96, 64, 40), (150, 104, 58), (206, 168, 104), (150, 148, 146))
HAIR_STYLES = ("short", "long", "curly", "bun", "bald", "cap", "short", "long")
FACES = ("plain", "beard", "glasses", "plain", "sunglasses", "glasses and beard")


@dataclasses.dataclass(frozen=True)
class Driver:
    """One driver in one car before one camera. Colours are those of the surface in white light."""

    # body
    size: float  # 1 is the average adult
    girth: float
    skin: Colour
    hair: Colour
    hair_style: str
    face: str
    # clothes
    shirt: Colour
    shirt_pattern: Pattern | None
    long_sleeves: bool
    trousers: Colour
    belt: Colour
    phone: Colour
    cup: Colour
    # car
    cabin: Colour
    seat: Colour
    wheel: Colour
    seat_shift: float  # metres forward
    wheel_tilt: float  # radians
    has_headrest_gap: bool
    # light and camera
    light: Light
    exposure: float
    cast: Colour  # multiplies red, green and blue; about 1
    gradient: tuple[float, float]  # change of brightness across and down the picture
    haze: float  # share of the window's light that spills over the picture
    noise: float  # standard deviation in grey levels
    camera_position: tuple[float, float, float]
    camera_target: tuple[float, float, float]
    focal_length: float  # pixels
    roll: float  # radians

    def camera(self) -> Camera:
        return Camera(np.array(self.camera_position), np.array(self.camera_target), self.focal_length, self.roll)


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour made darker or lighter, within 0 to 255."""
    red, green, blue = (min(255.0, value * factor) for value in colour)
    return red, green, blue


def vivid(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour of any hue, with saturation and value (each 0 to 1) from the given ranges."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return 255 * red, 255 * green, 255 * blue


def draw_driver(rng: np.random.Generator, number: int) -> Driver:
    """A driver from a random generator; `number`, counted from 0, spreads hair and faces evenly over few drivers."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    shirt = vivid(rng, (0.0, 0.8), (0.12, 1.0))
    pattern = None
    if rng.uniform() < 0.6:
        kind = ("stripes", "lines", "checks")[int(rng.integers(3))]
        other = vivid(rng, (0.0, 0.8), (0.1, 1.0))
        mixed = tuple((2 * one + two) / 3 for one, two in zip(shirt, other, strict=True))
        pattern = Pattern(kind, (mixed[0], mixed[1], mixed[2]), uniform(0.02, 0.05))
    grey = uniform(22, 120)
    seat_grey = uniform(25, 190)
    warm = uniform(0.86, 1.0)
    angle, height = uniform(-1.2, 1.2), uniform(-0.9, -0.2)
    flat = np.sqrt(1 - height**2)
    light = Light((flat * np.sin(angle), height, flat * np.cos(angle)), uniform(0.5, 0.85), uniform(0.25, 0.65))
    bearded = FACES[int(rng.integers(len(FACES)))]
    return Driver(
        size=uniform(0.95, 1.05),
        girth=uniform(0.88, 1.15),
        skin=SKINS[int(rng.integers(len(SKINS)))],
        hair=HAIRS[int(rng.integers(len(HAIRS)))],
        hair_style=HAIR_STYLES[number % len(HAIR_STYLES)],
        face=bearded.replace(" and beard", "").replace("beard", "plain")
        if HAIR_STYLES[number % len(HAIR_STYLES)] in ("long", "bun")
        else bearded,
        shirt=shirt,
        shirt_pattern=pattern,
        long_sleeves=bool(rng.uniform() < 0.5),
        trousers=vivid(rng, (0.1, 0.6), (0.12, 0.75)),
        belt=shaded((200, 200, 200), uniform(0.2, 1.1)),
        phone=((48, 50, 58), (28, 28, 32), (225, 80, 50), (50, 90, 190))[int(rng.integers(4))],
        cup=((215, 40, 40), (50, 80, 190), (40, 130, 80), (235, 150, 40))[int(rng.integers(4))],
        cabin=(grey, grey * (warm + 1) / 2, grey * warm),
        seat=(seat_grey, seat_grey * (warm + 1) / 2, seat_grey * warm),
        wheel=shaded((70, 70, 74), uniform(0.4, 1.6)),
        seat_shift=uniform(-0.025, 0.025),
        wheel_tilt=uniform(0.3, 0.5),
        has_headrest_gap=bool(rng.uniform() < 0.5),
        light=light,
        exposure=uniform(0.66, 1.3),
        cast=(uniform(0.85, 1.12), uniform(0.95, 1.1), uniform(0.82, 1.15)),
        gradient=(uniform(-0.3, 0.3), uniform(-0.25, 0.25)),
        haze=uniform(0.02, 0.14),
        noise=uniform(2.0, 6.0),
        camera_position=(uniform(0.39, 0.55), uniform(0.65, 0.79), uniform(1.04, 1.17)),
        camera_target=(uniform(0.105, 0.24), uniform(0.42, 0.5), 0.0),
        focal_length=uniform(472, 555),
        roll=uniform(-0.055, 0.055),
    )


WHEEL_CENTRE = np.array([0.47, 0.36, 0.0])  # metres
WHEEL_RADIUS = 0.185
DASHBOARD_TOP = np.array([0.60, 0.38, 0.0])  # the slanting panel that carries the radio, in the middle of the car
DASHBOARD_FOOT = np.array([0.40, -0.06, 0.0])
PANEL_NEAR, PANEL_FAR = 0.48, 0.14  # z of the panel's edges
FAR_SIDE = -0.48  # z of the driver's door
STREET_COLUMNS = 512  # width of the small picture of the street


def wheel_point(driver: Driver, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """A point of the rim and the rim's direction there, shapes (3,); angle 0 is the top, positive to the passenger."""
    up = np.array([np.sin(driver.wheel_tilt), np.cos(driver.wheel_tilt), 0.0])
    side = np.array([0.0, 0.0, 1.0])
    point = WHEEL_CENTRE + WHEEL_RADIUS * (np.cos(angle) * up + np.sin(angle) * side)
    return point, np.cos(angle) * side - np.sin(angle) * up


def panel_point(down: float, side: float) -> np.ndarray:
    """A point of the dashboard's panel: `down` 0 (top) to 1 (foot), `side` 0 (near edge) to 1 (far edge)."""
    point = DASHBOARD_TOP + down * (DASHBOARD_FOOT - DASHBOARD_TOP)
    point[2] = PANEL_NEAR + side * (PANEL_FAR - PANEL_NEAR)
    point[0] += 0.16 * (1 - side)  # turned a little to the camera, or its display could not be read
    return point


def _sheet(*corners: tuple[float, float]) -> np.ndarray:
    return np.array([(x, y, FAR_SIDE) for x, y in corners])


def draw_cabin(canvas: Canvas, driver: Driver) -> None:
    """Draws all of the car that does not move: behind the driver first, then seat and wheel with their depth."""
    colour, back = driver.cabin, {"behind": True}
    canvas.pixels[:] = shaded(colour, 0.6)
    canvas.polygon(_sheet((-2, 0.84), (2.5, 0.84), (2.5, 2), (-2, 2)), shaded(colour, 1.5), **back)
    canvas.polygon(_sheet((-0.36, 0.40), (-0.2, 0.83), (0.46, 0.81), (0.92, 0.44)), (0, 0, 0), window=1.0, **back)
    canvas.polygon(_sheet((-1.3, 0.44), (-1.2, 0.80), (-0.42, 0.82), (-0.56, 0.42)), (0, 0, 0), window=0.85, **back)
    canvas.polygon(_sheet((0.62, 0.80), (1.9, 0.80), (1.9, 0.46), (1.04, 0.46)), (0, 0, 0), window=1.0, **back)
    canvas.polygon(_sheet((-1.5, -0.6), (-1.5, 0.40), (1.5, 0.42), (1.5, -0.6)), shaded(colour, 0.85), **back)
    canvas.polygon(_sheet((-0.6, 0.37), (-0.6, 0.41), (1.2, 0.44), (1.2, 0.39)), shaded(colour, 1.3), **back)
    canvas.polygon(_sheet((-0.1, 0.10), (-0.1, 0.20), (0.6, 0.24), (0.6, 0.12)), shaded(colour, 1.15), **back)
    canvas.polygon(_sheet((0.24, 0.29), (0.24, 0.32), (0.36, 0.325), (0.36, 0.295)), (170, 170, 175), **back)
    _draw_seat(canvas, driver)
    _draw_dashboard(canvas, driver)
    _draw_wheel(canvas, driver)


def _draw_seat(canvas: Canvas, driver: Driver) -> None:
    shift = np.array([driver.seat_shift, 0.0, 0.0])
    for side, radius, shade in ((-0.15, 0.085, 0.9), (0.0, 0.09, 0.95), (0.16, 0.085, 1.0)):
        foot = np.array([-0.2, -0.05, side]) + shift
        top = np.array([-0.33, 0.50, side * 0.8]) + shift
        canvas.cone(foot, top, radius, radius * 0.9, shaded(driver.seat, shade))
        front = np.array([0.36, -0.08, side]) + shift
        canvas.cone(foot, front, radius, radius, shaded(driver.seat, shade * 0.95))
    head = np.array([-0.335, 0.71, 0.0]) + shift
    across = np.array([0.0, 0.0, 0.075])
    canvas.cone(head - across, head + across, 0.075, 0.075, shaded(driver.seat, 1.05))
    down = np.array([0.01, -0.12 if driver.has_headrest_gap else -0.05, 0.0])
    for side in (-1, 1):
        canvas.cone(head + side * across * 0.6, head + side * across * 0.6 + down, 0.012, 0.012, (120, 120, 125))


def _draw_dashboard(canvas: Canvas, driver: Driver) -> None:
    colour = driver.cabin

    def plate(top: float, bottom: float, near: float, far: float, paint: Colour, lift: float) -> None:
        normal = np.array([-0.9, 0.45, 0.0]) * lift
        corners = ((top, near), (top, far), (bottom, far), (bottom, near))
        canvas.polygon(np.stack([panel_point(*corner) + normal for corner in corners]), paint)

    hood = np.array([[0.86, 0.385, 0.7], [0.62, 0.41, 0.14], [0.66, 0.42, -0.48], [1.6, 0.46, -0.48], [1.6, 0.46, 0.7]])
    canvas.polygon(hood, shaded(colour, 0.75))
    plate(0.0, 1.3, -0.6, 1.0, shaded(colour, 0.7), 0.0)
    plate(0.05, 0.62, 0.14, 0.92, (32, 33, 36), 0.004)
    plate(0.10, 0.30, 0.22, 0.84, (70, 130, 190), 0.008)  # the radio's display
    for row in (0.37, 0.45):
        for column in (0.36, 0.48, 0.60, 0.72):
            plate(row, row + 0.05, column, column + 0.08, (165, 165, 170), 0.008)
    for side in (0.24, 0.86):
        knob = panel_point(0.43, side)
        canvas.cone(knob, knob + np.array([-0.022, 0.011, 0.0]), 0.02, 0.017, (205, 205, 210))
    plate(0.70, 0.84, 0.2, 0.5, (60, 60, 64), 0.006)
    plate(0.70, 0.84, 0.56, 0.86, (60, 60, 64), 0.006)


def _draw_wheel(canvas: Canvas, driver: Driver) -> None:
    angles = np.linspace(-np.pi, np.pi, 33)
    rim = [wheel_point(driver, angle)[0] for angle in angles]
    for start, end in itertools.pairwise(rim):
        canvas.cone(start, end, 0.017, 0.017, driver.wheel)
    hub = WHEEL_CENTRE + np.array([0.03, -0.015, 0.0])
    for angle in (np.pi / 2, -np.pi / 2, np.pi):
        canvas.cone(hub, wheel_point(driver, angle)[0], 0.026, 0.013, shaded(driver.wheel, 0.9))
    canvas.cone(hub, hub + np.array([-0.02, 0.01, 0.0]), 0.055, 0.05, shaded(driver.wheel, 1.1))
    canvas.cone(hub, np.array([0.75, 0.2, 0.0]), 0.04, 0.06, shaded(driver.cabin, 0.6))


def draw_street(rng: np.random.Generator) -> np.ndarray:
    """A strip of the world outside, blurred by speed: shape (480, 2048, 3), float32, 0 to 330 (the sky)."""
    strip = np.empty((64, STREET_COLUMNS, 3), np.float32)
    horizon = int(rng.integers(20, 34))
    sky = np.array(vivid(rng, (0.0, 0.25), (0.8, 1.2)), np.float32)
    ground = np.array(vivid(rng, (0.1, 0.6), (0.3, 0.9)), np.float32)
    strip[:horizon], strip[horizon:] = sky, ground
    for _ in range(int(rng.integers(14, 34))):  # houses, trees, parked cars
        left, width = int(rng.integers(STREET_COLUMNS)), int(rng.integers(10, 70))
        top, bottom = horizon - int(rng.integers(-6, 18)), horizon + int(rng.integers(2, 16))
        strip[max(top, 0) : bottom, left : left + width] = vivid(rng, (0.0, 0.7), (0.15, 1.1))
    for row in range(horizon + 14, 64, 9):  # kerb, lane markings
        strip[row : row + 2] = vivid(rng, (0.0, 0.3), (0.4, 1.0))
    strip += (sky - strip) * np.float32(rng.uniform(0.3, 0.7))  # glare
    speed = int(rng.integers(1, 16)) * 2 + 1
    blurred = cv2.blur(np.ascontiguousarray(strip), (speed, 3), borderType=cv2.BORDER_REFLECT_101)
    wide = cv2.resize(blurred, (4 * STREET_COLUMNS, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return (wide * rng.uniform(0.9, 1.3)).astype(np.float32)


def street_view(street: np.ndarray, offset: float) -> np.ndarray:
    """The part of the street that fills the picture, `offset` pixels along; shape (480, 640, 3), float32."""
    room = street.shape[1] - WIDTH
    start = int(abs((offset + room) % (2 * room) - room))  # there and back, without a seam
    return street[:, start : start + WIDTH]

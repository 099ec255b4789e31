"""What differs between two drivers: body, clothes, cabin, light and camera, each drawn from the driver's own seed."""

import colorsys
import dataclasses

import numpy as np

from preprocessing.demo.raster import Camera, Light, Pattern

Colour = tuple[float, float, float]  # red, green, blue from 0 to 255

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
        """This driver's camera."""
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

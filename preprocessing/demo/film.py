"""Sequences of frames, as a video camera would take them: the light falls, the car shakes, the sensor hisses."""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

from preprocessing.demo.appearance import Driver
from preprocessing.demo.behaviour import NUMBER_OF_HABITS, draw_person, pose_of
from preprocessing.demo.cabin import draw_cabin, draw_street, street_view
from preprocessing.demo.raster import HEIGHT, WIDTH, Canvas

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
    """Draws the empty car of a driver."""
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
    """One sequence: the same pose, street and camera, each drifting a little.

    Yields:
        `frames` pictures, shape (480, 640, 3), uint8, blue, green, red as OpenCV has them.
    """
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

"""The driver's head: skull, face, hair, glasses, beard, from balls and cones that turn together."""

import dataclasses
import itertools

import numpy as np

from preprocessing.demo.appearance import Colour, Driver, shaded
from preprocessing.demo.raster import Canvas

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

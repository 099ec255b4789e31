"""A very small three-dimensional renderer: shaded round cones and flat polygons, with a depth buffer.

Everything of the demo pictures is made of these two, so that limbs, wheel, phone and cup hide one another rightly
from every camera. Coordinates are metres in the car: x forward (to the right of the picture), y up, z to the
passenger, who holds the camera.
"""

import copy
import dataclasses

import cv2
import numpy as np

Colour = tuple[float, float, float]  # red, green, blue from 0 to 255

HEIGHT, WIDTH = 480, 640  # pixels, as the competition's photographs
SOFT_EDGE = 0.004  # metres over which two surfaces that cut each other blend, against jagged lines
FRACTION_BITS = 4  # OpenCV draws polygons in sixteenths of a pixel


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A second colour on a round cone: 'stripes' around it, 'lines' along it, or 'checks'."""

    kind: str
    colour: Colour
    period: float  # metres


@dataclasses.dataclass(frozen=True)
class Light:
    """Light on surfaces: `direction` is in camera axes (right, down, towards the camera), of length 1."""

    direction: tuple[float, float, float]
    ambient: float
    diffuse: float


class Camera:
    """A pinhole camera that looks from one point of the car to another."""

    def __init__(self, position: np.ndarray, target: np.ndarray, focal_length: float, roll: float) -> None:
        """Args: two points, shape (3,), metres; the focal length in pixels; the roll in radians."""
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        cosine, sine = np.cos(roll), np.sin(roll)
        self.axes = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
        self.position = position
        self.focal_length = focal_length

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points, shape (n, 3), metres -> pixels (x, y), shape (n, 2), and depths, shape (n,), metres."""
        seen = (np.atleast_2d(points) - self.position) @ self.axes.T
        depth = np.maximum(seen[:, 2], 0.05)
        return self.focal_length * seen[:, :2] / depth[:, None] + (WIDTH / 2, HEIGHT / 2), depth


class Canvas:
    """A picture under construction.

    `pixels`: shape (480, 640, 3), float32: red, green, blue from 0 to 255. `depth`: shape (480, 640), float32, metres.
    `window`: shape (480, 640, 1), float32: the share, 0 to 1, of the world outside that is seen there; None on a copy.
    """

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera, self.light = camera, light
        self.pixels = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.window: np.ndarray | None = np.zeros((HEIGHT, WIDTH, 1), np.float32)
        self.depth = np.full((HEIGHT, WIDTH), 100.0, np.float32)

    def copy(self) -> "Canvas":
        """A canvas with the same content, to draw people on without changing this one."""
        other = copy.copy(self)
        other.pixels, other.depth, other.window = self.pixels.copy(), self.depth.copy(), None
        return other

    def cone(
        self,
        start: np.ndarray,
        end: np.ndarray,
        start_radius: float,
        end_radius: float,
        colour: Colour,
        *,
        pattern: Pattern | None = None,
        flat_ends: bool = False,
        matt: float = 1.0,
    ) -> None:
        """Draws the hull of two balls (a limb, a finger, a head), or with `flat_ends` a cup without its lids.

        Args:
            start, end: centres of the balls, shape (3,), metres.
            start_radius, end_radius: metres.
            matt: 1 for a surface that light models, 0 for one that shines by itself.
        """
        (first, second), (near, far) = self.camera.project(np.stack([start, end]))
        first_radius, second_radius = (
            self.camera.focal_length * start_radius / near,
            self.camera.focal_length * end_radius / far,
        )
        low = np.floor(np.minimum(first - first_radius, second - second_radius) - 1).astype(int)
        high = np.ceil(np.maximum(first + first_radius, second + second_radius) + 2).astype(int)
        left, top = max(low[0], 0), max(low[1], 0)
        right, bottom = min(high[0], WIDTH), min(high[1], HEIGHT)
        if left >= right or top >= bottom:
            return
        x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(first[0])
        y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(first[1])
        along_x, along_y = (second - first).astype(np.float32)
        squared = np.float32(max(along_x**2 + along_y**2, 1e-3))
        free = (x * along_x + y * along_y) / squared
        share = np.clip(free, 0, 1)
        across_x, across_y = x - share * along_x, y - share * along_y
        radius = np.float32(first_radius) + share * np.float32(second_radius - first_radius)
        distance = np.sqrt(across_x * across_x + across_y * across_y)
        cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
        if flat_ends:
            length = np.sqrt(squared)
            cover *= np.clip(free * length + 0.5, 0, 1) * np.clip((1 - free) * length + 0.5, 0, 1)
        inverse = 1 / radius
        facing = np.sqrt(np.clip(1 - (distance * inverse) ** 2, 0, 1))
        depth = np.float32(near) + share * np.float32(far - near)
        depth -= facing * (np.float32(start_radius) + share * np.float32(end_radius - start_radius))
        sun_x, sun_y, sun_z = (np.float32(value) for value in self.light.direction)
        sun = np.clip((across_x * sun_x + across_y * sun_y) * inverse + facing * sun_z, 0, None)
        bright = np.float32(self.light.ambient) * (np.float32(0.55) + np.float32(0.45) * facing)
        bright = bright + np.float32(self.light.diffuse) * sun
        bright = np.float32(1 - matt) + np.float32(matt) * bright
        paint: np.ndarray = np.asarray(colour, np.float32)[None, None]
        if pattern is not None:
            side = (across_x * along_y - across_y * along_x) / (np.sqrt(squared) * radius)
            metres = float(np.linalg.norm(end - start))
            paint = _patterned(
                paint, pattern, free * np.float32(metres), np.arcsin(np.clip(side, -1, 1)) * start_radius
            )
        self._blend(slice(top, bottom), slice(left, right), paint * bright[..., None], cover, depth)

    def polygon(self, points: np.ndarray, colour: Colour, *, window: float = 0.0, behind: bool = False) -> None:
        """Draws a flat convex polygon in its own colour, unshaded.

        Args:
            points: corners in order, shape (n, 3), metres.
            window: share of the outside world that is seen through it, 0 to 1.
            behind: paint it over what is there without a look at the depth, and leave the depth alone: the backdrop.
        """
        corners, depths = self.camera.project(points)
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 2, (WIDTH, HEIGHT))
        if left >= right or top >= bottom:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        fixed = np.round((corners - (left, top)) * 2**FRACTION_BITS).astype(np.int32)
        cv2.fillConvexPoly(mask, fixed, 255, cv2.LINE_AA, FRACTION_BITS)
        cover = mask.astype(np.float32) / 255
        area = (slice(top, bottom), slice(left, right))
        paint = np.broadcast_to(np.asarray(colour, np.float32), (*mask.shape, 3))
        if behind:
            self._mix(*area, paint, cover, window)
            return
        plane = np.linalg.lstsq(np.column_stack([corners, np.ones(len(corners))]), depths, rcond=None)[0]
        x = np.arange(left, right, dtype=np.float32)[None, :]
        y = np.arange(top, bottom, dtype=np.float32)[:, None]
        depth = np.float32(plane[0]) * x + np.float32(plane[1]) * y + np.float32(plane[2])
        depth = np.clip(depth, np.float32(depths.min()), np.float32(depths.max()))
        self._blend(*area, paint, cover, depth)

    def box(self, centre: np.ndarray, axes: np.ndarray, half_sizes: tuple[float, float, float], colour: Colour) -> None:
        """Draws a box (a phone) of one colour; its axes are rows of length 1; the face along the third is unshaded."""
        for axis in range(3):
            for sign in (-1.0, 1.0):
                normal = sign * axes[axis]
                middle = centre + normal * half_sizes[axis]
                if normal @ (self.camera.position - middle) <= 0:
                    continue
                one, two = ((axis + 1) % 3, (axis + 2) % 3)
                across, along = axes[one] * half_sizes[one], axes[two] * half_sizes[two]
                corners = middle + np.stack([-across - along, across - along, across + along, -across + along])
                shade = 1.0 if axis == 2 and sign > 0 else 0.8 + 0.2 * normal[1]
                red, green, blue = colour
                self.polygon(corners, (red * shade, green * shade, blue * shade))

    def _blend(self, rows: slice, columns: slice, paint: np.ndarray, cover: np.ndarray, depth: np.ndarray) -> None:
        behind = self.depth[rows, columns]
        cover = cover * np.clip((behind - depth) * np.float32(1 / SOFT_EDGE) + np.float32(0.5), 0, 1)
        self.depth[rows, columns] = np.where(cover > 0.5, np.minimum(depth, behind), behind)
        self._mix(rows, columns, paint, cover, 0.0)

    def _mix(self, rows: slice, columns: slice, paint: np.ndarray, cover: np.ndarray, window: float) -> None:
        under = self.pixels[rows, columns]
        under += (paint - under) * cover[..., None]
        if self.window is not None:
            seen = self.window[rows, columns]
            seen += (np.float32(window) - seen) * cover[..., None]


def _patterned(paint: np.ndarray, pattern: Pattern, along: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Mixes the second colour in; `along` and `around` are metres on the surface."""
    turns = np.float32(2 * np.pi / pattern.period)
    stripes = np.clip(np.sin(along * turns) * 3 + 0.5, 0, 1)
    lines = np.clip(np.sin(around * turns) * 3 + 0.5, 0, 1)
    mixed = {"stripes": stripes, "lines": lines, "checks": (stripes + lines) / 2}[pattern.kind]
    return paint + (np.asarray(pattern.colour, np.float32) - paint) * mixed[..., None]

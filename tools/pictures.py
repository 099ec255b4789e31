"""What a person gives to look at: photographs, folders of them, and videos. All of it through OpenCV."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from preprocessing import jpeg
from preprocessing.errors import UserError, named
from preprocessing.images import fitted, read_image
from preprocessing.settings import ImageSize

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp")
USUAL_RATE = 25.0  # frames a second, of a video that does not say


@dataclass(frozen=True)
class Photograph:
    """A photograph in a file.

    Attributes:
        name: unique among those given.
        path: of the file.
    """

    name: str
    path: Path

    def seen(self, size: ImageSize, crop: str) -> np.ndarray:
        """What a network sees: shape (size.height, size.width, 3), uint8, RGB; of a JPEG the pixels of training.

        Raises:
            UserError: the file cannot be read as a picture.
        """
        if self._is_jpeg():
            return read_image(self.path, size, crop, upright=True)
        return fitted(self.whole(), size, crop)

    def whole(self) -> np.ndarray:
        """All of it, upright: shape (height, width, 3), uint8, RGB.

        Raises:
            UserError: the file cannot be read as a picture.
        """
        if self._is_jpeg():
            return jpeg.decode(self.path, upright=True)
        pixels = None
        data = np.fromfile(self.path, np.uint8)
        if data.size:
            try:
                pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)
            except cv2.error:  # as preprocessing/__init__.py asked of OpenCV
                raise UserError(
                    f"{self.path} cannot be read: it has more than {jpeg.LARGEST_AREA / 1e6:.0f} million pixels, or is "
                    "damaged. Save it smaller."
                ) from None
        if pixels is None:
            raise UserError(
                f"{self.path} cannot be read as a picture. Expected {', '.join(PHOTOGRAPHS)}; save it as one of these."
            )
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)

    def _is_jpeg(self) -> bool:
        try:
            with self.path.open("rb") as stream:
                return stream.read(2) == b"\xff\xd8"
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}.") from None


@dataclass(frozen=True)
class Video:
    """A video in a file.

    Attributes:
        name: unique among those given.
        path: of the file.
        rate: frames a second.
        frames: how many, as the file says; 0 where it does not.
    """

    name: str
    path: Path
    rate: float
    frames: int

    def frames_every(self, step: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Number and pixels (uint8, RGB, upright) of every `step`-th frame, from the first on."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            number = 0
            while capture.grab():
                if number % step == 0:
                    there, pixels = capture.retrieve()
                    if not there:
                        return
                    yield number, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                number += 1
        finally:
            capture.release()

    def step(self, seconds: float) -> int:
        """Frames in so many seconds, at least one."""
        return max(1, round(seconds * self.rate))


def find(paths: Sequence[Path]) -> tuple[list[Photograph], list[Video]]:
    """The photographs and videos that are named, or lie in named folders (and in theirs), in the order of their names.

    A photograph of a folder is named by its path in it, one named by itself by its file; in full where two would have
    one name.

    Raises:
        UserError: a file is not there or of another kind, or a folder holds nothing to look at.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _kind(p) and not _hidden(p.relative_to(path)))
            if not inside:
                raise UserError(f"{path} holds no photographs or videos ({', '.join(PHOTOGRAPHS + VIDEOS)}).")
            found += [(str(p.relative_to(path)), p) for p in inside]
        elif not path.exists():
            raise UserError(f"{path}: no such file. Expected photographs, videos, or folders with such.")
        elif not _kind(path):
            raise UserError(f"{path}: expected a photograph or video ({', '.join(PHOTOGRAPHS + VIDEOS)}).")
        else:
            found.append((path.name, path))
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        found = [(str(path), path) for path in dict.fromkeys(path for _, path in found)]
    photographs = [Photograph(name, path) for name, path in found if _kind(path) == "photograph"]
    return photographs, [_opened(name, path) for name, path in found if _kind(path) == "video"]


def readable(photographs: Sequence[Photograph], named_by_person: Sequence[Path]) -> list[Photograph]:
    """Those that are pictures; of a JPEG the beginning is looked at. One broken in a folder is left out with a word.

    Raises:
        UserError: a file that was named by itself is broken, or nothing is left.
    """
    good, broken = [], []
    for photograph in photographs:
        try:
            if photograph._is_jpeg():
                jpeg.read_header(photograph.path)
            else:
                photograph.whole()
            good.append(photograph)
        except UserError:
            if photograph.path in named_by_person:
                raise
            broken.append(str(photograph.path))
    if broken and not good:
        raise UserError(f"none of these can be read as a picture: {named(broken)}.")
    if broken:
        print(f"left out, since they cannot be read as pictures: {named(broken)}")
    return good


def _opened(name: str, path: Path) -> Video:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened() or not capture.grab():
            raise UserError(f"{path} cannot be read as a video by OpenCV. Convert it: ffmpeg -i {path.name} video.mp4")
        rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
    return Video(name, path, rate, max(0, int(frames)) if math.isfinite(frames) else 0)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if not path.is_file():
        return ""
    return "photograph" if suffix in PHOTOGRAPHS else "video" if suffix in VIDEOS else ""


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

"""What a person gives to look at: photographs, folders of them, and videos."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from common.errors import UserError, named
from common.settings import ImageSize
from preprocessing import jpeg
from preprocessing.images import decode, read_image

PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    *(".heic", ".heif"),  # not readable; looked at so that they are reported
)
VIDEOS = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".ogv"),
)
USUAL_RATE = 25.0  # frames a second, of a video that does not say
MOST_FAILED = 10_000  # frames in a row that cannot be decoded before the rest is given up; trying costs microseconds
MOST_REPORTED = 20  # files left out, by name
Item = TypeVar("Item", "Photograph", "Video")


@dataclass(frozen=True)
class Photograph:
    """A photograph in a file, with a name that is unique among those given.

    Its methods raise a UserError where the file cannot be read as a picture.
    """

    name: str
    path: Path

    def seen(self, size: ImageSize, crop: str) -> np.ndarray:
        """What a network sees: shape (size.height, size.width, 3), uint8, RGB."""
        return read_image(self.path, size, crop)

    def whole(self) -> np.ndarray:
        """All of it, upright: shape (height, width, 3), uint8, RGB."""
        return decode(self.path)

    def check(self) -> None:
        """Decodes it; of a JPEG only the header is read, which is much faster."""
        try:
            jpeg.read_header(self.path)
        except jpeg.BrokenImageError:  # or of another kind
            self.whole()


@dataclass
class Video:
    """A video in a file.

    Attributes:
        name: unique among those given.
        path: of the file.
        rate: frames a second, as the file says; of a video with a variable rate the mean, or a guess.
        frames: how many, as the file says; 0 where it does not.
        times: of the frames decoded so far, in seconds.
        gaps: times between which frames could not be decoded.
    """

    name: str
    path: Path
    rate: float = USUAL_RATE
    frames: int = 0
    times: list[float] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)

    def check(self) -> None:
        """Reads what the file says of itself, and one frame.

        Raises:
            UserError: it cannot be read as a video.
        """
        capture = cv2.VideoCapture(str(self.path))
        rate, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        if next(self.frames_every(), None) is None:
            raise UserError(
                f"{self.path} cannot be read as a video: it is damaged, cut off or of a kind that OpenCV does not know."
                f" Copy it again, or convert it: ffmpeg -i {self.path.name} video.mp4"
            )
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else USUAL_RATE
        self.frames = max(0, int(frames)) if math.isfinite(frames) else 0

    def frames_every(self, seconds: float = 0.0) -> Iterator[tuple[float, np.ndarray]]:
        """Time and pixels (uint8, RGB, upright) of the first frame at or after every so many seconds; 0 is every frame.

        The times are those of the file, so they also hold where its rate varies. Frames that cannot be decoded are
        skipped, and noted in `gaps`.
        """
        self.times, self.gaps = [], []
        due, failed = 0.0, 0
        capture = cv2.VideoCapture(str(self.path))
        try:
            while failed < MOST_FAILED:
                if not capture.grab():
                    failed += 1
                    continue
                last = self.times[-1] if self.times else -1.0
                time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if not math.isfinite(time) or time <= last:  # a file without times
                    time = last + 1 / self.rate
                if failed:
                    self.gaps.append((max(0.0, last), time))
                    failed = 0
                self.times.append(time)
                if time < due - 0.0005:  # times are rounded to milliseconds in some files
                    continue
                there, pixels = capture.retrieve()
                if there:
                    yield time, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
                    if seconds:
                        due = (math.floor((time + 0.0005) / seconds) + 1) * seconds
        finally:
            capture.release()

    @property
    def end(self) -> float:
        """Seconds at which the last frame ends, once all are decoded."""
        return self.times[-1] + (self.times[-1] - self.times[-2] if len(self.times) > 1 else 1 / self.rate)

    @property
    def usual_rate(self) -> float:
        """Frames a second at which most of it was filmed, once all are decoded."""
        if len(self.times) < 2:
            return self.rate
        rate = 1 / float(np.median(np.diff(self.times)))
        return self.rate if abs(rate / self.rate - 1) < 0.02 else min(rate, 120.0)

    def missing(self) -> str:
        """What could not be decoded, once all that can be is; '' if nothing is missing.

        Damage that a decoder hides, and a missing end in a format without a length (such as MPEG), go unnoticed.
        """
        decoded, expected = len(self.times), self._expected()
        if not self.gaps and expected <= decoded:
            return ""
        of = f" of {expected:,}" if expected > decoded else ""
        found = f"only {decoded:,}{of} frames could be decoded, the last at {clock(self.times[-1])}"
        if self.gaps:
            first, last = self.gaps[0]
            found += f", none between {clock(first)} and {clock(last)}"
            found += f" and in {len(self.gaps) - 1} more places" * (len(self.gaps) > 1)
        return f"{found}: the file is damaged or was cut off"

    def _expected(self) -> int:
        """How many frames there should be; as many as were decoded where the file does not say for sure."""
        decoded = len(self.times)
        if self.frames <= decoded:
            return decoded
        with self.path.open("rb") as stream:
            start = stream.read(12)
        if start[4:8] in _BOXES:  # MP4 and MOV: the exact number, though an edit list may hide frames
            packets, last = self._packets()
            if not _is_cut_off(self.path):
                return packets if last > self.times[-1] + 0.0005 or self.gaps else decoded
            return self.frames
        if start[:4] == b"RIFF":  # AVI: the exact number, but some encoders put two frames into one
            return self.frames if self.frames > decoded + 1 else decoded
        # Others say how long they are, sound included; frames are that times the rate.
        steps = np.diff(self.times)
        if len(steps) and np.mean(np.abs(steps * self.rate - 1) < 0.1) > 0.9:
            return self.frames if self.frames > decoded + max(2, 0.1 * self.rate) else decoded
        return self.frames if self.frames / self.rate > self.end + 1 else decoded

    def _packets(self) -> tuple[int, float]:
        """How many frames there are before decoding, and the time of the last."""
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        count, last = 0, 0.0
        while capture.grab():
            count, last = count + 1, max(last, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        capture.release()
        return count, last


_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"}


def _is_cut_off(path: Path) -> bool:
    """Whether a box of an MP4 or MOV file reaches beyond its end."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        place = 0
        while place < size:
            stream.seek(place)
            header = stream.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length == 0:  # up to the end
                return False
            if length < 8:
                return True
            place += length
    return place > size


@dataclass
class Found:
    """Photographs and videos, all of them readable.

    Attributes:
        photographs, videos: in the order in which they were named, those of a folder in the order of their names.
        named: paths that a person named by themselves: to leave one out is an error.
        left_out: paths that are broken.
    """

    photographs: list[Photograph]
    videos: list[Video]
    named: frozenset[Path]
    left_out: list[Path] = field(default_factory=list)

    def leave_out(self, path: Path, error: UserError) -> None:
        """Prints which file is left out, and why.

        Raises:
            UserError: that error, if a person named the file.
        """
        if path in self.named:
            raise error
        self.left_out.append(path)
        if len(self.left_out) <= MOST_REPORTED:
            print(f"left out: {error}")

    def only(self, items: Sequence[Item], check: Callable[[Item], object]) -> list[Item]:
        """Those that pass a check; the others are left out."""
        good = []
        for item in items:
            try:
                check(item)
                good.append(item)
            except UserError as error:
                self.leave_out(item.path, error)
        return good

    def decodable(self, photographs: Sequence[Photograph]) -> list[Photograph]:
        """Those that can be decoded; the others are left out.

        Raises:
            UserError: a person named one that cannot be, or nothing is left.
        """
        good = self.only(photographs, Photograph.whole)
        if not good:
            raise UserError(f"none of these can be read: {named([str(path) for path in self.left_out])}.")
        return good

    def summary(self) -> str:
        """How many were left out, for the end of the output; '' for none."""
        count = len(self.left_out)
        return f"{count:,} file{'s' * (count > 1)} left out: not readable" if count else ""


def find(paths: Sequence[Path], videos: bool = True) -> Found:
    """The photographs and videos that are named, or lie in named folders (and in theirs), in the order of their names.

    A photograph of a folder is named by its path in it, one named by itself by its file; in full where two would have
    one name. Of a folder, what cannot be read is left out, and reported.

    Args:
        videos: whether they are wanted; if not, they are left out.

    Raises:
        UserError: a file that was named is not there, broken or of another kind, or there is nothing to look at.
    """
    found: list[tuple[str, Path]] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if not p.is_dir() and not _hidden(p.relative_to(path)))
            inside = [p for p in files if _kind(p)]
            if not inside:
                raise UserError(f"{path} holds no photographs or videos ({', '.join(PHOTOGRAPHS + VIDEOS)}).")
            found += [(str(p.relative_to(path)), p) for p in inside]
            others += [p for p in files if not _kind(p)]
        elif not path.exists():
            raise UserError(f"{path}: no such file. Expected photographs, videos, or folders with such.")
        elif not _kind(path):
            raise UserError(f"{path}: expected a photograph or video ({', '.join(PHOTOGRAPHS + VIDEOS)}).")
        else:
            found.append((path.name, path))
    if others:
        kinds = named(sorted({p.suffix.lower() or "without a suffix" for p in others}))
        print(f"{len(others):,} other file{'s' * (len(others) > 1)} not looked at ({kinds})")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        found = [(str(path), path) for path in dict.fromkeys(path for _, path in found)]
    result = Found([], [], frozenset(paths))
    pictures = [Photograph(name, path) for name, path in found if _kind(path) == "photograph"]
    result.photographs = result.only(pictures, Photograph.check)
    films = [Video(name, path) for name, path in found if _kind(path) == "video"]
    result.videos = result.only(films, Video.check if videos else _refuse)
    if not result.photographs and not result.videos:
        raise UserError(f"none of these can be read: {named([str(path) for path in result.left_out])}.")
    return result


def clock(seconds: float) -> str:
    """'1:02.5'"""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"


def evenly_spaced(photographs: Sequence[Photograph], most: int) -> list[Photograph]:
    """At most so many of them, evenly spaced."""
    chosen = np.linspace(0, len(photographs) - 1, min(most, len(photographs))).round().astype(int)
    return [photographs[number] for number in chosen]


def _refuse(video: Video) -> None:
    raise UserError(f"{video.path} is a video; expected photographs. Videos: python -m tools.predict --annotate")


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if not (path.is_file() or path.is_symlink()):  # a broken link is reported when it is read
        return ""
    return "photograph" if suffix in PHOTOGRAPHS else "video" if suffix in VIDEOS else ""


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

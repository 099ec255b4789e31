"""What a person gives to look at: photographs, folders of them, and videos; and how predictions are drawn on them."""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from common.competition import CLASS_NAMES, CLASSES
from common.errors import UserError, named, progress_bar
from common.files import written_whole
from common.settings import ImageSize
from preprocessing.images import decode, read_image

PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    *(".heic", ".heif"),  # not readable; looked at so that they are reported
)
VIDEOS = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".ogv"),
)
LARGEST_RATE = 120.0  # frames a second of an annotated copy; some containers name a clock's rate instead
USUAL_RATE = 25.0  # frames a second, of a video that does not say
MOST_FAILED = 10_000  # frames in a row that cannot be decoded before the rest is given up; trying costs microseconds
MOST_REPORTED = 20  # files left out, by name
PAPER, INK, FAINT, RAIL = (24, 26, 30), (238, 238, 238), (132, 136, 144), (40, 43, 48)  # RGB
CALM, ALARMING, BAR = (96, 200, 120), (255, 170, 60), (70, 74, 82)
CODEC = "mp4v"  # in every build of OpenCV; H.264 is not, for its licence
MOST_SIDE = 1280  # pixels; a larger picture is shown smaller
_NOTHING: np.ndarray = np.empty((0, 0, 3), np.uint8)
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


@dataclass
class Video:
    """A video in a file.

    Attributes:
        name: unique among those given.
        path: of the file.
        rate: frames a second, as the file says; of a video with a variable rate the mean, or a guess.
        frames: how many, as the file says; 0 where it does not.
        times: of the frames decoded so far, in seconds.
        gaps: how often frames among them could not be decoded.
    """

    name: str
    path: Path
    rate: float = USUAL_RATE
    frames: int = 0
    times: list[float] = field(default_factory=list)
    gaps: int = 0

    def check(self) -> None:
        """Reads what the file says of itself, and one frame; a UserError where it cannot be read as a video."""
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
        skipped, and counted in `gaps`.
        """
        self.times, self.gaps = [], 0
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
                self.gaps += failed > 0
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

    def missing(self) -> str:
        """What could not be decoded, once all that can be is; '' if nothing is missing, as far as the file shows.

        At a constant rate its number of frames counts, at a variable one, which makes that a guess, how long it is.
        """
        decoded, steps = len(self.times), np.diff(self.times)
        constant = len(steps) > 0 and np.mean(np.abs(steps * self.rate - 1) < 0.1) > 0.9
        cut_off = (
            self.frames > decoded + max(2, 0.1 * self.rate) if constant else self.frames / self.rate > self.end + 1
        )
        if not self.gaps and not cut_off:
            return ""
        of = f" of {self.frames:,}" if self.frames > decoded else ""
        gaps = f", with {self.gaps} gap{'s' * (self.gaps > 1)}" if self.gaps else ""
        found = f"only {decoded:,}{of} frames could be decoded, the last at {clock(self.times[-1])}{gaps}"
        return f"{found}: the file is damaged, was cut off, or is trimmed without its frames being removed"


@dataclass
class Found:
    """Photographs, of which those of a folder may be unreadable, and readable videos, in the order of their names.

    Of the paths that a person named by themselves, none is left out: that is an error.
    """

    photographs: list[Photograph]
    videos: list[Video]
    named: frozenset[Path]
    left_out: list[Path] = field(default_factory=list)

    def only(self, items: Sequence[Item], check: Callable[[Item], object]) -> list[Item]:
        """Those that pass a check, which may raise a UserError; the others are left out, and reported."""
        good = []
        for item in items:
            try:
                check(item)
                good.append(item)
            except UserError as error:
                if item.path in self.named:
                    raise
                self.left_out.append(item.path)
                if len(self.left_out) <= MOST_REPORTED:
                    print(f"left out: {error}")
        return good

    def readable(self, most: int) -> list[Photograph]:
        """At most so many photographs, evenly spaced, less those that cannot be decoded."""
        places = np.linspace(0, len(self.photographs) - 1, min(most, len(self.photographs))).round().astype(int)
        good = self.only([self.photographs[place] for place in places], Photograph.whole)
        self.require(good)
        return good

    def require(self, readable: Sequence[object]) -> None:
        """Raises a UserError where nothing can be read."""
        if not readable:
            raise UserError(f"none of these can be read: {named([str(path) for path in self.left_out])}.")

    def summary(self) -> str:
        """How many were left out, for the end of the output; '' for none."""
        count = len(self.left_out)
        return f"{count:,} file{'s' * (count > 1)} left out: not readable" if count else ""


def find(paths: Sequence[Path], videos: bool = True) -> Found:
    """The photographs and videos (left out if not wanted) that are named, or lie in named folders and in theirs.

    Their names are paths in the folder; in full where two would have one name. What was named has to be readable.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        inside = [(str(one.relative_to(path)) if one != path else path.name, one) for one in files if _kind(one)]
        inside = [(name, one) for name, one in inside if not re.search(r"(^|/)\.", name)]
        if not path.exists():
            raise UserError(f"{path}: no such file. Expected photographs, videos, or folders with such.")
        if not inside:
            raise UserError(f"{path}: expected a photograph or video ({', '.join(PHOTOGRAPHS + VIDEOS)}).")
        found += inside
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        found = [(str(path), path) for path in dict.fromkeys(path for _, path in found)]
    result = Found([Photograph(*one) for one in found if _kind(one[1]) == "photograph"], [], frozenset(paths))
    result.only([one for one in result.photographs if one.path in result.named], Photograph.whole)
    films = [Video(*one) for one in found if _kind(one[1]) == "video"]
    result.videos = result.only(films, Video.check if videos else _refuse)
    result.require([*result.photographs, *result.videos])
    return result


def _refuse(video: Video) -> None:
    raise UserError(f"{video.path} is a video; expected photographs. Videos: python -m tools.predict --annotate")


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if not (path.is_file() or path.is_symlink()):  # a broken link is reported when it is read
        return ""
    return "photograph" if suffix in PHOTOGRAPHS else "video" if suffix in VIDEOS else ""


def clock(seconds: float) -> str:
    """'1:02.5'"""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"


def class_words(number: int) -> str:
    """'c3 texting - left'"""
    return f"{CLASSES[number]} {CLASS_NAMES[CLASSES[number]]}"


@cache
def _font(bold: bool, size: int) -> PIL.ImageFont.FreeTypeFont:
    import matplotlib  # which has a font with letters of many languages; OpenCV 4 has none

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return PIL.ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    size: int,
    most: int,
    bold: bool = False,
    faint: bool = False,
) -> None:
    """Writes on a picture, from a place (x, y) on the baseline; smaller where it would be wider than `most` pixels."""
    wide = _font(bold, size).getlength(text)
    font = _font(bold, size if wide <= most else max(1, int(size * most / wide)))
    top = max(0, place[1] - 2 * size)
    band = PIL.Image.fromarray(picture[top : place[1] + size])
    PIL.ImageDraw.Draw(band).text((place[0], place[1] - top), text, FAINT if faint else INK, font, "ls")
    picture[top : place[1] + size] = np.asarray(band)


def with_probabilities(picture: np.ndarray, probabilities: np.ndarray, title: str = "") -> np.ndarray:
    """The picture, at most `MOST_SIDE` large, with a panel at its right: a bar for each class, the likeliest in colour.

    Both are uint8, RGB; height and width of the result are even, as video codecs want them.
    """
    scale = min(1.0, MOST_SIDE / max(picture.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    picture = picture if scale == 1 else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    unit = max(12, min(height, width) // 24)  # height of a line of text
    panel = np.full((height, 15 * unit, 3), PAPER, np.uint8)
    left, inner = unit, 13 * unit
    row = min((height - 2 * unit) / (len(CLASSES) + 0.5), 2.6 * unit)
    size = max(6, round(min(0.85 * unit, 0.5 * row)))
    write(panel, title, (left, round(1.3 * unit)), max(6, round(0.8 * size)), inner, faint=True)
    for number, probability in enumerate(probabilities):
        top, best = 2 * unit + number * row, number == int(np.argmax(probabilities))
        colour = BAR if not best else CALM if number == 0 else ALARMING
        for share, fill in ((1.0, RAIL), (float(probability), colour)):
            corners = (left, round(top + 0.62 * row)), (left + round(inner * share), round(top + 0.82 * row))
            cv2.rectangle(panel, *corners, fill, -1)
        baseline, percent = round(top + 0.5 * row), round(0.82 * inner)
        write(panel, CLASS_NAMES[CLASSES[number]], (left, baseline), size, percent - unit // 2, best, not best)
        write(panel, f"{probability:4.0%}", (left + percent, baseline), size, inner - percent, best, not best)
    both = np.hstack([picture, panel])
    return both[: both.shape[0] // 2 * 2, : both.shape[1] // 2 * 2]


def write_annotated(video: Video, path: Path, times: Sequence[float], probabilities: np.ndarray) -> None:
    """Writes the frames of a video with the probabilities of the sample nearest to each beside it, as an MP4.

    The copy has a constant rate: frames are repeated or left out so that each appears at its time. All of them were
    decoded before. The `times` of the samples are in seconds; their probabilities have shape (samples, 10).
    """
    rate = video.rate if video.rate <= LARGEST_RATE else USUAL_RATE
    between, end, shown = np.add(times[1:], times[:-1]) / 2, video.end, progress_bar(len(video.times), "annotating")
    with written_whole(path) as temporary, shown as bar, contextlib.ExitStack() as opened:
        writer, written, picture = None, 0, _NOTHING
        for time, pixels in itertools.chain(video.frames_every(), [(end, _NOTHING)]):
            while picture.size and written < round(time * rate):
                if writer is None:
                    size = (picture.shape[1], picture.shape[0])
                    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*CODEC), rate, size)
                    opened.callback(writer.release)
                    if not writer.isOpened():
                        raise UserError(f"{path}: this build of OpenCV cannot write mp4. Leave --annotate out.")
                writer.write(picture)
                written += 1
            if pixels.size:
                row = probabilities[np.searchsorted(between, time)]
                annotated = with_probabilities(pixels, row, f"{video.path.name}  {clock(time)}")
                picture = cv2.cvtColor(annotated, cv2.COLOR_RGB2BGR)
                bar.update()

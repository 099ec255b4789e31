"""Predictions for people: in words, as bars and heat maps on pictures, and as annotated copies of videos."""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from common import terminal
from common.competition import CLASS_NAMES, CLASSES
from common.errors import UserError
from common.files import written_whole
from preprocessing.settings import REGIONS
from tools.pictures import Video, clock

PAPER, INK, FAINT = (24, 26, 30), (238, 238, 238), (132, 136, 144)  # RGB
CALM, ALARMING, BAR = (96, 200, 120), (255, 170, 60), (70, 74, 82)
REGULAR, BOLD = 400, 700  # weights of the font
DIMMED, GLOW = 0.8, 0.65  # shares: light of the picture under a heat map, and its largest opacity
WORTH_SAYING = 0.05  # probability of a second class
CODEC = "mp4v"  # in every build of OpenCV; H.264 is not, for its licence
MOST_SIDE = 1280  # pixels; a larger picture is shown smaller


@cache
def _font() -> "cv2.FontFace":
    return cv2.FontFace("sans")


def write(
    picture: np.ndarray,
    text: str,
    left: int,
    baseline: int,
    size: int,
    colour: tuple[int, int, int] = INK,
    weight: int = REGULAR,
    most: int = 0,
) -> None:
    """Writes on a picture; where the text would be wider than `most` pixels, smaller."""
    if most:
        wide = cv2.getTextSize((0, 0), text, (0, 0), _font(), size, weight)[2]
        size = size if wide <= most else max(1, int(size * most / wide))
    cv2.putText(picture, text, (left, baseline), colour, _font(), size, weight)


def with_probabilities(picture: np.ndarray, probabilities: np.ndarray, title: str = "") -> np.ndarray:
    """The picture with a panel at its right: a bar for each class, the most probable one in colour.

    Args:
        picture: shape (height, width, 3), uint8, RGB.
        probabilities: shape (10,).
        title: a line above the bars.

    Returns:
        height and width are even, as video codecs want them.
    """
    picture = at_most(picture, MOST_SIDE)
    height, width = picture.shape[:2]
    unit = max(12, min(height, width) // 24)  # height of a line of text
    panel = np.full((height, 15 * unit, 3), PAPER, np.uint8)
    margin, inner = unit, panel.shape[1] - 2 * unit
    row = min((height - 2 * unit) / (len(CLASSES) + 0.5), 2.6 * unit)
    text = max(6, round(min(0.85 * unit, 0.5 * row)))
    write(panel, title, margin, round(1.3 * unit), max(6, round(0.8 * text)), FAINT, most=inner)
    best = int(np.argmax(probabilities))
    for number, name in enumerate(CLASSES):
        top = round(2 * unit + number * row)
        shown = number == best
        colour = (CALM if number == 0 else ALARMING) if shown else BAR
        right = margin + round(inner * float(probabilities[number]))
        bar = (round(top + 0.62 * row), round(top + 0.82 * row))
        cv2.rectangle(panel, (margin, bar[0]), (margin + inner, bar[1]), (40, 43, 48), -1)
        cv2.rectangle(panel, (margin, bar[0]), (max(right, margin), bar[1]), colour, -1)
        ink, weight = (INK, BOLD) if shown else (FAINT, REGULAR)
        write(panel, CLASS_NAMES[name], margin, round(top + 0.5 * row), text, ink, weight, most=round(0.82 * inner))
        share = f"{probabilities[number]:.0%}"
        wide = cv2.getTextSize((0, 0), share, (0, 0), _font(), text, weight)[2]
        write(panel, share, margin + inner - wide, round(top + 0.5 * row), text, ink, weight)
    both = np.hstack([picture, panel])
    return both[: both.shape[0] // 2 * 2, : both.shape[1] // 2 * 2]


def lit(picture: np.ndarray, heat: np.ndarray, crop: str) -> np.ndarray:
    """The picture in grey under a heat map: from violet over red to yellow, where it is most.

    Args:
        picture: shape (height, width, 3), uint8, RGB.
        heat: shape (rows, columns), not negative, of the part `crop` of the picture; its largest value is yellow.
    """
    height, width = picture.shape[:2]
    share = np.zeros((height, width), np.float32)
    region = REGIONS[crop].of(share)
    scaled = heat / max(float(heat.max()), 1e-12)
    region[:] = np.clip(cv2.resize(scaled, region.shape[::-1], interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = np.rint(255 * share).astype(np.uint8)
    glow = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = GLOW * np.sqrt(share)[..., None]
    return np.rint(grey * DIMMED * (1 - opacity) + glow * opacity).astype(np.uint8)


def tile(picture: np.ndarray, caption: str, caption_height: int, gap: int) -> np.ndarray:
    """The picture under a caption, with a gap at its right and below."""
    height, width = picture.shape[:2]
    whole = np.full((height + caption_height + gap, width + gap, 3), PAPER, np.uint8)
    whole[caption_height : caption_height + height, :width] = picture
    write(whole, caption, 4, round(0.68 * caption_height), round(0.5 * caption_height), most=width - 8)
    return whole


def at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture, shrunk where one of its sides is longer."""
    height, width = picture.shape[:2]
    if max(height, width) <= side:
        return picture
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def encoded(picture: np.ndarray, suffix: str = ".jpg") -> bytes:
    """The bytes of a picture file, of an RGB picture."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 90] if suffix == ".jpg" else [])[1].tobytes()


def class_words(number: int) -> str:
    """'c3 texting - left'"""
    return f"{CLASSES[number]} {CLASS_NAMES[CLASSES[number]]}"


def verdict(probabilities: np.ndarray) -> str:
    """'c3 texting - left 92%, or c1 texting - right 6%' of shape (10,)."""
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    said = f"{class_words(first)} {probabilities[first]:.0%}"
    if probabilities[second] >= WORTH_SAYING:
        said += f", or {class_words(second)} {probabilities[second]:.0%}"
    return said


def of_classes(probabilities: np.ndarray) -> str:
    """How many pictures are most probably of which class, a line each, of shape (pictures, 10)."""
    best = probabilities.argmax(axis=1)
    lines = []
    for number in range(len(CLASSES)):
        part = probabilities[best == number, number]
        if len(part):
            lines.append(f"{len(part):>8,}  {class_words(number):<32}  {part.mean():.0%} sure on average")
    return "\n".join(lines)


def spans(probabilities: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Runs of rows with the same most probable class: first row, last row, their mean."""
    best = probabilities.argmax(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    for first, after in zip(starts, [*starts[1:], len(best)], strict=True):
        yield int(first), int(after) - 1, probabilities[first:after].mean(axis=0)


def write_annotated(video: Video, path: Path, times: Sequence[float], probabilities: np.ndarray) -> None:
    """Writes the frames of a video with the probabilities of the sample nearest to each beside it.

    The copy has a constant rate, the one at which most of the video was filmed: frames are repeated or left out so that
    each appears at its time.

    Args:
        video: all its frames have been decoded before.
        path: ends in .mp4.
        times: of the samples, in seconds.
        probabilities: shape (samples, 10).

    Raises:
        UserError: OpenCV has no such codec here, or the file cannot be written.
    """
    between = np.add(times[1:], times[:-1]) / 2
    rate, end = video.usual_rate, video.end
    with written_whole(path) as temporary:
        writer = None
        bar = terminal.bar(len(video.times), "annotating")
        written, picture = 0, None
        try:
            for time, pixels in itertools.chain(video.frames_every(), [(end, None)]):
                while picture is not None and written < round(time * rate):
                    writer = writer or _writer(temporary, path, rate, picture)
                    writer.write(picture)
                    written += 1
                if pixels is not None:
                    title = f"{video.path.name}  {clock(time)}"
                    row = probabilities[np.searchsorted(between, time)]
                    picture = cv2.cvtColor(with_probabilities(pixels, row, title), cv2.COLOR_RGB2BGR)
                    bar.update()
        finally:
            bar.close()
            if writer is not None:
                writer.release()


def _writer(temporary: Path, path: Path, rate: float, picture: np.ndarray) -> cv2.VideoWriter:
    size = (picture.shape[1], picture.shape[0])
    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*CODEC), rate, size)
    if not writer.isOpened():
        raise UserError(f"{path}: this build of OpenCV cannot write mp4. Leave --annotate out, or give photographs.")
    return writer

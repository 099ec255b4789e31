"""Words and bars on pictures, with OpenCV's own font."""

from functools import cache

import cv2
import numpy as np

from common.competition import CLASS_NAMES, CLASSES
from preprocessing.settings import REGIONS

PAPER, INK, FAINT = (24, 26, 30), (238, 238, 238), (132, 136, 144)  # RGB
CALM, ALARMING, BAR = (96, 200, 120), (255, 170, 60), (70, 74, 82)
REGULAR, BOLD = 400, 700  # weights of the font
DIMMED, GLOW = 0.8, 0.65  # shares: light of the picture under a heat map, and its largest opacity
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

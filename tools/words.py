"""Probabilities in words."""

from collections.abc import Iterator

import numpy as np

from common.competition import CLASS_NAMES, CLASSES

WORTH_SAYING = 0.05  # probability of a second class


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


def clock(seconds: float) -> str:
    """'1:02.5'"""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"


def smoothed(probabilities: np.ndarray, width: int) -> np.ndarray:
    """The mean of each row and its neighbours, `width` (odd) rows in all, fewer at the ends."""
    half = width // 2
    count = len(probabilities)
    return np.stack([probabilities[max(0, n - half) : min(count, n + half + 1)].mean(axis=0) for n in range(count)])


def spans(probabilities: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Runs of rows with the same most probable class: first row, last row, their mean."""
    best = probabilities.argmax(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    for first, after in zip(starts, [*starts[1:], len(best)], strict=True):
        yield int(first), int(after) - 1, probabilities[first:after].mean(axis=0)

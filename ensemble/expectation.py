"""What to expect of a test set of other drivers: a prediction interval, and the published scores around it.

An interval for the mean over the drivers at hand would be far too narrow: the test set is another draw of drivers, and
the mean that it is compared with is itself known from few. Both draws are made here.
"""

import bisect
from dataclasses import dataclass

import numpy as np

LEVEL = 0.9
DRAWS = 2000
RESAMPLINGS = 100  # of the images of each driver
SMALLEST_LOSS = 1e-6  # nats; keeps logarithms finite where a driver has no loss

PUBLISHED = ((12, 0.15), (50, 0.190), (144, 0.256), (182, 0.289))  # place, private log loss (the first one: about)
TEAMS = 1440


@dataclass(frozen=True)
class Expectation:
    """The estimate of the log loss on new drivers.

    Attributes:
        loss: nested out-of-fold log loss, nats.
        lowest, highest: between them the loss on `test_drivers` new drivers lies with probability `level`.
        drivers: how many the estimate was made of.
    """

    loss: float
    lowest: float
    highest: float
    test_drivers: int
    drivers: int
    level: float = LEVEL


def expected_loss(
    losses: np.ndarray, drivers: np.ndarray, test_drivers: int, level: float = LEVEL, seed: int = 0
) -> Expectation:
    """Estimate and prediction interval by a bootstrap over drivers and, within each, over images.

    Each draw takes as many known drivers with replacement as there are, for what is not known of the mean, and
    `test_drivers` for the test set. The logarithms of their losses, as losses of drivers are skewed and positive,
    differ by an error, which is widened for the variance that a bootstrap of few lacks, and as Student's distribution
    is wider than the normal one.

    Args:
        losses: shape (images,), log loss of each image out of fold, in nats.
        drivers: shape (images,).
        test_drivers: how many the test set has, at least 1.

    Source: Davison and Hinkley, Bootstrap methods and their application (1997), 3.8 and 6.3 (prediction errors).
    """
    from scipy.stats import norm, t

    random = np.random.default_rng(seed)
    parts = [losses[drivers == driver] for driver in np.unique(drivers)]
    known = len(parts)
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    means = np.stack([_resampled_means(part, random) for part in parts])  # (drivers, RESAMPLINGS)
    loss = float(losses.mean())
    if known < 2:
        return Expectation(loss, 0.0, float("inf"), test_drivers, known, level)

    def drawn(count: int) -> np.ndarray:
        who = random.integers(known, size=(DRAWS, count))
        values = means[who, random.integers(RESAMPLINGS, size=who.shape)]
        return np.log(np.maximum((values * sizes[who]).sum(axis=1) / sizes[who].sum(axis=1), SMALLEST_LOSS))

    tail = (1 - level) / 2
    widened = np.sqrt(known / (known - 1)) * t.ppf(1 - tail, known - 1) / norm.ppf(1 - tail)
    errors = drawn(test_drivers) - drawn(known)
    low, high = np.exp(widened * np.quantile(errors, [tail, 1 - tail]))
    return Expectation(loss, float(loss * low), float(loss * high), test_drivers, known, level)


def _resampled_means(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Means of samples with replacement, shape (RESAMPLINGS,)."""
    counts = random.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLINGS)
    return np.asarray(counts @ values / len(values))


def guessed_test_drivers(test_images: int, images: int, drivers: int) -> int:
    """How many drivers a test set has if each is on as many images as a known one; at least 1."""
    return max(1, round(test_images * drivers / images))


def place_among_published(loss: float) -> str:
    """Where a private score stands among those that were published: 'between the 12th and the 50th'."""
    places, scores = [_ordinal(place) for place, _ in PUBLISHED], [score for _, score in PUBLISHED]
    better = bisect.bisect_left(scores, loss)
    if better == 0:
        return f"the {places[0]} place or better"
    if better == len(places):
        return f"behind the {places[-1]} place"
    return f"between the {places[better - 1]} and the {places[better]} place"


def _ordinal(place: int) -> str:
    """'2nd', '12th'"""
    teens = place % 100 in (11, 12, 13)
    return f"{place}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(place % 10, 'th')}"


def expectation_text(expectation: Expectation, images: int, complete_images: int, guessed: bool) -> str:
    """The paragraph of the report.

    Args:
        images: of training that the estimate was made of; `complete_images` in the competition's data.
        guessed: whether the number of test drivers is a guess.
    """
    one = expectation
    how = " (guessed: --test-drivers)" if guessed else ""
    high = f"{one.highest:.3f}" if np.isfinite(one.highest) else "anything"
    remarks = {12: " about", 144: " (bronze)"}
    published = ", ".join(f"{_ordinal(place)}{remarks.get(place, '')} {score:.3g}" for place, score in PUBLISHED)
    lines = [
        f"expected on new drivers: {one.loss:.4f}, nested out of fold",
        f"{one.level:.0%} prediction interval: {one.lowest:.3f} to {high}, "
        f"for a test set of {one.test_drivers:,} new drivers{how}",
        f"published private scores of {TEAMS:,}: {published}",
        f"{one.loss:.3f} would have been {place_among_published(one.loss)};",
        f"{one.lowest:.3f} {place_among_published(one.lowest)}; {high} {place_among_published(one.highest)}",
    ]
    lines.append("these scores need the full data: 22,424 images to train on, and the 79,726 to predict")
    if images < complete_images:
        lines.append(f"here are {images:,} images: this is no claim to a place")
    return "\n".join(lines)

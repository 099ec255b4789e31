"""What to expect of a test set of other drivers: a prediction interval, and the published scores around it.

An interval for the mean over the drivers at hand would be far too narrow: the test set is another draw of drivers, and
the mean that it is compared with is itself known from few. Both draws are made here.
"""

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


def expected_loss(losses: np.ndarray, drivers: np.ndarray, test_drivers: int) -> Expectation:
    """Estimate and prediction interval by a bootstrap over drivers and, within each, over images.

    Each draw takes as many known drivers with replacement as there are, for what is not known of the mean, and
    `test_drivers` for the test set. The logarithms of their losses, as losses of drivers are skewed and positive,
    differ by an error, which is widened for the variance that a bootstrap of few lacks, and as Student's distribution
    is wider than the normal one.

    Args:
        losses: shape (images,), log loss of each image out of fold, in nats.
        drivers: shape (images,), of two drivers at least.
        test_drivers: how many the test set has, at least 1.

    Source: Davison and Hinkley, Bootstrap methods and their application (1997), 3.8 and 6.3 (prediction errors).
    """
    from scipy.stats import norm, t

    def resampled_means(values: np.ndarray) -> np.ndarray:
        counts = random.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLINGS)
        return np.asarray(counts @ values / len(values))

    def drawn(count: int) -> np.ndarray:
        who = random.integers(known, size=(DRAWS, count))
        values = means[who, random.integers(RESAMPLINGS, size=who.shape)]
        return np.log(np.maximum((values * sizes[who]).sum(axis=1) / sizes[who].sum(axis=1), SMALLEST_LOSS))

    random = np.random.default_rng(0)
    parts = [losses[drivers == driver] for driver in np.unique(drivers)]
    known, sizes = len(parts), np.array([len(part) for part in parts], dtype=np.float64)
    means = np.stack([resampled_means(part) for part in parts])  # (drivers, RESAMPLINGS)
    tail = (1 - LEVEL) / 2
    widened = np.sqrt(known / (known - 1)) * t.ppf(1 - tail, known - 1) / norm.ppf(1 - tail)
    errors = drawn(test_drivers) - drawn(known)
    low, high = np.exp(widened * np.quantile(errors, [tail, 1 - tail]))
    loss = float(losses.mean())
    return Expectation(loss, float(loss * low), float(loss * high), test_drivers, known)


def guessed_test_drivers(test_images: int, images: int, drivers: int) -> int:
    """How many drivers a test set has if each is on as many images as a known one; at least 1."""
    return max(1, round(test_images * drivers / images))


def place_among_published(loss: float) -> str:
    """Where a private score stands among those that were published: 'between places 12 and 50'."""
    places, better = [place for place, _ in PUBLISHED], sum(score < loss for _, score in PUBLISHED)
    if better == 0:
        return f"place {places[0]} or better"
    if better == len(places):
        return f"behind place {places[-1]}"
    return f"between places {places[better - 1]} and {places[better]}"

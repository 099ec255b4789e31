"""The mean of a model's fold networks is less sure than each of them, but what is fitted out of fold met single ones.

Each row of the mean is sharpened by one power for all, until the mean entropy is that of the single networks. As the
mean is also right more often than they are, that is a cautious correction. It needs no labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.calibration import LARGEST_SCALE, Calibration
from ensemble.pooling import floored

MOST_IMAGES = 20_000  # that entropies are measured on
STEPS = 40  # of the bisection


@dataclass(frozen=True)
class FoldMean:
    """The gap between single fold networks and their mean, on the test set.

    Attributes:
        networks: how many.
        entropy_of_singles, entropy_of_mean: mean over images, in nats.
        scale: what the mean's log-probabilities are multiplied by; 1 for a single network.
    """

    networks: int
    entropy_of_singles: float
    entropy_of_mean: float
    scale: float


def mean_entropy(probabilities: np.ndarray) -> float:
    """Mean over the images of the entropy of the prediction, in nats, of at most `MOST_IMAGES` of them.

    Args:
        probabilities: shape (images, classes), rows summing to 1.
    """
    rows = probabilities[:: -(-len(probabilities) // MOST_IMAGES)] if len(probabilities) else probabilities
    return -float((rows * np.log(floored(rows))).sum(axis=1).mean()) if len(rows) else 0.0


def sharpened(mean: np.ndarray, entropies: Sequence[float]) -> tuple[np.ndarray, FoldMean]:
    """The mean of fold networks, as sure as they are on average.

    Args:
        mean: shape (images, classes), rows summing to 1.
        entropies: the mean entropy of each network on these images.
    """
    target, found = float(np.mean(entropies)), mean_entropy(mean)
    if len(entropies) < 2 or found - target < 1e-6:
        return mean, FoldMean(len(entropies), target, found, 1.0)
    rows = mean[:: -(-len(mean) // MOST_IMAGES)]
    lowest, highest = 0.0, float(np.log(LARGEST_SCALE))
    for _ in range(STEPS):
        middle = (lowest + highest) / 2
        if mean_entropy(Calibration(float(np.exp(middle))).predict(rows)) > target:
            lowest = middle
        else:
            highest = middle
    scale = float(np.exp(lowest))
    return Calibration(scale).predict(mean), FoldMean(len(entropies), target, found, scale)

"""Prior matching: the mean prediction for each driver is moved towards the shares of the classes in training.

Each driver shows every behaviour about as often as the drivers in training, so the mean prediction for a driver should
be near training's mix. Each class gets a bias for each driver, computed from predictions alone. That corrects drivers
whose images are taken for one class too often.
"""

import numpy as np
from scipy.special import log_softmax, softmax

from common.metric import SMALLEST_PROBABILITY

LARGEST_BIAS = 2.0  # nats: images that are certain stay so
FEWEST_IMAGES = 20  # of one driver: fewer say nothing of their mix, and are no group of their own
HALF_STRENGTH = 100  # images at which the strength is half of what it is for very many


def floored(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of at least 1e-15, below which the metric sees no difference: their logarithms are finite."""
    return np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY)


def smoothed_prior(labels: np.ndarray, classes: int) -> np.ndarray:
    """The share of each class among labels, with one image added to each so that none is 0; shape (classes,)."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    return counts / counts.sum()


def matched_logarithms(logarithms: np.ndarray, prior: np.ndarray, strength: float, sets: np.ndarray) -> np.ndarray:
    """Log-probabilities with a bias for each class and set of images.

    Args:
        logarithms: log-probabilities, shape (images, classes), finite.
        prior: shape (classes,), positive, summing to 1.
        strength: what it is worth to come nearer to the prior, against changing the predictions, for very many images.
        sets: shape (images,): images of one value share a bias.
    """
    matched = logarithms.copy()
    for value in np.unique(sets):
        rows = sets == value
        if (images := int(rows.sum())) >= FEWEST_IMAGES:
            matched[rows] += prior_bias(logarithms[rows], prior, strength * images / (images + HALF_STRENGTH))
    return log_softmax(matched, axis=-1)


def prior_bias(logarithms: np.ndarray, prior: np.ndarray, strength: float) -> np.ndarray:
    """The bias of each class, shape (classes,), that brings the mean prediction nearer to `prior`.

    It minimises |bias|^2 / 2 - strength * sum of prior * log(mean prediction): a normal prior of the bias and a
    Dirichlet prior of the classes' shares. Doubtful images move; none moves by more than twice `LARGEST_BIAS`.

    Args:
        logarithms: log-probabilities, shape (images, classes), finite.
        prior: shape (classes,), positive, summing to 1.
    """
    from scipy.optimize import minimize

    def objective(bias: np.ndarray) -> tuple[float, np.ndarray]:
        shifted = softmax(logarithms + bias, axis=1)
        mean = floored(shifted.mean(axis=0))
        weights = prior / mean
        by_bias = (shifted * (weights - (shifted @ weights)[:, None])).mean(axis=0)
        return bias @ bias / 2 - strength * float(prior @ np.log(mean)), bias - strength * by_bias

    bounds = [(-LARGEST_BIAS, LARGEST_BIAS)] * len(prior)
    return np.asarray(minimize(objective, np.zeros(len(prior)), jac=True, method="L-BFGS-B", bounds=bounds).x)

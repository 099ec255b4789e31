"""Prior matching: where the test set has training's mix of classes, the mean prediction should have it too.

Each class gets a factor, computed from predictions alone. That corrects drivers whose images are taken for one class
too often, and corrects more the fewer drivers share the factors. So out of fold about as many share them as in the test
set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from common.metric import log_loss, not_clearly_worse
from ensemble.calibration import Calibration, clipped_losses, fit_calibration, floored

STRENGTHS = (0.5, 0.75, 1.0)
MOST_ROUNDS = 200


@dataclass(frozen=True)
class PriorMatching:
    """A fitted step towards the prior.

    Attributes:
        prior: the share of each class in training.
        strength: the power of the factors; 1 moves the mean all the way.
        scale: what the log-probabilities are multiplied by afterwards (1 / temperature).
    """

    prior: tuple[float, ...]
    strength: float
    scale: float = 1.0

    def logarithms(self, probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Log-probabilities before the temperature.

        Args:
            probabilities: shape (images, classes), rows summing to 1.
            sets: shape (images,): images of one value share the factors.
        """
        own = np.log(floored(probabilities))
        matched = np.empty_like(own)
        for value in np.unique(sets):
            rows = sets == value
            change = np.log(floored(match_prior(probabilities[rows], np.array(self.prior)))) - own[rows]
            factors = np.median(change - change.mean(axis=1, keepdims=True), axis=0)
            matched[rows] = own[rows] + self.strength * factors
        return log_softmax(matched, axis=-1)

    def predict(self, probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Matched and tempered probabilities, shape (images, classes)."""
        return np.exp(Calibration(self.scale).logarithms(self.logarithms(probabilities, sets)))


def match_prior(probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities whose mean over the images is `prior`, by one factor for each class.

    Args:
        probabilities: shape (images, classes), rows summing to 1.
        prior: shape (classes,), positive, summing to 1.

    Source: 10th place of the competition; the factors by iterative proportional fitting (Deming and Stephan 1940).
    """
    matched = floored(probabilities)
    for _ in range(MOST_ROUNDS):
        mean = matched.mean(axis=0)
        if np.abs(mean - prior).max() < 1e-9:
            break
        matched = matched * (prior / mean)
        matched /= matched.sum(axis=1, keepdims=True)
    return matched


def smoothed_prior(labels: np.ndarray, classes: int) -> np.ndarray:
    """The share of each class among labels, with one image added to each so that none is 0; shape (classes,)."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    return counts / counts.sum()


def fit_prior(
    probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray, sets: np.ndarray, always: bool
) -> PriorMatching | None:
    """The strength with the least log loss, or None where it does not clearly help.

    Args:
        probabilities: shape (images, classes), of a blend that was not fitted on these drivers.
        labels, drivers, sets: shape (images,).
        always: strength 1, whether it helps or not.
    """
    prior = tuple(smoothed_prior(labels, probabilities.shape[1]).tolist())
    fitted = []
    for strength in (1.0,) if always else STRENGTHS:
        logarithms = PriorMatching(prior, strength).logarithms(probabilities, sets)
        calibration = fit_calibration(logarithms, labels, with_bias=False)
        matched = np.exp(calibration.logarithms(logarithms))
        fitted.append((log_loss(matched, labels), PriorMatching(prior, strength, calibration.scale), matched))
    _, best, matched = min(fitted, key=lambda one: one[0])
    if always:
        return best
    plain = clipped_losses(probabilities, labels)
    return None if not_clearly_worse(plain, clipped_losses(matched, labels), drivers) else best


def sets_of(groups: np.ndarray, drivers: np.ndarray, test_drivers: int) -> np.ndarray:
    """Sets of groups with about as many drivers each as the test set has; shape (images,), integers from 0.

    Args:
        groups, drivers: shape (images,).
        test_drivers: at least 1.
    """
    sizes = [len(np.unique(drivers[groups == group])) for group in np.unique(groups)]
    sets = min(max(round(sum(sizes) / test_drivers), 1), len(sizes))
    return dealt(sizes, sets)[np.unique(groups, return_inverse=True)[1]]


def dealt(sizes: Sequence[int] | np.ndarray, hands: int) -> np.ndarray:
    """Deals things of these sizes, the largest first, each to the hand that has least; shape (things,), from 0."""
    totals, hand_of = np.zeros(hands), np.zeros(len(sizes), dtype=np.int64)
    for thing in np.argsort(-np.asarray(sizes), kind="stable"):
        hand_of[thing] = int(totals.argmin())
        totals[hand_of[thing]] += sizes[thing]
    return hand_of

"""The training prior: where the test set is mixed like the training set, a blend's mean prediction should be too.

Each class gets a factor, computed from predictions alone. Drivers who are taken for one class too often are set right,
all the more the fewer drivers share the factors: so out of fold about as many share them as in the test set.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from common.metric import log_loss, log_loss_per_image
from ensemble.calibration import Calibration, fit_calibration, match_prior, smoothed_prior
from ensemble.clipping import choose_clip, clip
from ensemble.paired import not_clearly_worse
from ensemble.pooling import floored

STRENGTHS = (0.5, 0.75, 1.0)


@dataclass(frozen=True)
class PriorMatching:
    """A fitted step towards the prior.

    Attributes:
        prior: the share of each class in training.
        strength: the power of the factors; 1 moves the mean all the way.
        scale: what the log-probabilities are multiplied by afterwards (1 / temperature).
        epsilon: the clip.
    """

    prior: tuple[float, ...]
    strength: float
    scale: float = 1.0
    epsilon: float = 0.0

    def logarithms(self, probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Log-probabilities before temperature and clip.

        Args:
            probabilities: shape (images, classes), rows summing to 1.
            sets: shape (images,): images of one value share the factors.
        """
        own = np.log(floored(probabilities))
        moved = np.empty_like(own)
        for value in np.unique(sets):
            rows = sets == value
            matched = np.log(floored(match_prior(probabilities[rows], np.array(self.prior))))
            factors = np.median(matched - own[rows] - (matched - own[rows]).mean(axis=1, keepdims=True), axis=0)
            moved[rows] = own[rows] + self.strength * factors
        return log_softmax(moved, axis=-1)

    def predict(self, probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Moved, tempered and clipped probabilities, shape (images, classes)."""
        return clip(np.exp(Calibration(self.scale).logarithms(self.logarithms(probabilities, sets))), self.epsilon)


def fit_prior(
    probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray, sets: np.ndarray, option: str
) -> PriorMatching | None:
    """The strength with the least log loss, where it clearly helps; strength 1 in any case with the option 'yes'.

    Args:
        probabilities: shape (images, classes), of a blend that was not fitted on these drivers.
        labels, drivers, sets: shape (images,).
        option: 'auto', 'yes' or 'no'.
    """
    if option == "no":
        return None
    prior = tuple(smoothed_prior(labels, probabilities.shape[1]).tolist())
    best: tuple[float, PriorMatching, np.ndarray] | None = None
    for strength in STRENGTHS if option == "auto" else (1.0,):
        logarithms = PriorMatching(prior, strength).logarithms(probabilities, sets)
        scale = fit_calibration(logarithms, labels, with_bias=False).scale
        tempered = np.exp(Calibration(scale).logarithms(logarithms))
        fitted = PriorMatching(prior, strength, scale, choose_clip(tempered, labels))
        final = clip(tempered, fitted.epsilon)
        if best is None or log_loss(final, labels) < best[0]:
            best = log_loss(final, labels), fitted, final
    if best is None:
        return None
    plain = log_loss_per_image(probabilities, labels)
    if option == "auto" and not_clearly_worse(plain, log_loss_per_image(best[2], labels), drivers):
        return None
    return best[1]


def sets_of(groups: np.ndarray, drivers: np.ndarray, test_drivers: int) -> np.ndarray:
    """Sets of groups with about as many drivers each as the test set has; shape (images,), integers from 0.

    Args:
        groups, drivers: shape (images,).
        test_drivers: at least 1.
    """
    names, places = np.unique(groups, return_inverse=True)
    sizes = [len(np.unique(drivers[groups == name])) for name in names]
    many = min(max(round(sum(sizes) / test_drivers), 1), len(names))
    totals, set_of = np.zeros(many), np.zeros(len(names), dtype=np.int64)
    for place in np.argsort(-np.array(sizes), kind="stable"):
        set_of[place] = int(totals.argmin())
        totals[set_of[place]] += sizes[place]
    return set_of[places]

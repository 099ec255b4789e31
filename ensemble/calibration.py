"""Calibration: temperature or vector scaling, confidence of a fold mean, prior matching, clusters, the final clip.

Calibrated log-probabilities are `scale` x log-probabilities + `bias`, up to the sum of the row: vector scaling with one
temperature (1 / `scale`) for all classes. Source: Guo et al., On calibration of modern neural networks (2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from common.metric import (
    Cloud,
    clustered_logarithms,
    floored,
    log_loss,
    log_loss_per_image,
    matched_logarithms,
    paired_difference,
    smoothed_prior,
)

RIDGE = 1e-3  # nats an image for a scale that is 1 off: negligible beside real evidence
RIDGE_OF_ALL = 1.0  # nats for all images together: a handful of images cannot move the calibration far
BIAS_PENALTY = 1.0  # nats an image for a bias that is 1 off: biases differ between drivers
SMALLEST_SCALE, LARGEST_SCALE = 0.02, 50.0  # above 0, so that the ranking of the classes stays
# The smallest is not 0: a confident mistake, of which there may be none out of fold, costs 34.5 nats.
CLIPS = tuple(float(f"{digits}e{exponent}") for exponent in range(-6, -1) for digits in (1, 1.5, 2, 3, 5, 7))
MOST_ENTROPY_IMAGES = 20_000
STRENGTHS = (30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration: `scale` > 0 (1 / temperature) and a bias for each class (empty: none)."""

    scale: float = 1.0
    bias: tuple[float, ...] = ()

    def logarithms(self, logarithms: np.ndarray) -> np.ndarray:
        """From log-probabilities of shape (..., classes) to calibrated ones, rows of probabilities summing to 1."""
        scaled = logarithms * self.scale
        return log_softmax(scaled + np.array(self.bias) if self.bias else scaled, axis=-1)

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """From probabilities of shape (..., classes) to calibrated ones."""
        return np.exp(self.logarithms(np.log(floored(probabilities))))


def fit_calibration(logarithms: np.ndarray, labels: np.ndarray, with_bias: bool = True) -> Calibration:
    """The calibration with the least log loss on these labels; the problem is convex.

    Args:
        logarithms: log-probabilities, shape (images, classes), finite.
        labels: shape (images,), the true class as an integer from 0.
        with_bias: a bias for each class beside the temperature.
    """
    from scipy.optimize import minimize

    images, classes = logarithms.shape
    ridge, bias_ridge = RIDGE + RIDGE_OF_ALL / images, BIAS_PENALTY + RIDGE_OF_ALL / images
    true_shares = np.bincount(labels, minlength=classes) / images
    true_mean = float(logarithms[np.arange(images), labels].mean())
    columns = np.ascontiguousarray(logarithms.T)  # classes first: sums over them are several times faster

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = parameters[0], parameters[1:]
        scores = scale * columns
        if with_bias:
            scores += bias[:, None]
        largest = scores.max(axis=0)
        exponentials = np.exp(scores - largest)
        sums = exponentials.sum(axis=0)
        loss = float((largest + np.log(sums)).mean()) - scale * true_mean + ridge / 2 * (scale - 1) ** 2
        exponentials /= sums
        by_scale = float(np.vdot(exponentials, columns)) / images - true_mean + ridge * (scale - 1)
        if not with_bias:
            return loss, np.array([by_scale])
        by_bias = exponentials.mean(axis=1) - true_shares + bias_ridge * bias
        loss += bias_ridge / 2 * float(bias @ bias) - true_shares @ bias
        return loss, np.concatenate([[by_scale], by_bias])

    start = np.array([1.0] + [0.0] * (classes if with_bias else 0))
    bounds = [(SMALLEST_SCALE, LARGEST_SCALE), *[(None, None)] * (len(start) - 1)]
    options = {"ftol": 1e-12, "gtol": 1e-7, "maxiter": 200}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    best = found.x if np.isfinite(found.x).all() and found.fun <= objective(start)[0] else start
    return Calibration(float(best[0]), tuple(best[1:].tolist()))


def mean_entropy(probabilities: np.ndarray) -> float:
    """Mean entropy of the predictions of at most `MOST_ENTROPY_IMAGES` images, in nats; shape (images, classes)."""
    rows = probabilities[:: -(-len(probabilities) // MOST_ENTROPY_IMAGES) or 1]
    return -float((rows * np.log(floored(rows))).sum(axis=1).mean()) if len(rows) else 0.0


def sharpened(networks: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """The mean of fold networks, with the mean entropy of single ones; and the power that it was raised to.

    Averaging lowers confidence, but what is fitted out of fold was fitted on single networks. One power for all rows
    restores it. The mean is also right more often than a single network, so this is a cautious correction.

    Args:
        networks: predictions of each, of shape (images, classes), rows summing to 1.
    """
    from scipy.optimize import brentq

    mean = np.mean(networks, axis=0)
    target = float(np.mean([mean_entropy(one) for one in networks]))
    if len(networks) < 2 or mean_entropy(mean) - target < 1e-6:
        return mean, 1.0
    rows = mean[:: -(-len(mean) // MOST_ENTROPY_IMAGES)]

    def excess(logarithm: float) -> float:
        return mean_entropy(Calibration(float(np.exp(logarithm))).predict(rows)) - target

    highest = float(np.log(LARGEST_SCALE))
    scale = float(np.exp(brentq(excess, 0.0, highest, xtol=1e-9))) if excess(highest) < 0 else LARGEST_SCALE
    return Calibration(scale).predict(mean), scale


def clip(probabilities: np.ndarray, smallest: float) -> np.ndarray:
    """Bounds what a confident mistake costs: probabilities of at least `smallest`, then divided by the row's sum.

    After the division the smallest is a little less, at least 0.9 of it. The upper bound is what `smallest`, from 0 to
    1 / classes, leaves: 1 - (classes - 1) * smallest. Shape (images, classes).
    """
    clipped = np.clip(probabilities, smallest, 1 - (probabilities.shape[1] - 1) * smallest)
    return clipped / clipped.sum(axis=1, keepdims=True)


def choose_clip(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The value of `CLIPS` with the least log loss on these labels; of equal ones, the smallest."""
    losses = [log_loss(clip(probabilities, smallest), labels) for smallest in CLIPS]
    return CLIPS[int(np.argmin(losses))]


def clipped_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log loss of each image with the best clip: makes predictions comparable that differ in overconfidence."""
    return log_loss_per_image(clip(probabilities, choose_clip(probabilities, labels)), labels)


def clearly_helps(changed: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray) -> bool:
    """Whether changed predictions have less loss by more than one standard error over drivers."""
    gain, error = paired_difference(clipped_losses(probabilities, labels), clipped_losses(changed, labels), drivers)
    return gain > error + 1e-9


@dataclass(frozen=True)
class PriorMatching:
    """A fitted step towards the prior, as `matched_logarithms`, after which `scale` (1 / temperature) follows."""

    prior: tuple[float, ...]
    strength: float
    scale: float = 1.0

    def logarithms(self, probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Log-probabilities before the temperature; images of one value in `sets` share a bias."""
        return matched_logarithms(np.log(floored(probabilities)), np.array(self.prior), self.strength, sets)

    def predict(self, probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Matched and tempered probabilities, shape (images, classes)."""
        return np.exp(Calibration(self.scale).logarithms(self.logarithms(probabilities, sets)))


def fit_prior(
    probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray, sets: np.ndarray, always: bool
) -> PriorMatching | None:
    """The strength with the least log loss; None where it does not clearly help, unless it is wanted `always`.

    The probabilities, of shape (images, classes), are of a blend that was not fitted on these drivers.
    """
    prior = tuple(smoothed_prior(labels, probabilities.shape[1]).tolist())
    fitted = []
    for strength in STRENGTHS:
        logarithms = PriorMatching(prior, strength).logarithms(probabilities, sets)
        calibration = fit_calibration(logarithms, labels, with_bias=False)
        matched = np.exp(calibration.logarithms(logarithms))
        fitted.append((log_loss(matched, labels), PriorMatching(prior, strength, calibration.scale), matched))
    _, best, matched = min(fitted, key=lambda one: one[0])
    return best if always or clearly_helps(matched, probabilities, labels, drivers) else None


@dataclass(frozen=True)
class Clustering:
    """A fitted step towards each driver's clusters, as `clustered_logarithms`, after which `scale` follows."""

    scale: float = 1.0

    def predict(self, probabilities: np.ndarray, clouds: Sequence[Cloud]) -> np.ndarray:
        """Clustered and tempered probabilities, shape (images, classes); of clouds as `clouds_of` finds them."""
        logarithms = clustered_logarithms(np.log(floored(probabilities)), clouds)
        return np.exp(Calibration(self.scale).logarithms(logarithms))


def fit_clustering(
    probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray, clouds: Sequence[Cloud], always: bool
) -> Clustering | None:
    """The temperature with the least log loss; None where clusters do not clearly help, unless wanted `always`."""
    logarithms = clustered_logarithms(np.log(floored(probabilities)), clouds)
    calibration = fit_calibration(logarithms, labels, with_bias=False)
    clustered = np.exp(calibration.logarithms(logarithms))
    helps = always or clearly_helps(clustered, probabilities, labels, drivers)
    return Clustering(calibration.scale) if helps else None

"""Calibration: one temperature and a bias for each class, fitted by the log loss, which is convex in both.

Calibrated log-probabilities are `scale` x log-probabilities + `bias`, up to the row's sum: vector scaling with one
temperature (1 / `scale`) for all classes. Source: Guo et al., On calibration of modern neural networks (2017).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from ensemble.pooling import floored

RIDGE = 1e-3  # nats an image for a scale, or a bias, one off: nothing beside real evidence
RIDGE_OF_ALL = 1.0  # nats for all images together: keeps a handful of images from dictating anything
BIAS_PENALTIES = (1.0, 0.1, 0.01, RIDGE)  # nats an image; drivers differ in their biases, so drivers choose
SMALLEST_SCALE, LARGEST_SCALE = 0.02, 50.0  # above 0, so that the ranking of the classes stays
MOST_ROUNDS = 200  # of prior matching


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration: `scale` > 0 (1 / temperature) and a bias for each class (empty: none)."""

    scale: float
    bias: tuple[float, ...] = ()

    def logarithms(self, logarithms: np.ndarray) -> np.ndarray:
        """From log-probabilities of shape (..., classes) to calibrated ones, rows of probabilities summing to 1."""
        moved = logarithms * self.scale
        return log_softmax(moved + np.array(self.bias) if self.bias else moved, axis=-1)

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """From probabilities of shape (..., classes) to calibrated ones."""
        return np.exp(self.logarithms(np.log(floored(probabilities))))


def fit_calibration(
    logarithms: np.ndarray, labels: np.ndarray, with_bias: bool = True, bias_penalty: float = RIDGE
) -> Calibration:
    """The calibration with the least log loss on these labels, by L-BFGS with the gradient.

    Args:
        logarithms: log-probabilities, shape (images, classes), finite.
        labels: shape (images,), the true class as an integer from 0.
        with_bias: a bias for each class beside the temperature.
        bias_penalty: of the squared biases, in nats an image.
    """
    from scipy.optimize import minimize

    images, classes = logarithms.shape
    ridge, bias_ridge = RIDGE + RIDGE_OF_ALL / images, bias_penalty + RIDGE_OF_ALL / images
    truth = np.bincount(labels, minlength=classes) / images
    of_truth = float(logarithms[np.arange(images), labels].mean())

    columns = np.ascontiguousarray(logarithms.T)  # classes first: sums over them are several times faster

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = parameters[0], parameters[1:]
        scores = scale * columns
        if with_bias:
            scores += bias[:, None]
        largest = scores.max(axis=0)
        exponentials = np.exp(scores - largest)
        sums = exponentials.sum(axis=0)
        loss = float((largest + np.log(sums)).mean()) - scale * of_truth - (truth @ bias if with_bias else 0.0)
        exponentials /= sums
        by_scale = float(np.vdot(exponentials, columns)) / images - of_truth + ridge * (scale - 1)
        loss += ridge / 2 * (scale - 1) ** 2 + bias_ridge / 2 * float(bias @ bias)
        by_bias = exponentials.mean(axis=1) - truth + bias_ridge * bias if with_bias else bias
        return loss, np.concatenate([[by_scale], by_bias])

    start = np.concatenate([[1.0], np.zeros(classes if with_bias else 0)])
    bounds = [(SMALLEST_SCALE, LARGEST_SCALE), *[(None, None)] * (len(start) - 1)]
    options = {"ftol": 1e-12, "gtol": 1e-7, "maxiter": 200}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    best = found.x if np.isfinite(found.x).all() and found.fun <= objective(start)[0] else start
    return Calibration(float(best[0]), tuple(float(value) for value in best[1:]))


def match_prior(probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Probabilities whose mean over the images is `prior`, by one factor for each class.

    Only right where the images are known to be mixed like the training set. The factors are unique up to a common one.

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


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> list[dict[str, float]]:
    """How often what is said with a confidence is right: all class probabilities, in bins of equal width.

    Args:
        probabilities: shape (images, classes), rows summing to 1.
        labels: shape (images,), integers from 0.

    Returns:
        For each bin that is not empty: lowest, highest, predictions, confidence (mean probability) and frequency (share
        that is the true class).
    """
    true = np.zeros(probabilities.shape, dtype=bool)
    true[np.arange(len(labels)), labels] = True
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1).ravel()
    counts = np.bincount(place, minlength=bins)
    said = np.bincount(place, probabilities.ravel(), minlength=bins)
    right = np.bincount(place, true.ravel(), minlength=bins)
    return [
        {
            "lowest": number / bins,
            "highest": (number + 1) / bins,
            "predictions": int(counts[number]),
            "confidence": said[number] / counts[number],
            "frequency": right[number] / counts[number],
        }
        for number in range(bins)
        if counts[number]
    ]


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy of the top class over bins of equal width (ECE), 0 to 1."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))

"""The competition's metric. Everything that speaks of log loss calls this one function."""

import numpy as np

SMALLEST_PROBABILITY = 1e-15


def log_loss_per_image(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Multi-class log loss of each image, as Kaggle scores it.

    Args:
        probabilities: shape (images, classes), non-negative; each row is divided by its sum.
        labels: shape (images,), the true class as an integer from 0.

    Returns:
        shape (images,), float64, in nats; between 0 and -ln(1e-15) = 34.54.

    Source: https://www.kaggle.com/competitions/state-farm-distracted-driver-detection/overview/evaluation
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    probabilities = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -np.log(probabilities[np.arange(len(probabilities)), np.asarray(labels)])


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over images of `log_loss_per_image`, in nats."""
    return float(log_loss_per_image(probabilities, labels).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of images, 0 to 1, whose most probable class is the true one."""
    return float((np.asarray(probabilities).argmax(axis=1) == np.asarray(labels)).mean())


def paired_difference(losses: np.ndarray, others: np.ndarray, drivers: np.ndarray) -> tuple[float, float]:
    """Mean of `losses` minus `others` over the images, and its standard error over drivers.

    Args:
        losses, others: shape (images,), in nats, of the same images.
        drivers: shape (images,), the driver of each image.

    Returns:
        Both in nats; the error is infinite where there is one driver.

    Source: the cluster-robust variance of a mean, with the correction for few clusters (Cameron and Miller 2015).
    """
    difference = losses - others
    mean = float(difference.mean())
    numbers = np.unique(drivers, return_inverse=True)[1]
    deviations = np.bincount(numbers, difference - mean)
    if len(deviations) < 2:
        return mean, float("inf") if difference.any() else 0.0
    return mean, float(np.sqrt(len(deviations) / (len(deviations) - 1) * (deviations**2).sum()) / len(difference))


def not_clearly_worse(losses: np.ndarray, best: np.ndarray, drivers: np.ndarray) -> bool:
    """Whether `losses` are within one standard error of the `best`."""
    mean, error = paired_difference(losses, best, drivers)
    return mean <= error + 1e-9

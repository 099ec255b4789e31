"""Differences of log loss, judged over drivers: images of one driver are no independent witnesses."""

import numpy as np


def paired_difference(losses: np.ndarray, others: np.ndarray, drivers: np.ndarray) -> tuple[float, float]:
    """Mean of `losses` less `others` over the images, and its standard error over the drivers.

    Args:
        losses, others: shape (images,), in nats, of the same images.
        drivers: shape (images,), who is on each image.

    Returns:
        Both in nats; the error is infinite where there is one driver.

    Source: the cluster-robust variance of a mean, with the correction for few clusters (Cameron and Miller 2015).
    """
    difference = losses - others
    mean = float(difference.mean())
    numbers = np.unique(drivers, return_inverse=True)[1]
    away = np.bincount(numbers, difference - mean)
    if len(away) < 2:
        return mean, float("inf") if difference.any() else 0.0
    return mean, float(np.sqrt(len(away) / (len(away) - 1) * (away**2).sum()) / len(difference))


def not_clearly_worse(losses: np.ndarray, best: np.ndarray, drivers: np.ndarray) -> bool:
    """Whether `losses` lie within one standard error of the `best`."""
    mean, error = paired_difference(losses, best, drivers)
    return mean <= error + 1e-9

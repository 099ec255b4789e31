"""Means of predictions in log space."""

from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from common.metric import SMALLEST_PROBABILITY


def geometric_mean(tables: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the logarithms of several predictions of the same images, divided by its sum.

    Args:
        tables: at least one, each of shape (images, classes), rows summing to 1; zeros count as 1e-15.

    Returns:
        shape (images, classes), float64, rows summing to 1.
    """
    logarithms = np.mean([np.log(np.maximum(np.asarray(t, np.float64), SMALLEST_PROBABILITY)) for t in tables], axis=0)
    return softmax(logarithms, axis=1)

"""Pools: one prediction from the predictions of several members.

Every function here takes `probabilities` of shape (members, images, classes), float64, rows summing to 1, and never
changes it. A single member or several equal ones pool to themselves.
"""

import numpy as np
from scipy.special import softmax

from common.metric import SMALLEST_PROBABILITY


def uniform_weights(members: int) -> np.ndarray:
    """The same weight for each member, shape (members,), summing to 1."""
    return np.full(members, 1 / members)


def floored(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities at least 1e-15, below which the metric sees no difference, so that their logarithm is finite."""
    return np.maximum(np.asarray(probabilities, dtype=np.float64), SMALLEST_PROBABILITY)


def arithmetic_pool(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the members' probabilities (the linear opinion pool).

    Args:
        probabilities: shape (members, images, classes).
        weights: shape (members,), on the simplex.

    Returns:
        shape (images, classes), rows summing to 1.
    """
    return _rows_to_one(np.tensordot(weights, floored(probabilities), axes=1))


def geometric_pool(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the members' log-probabilities, divided by its sum (the logarithmic opinion pool).

    Args:
        probabilities: shape (members, images, classes).
        weights: shape (members,), on the simplex.

    Returns:
        shape (images, classes), rows summing to 1.

    Source: Hinton, Products of experts (1999); Genest and Zidek, Combining probability distributions (1986).
    """
    return softmax(np.tensordot(weights, np.log(floored(probabilities)), axes=1), axis=1)


POOLS = {"arithmetic": arithmetic_pool, "geometric": geometric_pool}


def per_class_pool(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The logarithmic pool with its own weights for each class: who is good at a class is heard more on it.

    Args:
        probabilities: shape (members, images, classes).
        weights: shape (members, classes), each column on the simplex.

    Returns:
        shape (images, classes), rows summing to 1.
    """
    return softmax(np.einsum("mic,mc->ic", np.log(floored(probabilities)), weights), axis=1)


def stacked_pool(probabilities: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Softmax of a linear map of all members' log-probabilities.

    Args:
        probabilities: shape (members, images, classes).
        kernel: shape (members, classes, classes), from a member's class to a class of the blend.
        bias: shape (classes,).

    Returns:
        shape (images, classes), rows summing to 1.
    """
    return softmax(np.einsum("mic,mcd->id", np.log(floored(probabilities)), kernel, optimize=True) + bias, axis=1)


def _rows_to_one(values: np.ndarray) -> np.ndarray:
    return values / values.sum(axis=1, keepdims=True)

"""One floor under every probability: what a confident mistake may cost at most, chosen out of fold."""

import numpy as np

from common.metric import log_loss

# The least is not 0: out of fold may hold no sure mistake, the test set may, and one costs 34.5 nats. A floor of
# 1e-6 costs at most 1e-5 nats a row.
CLIPS = (
    1e-6,
    3e-6,
    1e-5,
    3e-5,
    1e-4,
    2e-4,
    3e-4,
    5e-4,
    7e-4,
    1e-3,
    1.5e-3,
    2e-3,
    3e-3,
    5e-3,
    7e-3,
    1e-2,
    1.5e-2,
    2e-2,
    3e-2,
    5e-2,
)


def clip(probabilities: np.ndarray, epsilon: float) -> np.ndarray:
    """Probabilities between `epsilon` and 1 - (classes - 1) * `epsilon`, then divided by their sum.

    The upper bound is what the lower one leaves: a row that is sure of one class keeps the sum 1 exactly.

    Args:
        probabilities: shape (images, classes), rows summing to 1.
        epsilon: from 0 to 1 / classes.

    Returns:
        shape (images, classes), rows summing to 1.
    """
    highest = 1 - (probabilities.shape[1] - 1) * epsilon
    clipped = np.clip(probabilities, epsilon, highest)
    return clipped / clipped.sum(axis=1, keepdims=True)


def choose_clip(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The value of `CLIPS` with the least log loss on these labels; of equals, the smallest.

    Args:
        probabilities: shape (images, classes), rows summing to 1.
        labels: shape (images,), the true class as an integer from 0.
    """
    losses = [log_loss(clip(probabilities, epsilon), labels) for epsilon in CLIPS]
    return CLIPS[int(np.argmin(losses))]

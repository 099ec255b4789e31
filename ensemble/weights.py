"""Weights on the simplex that minimise the log loss of a pool. Both pools' losses are convex in the weights.

The convexity gives a certificate: at weights w with gradient g, no weights at all can lose less than the loss at w
minus the gap g.w - min(g) (Jaggi, Revisiting Frank-Wolfe, 2013). The solver goes on until that gap is negligible.
"""

from collections.abc import Callable

import numpy as np

from common.metric import log_loss
from ensemble.pooling import POOLS, floored, uniform_weights

LARGEST_GAP = 1e-8  # nats; what the weights found may lose against the best weights there are
SMALLEST_WEIGHT = 1e-4  # weights below become 0: they say nothing and would keep a member alive
LARGEST_COST_OF_DROPPING = 1e-6  # nats; where dropping the small weights costs more, they stay

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def fit_weights(probabilities: np.ndarray, labels: np.ndarray, pooling: str) -> np.ndarray:
    """The weights of the members that minimise the log loss of their pool.

    On the data given, the pool with these weights loses at most what each member alone and the uniform mean lose.

    Args:
        probabilities: shape (members, images, classes), rows summing to 1.
        labels: shape (images,), the true class as an integer from 0.
        pooling: a key of `POOLS`.

    Returns:
        shape (members,), float64, non-negative, summing to 1.
    """
    members = len(probabilities)
    if members == 1:
        return np.ones(1)
    objective = {"arithmetic": _arithmetic_objective, "geometric": _geometric_objective}[pooling](probabilities, labels)
    solved = _minimised(objective, members)

    def loss(weights: np.ndarray) -> float:
        return log_loss(POOLS[pooling](probabilities, weights), labels)

    simple = [uniform_weights(members), *np.eye(members)]
    simple_losses = [loss(weights) for weights in simple]
    solved_loss = loss(solved)
    sparse = _on_simplex(np.where(solved < SMALLEST_WEIGHT, 0.0, solved))
    if loss(sparse) <= min(solved_loss + LARGEST_COST_OF_DROPPING, *simple_losses):
        return sparse
    best = int(np.argmin(simple_losses))
    return solved if solved_loss <= simple_losses[best] else simple[best]


def _arithmetic_objective(probabilities: np.ndarray, labels: np.ndarray) -> Objective:
    """Loss and gradient; only the probabilities of the true classes matter, shape (members, images)."""
    true = floored(probabilities[:, np.arange(len(labels)), labels])
    images = len(labels)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        pooled = np.maximum(weights @ true, 1e-300)  # a solver may look a hair outside the simplex
        return -float(np.log(pooled).mean()), -(true @ (1 / pooled)) / images

    return objective


def _geometric_objective(probabilities: np.ndarray, labels: np.ndarray) -> Objective:
    """Loss and gradient of log(sum over classes of exp(weights . advantages)), advantages over the true class."""
    members, images, classes = probabilities.shape
    advantages = np.log(floored(probabilities))
    advantages -= advantages[:, np.arange(images), labels][:, :, None]
    advantages = advantages.reshape(members, images * classes)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        pooled = (weights @ advantages).reshape(images, classes)
        largest = pooled.max(axis=1, keepdims=True)
        exponentials = np.exp(pooled - largest)
        sums = exponentials.sum(axis=1, keepdims=True)
        loss = float((largest + np.log(sums)).mean())
        return loss, advantages @ (exponentials / sums).ravel() / images

    return objective


def _minimised(objective: Objective, members: int) -> np.ndarray:
    """Sequential quadratic programming from the uniform weights, then pairwise steps until the gap is closed."""
    from scipy.optimize import minimize

    result = minimize(
        objective,
        uniform_weights(members),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * members,
        constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}],
        options={"ftol": 1e-13, "maxiter": 200},
    )
    weights = _on_simplex(result.x) if np.isfinite(result.x).all() else uniform_weights(members)
    if objective(weights)[0] > objective(uniform_weights(members))[0]:
        weights = uniform_weights(members)
    return _closed_gap(objective, weights)


def _closed_gap(objective: Objective, weights: np.ndarray, most_steps: int = 100) -> np.ndarray:
    """Moves weight from the worst member that has some to the best one, by exact line search, until none gains.

    Source: Lacoste-Julien and Jaggi, On the global linear convergence of Frank-Wolfe variants (2015), pairwise steps.
    """
    for _ in range(most_steps):
        _, gradient = objective(weights)
        best = int(gradient.argmin())
        if weights @ gradient - gradient[best] <= LARGEST_GAP:
            break
        worst = int(np.where(weights > 0, gradient, -np.inf).argmax())
        direction = np.zeros_like(weights)
        direction[best], direction[worst] = 1.0, -1.0
        shortest, longest = 0.0, float(weights[worst])
        if objective(weights + longest * direction)[1] @ direction > 0:  # else: all of it goes
            for _ in range(30):
                middle = (shortest + longest) / 2
                if objective(weights + middle * direction)[1] @ direction > 0:
                    longest = middle
                else:
                    shortest = middle
            longest = shortest
        if longest == 0:
            break
        weights = _on_simplex(weights + longest * direction)
    return weights


def _on_simplex(weights: np.ndarray) -> np.ndarray:
    weights = np.maximum(weights, 0.0)
    return weights / weights.sum()

"""Blending methods, the simplest first, and what each is when it is fitted: a `Blend`.

A method says how the members are weighted, how their predictions are pooled, and how the pool is calibrated. To add
one, add a row to `METHODS`, before those that are more complicated. A new kind of weights is a function in `WEIGHTS`. A
new pool is one in `POOLS`; where its weights are fitted, also its loss and gradient in `OBJECTIVES`. Nothing else
changes: the choice among the methods (`nested.py`), the report and the record follow.

Everywhere here `probabilities` has the shape (members, images, classes), float64, rows summing to 1; `labels` has the
shape (images,) and holds the true class as an integer from 0; `weights` has the shape (members,) and sums to 1.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from common.metric import floored, log_loss
from ensemble.calibration import Calibration, fit_calibration

IMAGES_AT_ONCE = 8192  # bounds the memory of a prediction
SMALLEST_WEIGHT = 1e-4  # smaller fitted weights become 0


def arithmetic_pool(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the probabilities (linear opinion pool), shape (images, classes)."""
    pooled = np.tensordot(weights, floored(probabilities), axes=1)
    return pooled / pooled.sum(axis=1, keepdims=True)


def geometric_pool(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the log-probabilities, normalised (logarithmic opinion pool), shape (images, classes).

    Source: Genest and Zidek, Combining probability distributions (1986); Hinton, Products of experts (1999).
    """
    return softmax(np.tensordot(weights, np.log(floored(probabilities)), axes=1), axis=1)


POOLS = {"arithmetic": arithmetic_pool, "geometric": geometric_pool}  # a pool may ignore the weights


def uniform_weights(probabilities: np.ndarray, labels: np.ndarray, pool: str) -> np.ndarray:
    """The same weight for each member."""
    return np.full(len(probabilities), 1 / len(probabilities))


def best_single(probabilities: np.ndarray, labels: np.ndarray, pool: str) -> np.ndarray:
    """All weight on the member with the least log loss."""
    losses = [log_loss(member, labels) for member in probabilities]
    return np.eye(len(probabilities))[int(np.argmin(losses))]


def fitted_weights(probabilities: np.ndarray, labels: np.ndarray, pool: str) -> np.ndarray:
    """The weights with the least log loss of the pool, which is convex in them for both pools."""
    from scipy.optimize import minimize

    uniform = uniform_weights(probabilities, labels, pool)
    result = minimize(
        OBJECTIVES[pool](probabilities, labels),
        uniform,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(probabilities),
        constraints=[{"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like}],
        options={"ftol": 1e-12, "maxiter": 200},
    )
    solved = np.where(result.x < SMALLEST_WEIGHT, 0.0, result.x) if np.isfinite(result.x).all() else uniform
    candidates = [solved / solved.sum(), uniform, best_single(probabilities, labels, pool)]
    losses = [log_loss(POOLS[pool](probabilities, weights), labels) for weights in candidates]
    return candidates[int(np.argmin(losses))]


WEIGHTS = {"best": best_single, "uniform": uniform_weights, "fitted": fitted_weights}
_Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]


def _arithmetic_objective(probabilities: np.ndarray, labels: np.ndarray) -> _Objective:
    """Loss and gradient; only the probabilities of the true classes matter, shape (members, images)."""
    true = floored(probabilities[:, np.arange(len(labels)), labels])

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        pooled = np.maximum(weights @ true, 1e-300)  # the solver may look a little outside the simplex
        return -float(np.log(pooled).mean()), -(true @ (1 / pooled)) / len(labels)

    return objective


def _geometric_objective(probabilities: np.ndarray, labels: np.ndarray) -> _Objective:
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
        return float((largest + np.log(sums)).mean()), advantages @ (exponentials / sums).ravel() / images

    return objective


OBJECTIVES = {"arithmetic": _arithmetic_objective, "geometric": _geometric_objective}  # of `fitted_weights`, by pool


@dataclass(frozen=True, eq=False)
class Blend:
    """A fitted method: pools the members (`pool` is a key of `POOLS`) with these weights, then calibrates the pool."""

    pool: str
    weights: np.ndarray
    calibration: Calibration | None = None

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """From shape (members, images, classes) to (images, classes), rows summing to 1; not clipped."""
        parts = []
        for start in range(0, max(probabilities.shape[1], 1), IMAGES_AT_ONCE):
            pooled = POOLS[self.pool](probabilities[:, start : start + IMAGES_AT_ONCE], self.weights)
            parts.append(self.calibration.predict(pooled) if self.calibration else pooled)
        return np.concatenate(parts)

    def as_json(self) -> dict[str, Any]:
        """All that `predict` needs, as JSON values."""
        calibration = asdict(self.calibration) if self.calibration else None
        return {"pool": self.pool, "weights": self.weights.tolist(), "calibration": calibration}


@dataclass(frozen=True)
class Method:
    """A blending method.

    Attributes:
        name: in reports, at most 32 characters.
        weights: a key of `WEIGHTS`.
        pool: a key of `POOLS`.
        calibration: of the pool: 'none', 'temperature', or 'vector' (temperature and a bias for each class).
    """

    name: str
    weights: str
    pool: str = "arithmetic"
    calibration: str = "none"

    def fit(self, probabilities: np.ndarray, labels: np.ndarray) -> Blend:
        """The blend with the least log loss on these labels."""
        weights = WEIGHTS[self.weights](probabilities, labels, self.pool)
        if self.calibration == "none":
            return Blend(self.pool, weights)
        logarithms = np.log(floored(POOLS[self.pool](probabilities, weights)))
        return Blend(self.pool, weights, fit_calibration(logarithms, labels, self.calibration == "vector"))


FALLBACK = Method("uniform arithmetic", "uniform", "arithmetic")  # where there are too few drivers to choose by
METHODS = (
    Method("best single", "best"),
    FALLBACK,
    Method("uniform geometric", "uniform", "geometric"),
    Method("best single, calibrated", "best", "arithmetic", "vector"),
    Method("uniform geometric, tempered", "uniform", "geometric", "temperature"),
    Method("weighted arithmetic", "fitted", "arithmetic"),
    Method("weighted geometric", "fitted", "geometric"),
    Method("weighted geometric, tempered", "fitted", "geometric", "temperature"),
    Method("weighted arithmetic, calibrated", "fitted", "arithmetic", "vector"),
    Method("weighted geometric, calibrated", "fitted", "geometric", "vector"),
)
METHODS_OF_ONE = (
    Method("single", "best"),
    Method("single, tempered", "best", calibration="temperature"),
    Method("single, calibrated", "best", calibration="vector"),
)


def methods_for(members: int) -> tuple[Method, ...]:
    """The methods to blend so many members, the simplest first."""
    return METHODS if members > 1 else METHODS_OF_ONE

"""Ways to blend, each judged on drivers that it was not fitted on, and the choice between them.

Weights and clip are fitted on out-of-fold predictions, so the loss on those same predictions flatters them. Here each
fold of drivers is predicted by a blend fitted on the other folds; that cross-fitted loss chooses the way and is the
honest estimate. (The best of the few ways is itself picked on it; nothing is left over to judge that last choice.)

A way is anything that fits on (probabilities, labels) and returns an object whose `predict` pools the members, so a
calibrated or stacked blend is one more `Candidate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.clipping import choose_clip, clip
from ensemble.pooling import POOLS, uniform_weights
from ensemble.weights import fit_weights
from preprocessing.metric import log_loss, log_loss_per_image


@dataclass(frozen=True)
class Blend:
    """A fitted blend: pooling (a key of `POOLS`), one weight a member (summing to 1), then the clip."""

    pooling: str
    weights: tuple[float, ...]
    epsilon: float

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """From shape (members, images, classes) to (images, classes), rows summing to 1."""
        return clip(POOLS[self.pooling](probabilities, np.array(self.weights)), self.epsilon)


@dataclass(frozen=True)
class Candidate:
    """A way to blend: `fit` takes probabilities (members, images, classes) and labels (images,)."""

    name: str
    fit: Callable[[np.ndarray, np.ndarray], Blend]


@dataclass(frozen=True, eq=False)
class Judged:
    """A candidate with its blend fitted on everything, and how it does.

    Attributes:
        fitted: predictions of `blend` on the data it was fitted on, shape (images, classes).
        cross_fitted: predictions of each group by a blend fitted on the other groups, shape (images, classes).
        fitted_loss, cross_fitted_loss: log loss of each, in nats.
    """

    name: str
    blend: Blend
    fitted: np.ndarray
    cross_fitted: np.ndarray
    fitted_loss: float
    cross_fitted_loss: float


def candidates(members: int) -> list[Candidate]:
    """The ways to blend so many members, the simplest first."""
    if members == 1:
        return [
            Candidate(
                "single", lambda probabilities, labels: _with_clip("arithmetic", np.ones(1), probabilities, labels)
            )
        ]
    found = [Candidate("best single", _best_single)]
    found += [Candidate(f"uniform {pooling}", _uniform(pooling)) for pooling in POOLS]
    found += [Candidate(f"weighted {pooling}", _weighted(pooling)) for pooling in POOLS]
    return found


def judge(candidate: Candidate, probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Judged:
    """Fits a candidate on everything and, group by group, on everything else.

    Args:
        probabilities: shape (members, images, classes), rows summing to 1.
        labels: shape (images,), integers from 0.
        groups: shape (images,); images of one driver must share a group. At least two different values.

    Raises:
        ValueError: there is only one group.
    """
    values = np.unique(groups)
    if len(values) < 2:
        raise ValueError(f"expected at least two groups to cross-fit, found {len(values)}")
    blend = candidate.fit(probabilities, labels)
    fitted = blend.predict(probabilities)
    cross_fitted = np.empty_like(fitted)
    for value in values:
        held_out = groups == value
        without = candidate.fit(probabilities[:, ~held_out], labels[~held_out])
        cross_fitted[held_out] = without.predict(probabilities[:, held_out])
    return Judged(candidate.name, blend, fitted, cross_fitted, log_loss(fitted, labels), log_loss(cross_fitted, labels))


def chosen(judged: Sequence[Judged]) -> Judged:
    """The least cross-fitted loss; of those equal within 1e-9 nats, the first, which is the simplest."""
    least = min(one.cross_fitted_loss for one in judged)
    return next(one for one in judged if one.cross_fitted_loss <= least + 1e-9)


def _with_clip(pooling: str, weights: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> Blend:
    """The clip is chosen last, on the pool that it is applied to."""
    epsilon = choose_clip(POOLS[pooling](probabilities, weights), labels)
    return Blend(pooling, tuple(float(weight) for weight in weights), epsilon)


def _best_single(probabilities: np.ndarray, labels: np.ndarray) -> Blend:
    losses = [log_loss_per_image(member, labels).mean() for member in probabilities]
    return _with_clip("arithmetic", np.eye(len(probabilities))[int(np.argmin(losses))], probabilities, labels)


def _uniform(pooling: str) -> Callable[[np.ndarray, np.ndarray], Blend]:
    return lambda probabilities, labels: _with_clip(pooling, uniform_weights(len(probabilities)), probabilities, labels)


def _weighted(pooling: str) -> Callable[[np.ndarray, np.ndarray], Blend]:
    return lambda probabilities, labels: _with_clip(
        pooling, fit_weights(probabilities, labels, pooling), probabilities, labels
    )

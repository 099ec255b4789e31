"""Ways to blend, the simplest first, and what each of them is when it is fitted: a `Blend`.

A way fits on `Evidence`, which computes what several ways share (calibrations, weights) once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import log_softmax

from common.metric import log_loss
from ensemble.calibration import BIAS_PENALTIES, Calibration, fit_calibration
from ensemble.clipping import choose_clip, clip
from ensemble.pooling import POOLS, floored, per_class_pool, stacked_pool, uniform_weights
from ensemble.stacking import choose_penalty, fit_per_class, fit_stacking
from ensemble.weights import fit_weights

IMAGES_AT_ONCE = 8192  # bounds the memory of a prediction
PER_CLASS, STACKING = "per class", "stacking"
PER_CLASS_WAY = "per-class weights, calibrated"


@dataclass(frozen=True, eq=False)
class Blend:
    """A fitted blend: calibrate each member, pool, calibrate the pool, clip.

    Attributes:
        pooling: a key of `POOLS`, 'per class' or 'stacking'.
        weights: shape (members,); 'per class': (members, classes); 'stacking': the kernel (members, classes, classes).
        epsilon: the clip.
        members: a calibration for each member; none where empty.
        after: the calibration of the pool.
        bias: shape (classes,), of stacking.
        penalty: what per-class weights or stacking were held back with; 0 for the others.
    """

    pooling: str
    weights: np.ndarray
    epsilon: float = 0.0
    members: tuple[Calibration, ...] = ()
    after: Calibration | None = None
    bias: np.ndarray | None = None
    penalty: float = 0.0

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        """From shape (members, images, classes) to (images, classes), rows summing to 1."""
        images = probabilities.shape[1]
        starts = range(0, max(images, 1), IMAGES_AT_ONCE)
        return np.concatenate([self._predict(probabilities[:, start : start + IMAGES_AT_ONCE]) for start in starts])

    def _predict(self, probabilities: np.ndarray) -> np.ndarray:
        if self.members:
            calibrated = zip(self.members, probabilities, strict=True)
            probabilities = np.stack([calibration.predict(member) for calibration, member in calibrated])
        pooled = self.pool(probabilities)
        return clip(self.after.predict(pooled) if self.after else pooled, self.epsilon)

    def pool(self, probabilities: np.ndarray) -> np.ndarray:
        """The pool alone, of members that are calibrated already."""
        if self.pooling == PER_CLASS:
            return per_class_pool(probabilities, self.weights)
        if self.pooling == STACKING:
            return stacked_pool(probabilities, self.weights, np.zeros(1) if self.bias is None else self.bias)
        return POOLS[self.pooling](probabilities, self.weights)

    def shares(self) -> np.ndarray:
        """What each member weighs, shape (members,): the mean over the classes where they differ (stacking: of the
        diagonal, which need not sum to 1)."""
        if self.pooling == STACKING:
            return np.asarray(np.einsum("mcc->m", self.weights) / self.weights.shape[1])
        return self.weights if self.weights.ndim == 1 else np.asarray(self.weights.mean(axis=1))

    def as_json(self) -> dict[str, Any]:
        """All that `predict` needs, as JSON values."""
        calibrations = [{"scale": one.scale, "bias": list(one.bias)} for one in self.members]
        after = {"scale": self.after.scale, "bias": list(self.after.bias)} if self.after else None
        return {
            "pooling": self.pooling,
            "weights_of_members": np.asarray(self.weights).tolist(),
            "bias": None if self.bias is None else self.bias.tolist(),
            "penalty": self.penalty,
            "calibration_of_members": calibrations,
            "calibration_of_pool": after,
            "clip": self.epsilon,
        }


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a blend is fitted on; what several ways need of it is computed once.

    Attributes:
        probabilities: shape (members, images, classes), rows summing to 1.
        labels: shape (images,), the true class as an integer from 0.
        groups: shape (images,): of drivers; none may be on both sides where a penalty is chosen.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    _weights: dict[tuple[str, bool], np.ndarray] = field(default_factory=dict)

    @cached_property
    def calibrations(self) -> tuple[Calibration, ...]:
        """Temperature and bias of each member."""
        return tuple(self.calibration(logarithms, with_bias=True) for logarithms in self.logarithms)

    def calibration(self, logarithms: np.ndarray, with_bias: bool) -> Calibration:
        """Temperature, and bias held back by `bias_penalty`, of log-probabilities of shape (images, classes)."""
        penalty = self.bias_penalty if with_bias else 0.0
        return fit_calibration(logarithms, self.labels, with_bias, penalty)

    @cached_property
    def bias_penalty(self) -> float:
        """What biases cost, for members and pools alike: chosen on the uniform geometric pool, by drivers left out."""
        logarithms = log_softmax(self.logarithms.mean(axis=0), axis=-1)

        def trial(rows: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
            calibration = fit_calibration(logarithms[rows], self.labels[rows], True, penalty)
            return lambda others: calibration.logarithms(logarithms[others])

        return choose_penalty(trial, self.labels, self.groups, BIAS_PENALTIES)

    @cached_property
    def calibrated(self) -> np.ndarray:
        """The probabilities after `calibrations`."""
        return np.stack([one.predict(p) for one, p in zip(self.calibrations, self.probabilities, strict=True)])

    @cached_property
    def logarithms(self) -> np.ndarray:
        """Log-probabilities as they come."""
        return np.log(floored(self.probabilities))

    def of(self, calibrated: bool) -> np.ndarray:
        """The probabilities, calibrated or as they come."""
        return self.calibrated if calibrated else self.probabilities

    def weights(self, pooling: str, calibrated: bool) -> np.ndarray:
        """Fitted weights of a pool."""
        key = pooling, calibrated
        if key not in self._weights:
            self._weights[key] = fit_weights(self.of(calibrated), self.labels, pooling)
        return self._weights[key]

    @cached_property
    def best(self) -> np.ndarray:
        """All weight on the member with the least log loss."""
        losses = [log_loss(member, self.labels) for member in self.probabilities]
        return np.eye(len(self.probabilities))[int(np.argmin(losses))]


@dataclass(frozen=True)
class Way:
    """A way to blend: `fit` makes the blend, whose clip is chosen last."""

    name: str
    fit: Callable[[Evidence], Blend]


def ways(members: int) -> list[Way]:
    """The ways to blend so many members, the simplest first."""
    if members == 1:
        return [
            Way("single", _pool("arithmetic", "best")),
            Way("single, tempered", _pool("arithmetic", "best", after="temperature")),
            Way("single, calibrated", _pool("arithmetic", "best", after="bias")),
            Way("single, matrix", _stacking),
        ]
    found = [Way("best single", _pool("arithmetic", "best"))]
    found += [Way(f"uniform {pooling}", _pool(pooling, "uniform")) for pooling in POOLS]
    found += [Way("best single, calibrated", _pool("arithmetic", "best", after="bias"))]
    found += [Way("uniform geometric, tempered", _pool("geometric", "uniform", after="temperature"))]
    found += [Way(f"calibrated, uniform {pooling}", _pool(pooling, "uniform", calibrated=True)) for pooling in POOLS]
    found += [Way(f"weighted {pooling}", _pool(pooling, "fitted")) for pooling in POOLS]
    found += [Way("weighted geometric, tempered", _pool("geometric", "fitted", after="temperature"))]
    found += [Way(f"weighted {pooling}, calibrated", _pool(pooling, "fitted", after="bias")) for pooling in POOLS]
    found += [
        Way(f"calibrated, weighted {pooling}", _pool(pooling, "fitted", calibrated=True, after="temperature"))
        for pooling in POOLS
    ]
    return [*found, Way(PER_CLASS_WAY, _per_class), Way(STACKING, _stacking)]


def _pool(pooling: str, weighing: str, calibrated: bool = False, after: str = "") -> Callable[[Evidence], Blend]:
    """A pool with weights 'best', 'uniform' or 'fitted', and a 'temperature' (and 'bias') after it."""

    def fit(evidence: Evidence) -> Blend:
        members = evidence.of(calibrated)
        weights = {
            "best": lambda: evidence.best,
            "uniform": lambda: uniform_weights(len(members)),
            "fitted": lambda: evidence.weights(pooling, calibrated),
        }[weighing]()
        calibrations = evidence.calibrations if calibrated else ()
        return _finished(pooling, weights, POOLS[pooling](members, weights), evidence, calibrations, after)

    return fit


def _finished(
    pooling: str,
    weights: np.ndarray,
    pooled: np.ndarray,
    evidence: Evidence,
    calibrations: tuple[Calibration, ...] = (),
    after: str = "",
    bias: np.ndarray | None = None,
    penalty: float = 0.0,
) -> Blend:
    """Calibrates and clips a pool on what it was fitted on."""
    calibration = None
    if after:
        calibration = evidence.calibration(np.log(floored(pooled)), with_bias=after == "bias")
        pooled = calibration.predict(pooled)
    epsilon = choose_clip(pooled, evidence.labels)
    return Blend(pooling, weights, epsilon, calibrations, calibration, bias, penalty)


def _per_class(evidence: Evidence) -> Blend:
    logarithms, labels = evidence.logarithms, evidence.labels
    shared = evidence.weights("geometric", False)

    def trial(rows: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        weights = fit_per_class(logarithms[:, rows], labels[rows], shared, penalty)
        return lambda others: np.log(per_class_pool(evidence.probabilities[:, others], weights))

    penalty = choose_penalty(trial, labels, evidence.groups)
    weights = fit_per_class(logarithms, labels, shared, penalty)
    pooled = per_class_pool(evidence.probabilities, weights)
    return _finished(PER_CLASS, weights, pooled, evidence, after="bias", penalty=penalty)


def _stacking(evidence: Evidence) -> Blend:
    """Near the tempered geometric pool: the temperature is taken out before, so that the penalty is none on it."""
    labels, shared = evidence.labels, evidence.weights("geometric", False)
    pooled = np.log(floored(POOLS["geometric"](evidence.probabilities, shared)))
    scale = evidence.calibration(pooled, with_bias=False).scale
    logarithms = scale * evidence.logarithms

    def trial(rows: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        kernel, bias = fit_stacking(logarithms[:, rows], labels[rows], shared, penalty)
        return lambda others: np.log(floored(stacked_pool(evidence.probabilities[:, others], scale * kernel, bias)))

    penalty = choose_penalty(trial, labels, evidence.groups)
    kernel, bias = fit_stacking(logarithms, labels, shared, penalty)
    pooled = stacked_pool(evidence.probabilities, scale * kernel, bias)
    return _finished(STACKING, scale * kernel, pooled, evidence, bias=bias, penalty=penalty)

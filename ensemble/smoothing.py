"""Neighbour smoothing: near-identical frames of one video should agree, so each image shares predictions with them.

What is chosen out of fold has to hold on the test set, where frames may be denser. So a neighbour's weight falls with
its distance alone, exp(-distance / reach), whatever its rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_softmax

from common.metric import log_loss, not_clearly_worse
from ensemble.calibration import Calibration, clip, clipped_losses, fit_calibration
from ensemble.neighbours import Graph, typical_distance

REACHES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the typical distance
COUNTS = (3, 5, 10, 20)
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
ROUNDS = (1, 2, 3)
LEAST_SHARED = 1e-3  # probability: else one confident mistake outweighs all neighbours
MOST_PASSES = 2  # over the settings, one after the other


@dataclass(frozen=True)
class Smoothing:
    """How images share predictions with their neighbours.

    Attributes:
        feature: the space of the distances, by the name of the model whose features it is made of.
        reach: the distance at which a neighbour's weight has fallen to 1 / e.
        k: how many neighbours at most.
        strength: the weight of an identical neighbour; the image itself has 1.
        rounds: how often; from the second on the neighbours' own smoothed predictions are shared.
        scale: what the log-probabilities are multiplied by at the end (1 / temperature).
    """

    feature: str
    reach: float
    k: int = 10
    strength: float = 2.0
    rounds: int = 1
    scale: float = 1.0

    def logarithms(self, probabilities: np.ndarray, graph: Graph) -> np.ndarray:
        """Log-probabilities before the temperature: the weighted mean of an image's own and its neighbours'.

        Args:
            probabilities: shape (images, classes), rows summing to 1.
            graph: of the same images.
        """
        from scipy.sparse import csr_array

        images, k = len(probabilities), min(self.k, graph.indices.shape[1])
        weights = self.strength * np.exp(-graph.distances[:, :k].astype(np.float64) / self.reach)
        starts = np.arange(0, images * k + 1, k)
        matrix = csr_array((weights.ravel(), graph.indices[:, :k].ravel(), starts), shape=(images, images))
        sums = 1 + weights.sum(axis=1, keepdims=True)
        own = np.log(clip(probabilities, LEAST_SHARED))
        logarithms = own
        for _ in range(self.rounds):
            logarithms = (own + matrix @ logarithms) / sums
        return log_softmax(logarithms, axis=-1)

    def predict(self, probabilities: np.ndarray, graphs: Mapping[str, Graph]) -> np.ndarray:
        """Smoothed and tempered probabilities, shape (images, classes); `graphs` by feature, of the same images."""
        return np.exp(Calibration(self.scale).logarithms(self.logarithms(probabilities, graphs[self.feature])))


def fit_smoothing(
    probabilities: np.ndarray, labels: np.ndarray, drivers: np.ndarray, graphs: Mapping[str, Graph]
) -> Smoothing | None:
    """Chooses the feature and the settings; None where it does not clearly help.

    Args:
        probabilities: shape (images, classes), of a blend that was not fitted on these drivers.
        labels, drivers: shape (images,).
        graphs: of these images, by feature.
    """
    if not graphs:
        return None
    best = _best(probabilities, labels, graphs)
    plain, smooth = clipped_losses(probabilities, labels), clipped_losses(best.predict(probabilities, graphs), labels)
    return None if not_clearly_worse(plain, smooth, drivers) else best


def _best(probabilities: np.ndarray, labels: np.ndarray, graphs: Mapping[str, Graph]) -> Smoothing:
    """The feature and reach first, then one setting after the other until none gains."""
    tried: dict[Smoothing, tuple[float, Smoothing]] = {}

    def trial(smoothing: Smoothing) -> tuple[float, Smoothing]:
        """Its log loss, and itself with the best temperature."""
        if smoothing not in tried:
            logarithms = smoothing.logarithms(probabilities, graphs[smoothing.feature])
            calibration = fit_calibration(logarithms, labels, with_bias=False)
            loss = log_loss(np.exp(calibration.logarithms(logarithms)), labels)
            tried[smoothing] = loss, replace(smoothing, scale=calibration.scale)
        return tried[smoothing]

    def best_of(candidates: list[Smoothing]) -> Smoothing:
        return min(candidates, key=lambda smoothing: trial(smoothing)[0])  # of equals the first

    units = {name: typical_distance(graph) for name, graph in graphs.items()}
    best = best_of([Smoothing(name, reach * unit) for name, unit in units.items() for reach in REACHES])
    for _ in range(MOST_PASSES):
        before, unit = best, units[best.feature]
        best = best_of([best, *(replace(best, k=k) for k in COUNTS)])
        best = best_of([best, *(replace(best, strength=strength) for strength in STRENGTHS)])
        best = best_of([best, *(replace(best, reach=reach * unit) for reach in REACHES)])
        best = best_of([best, *(replace(best, rounds=rounds) for rounds in ROUNDS)])
        if best == before:
            break
    return trial(best)[1]

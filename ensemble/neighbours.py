"""Neighbours: near-identical frames of one video should agree, so each image listens to its nearest ones.

Distances are 1 - cosine. What is chosen out of fold has to hold on the test set, where frames may lie more densely: so
a neighbour's weight falls with its distance alone, exp(-distance / reach), whatever its rank; a far one says nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from ensemble.calibration import Calibration
from ensemble.pooling import floored

MOST_NEIGHBOURS = 20
BLOCK_BYTES = 2**28  # of similarities at once
GROUP = 64  # columns whose largest value is compared first


@dataclass(frozen=True, eq=False)
class Graph:
    """The nearest other images of each image, the nearest first.

    Attributes:
        indices: shape (images, k), int32, row numbers.
        distances: shape (images, k), float32, from 0 to 2; infinite where there is no such neighbour.
    """

    indices: np.ndarray
    distances: np.ndarray

    def restricted(self, rows: np.ndarray) -> "Graph":
        """The graph of some rows alone, numbered anew.

        Args:
            rows: shape (kept,), ascending row numbers.
        """
        numbers = np.full(len(self.indices), -1, dtype=np.int32)
        numbers[rows] = np.arange(len(rows), dtype=np.int32)
        indices = numbers[self.indices[rows]]
        distances = np.where(indices < 0, np.float32(np.inf), self.distances[rows])
        return Graph(np.maximum(indices, 0), distances)


def normalised(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Features less `centre`, as float32 rows of length 1 (a row of nothing stays 0)."""
    moved = features.astype(np.float32) - centre
    lengths = np.sqrt(np.einsum("ij,ij->i", moved, moved, dtype=np.float64))[:, None]
    return np.divide(moved, lengths.astype(np.float32), out=moved, where=lengths > 0)


def nearest(features: np.ndarray, k: int = MOST_NEIGHBOURS) -> Graph:
    """The k nearest other rows of each row, exactly, by matrix products in blocks.

    The columns of a block are put into groups whose largest values are compared first: the k best lie in k groups, so
    only these are searched. Several times faster than `argpartition` on whole rows, or scikit-learn's brute force.

    Args:
        features: shape (images, dimensions), float32, rows of length 1.
        k: fewer are found where there are fewer others.
    """
    images = len(features)
    k = min(k, images - 1)
    if k < 1:
        return Graph(np.zeros((images, 1), np.int32), np.full((images, 1), np.inf, np.float32))
    groups = max(-(-images // GROUP), k)
    columns = groups * -(-images // groups)
    padded = np.zeros((columns, features.shape[1]), dtype=np.float32)
    padded[:images] = features
    indices, distances = np.empty((images, k), np.int32), np.empty((images, k), np.float32)
    block = max(1, BLOCK_BYTES // (4 * columns))
    for start in range(0, images, block):
        stop = min(start + block, images)
        similarities = padded[start:stop] @ padded.T
        similarities[:, images:] = -np.inf
        similarities[np.arange(stop - start), np.arange(start, stop)] = -np.inf  # not its own neighbour
        best_groups = _largest(similarities.reshape(stop - start, -1, groups).max(axis=1), k)
        members = np.arange(columns // groups, dtype=np.int32) * groups
        candidates = (best_groups[:, :, None] + members).reshape(stop - start, -1)
        values = np.take_along_axis(similarities, candidates, axis=1)
        places = _largest(values, k)
        values = np.take_along_axis(values, places, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        indices[start:stop] = np.take_along_axis(np.take_along_axis(candidates, places, axis=1), order, axis=1)
        distances[start:stop] = np.maximum(1 - np.take_along_axis(values, order, axis=1), 0)
    return Graph(indices, distances)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """The places of the k largest values of each row, in no order."""
    if k >= values.shape[1]:
        return np.tile(np.arange(values.shape[1]), (len(values), 1))
    return np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]


def typical_distance(graph: Graph) -> float:
    """The median distance to the nearest neighbour; the unit in which reaches are tried."""
    first = graph.distances[:, 0]
    known = first[np.isfinite(first)]
    return max(float(np.median(known)), 1e-6) if len(known) else 1.0


@dataclass(frozen=True)
class Smoothing:
    """How images listen to their neighbours.

    Attributes:
        feature: the space of the distances, by the name of the model whose features it is made of.
        k: how many neighbours at most.
        reach: the distance at which a neighbour's weight has fallen to 1 / e.
        strength: the weight of an identical neighbour; the image itself weighs 1.
        rounds: how often; in each, the neighbours' own smoothed predictions are heard.
        scale: what the log-probabilities are multiplied by at the end (1 / temperature).
    """

    feature: str
    k: int
    reach: float
    strength: float
    rounds: int
    scale: float = 1.0

    def smoothed(self, probabilities: np.ndarray, graph: Graph) -> np.ndarray:
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
        own = np.log(floored(probabilities))
        logarithms = own
        for _ in range(self.rounds):
            logarithms = (own + matrix @ logarithms) / sums
        return log_softmax(logarithms, axis=-1)

    def predict(self, probabilities: np.ndarray, graph: Graph) -> np.ndarray:
        """Smoothed and tempered probabilities, shape (images, classes)."""
        return np.exp(Calibration(self.scale).logarithms(self.smoothed(probabilities, graph)))

"""The nearest neighbours of each image in the features of the networks: within each fold, and in the test set.

Distances are 1 - cosine. Features of different networks are not comparable, so each network's are centred and brought
to length 1 on their own; distances are averaged over a model's fold networks for the test set, and over the models for
`ALL_MODELS`.

Smoothing: near-identical frames of one video should agree, so each image shares predictions with its neighbours. What
is chosen out of fold has to hold on the test set, where frames may be denser. So a neighbour's weight falls with its
distance alone, exp(-distance / reach), whatever its rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from common.errors import UserError, named
from common.metric import log_loss
from ensemble.calibration import Calibration, clearly_helps, clip, fit_calibration

MOST_NEIGHBOURS = 20
BLOCK_BYTES = 2**28  # of similarities at once
GROUP = 64  # columns whose largest value is compared first
ALL_MODELS = "all models"
MANY_IMAGES = 10_000  # of the test set, from which the dimensions are reduced
DIMENSIONS = 640  # of the search then, all networks together
FEWEST_DIMENSIONS = 16  # of a network
SAMPLE = 4_000  # images that the reduction is fitted on
CHUNK = 8_192
REACHES = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the typical distance
COUNTS = (3, 5, 10, 20)
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
ROUNDS = (1, 2, 3)
LEAST_SHARED = 1e-3  # probability: else one confident mistake outweighs all neighbours
MOST_PASSES = 2  # over the settings, one after the other


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
        """The graph of some rows alone (ascending numbers), renumbered from 0."""
        numbers = np.full(len(self.indices), -1, dtype=np.int32)
        numbers[rows] = np.arange(len(rows), dtype=np.int32)
        indices = numbers[self.indices[rows]]
        distances = np.where(indices < 0, np.float32(np.inf), self.distances[rows])
        return Graph(np.maximum(indices, 0), distances)


def normalised(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Features minus `centre`, as float32 rows of length 1 (a row of zeros stays 0)."""
    centred = features.astype(np.float32) - centre
    lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred, dtype=np.float64))[:, None]
    return np.divide(centred, lengths.astype(np.float32), out=centred, where=lengths > 0)


def nearest(features: np.ndarray, k: int = MOST_NEIGHBOURS) -> Graph:
    """The k nearest other rows of each row (fewer where there are fewer), exactly, by matrix products in blocks.

    The columns of a block are put into groups whose largest values are compared first: the k best lie in k groups, so
    only these are searched. Several times faster than `argpartition` on complete rows, or scikit-learn's brute force.

    Args:
        features: shape (images, dimensions), float32, rows of length 1.
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


def restricted(graphs: Mapping[str, Graph], rows: np.ndarray) -> dict[str, Graph]:
    """The graphs of some images alone, as `Graph.restricted`."""
    return {name: graph.restricted(rows) for name, graph in graphs.items()}


@dataclass(frozen=True, eq=False)
class Network:
    """The features of one network: files of shape (images, dimensions), and the names of the images in their rows."""

    out_of_fold: Path
    out_of_fold_images: pd.Index
    test: Path | None = None
    test_images: pd.Index | None = None


@dataclass(frozen=True, eq=False)
class Space:
    """A model whose features are known for all images, by one network a fold or one for all."""

    name: str
    networks: tuple[Network, ...]


def out_of_fold_graphs(spaces: Sequence[Space], names: pd.Index, folds: np.ndarray, test_size: int) -> dict[str, Graph]:
    """The neighbours of each image among those of its own fold, by model, and over all models where there are several.

    `folds` has the fold of each of the images `names`; the number of test images decides whether dimensions are
    reduced.
    """
    many = sum(len(space.networks) for space in spaces)
    every = [_rows(space, names, test_size, many) for space in spaces]
    found = {space.name: _within(features, folds) for space, features in zip(spaces, every, strict=True)}
    if len(spaces) > 1:
        found[ALL_MODELS] = _within(np.concatenate(every, axis=1) / np.float32(np.sqrt(len(every))), folds)
    return found


def _within(features: np.ndarray, folds: np.ndarray) -> Graph:
    indices = np.zeros((len(folds), MOST_NEIGHBOURS), dtype=np.int32)
    distances = np.full(indices.shape, np.inf, dtype=np.float32)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        graph = nearest(features[rows])
        indices[rows, : graph.indices.shape[1]] = rows[graph.indices]
        distances[rows, : graph.indices.shape[1]] = graph.distances
    return Graph(indices, distances)


def _rows(space: Space, names: pd.Index, test_size: int, many: int) -> np.ndarray:
    """The features of a model out of fold, shape (images, dimensions); fewer dimensions of a network are filled up."""
    parts = []
    for network in space.networks:
        places = names.get_indexer(network.out_of_fold_images)
        if len(used := np.flatnonzero(places >= 0)):
            parts.append((places[used], _projected(network, test_size, many, test=False)[used]))
    features = np.zeros((len(names), max(part.shape[1] for _, part in parts)), dtype=np.float32)
    for places, part in parts:
        features[places, : part.shape[1]] = part
    return features


def graph_of_test(spaces: Sequence[Space], feature: str, names: pd.Index) -> Graph:
    """The neighbours of each test image, in the order of `names`; `feature` as `out_of_fold_graphs` names it."""
    many = sum(len(space.networks) for space in spaces)
    chosen = [space for space in spaces if feature in (space.name, ALL_MODELS)]
    parts = []
    for space in chosen:
        weight = np.float32(1 / np.sqrt(len(space.networks) * len(chosen)))
        for network in space.networks:
            if network.test_images is not None:
                order = network.test_images.get_indexer(names)
                parts.append(_projected(network, len(names), many, test=True)[order] * weight)
    return nearest(np.concatenate(parts, axis=1))


def _projected(network: Network, test_size: int, many: int, test: bool) -> np.ndarray:
    """A network's features out of fold, or of the test set: less their common mean, perhaps reduced, of length 1."""
    own = load_features(network.out_of_fold, len(network.out_of_fold_images))
    arrays = [own]
    if network.test is not None and network.test_images is not None:
        arrays.append(load_features(network.test, len(network.test_images)))
        if arrays[1].shape[1] != own.shape[1]:
            raise UserError(
                f"{network.test}: expected {own.shape[1]} features as in {network.out_of_fold}, "
                f"found {arrays[1].shape[1]}."
            )
    sample = np.concatenate([array[:: -(-len(array) // SAMPLE)].astype(np.float32) for array in arrays])
    centre = sample.mean(axis=0)
    wanted = arrays[-1] if test else own
    dimensions = max(FEWEST_DIMENSIONS, DIMENSIONS // many)
    if test_size < MANY_IMAGES or own.shape[1] <= dimensions:
        return normalised(np.asarray(wanted), centre)
    from sklearn.utils.extmath import randomized_svd

    basis = randomized_svd(sample - centre, dimensions, n_iter=2, random_state=0)[2].T.astype(np.float32)
    parts = [
        (wanted[start : start + CHUNK].astype(np.float32) - centre) @ basis for start in range(0, len(wanted), CHUNK)
    ]
    return normalised(np.concatenate(parts), np.zeros(dimensions, np.float32))


def load_features(path: Path, rows: int) -> np.ndarray:
    """A file of features, mapped into memory, shape (rows, dimensions).

    Raises:
        UserError: it is missing, no such array, has another number of rows, or values that are not finite.
    """
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an array of features (.npy): {error}") from error
    if features.ndim != 2 or features.dtype.kind != "f" or len(features) != rows:
        raise UserError(
            f"{path}: expected floats of shape ({rows}, features), a row for each of the table beside it, found "
            f"{features.dtype} {features.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(features.sum(axis=1, dtype=np.float64)))
    if len(bad):
        raise UserError(f"{path}: rows with values that are not finite: {named([str(row) for row in bad])}.")
    return np.asarray(features) if features.nbytes < 2**26 else features


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
        """Log-probabilities before the temperature: the weighted mean of an image's own and its neighbours'."""
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

    The probabilities, of shape (images, classes), are of a blend that was not fitted on these drivers.
    """
    if not graphs:
        return None
    best = _best(probabilities, labels, graphs)
    return best if clearly_helps(best.predict(probabilities, graphs), probabilities, labels, drivers) else None


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

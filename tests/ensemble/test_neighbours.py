"""Neighbours: the search is exact, smoothing helps where neighbours agree and is harmless where not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metric import log_loss
from ensemble.calibration import clip
from ensemble.neighbours import Graph, Smoothing, fit_smoothing, nearest, normalised
from tests.ensemble.conftest import SEEDS, informed, predictions


def unit(random: np.random.Generator, images: int, dimensions: int = 8) -> np.ndarray:
    return normalised(random.normal(size=(images, dimensions)), np.zeros(dimensions, np.float32))


def videos(random: np.random.Generator, count: int = 60, frames: int = 12) -> tuple[np.ndarray, ...]:
    """Predictions that err frame by frame, labels, drivers, and the graph, of videos of near-identical frames."""
    labels = np.repeat(random.integers(0, 10, size=count), frames)
    probabilities = informed(random, labels, 1.5)
    scenes = np.repeat(random.normal(size=(count, 32)), frames, axis=0)
    features = normalised(scenes + 0.1 * random.normal(size=scenes.shape), np.zeros(32, np.float32))
    return probabilities, labels, np.repeat(np.arange(10), len(labels) // 10), features


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([2, 3, 20, 21, 22, 64, 65, 130, 700]), st.integers(1, 20))
def test_search_is_exact(seed: int, images: int, k: int) -> None:
    features = unit(np.random.default_rng(seed), images)
    graph = nearest(features, k)
    distances = 1 - features @ features.T
    np.fill_diagonal(distances, np.inf)
    expected = np.sort(distances, axis=1)[:, : min(k, images - 1)]
    np.testing.assert_allclose(graph.distances, np.maximum(expected, 0), atol=1e-6)
    np.testing.assert_allclose(
        np.take_along_axis(distances, graph.indices.astype(int), axis=1), graph.distances, atol=1e-6
    )
    assert all(row not in neighbours for row, neighbours in enumerate(graph.indices))


def test_far_images_do_not_count_and_identical_ones_agree() -> None:
    probabilities = clip(predictions(np.random.default_rng(0), 1, 4)[0], 0.01)
    graph = Graph(np.array([[1], [0], [3], [2]], np.int32), np.array([[0], [0], [1], [1]], np.float32))
    smooth = Smoothing("x", reach=0.01, k=1, strength=1.0).predict(probabilities, {"x": graph})
    np.testing.assert_allclose(smooth[0], smooth[1])
    np.testing.assert_allclose(smooth[2:], probabilities[2:])
    restricted = graph.restricted(np.array([0, 2, 3]))
    np.testing.assert_array_equal(restricted.distances, [[np.inf], [1], [1]])
    np.testing.assert_array_equal(restricted.indices, [[0], [2], [1]])


def test_neighbours_help_where_frames_err_apart() -> None:
    probabilities, labels, drivers, features = videos(np.random.default_rng(0))
    graph = nearest(features)
    useless = nearest(unit(np.random.default_rng(1), len(labels)))
    fitted = fit_smoothing(probabilities, labels, drivers, {"noise": useless, "good": graph})
    assert fitted is not None and fitted.feature == "good"
    after = fitted.predict(probabilities, {"good": graph})
    assert log_loss(after, labels) < 0.5 * log_loss(probabilities, labels)
    others = videos(np.random.default_rng(5), frames=40)  # three times as many frames a video
    denser = fitted.predict(others[0], {"good": nearest(others[3])})
    assert log_loss(denser, others[1]) < 0.5 * log_loss(others[0], others[1])

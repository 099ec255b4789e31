"""The metric, as the competition defines it."""

import numpy as np
import pytest

from common.metric import accuracy, clustered_logarithms, log_loss, log_loss_per_image
from preprocessing.same_driver import clouds_of

ROWS = np.array([(0.5, 0.5), (0.1, 0.9), (0.01, 0.99), (0.9, 0.1), (0.75, 0.25), (0.001, 0.999)])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_known_value_whatever_the_sum_of_a_row() -> None:
    assert log_loss(ROWS, LABELS) == pytest.approx(1.881797068998267, abs=1e-15)
    assert log_loss(ROWS * 7, LABELS) == pytest.approx(log_loss(ROWS, LABELS), abs=1e-12)


def test_sure_mistake_costs_what_the_competition_charges_even_in_float32() -> None:
    sure = np.array([[1.0, 0.0]], dtype=np.float32)
    assert log_loss(sure, np.array([1])) == pytest.approx(-np.log(1e-15))
    assert log_loss(sure, np.array([0])) == pytest.approx(0, abs=1e-14)
    assert log_loss_per_image(sure, np.array([1])).dtype == np.float64


def videos(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, drivers and features of two drivers, 20 frames of each class."""
    labels, drivers = np.tile(np.repeat(np.arange(10), 20), 2), np.repeat([0, 1], 200)
    centres = random.normal(size=(2, 10, 16)) + 3 * random.normal(size=(2, 1, 16))
    features = centres[drivers, labels] + 0.3 * random.normal(size=(400, 16))
    return labels, drivers, features


def test_a_video_that_is_taken_for_another_class_becomes_a_cluster_of_its_own() -> None:
    random = np.random.default_rng(0)
    labels, drivers, features = videos(random)
    clouds = clouds_of(features, drivers)
    video = np.flatnonzero((drivers == 1) & (labels == 9))
    for mistaken in (video[:8], video[:15]):  # so much of it is taken for safe driving
        predicted = np.full((400, 10), 0.02)
        predicted[np.arange(400), labels] = 0.82
        predicted[mistaken, 0], predicted[mistaken, 9] = 0.7, 0.14
        before = np.log(predicted)
        after = clustered_logarithms(before, clouds)
        assert accuracy(before, labels) == 1 - len(mistaken) / 400 and accuracy(after, labels) == 1
        np.testing.assert_allclose(np.exp(after).sum(axis=1), 1)
        np.testing.assert_array_equal(clustered_logarithms(before, clouds), after)

    np.testing.assert_allclose(clustered_logarithms(before, []), before, atol=1e-6)
    assert clouds_of(features, np.full(400, -1)) == []
    assert clouds_of(features, np.arange(400) // 50) == [], "50 images of a driver are too few"
    alike = np.zeros((400, 16), dtype=np.float16)
    assert np.isfinite(clustered_logarithms(before, clouds_of(alike, drivers))).all()
    some_alike = np.where(np.arange(400)[:, None] % 5 < 2, features[0], random.permutation(features))
    assert np.isfinite(clustered_logarithms(before, clouds_of(some_alike, np.zeros(400)))).all()


def test_two_drivers_who_are_taken_for_one_are_divided_and_no_cloud_of_chaos_is_used() -> None:
    random = np.random.default_rng(0)
    labels, _, features = videos(random)
    wrong = np.where(random.random(400) < 0.1, (labels + 1) % 10, labels)
    before = np.log(np.full((400, 10), 0.02) + 0.8 * np.eye(10)[wrong])
    together = clustered_logarithms(before, clouds_of(features, np.zeros(400)))
    assert accuracy(before, labels) < 0.95 and accuracy(together, labels) == 1
    chaos = clouds_of(features[random.permutation(400)], np.zeros(400))
    assert accuracy(clustered_logarithms(before, chaos), labels) >= accuracy(before, labels) - 0.01

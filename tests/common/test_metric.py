"""The metric, as the competition defines it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metric import SMALLEST_PROBABILITY, log_loss, log_loss_per_image

ROWS = np.array([(0.5, 0.5), (0.1, 0.9), (0.01, 0.99), (0.9, 0.1), (0.75, 0.25), (0.001, 0.999)])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_known_value() -> None:
    assert log_loss(ROWS, LABELS) == pytest.approx(1.881797068998267, abs=1e-15)


def test_rows_are_divided_by_their_sum() -> None:
    assert log_loss(ROWS * 7, LABELS) == pytest.approx(log_loss(ROWS, LABELS), abs=1e-12)


def test_sure_mistake_costs_what_the_competition_charges_even_in_float32() -> None:
    sure = np.array([[1.0, 0.0]], dtype=np.float32)
    assert log_loss(sure, np.array([1])) == pytest.approx(-np.log(1e-15))
    assert log_loss(sure, np.array([0])) == pytest.approx(0, abs=1e-14)
    assert log_loss_per_image(sure, np.array([1])).dtype == np.float64


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_mean_of_the_images_within_bounds_and_in_any_order(seed: int, images: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(10, 0.1), size=images)
    labels = random.integers(0, 10, size=images)
    per_image = log_loss_per_image(probabilities, labels)
    assert per_image.shape == (images,)
    assert (per_image >= 0).all() and (per_image <= -np.log(SMALLEST_PROBABILITY) + 1e-9).all()
    order = random.permutation(images)
    assert log_loss(probabilities[order], labels[order]) == pytest.approx(per_image.mean())

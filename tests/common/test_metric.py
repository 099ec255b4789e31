"""The metric, as the competition defines it."""

import numpy as np
import pytest

from common.metric import log_loss, log_loss_per_image

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

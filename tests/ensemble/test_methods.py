"""Properties of pools, weights and blending methods, on any predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metric import log_loss
from ensemble.calibration import clip
from ensemble.methods import METHODS, OBJECTIVES, POOLS, Blend, fitted_weights
from ensemble.nested import NestedCrossValidation
from tests.ensemble.conftest import SEEDS, predictions

POOL_NAMES = st.sampled_from(sorted(OBJECTIVES))  # of those whose weights are fitted


@settings(max_examples=40)
@given(SEEDS, POOL_NAMES, st.integers(1, 6), st.integers(1, 60), st.sampled_from([0.02, 0.5, 5.0]))
def test_weights_are_on_the_simplex_and_lose_at_most_what_simple_ones_lose(
    seed: int, pool: str, members: int, images: int, concentration: float
) -> None:
    random = np.random.default_rng(seed)
    probabilities = predictions(random, members, images, concentration)
    labels = random.integers(0, 10, size=images)
    weights = fitted_weights(probabilities, labels, pool)
    assert weights.shape == (members,)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-12)
    loss = log_loss(POOLS[pool](probabilities, weights), labels)
    for simple in (np.full(members, 1 / members), *np.eye(members)):
        assert loss <= log_loss(POOLS[pool](probabilities, simple), labels) + 1e-9
    for other in random.dirichlet(np.ones(members), size=20):
        assert loss <= log_loss(POOLS[pool](probabilities, other), labels) + 1e-4


def test_geometric_pool_is_the_normalised_product() -> None:
    probabilities = predictions(np.random.default_rng(1), 2, 5, 2.0)
    expected = probabilities[0] ** 0.3 * probabilities[1] ** 0.7
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Blend("geometric", np.array([0.3, 0.7])).predict(probabilities), expected)


@settings(max_examples=12)
@given(SEEDS, st.lists(st.sampled_from([0.0, 1e-300, 1e-15, 0.5, 1.0]), min_size=10, max_size=10).filter(any))
def test_extreme_inputs_stay_finite(seed: int, row: list[float]) -> None:
    random = np.random.default_rng(seed)
    values = np.array([random.permutation(row) for _ in range(40)]).reshape(2, 20, 10)
    probabilities = values / values.max(axis=2, keepdims=True)
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    labels, groups = random.integers(0, 10, size=20), np.arange(20) % 2
    validation = NestedCrossValidation(probabilities, labels, groups, groups, METHODS)
    for one in validation.candidates():
        assert np.isfinite([one.fitted_loss, one.cross_fitted_loss]).all()
        table = clip(one.blend.predict(probabilities), 1e-6)
        assert np.isfinite(table).all() and (table > 0).all()
        np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-12)

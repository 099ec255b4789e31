"""Properties of pools, weights and methods, and of the steps after them: calibration, clip, prior and clusters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metric import log_loss
from ensemble.calibration import CLIPS, clip, fit_calibration, fit_clustering, fit_prior, mean_entropy, sharpened
from ensemble.methods import METHODS, OBJECTIVES, POOLS, Blend, fitted_weights
from ensemble.nested import NestedCrossValidation
from ensemble.report import reliabilities
from preprocessing.same_driver import clouds_of
from tests.ensemble.conftest import SEEDS, informed, labels_of, predictions

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


def test_temperature_and_bias_are_recovered() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 20_000, 1.0)[0]
    labels = labels_of(random, truth)
    bias = np.linspace(-0.5, 0.5, 10)
    logarithms = 2 * np.log(truth) + bias  # twice too confident, and biased
    fitted = fit_calibration(logarithms, labels)
    assert fitted.scale == pytest.approx(0.5, abs=0.03)
    assert np.corrcoef(fitted.bias, -bias)[0, 1] > 0.98  # shrunk by the penalty
    bins = reliabilities({"truth": truth}, labels)
    assert bins["predictions"].sum() == 200_000
    many = bins[bins["predictions"] > 1000]
    assert (many["confidence"] - many["frequency"]).abs().max() < 0.05


@given(SEEDS, st.sampled_from((0.0, *CLIPS, 0.1)), st.sampled_from([0.01, 1.0]))
def test_clip_bounds_every_probability_and_keeps_the_ranking(seed: int, smallest: float, concentration: float) -> None:
    before = predictions(np.random.default_rng(seed), 1, 50, concentration)[0]
    after = clip(before, smallest)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-12)
    assert (after >= smallest / (1 + 9 * smallest) - 1e-15).all() and (after <= 1 - 9 * smallest + 1e-12).all()
    order = before.argsort(axis=1)
    assert (np.diff(np.take_along_axis(after, order, axis=1), axis=1) >= -1e-15).all()
    one_hot = np.eye(10)[:1]
    np.testing.assert_allclose(clip(one_hot, 0.01), [[0.91, *[0.01] * 9]])
    np.testing.assert_allclose(clip(one_hot, 0.0), one_hot)


def test_prior_is_matched_where_it_helps_and_not_elsewhere() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 2000, 0.3)[0]
    labels, drivers = labels_of(random, truth), np.arange(2000) // 200
    unneeded = fit_prior(truth, labels, drivers, drivers, always=False)
    after = truth if unneeded is None else unneeded.predict(truth, drivers)  # one in six is near enough by chance
    assert log_loss(after, labels) == pytest.approx(log_loss(truth, labels), abs=0.01)
    shares = np.full((10, 10), 0.02)
    shares[np.arange(10)[:, None], (np.arange(10)[:, None] + np.arange(3)) % 10] = 1  # each driver does three things
    uneven = truth * shares[drivers] / (truth * shares[drivers]).sum(axis=1, keepdims=True)
    assert fit_prior(uneven, labels_of(random, uneven), drivers, drivers, always=False) is None
    factors = np.exp(random.normal(size=(10, 10)))[drivers]  # each driver is mistaken in another way
    biased = truth * factors / (truth * factors).sum(axis=1, keepdims=True)
    fitted = fit_prior(biased, labels, drivers, drivers, always=False)
    assert fitted is not None
    assert log_loss(fitted.predict(biased, drivers), labels) < log_loss(biased, labels) - 0.05
    assert fit_prior(truth, labels, drivers, drivers, always=True) is not None


def test_a_mean_of_fold_networks_gets_the_confidence_of_single_ones() -> None:
    networks = predictions(np.random.default_rng(0), 5, 500, 0.3)
    mean, scale = sharpened(list(networks))
    assert scale > 1
    assert mean_entropy(mean) == pytest.approx(np.mean([mean_entropy(network) for network in networks]), abs=1e-6)
    for same in ([networks[0]], [networks[0]] * 3):
        unchanged, scale = sharpened(same)
        assert scale == 1
        np.testing.assert_allclose(unchanged, networks[0])


def test_clusters_are_used_where_they_help_and_not_elsewhere() -> None:
    random = np.random.default_rng(0)
    labels, drivers = np.tile(np.repeat(np.arange(10), 10), 6), np.repeat(np.arange(6), 100)
    doubtful = informed(random, labels, 1.5)
    centres = random.normal(size=(6, 10, 16))
    videos = clouds_of(centres[drivers, labels] + 0.3 * random.normal(size=(600, 16)), drivers)
    noise = clouds_of(random.normal(size=(600, 16)), drivers)
    fitted = fit_clustering(doubtful, labels, drivers, videos, always=False)
    assert fitted is not None
    assert log_loss(fitted.predict(doubtful, videos), labels) < 0.7 * log_loss(doubtful, labels)
    assert fit_clustering(doubtful, labels, drivers, noise, always=False) is None
    assert fit_clustering(doubtful, labels, drivers, noise, always=True) is not None

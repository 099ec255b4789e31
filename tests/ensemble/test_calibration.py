"""Properties of calibration, prior matching, per-class weights, stacking, and of the correction of fold means."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metric import log_loss
from ensemble.calibration import (
    Calibration,
    calibration_error,
    fit_calibration,
    match_prior,
    reliability,
    smoothed_prior,
)
from ensemble.fold_means import mean_entropy, sharpened
from ensemble.pooling import floored, geometric_pool, per_class_pool, stacked_pool
from ensemble.prior import PriorMatching, fit_prior, sets_of
from ensemble.stacking import choose_penalty, fit_per_class, fit_stacking, simplex_columns
from ensemble.weights import fit_weights
from tests.ensemble.test_weights import SEEDS, labels_of, predictions

RARE = st.sampled_from([0.02, 0.5, 5.0])


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 60), RARE, st.booleans())
def test_calibration_never_loses_on_what_it_was_fitted_on_and_is_the_optimum(
    seed: int, images: int, concentration: float, with_bias: bool
) -> None:
    random = np.random.default_rng(seed)
    probabilities, labels = predictions(random, 1, images, concentration)[0], random.integers(0, 10, size=images)
    fitted = fit_calibration(np.log(floored(probabilities)), labels, with_bias)
    assert len(fitted.bias) == (10 if with_bias else 0) and fitted.scale > 0
    after = fitted.predict(probabilities)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-12)
    assert log_loss(after, labels) <= log_loss(probabilities, labels) + 1e-6


@settings(max_examples=30)
@given(SEEDS, st.floats(0.05, 20), RARE)
def test_temperature_keeps_the_ranking(seed: int, scale: float, concentration: float) -> None:
    before = floored(predictions(np.random.default_rng(seed), 1, 40, concentration)[0])
    after = Calibration(scale).predict(before)
    order = before.argsort(axis=1)
    assert (np.diff(np.take_along_axis(after, order, axis=1), axis=1) >= -1e-15).all()


def test_temperature_and_bias_are_found_again() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 20_000, 1.0)[0]
    labels = labels_of(random, truth)
    bias = np.linspace(-0.5, 0.5, 10)
    logarithms = 2 * np.log(truth) + bias  # twice too sure, and biased
    fitted = fit_calibration(logarithms, labels)
    assert fitted.scale == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(fitted.bias, -bias / 2, atol=0.06)
    said = np.exp(logarithms) / np.exp(logarithms).sum(axis=1, keepdims=True)
    assert calibration_error(fitted.predict(said), labels) < 0.02 < calibration_error(said, labels)
    bins = reliability(truth, labels)
    assert sum(row["predictions"] for row in bins) == 200_000
    assert max(abs(row["confidence"] - row["frequency"]) for row in bins if row["predictions"] > 1000) < 0.05


def test_tiny_data_does_not_explode() -> None:
    sure = np.full((3, 10), 1e-6)
    sure[:, 0] = 1 - 9e-6
    fitted = fit_calibration(np.log(sure), np.zeros(3, dtype=int))
    assert fitted.scale < 5 and max(np.abs(fitted.bias)) < 2
    wrong = fit_calibration(np.log(sure), np.ones(3, dtype=int))
    assert 0 < wrong.scale < 1 and max(np.abs(wrong.bias)) < 10


@settings(max_examples=25)
@given(SEEDS)
def test_permuted_classes_and_images_permute_the_calibration(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities, labels = predictions(random, 1, 80)[0], random.integers(0, 10, size=80)
    images, classes = random.permutation(80), random.permutation(10)
    first = fit_calibration(np.log(floored(probabilities)), labels)
    second = fit_calibration(np.log(floored(probabilities[images][:, classes])), np.argsort(classes)[labels[images]])
    assert second.scale == pytest.approx(first.scale, abs=1e-3)
    np.testing.assert_allclose(second.bias, np.array(first.bias)[classes], atol=1e-3)


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([0.3, 3.0]))
def test_matched_prior_is_the_mean(seed: int, concentration: float) -> None:
    random = np.random.default_rng(seed)
    probabilities = predictions(random, 1, 200, concentration)[0]
    prior = smoothed_prior(random.integers(0, 10, size=50), 10)
    matched = match_prior(probabilities, prior)
    np.testing.assert_allclose(matched.mean(axis=0), prior, atol=1e-4)
    np.testing.assert_allclose(matched.sum(axis=1), 1)
    ratios = np.log(matched) - np.log(floored(probabilities))
    ratios -= ratios[:, :1]
    np.testing.assert_allclose(ratios - ratios[0], 0, atol=1e-6)  # one factor a class


def test_prior_is_matched_where_it_helps_and_not_elsewhere() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 2000, 0.3)[0]
    labels, drivers = labels_of(random, truth), np.arange(2000) // 200
    unneeded = fit_prior(truth, labels, drivers, drivers, "auto")
    after = truth if unneeded is None else unneeded.predict(truth, drivers)  # one in six is near enough by chance
    assert log_loss(after, labels) == pytest.approx(log_loss(truth, labels), abs=0.01)
    shares = np.full((10, 10), 0.02)
    shares[np.arange(10)[:, None], (np.arange(10)[:, None] + np.arange(3)) % 10] = 1  # each driver does three things
    uneven = truth * shares[drivers] / (truth * shares[drivers]).sum(axis=1, keepdims=True)
    assert fit_prior(uneven, labels_of(random, uneven), drivers, drivers, "auto") is None
    factors = np.exp(random.normal(size=(10, 10)))[drivers]  # each driver is mistaken in another way
    biased = truth * factors / (truth * factors).sum(axis=1, keepdims=True)
    fitted = fit_prior(biased, labels, drivers, drivers, "auto")
    assert fitted is not None
    assert log_loss(fitted.predict(biased, drivers), labels) < log_loss(biased, labels) - 0.05
    assert fit_prior(biased, labels, drivers, drivers, "no") is None
    asked = fit_prior(truth, labels, drivers, drivers, "yes")
    assert isinstance(asked, PriorMatching) and asked.strength == 1


def test_as_many_drivers_share_the_factors_as_in_the_test_set() -> None:
    drivers = np.repeat(np.arange(12), 5)
    groups = drivers // 2
    for test_drivers, expected in ((1, 6), (2, 6), (4, 3), (6, 2), (12, 1), (90, 1)):
        sets = sets_of(groups, drivers, test_drivers)
        assert len(np.unique(sets)) == expected
        assert all(len(np.unique(sets[groups == group])) == 1 for group in range(6))


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 5), st.sampled_from([100.0, 1.0, 0.001]))
def test_per_class_weights_are_on_the_simplex_and_lose_at_most_what_shared_ones_lose(
    seed: int, members: int, penalty: float
) -> None:
    random = np.random.default_rng(seed)
    probabilities, labels = predictions(random, members, 60), random.integers(0, 10, size=60)
    shared = fit_weights(probabilities, labels, "geometric")
    weights = fit_per_class(np.log(floored(probabilities)), labels, shared, penalty)
    assert weights.shape == (members, 10) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-9)
    before, after = geometric_pool(probabilities, shared), per_class_pool(probabilities, weights)
    assert log_loss(after, labels) <= log_loss(before, labels) + 1e-7
    kernel, bias = fit_stacking(np.log(floored(probabilities)), labels, shared, penalty)
    assert log_loss(stacked_pool(probabilities, kernel, bias), labels) <= log_loss(before, labels) + 1e-7


def test_who_is_good_at_a_class_is_heard_on_it() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 4000, 0.2)[0]
    labels, noise = labels_of(random, truth), predictions(random, 1, 4000, 1.0)[0]
    good_at_low = np.where(np.arange(10) < 5, truth, noise)
    good_at_high = np.where(np.arange(10) < 5, noise, truth)
    both = np.stack([good_at_low, good_at_high])
    both /= both.sum(axis=2, keepdims=True)
    weights = fit_per_class(np.log(floored(both)), labels, np.array([0.5, 0.5]), 0.001)
    assert weights[0, :5].min() > 0.7 and weights[1, 5:].min() > 0.7


def test_penalty_is_strong_where_groups_differ_and_weak_where_they_agree() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 200)
    values = random.normal(size=6)[groups] + 0.01 * random.normal(size=1200)

    def chosen(targets: np.ndarray) -> float:
        def fit(rows: np.ndarray, penalty: float):
            mean = targets[rows].mean() / (1 + penalty)
            return lambda others: -((targets[others] - mean)[:, None] ** 2)

        return choose_penalty(fit, np.zeros(1200, dtype=int), groups, (100.0, 1.0, 0.001))

    assert chosen(values - values.mean()) == 100.0
    assert chosen(np.ones(1200)) == 0.001
    assert choose_penalty(lambda rows, penalty: lambda others: np.zeros((0, 1)), np.zeros(3, int), np.zeros(3)) == 100


@settings(max_examples=25)
@given(SEEDS)
def test_simplex_projection_is_the_nearest_point(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(4, 3))
    projected = simplex_columns(values)
    assert (projected >= 0).all()
    np.testing.assert_allclose(projected.sum(axis=0), 1)
    for other in random.dirichlet(np.ones(4), size=50):
        assert (((projected - values) ** 2).sum(axis=0) <= ((other[:, None] - values) ** 2).sum(axis=0) + 1e-9).all()


def test_a_mean_of_fold_networks_becomes_as_sure_as_they_are() -> None:
    random = np.random.default_rng(0)
    networks = predictions(random, 5, 500, 0.3)
    entropies = [mean_entropy(network) for network in networks]
    mean, gap = sharpened(networks.mean(axis=0), entropies)
    assert gap.entropy_of_mean > gap.entropy_of_singles and gap.scale > 1
    assert mean_entropy(mean) == pytest.approx(np.mean(entropies), abs=1e-6)
    for same in (networks[:1], np.stack([networks[0]] * 3)):
        unchanged, gap = sharpened(same.mean(axis=0), [mean_entropy(one) for one in same])
        assert gap.scale == 1
        np.testing.assert_allclose(unchanged, networks[0])

"""Properties of pools, weights, clip and selection, on any predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metric import log_loss
from ensemble.clipping import CLIPS, choose_clip, clip
from ensemble.pooling import POOLS, uniform_weights
from ensemble.selection import CrossFit
from ensemble.ways import Blend, Evidence, Way, ways
from ensemble.weights import fit_weights

SEEDS = st.integers(0, 2**32 - 1)
POOLINGS = st.sampled_from(sorted(POOLS))


def cross_fit(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, tried: list[Way]) -> CrossFit:
    return CrossFit(probabilities, labels, groups, groups, tried)


def predictions(random: np.random.Generator, members: int, images: int, concentration: float = 0.5) -> np.ndarray:
    return random.dirichlet(np.full(10, concentration), size=(members, images))


def labels_of(random: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Labels drawn from probabilities of shape (images, 10), so that these are calibrated."""
    return (random.random((len(truth), 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(0, 9)


@settings(max_examples=40)
@given(SEEDS, POOLINGS, st.integers(1, 6), st.integers(1, 60), st.sampled_from([0.02, 0.5, 5.0]))
def test_weights_are_on_the_simplex_and_lose_at_most_what_simple_ones_lose(
    seed: int, pooling: str, members: int, images: int, concentration: float
) -> None:
    random = np.random.default_rng(seed)
    probabilities = predictions(random, members, images, concentration)
    labels = random.integers(0, 10, size=images)
    weights = fit_weights(probabilities, labels, pooling)
    assert weights.shape == (members,)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-12)
    loss = log_loss(POOLS[pooling](probabilities, weights), labels)
    for member in probabilities:
        assert loss <= log_loss(member, labels) + 1e-9
    assert loss <= log_loss(POOLS[pooling](probabilities, uniform_weights(members)), labels) + 1e-9


@settings(max_examples=25)
@given(SEEDS, POOLINGS)
def test_no_random_weights_are_better(seed: int, pooling: str) -> None:
    random = np.random.default_rng(seed)
    probabilities, labels = predictions(random, 4, 80), random.integers(0, 10, size=80)
    fitted = log_loss(POOLS[pooling](probabilities, fit_weights(probabilities, labels, pooling)), labels)
    for weights in random.dirichlet(np.ones(4), size=30):
        assert fitted <= log_loss(POOLS[pooling](probabilities, weights), labels) + 2e-6


@settings(max_examples=25)
@given(SEEDS, POOLINGS)
def test_order_of_images_models_and_classes_does_not_matter(seed: int, pooling: str) -> None:
    random = np.random.default_rng(seed)
    truth = predictions(random, 1, 120)[0]
    labels = labels_of(random, truth)
    probabilities = 0.5 * truth + 0.5 * predictions(random, 3, 120)
    weights = fit_weights(probabilities, labels, pooling)
    blended = POOLS[pooling](probabilities, weights)

    images, models, classes = random.permutation(120), random.permutation(3), random.permutation(10)
    permuted = probabilities[models][:, images][:, :, classes]
    new_labels = np.argsort(classes)[labels[images]]
    new_weights = fit_weights(permuted, new_labels, pooling)
    np.testing.assert_allclose(new_weights, weights[models], atol=2e-3)
    np.testing.assert_allclose(POOLS[pooling](permuted, new_weights), blended[images][:, classes], atol=2e-3)
    np.testing.assert_allclose(
        POOLS[pooling](permuted, weights[models]), blended[images][:, classes], rtol=1e-9, atol=1e-15
    )


@settings(max_examples=25)
@given(SEEDS, POOLINGS, st.integers(1, 5))
def test_equal_members_give_an_equal_blend(seed: int, pooling: str, members: int) -> None:
    random = np.random.default_rng(seed)
    one = predictions(random, 1, 30)[0]
    probabilities, labels = np.stack([one] * members), random.integers(0, 10, size=30)
    weights = fit_weights(probabilities, labels, pooling)
    np.testing.assert_allclose(POOLS[pooling](probabilities, weights), one, atol=1e-9)


@pytest.mark.parametrize("pooling", sorted(POOLS))
@pytest.mark.parametrize("seed", range(5))
def test_member_of_pure_noise_gets_a_weight_near_zero(pooling: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = predictions(random, 1, 2000)[0]
    labels = labels_of(random, truth)
    probabilities = np.stack([truth, predictions(random, 1, 2000)[0]])
    assert fit_weights(probabilities, labels, pooling)[1] < 0.04


@settings(max_examples=30)
@given(SEEDS, st.lists(st.sampled_from([0.0, 1e-300, 1e-15, 0.5, 1.0]), min_size=10, max_size=10).filter(any))
def test_extreme_inputs_stay_finite(seed: int, row: list[float]) -> None:
    random = np.random.default_rng(seed)
    values = np.array([random.permutation(row) for _ in range(40)]).reshape(2, 20, 10)
    probabilities = values / values.max(axis=2, keepdims=True)
    probabilities /= probabilities.sum(axis=2, keepdims=True)
    labels, groups = random.integers(0, 10, size=20), np.arange(20) % 2
    for judged in cross_fit(probabilities, labels, groups, ways(2)).choose().judged:
        assert np.isfinite([judged.fitted_loss, judged.cross_fitted_loss]).all()
        for table in (judged.blend.predict(probabilities), judged.cross_fitted):
            assert np.isfinite(table).all() and (table > 0).all()
            np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-12)


@given(SEEDS, st.sampled_from((0.0, *CLIPS, 0.1)), st.sampled_from([0.01, 1.0]))
def test_clip_bounds_every_probability_and_keeps_the_ranking(seed: int, epsilon: float, concentration: float) -> None:
    before = predictions(np.random.default_rng(seed), 1, 50, concentration)[0]
    after = clip(before, epsilon)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-12)
    assert (after >= epsilon / (1 + 9 * epsilon) - 1e-15).all() and (after <= 1 - 9 * epsilon + 1e-12).all()
    order = before.argsort(axis=1)
    assert (np.diff(np.take_along_axis(after, order, axis=1), axis=1) >= -1e-15).all()


def test_clip_of_a_sure_row_is_exact() -> None:
    sure = np.eye(10)[:1]
    np.testing.assert_allclose(clip(sure, 0.01), [[0.91, *[0.01] * 9]])
    np.testing.assert_allclose(clip(sure, 0.0), sure)


def test_clip_grows_with_the_mistakes_of_the_sure() -> None:
    labels = np.zeros(1000, dtype=int)
    right, wrong = np.eye(10)[0], np.eye(10)[1]
    assert choose_clip(np.stack([right] * 1000), labels) == CLIPS[0]
    some, many = (choose_clip(np.stack([right] * (1000 - n) + [wrong] * n), labels) for n in (2, 60))
    assert CLIPS[0] < some < many


def test_cross_fitting_uses_only_the_other_groups() -> None:
    random = np.random.default_rng(0)
    probabilities, labels = predictions(random, 3, 90), random.integers(0, 10, size=90)
    groups = np.repeat([0, 1, 2], 30)
    changed = labels.copy()
    changed[:30] = (changed[:30] + 1) % 10
    for way in ways(3):
        first = cross_fit(probabilities, labels, groups, [way]).choose().winner
        blend = way.fit(Evidence(probabilities[:, 30:], labels[30:], groups[30:]))
        np.testing.assert_array_equal(first.cross_fitted[:30], blend.predict(probabilities[:, :30]))
        second = cross_fit(probabilities, changed, groups, [way]).choose().winner
        np.testing.assert_array_equal(second.cross_fitted[:30], first.cross_fitted[:30])
    with pytest.raises(ValueError, match="two groups"):
        cross_fit(probabilities, labels, np.zeros(90), ways(3)).choose()


def test_of_equal_ways_the_simplest_is_chosen() -> None:
    random = np.random.default_rng(0)
    one = predictions(random, 1, 900)[0]
    labels, groups = labels_of(random, one), np.arange(900) % 6
    choice = cross_fit(np.stack([one, one]), labels, groups, ways(2)).choose()
    assert choice.winner.name == "best single"


def test_geometric_pool_is_the_normalised_product() -> None:
    random = np.random.default_rng(1)
    probabilities = predictions(random, 2, 5, 2.0)
    expected = probabilities[0] ** 0.3 * probabilities[1] ** 0.7
    expected /= expected.sum(axis=1, keepdims=True)
    blend = Blend("geometric", np.array([0.3, 0.7]), 1e-6)
    np.testing.assert_allclose(blend.predict(probabilities), expected, atol=1e-5)

"""The prediction interval covers new drivers, and no driver is evaluated by anything that was fitted on him."""

import numpy as np
import pytest

from common.metric import clustered_logarithms, paired_difference
from ensemble.methods import METHODS, Method, methods_for
from ensemble.neighbours import nearest
from ensemble.nested import NestedCrossValidation, groups_of
from ensemble.result import expected_loss, place_among_published
from preprocessing.same_driver import clouds_of
from tests.ensemble.conftest import labels_of, predictions
from tests.ensemble.test_neighbours import unit


def losses_of(random: np.random.Generator, drivers: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses of images of drivers who differ much more than a driver's images do on average, as measured ones do."""
    sizes = random.integers(60, 290, size=drivers)
    level = np.exp(random.normal(-0.5, 0.6, size=drivers))
    losses = np.concatenate([random.exponential(mean, size=size) for mean, size in zip(level, sizes, strict=True)])
    return losses, np.repeat(np.arange(drivers), sizes)


@pytest.mark.parametrize(("known", "new"), [(10, 4), (7, 7), pytest.param(26, 50, marks=pytest.mark.slow)])
def test_interval_covers_nine_of_ten_test_sets_of_new_drivers(known: int, new: int) -> None:
    random = np.random.default_rng(0)
    hits = []
    for _ in range(200):
        losses, drivers = losses_of(random, known + new)
        there = drivers < known
        interval = expected_loss(losses[there], drivers[there], new)
        assert 0 <= interval.lowest < interval.loss < interval.highest
        hits.append(interval.lowest <= losses[~there].mean() <= interval.highest)
    assert 0.85 <= np.mean(hits) <= 0.95


def test_places() -> None:
    places = {0.1: "place 12 or better", 0.17: "between places 12 and 50", 0.256: "between places 50 and 144"}
    places |= {0.5: "behind place 182"}
    assert {loss: place_among_published(loss) for loss in places} == places


def test_standard_error_is_over_drivers() -> None:
    random = np.random.default_rng(0)
    of_driver = random.normal(size=20)
    losses = np.repeat(of_driver, 50)
    mean, error = paired_difference(losses, np.zeros(1000), np.repeat(np.arange(20), 50))
    assert mean == pytest.approx(of_driver.mean())
    assert error == pytest.approx(of_driver.std(ddof=1) / np.sqrt(20))
    assert paired_difference(losses, losses, np.zeros(1000)) == (0, 0)
    assert paired_difference(losses, np.zeros(1000), np.zeros(1000))[1] == np.inf


@pytest.mark.parametrize("match_prior", ["auto", "yes"])
def test_drivers_who_are_evaluated_have_no_influence(match_prior: str) -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 400, 0.3)[0]
    labels, drivers = labels_of(random, truth), np.arange(400) // 100
    probabilities = 0.7 * truth + 0.3 * predictions(random, 2, 400)
    videos = random.normal(size=(4, 10, 16))[drivers, labels] + 0.3 * random.normal(size=(400, 16))
    graphs, clouds = {"x": nearest(unit(random, 400))}, clouds_of(videos, drivers)
    moved = clustered_logarithms(np.log(probabilities[0]), clouds)
    assert (np.exp(moved[:100]) - probabilities[0, :100]).any(), "or clusters are not tested here"

    def estimate(labels: np.ndarray) -> np.ndarray:
        options = (drivers, drivers, METHODS, graphs, drivers, match_prior, clouds, "yes")
        return NestedCrossValidation(probabilities, labels, *options).estimated().final

    first, changed = estimate(labels), labels.copy()
    changed[:100] = (changed[:100] + 1) % 10
    second = estimate(changed)
    np.testing.assert_array_equal(first[:100], second[:100])
    assert not np.array_equal(first[100:], second[100:])


def test_groups_keep_drivers_together_and_are_never_too_few_or_many() -> None:
    drivers = np.arange(140) // 10
    for folds, expected in ((drivers % 2, 5), (drivers % 5, 5), (drivers % 6, 6), (drivers, 5)):
        groups = groups_of(folds, drivers)
        assert len(np.unique(groups)) == expected
        assert all(len(np.unique(groups[drivers == driver])) == 1 for driver in range(14))
    assert len(np.unique(groups_of(np.arange(20) % 2, np.arange(20) % 2))) == 2


def test_of_equal_methods_the_simplest_is_chosen() -> None:
    random = np.random.default_rng(0)
    one = predictions(random, 1, 900)[0]
    labels, groups = labels_of(random, one), np.arange(900) % 6
    validation = NestedCrossValidation(np.stack([one, one]), labels, groups, groups, METHODS)
    assert validation.fitted().method.name == "best single"


def test_a_method_that_is_much_better_is_chosen() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 900, 0.3)[0]
    labels, groups = labels_of(random, truth), np.arange(900) % 6
    overconfident = truth**3 / (truth**3).sum(axis=1, keepdims=True)
    validation = NestedCrossValidation(overconfident[None], labels, groups, groups, methods_for(1))
    final = validation.fitted()
    assert final.method == Method("single, tempered", "best", calibration="temperature")
    assert final.blend.calibration is not None and final.blend.calibration.scale == pytest.approx(1 / 3, abs=0.05)

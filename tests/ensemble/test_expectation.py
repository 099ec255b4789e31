"""The prediction interval covers new drivers, the procedure never sees whom it judges, places are said with care."""

import numpy as np
import pytest

from ensemble.expectation import (
    Expectation,
    expectation_text,
    expected_loss,
    guessed_test_drivers,
    place_among_published,
)
from ensemble.neighbours import nearest
from ensemble.paired import paired_difference
from ensemble.procedure import Procedure
from ensemble.selection import CrossFit, groups_of, thinned
from ensemble.ways import ways
from tests.ensemble.test_neighbours import unit
from tests.ensemble.test_weights import labels_of, predictions


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


def test_interval_is_of_a_test_set_and_not_of_the_mean() -> None:
    losses, drivers = losses_of(np.random.default_rng(1), 14)
    widths = [one.highest - one.lowest for one in (expected_loss(losses, drivers, new) for new in (1, 4, 14, 1000))]
    assert widths == sorted(widths, reverse=True) and widths[0] > 1.5 * widths[-1]
    assert expected_loss(losses, drivers, 4) == expected_loss(losses, drivers, 4)
    assert expected_loss(losses[drivers == 0], drivers[drivers == 0], 4).highest == np.inf
    assert expected_loss(np.zeros(30), np.arange(30) // 10, 4).highest == 0


def test_number_of_test_drivers_is_guessed_by_images() -> None:
    assert guessed_test_drivers(755, 2646, 14) == 4
    assert guessed_test_drivers(1, 2646, 14) == 1


@pytest.mark.parametrize(
    ("loss", "place"),
    [
        (0.1, "the 12th place or better"),
        (0.17, "between the 12th and the 50th place"),
        (0.256, "between the 50th and the 144th place"),
        (0.28, "between the 144th and the 182nd place"),
        (0.5, "behind the 182nd place"),
    ],
)
def test_places(loss: float, place: str) -> None:
    assert place_among_published(loss) == place
    text = expectation_text(Expectation(loss, 0.05, 0.9, 4, 14), 2646, 22424, guessed=True)
    assert place in text and "need the full data" in text and "no claim" in text and "--test-drivers" in text
    assert max(map(len, text.splitlines())) <= 100


def test_standard_error_is_over_drivers() -> None:
    random = np.random.default_rng(0)
    of_driver = random.normal(size=20)
    losses = np.repeat(of_driver, 50)
    mean, error = paired_difference(losses, np.zeros(1000), np.repeat(np.arange(20), 50))
    assert mean == pytest.approx(of_driver.mean())
    assert error == pytest.approx(of_driver.std(ddof=1) / np.sqrt(20))
    assert paired_difference(losses, losses, np.zeros(1000)) == (0, 0)
    assert paired_difference(losses, np.zeros(1000), np.zeros(1000))[1] == np.inf


@pytest.mark.parametrize("together", [False, True], ids=["each by itself", "all drivers share the prior's factors"])
def test_who_is_judged_has_no_say_in_anything(together: bool) -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 200, 0.3)[0]
    labels, drivers = labels_of(random, truth), np.arange(200) // 50
    probabilities = 0.7 * truth + 0.3 * predictions(random, 2, 200)
    graphs = {"x": nearest(unit(random, 200))}

    sets, option = (np.zeros(200), "yes") if together else (drivers, "auto")

    def estimate(labels: np.ndarray) -> np.ndarray:
        cross_fit = CrossFit(probabilities, labels, drivers, drivers, ways(2))
        return Procedure(cross_fit, graphs, sets, option).estimated().final

    first, changed = estimate(labels), labels.copy()
    changed[:50] = (changed[:50] + 1) % 10
    second = estimate(changed)
    np.testing.assert_array_equal(first[:50], second[:50])
    assert not np.array_equal(first[50:], second[50:])


def test_groups_keep_drivers_together_and_are_never_too_few_or_many() -> None:
    drivers = np.arange(140) // 10
    for folds, expected in ((drivers % 2, 5), (drivers % 5, 5), (drivers % 6, 6), (drivers, 5)):
        groups = groups_of(folds, drivers)
        assert len(np.unique(groups)) == expected
        assert all(len(np.unique(groups[drivers == driver])) == 1 for driver in range(14))
    assert len(np.unique(groups_of(np.arange(20) % 2, np.arange(20) % 2))) == 2
    assert len(thinned(np.arange(30_000), 12_000)) <= 12_000 and len(thinned(np.arange(500), 600)) == 500


def test_two_drivers_are_enough() -> None:
    random = np.random.default_rng(0)
    truth = predictions(random, 1, 60, 0.3)[0]
    labels, drivers = labels_of(random, truth), np.arange(60) // 30
    for members in (1, 3):
        probabilities = 0.5 * truth + 0.5 * predictions(random, members, 60)
        procedure = Procedure(CrossFit(probabilities, labels, drivers, drivers, ways(members)), {}, drivers)
        assert procedure.fitted().choice is not None
        np.testing.assert_allclose(procedure.estimated().final.sum(axis=1), 1)

"""The check for leaks: losses on held-out drivers and on test drivers, apart by how many standard errors."""

import numpy as np
import pytest

from ensemble.agreement import Agreement, agreement, agreement_text


def test_errors_are_over_drivers_and_networks_count_one_by_one() -> None:
    drivers, test_drivers = np.repeat(["a", "b", "c"], 50), np.repeat(["x", "y"], [10, 10])
    out_of_fold = np.repeat([0.2, 0.5, 0.8], 50)
    tests = [np.repeat([0.1, 0.7], 10), np.repeat([0.3, 0.9], 10)]
    found = agreement("m", out_of_fold, drivers, tests, test_drivers)
    assert found.out_of_fold == pytest.approx((0.5, np.std([0.2, 0.5, 0.8], ddof=1) / 3**0.5))
    assert found.test == pytest.approx((0.5, np.std([0.2, 0.8], ddof=1) / 2**0.5))
    assert found.worse == pytest.approx(0)


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (0.6, "within two standard errors (over drivers): no sign of a leak"),
        (0.9, "worse on the test drivers by more than two standard errors: leaky: a leak"),
        (0.1, "better on the test drivers by more than two standard errors: leaky: these drivers are easier"),
    ],
)
def test_a_network_that_is_much_worse_or_better_on_the_test_drivers_is_named(test: float, says: str) -> None:
    rows = [Agreement("honest", (0.5, 0.1), (0.6, 0.1)), Agreement("leaky", (0.5, 0.06), (test, 0.08))]
    text = agreement_text(rows, 14, 4)
    assert says in text and "14 drivers out of fold" in text and f"{abs(test - 0.5) / 0.1:.1f} errors" in text


def test_equal_losses_of_all_drivers_are_not_apart() -> None:
    assert Agreement("m", (0.5, 0.0), (0.5, 0.0)).worse == 0
    text = agreement_text([Agreement("m", (0.1, 0.0), (0.5, 0.0))], 2, 2)
    assert "worse on the test drivers by more than two standard errors: m" in text

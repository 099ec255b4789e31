"""Whether the loss out of fold holds on other drivers: a leak between folds, or choosing too often by it, lowers it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.paired import paired_difference
from ensemble.score_tables import formatted

ENOUGH = 2.0  # standard errors
WHY_WORSE = "a leak, too many choices, or harder drivers"
WHY_BETTER = "these drivers are easier; a leak would do the opposite"
AS_EXPECTED = "within two standard errors (over drivers): no sign of a leak, nor of choosing too often by these drivers"


@dataclass(frozen=True)
class Agreement:
    """A model's networks, each alone, on drivers whom they never saw: losses in nats, with errors over drivers.

    Attributes:
        out_of_fold: the mean loss of each fold's network on the fold's held-out drivers, and its error.
        test: the mean loss of the same networks on the test set, and its error.
    """

    name: str
    out_of_fold: tuple[float, float]
    test: tuple[float, float]

    @property
    def worse(self) -> float:
        """How much worse the test drivers' loss is, in standard errors of the difference; negative if better."""
        difference = self.test[0] - self.out_of_fold[0]
        return difference and difference / max(float(np.hypot(self.out_of_fold[1], self.test[1])), 1e-12)


def agreement(
    name: str, out_of_fold: np.ndarray, drivers: np.ndarray, test: Sequence[np.ndarray], test_drivers: np.ndarray
) -> Agreement:
    """Compares a model's networks out of fold with the same networks, not averaged, on a test set.

    Args:
        out_of_fold: shape (images,), the loss of each image, in nats.
        drivers: shape (images,), who is on each image; two at least.
        test: for each network, the loss of each test image, shape (test images,), in nats.
        test_drivers: shape (test images,); two at least.
    """
    mean_of_networks = np.mean(test, axis=0)
    return Agreement(
        name,
        paired_difference(out_of_fold, np.zeros_like(out_of_fold), drivers),
        paired_difference(mean_of_networks, np.zeros_like(mean_of_networks), test_drivers),
    )


def agreement_text(rows: Sequence[Agreement], drivers: int, test_drivers: int) -> str:
    """The table for the terminal, and what it says."""
    headers = ["one network alone", f"{drivers} drivers out of fold", f"{test_drivers} test drivers", "apart by"]
    cells = [
        [
            row.name,
            *(f"{mean:.3f} +- {error:.3f}" for mean, error in (row.out_of_fold, row.test)),
            f"{abs(row.worse):.1f} errors",
        ]
        for row in rows
    ]
    worse = [row.name for row in rows if row.worse > ENOUGH]
    better = [row.name for row in rows if row.worse < -ENOUGH]
    verdicts = []
    if worse:
        verdicts.append(f"worse on the test drivers by more than two standard errors: {', '.join(worse)}: {WHY_WORSE}")
    if better:
        verdicts.append(
            f"better on the test drivers by more than two standard errors: {', '.join(better)}: {WHY_BETTER}"
        )
    return "\n".join([formatted(headers, cells), *(verdicts or [AS_EXPECTED])])

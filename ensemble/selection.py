"""The choice between ways to blend: nested cross-fitting by groups of drivers, one standard error for the simpler.

Blends fitted on out-of-fold predictions look too good on these same predictions. So each group of drivers is predicted
by blends fitted on the other groups, and that cross-fitted loss chooses the way. The choice itself is judged once more
around: for the estimate, each group is predicted by the way that the *other* groups alone would have chosen.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.metric import accuracy, log_loss, log_loss_per_image
from ensemble.paired import not_clearly_worse, paired_difference
from ensemble.ways import Blend, Evidence, Way

MOST_ROWS = 40_000  # members x images that a way is fitted and judged on: of more frames, every n-th
FEWEST_GROUPS, MOST_GROUPS = 4, 6


@dataclass(frozen=True, eq=False)
class Judged:
    """A way with its blend fitted on everything allowed, and how it does.

    Attributes:
        cross_fitted: predictions of each group by a blend fitted on the other groups, shape (images, classes); rows of
            images that were not allowed are undefined.
        fitted_loss, cross_fitted_loss: log loss in nats, on what it was fitted on and on other drivers.
        cross_fitted_accuracy: 0 to 1.
        behind: cross-fitted loss above the best way's, and its standard error over drivers, in nats.
    """

    name: str
    blend: Blend
    cross_fitted: np.ndarray
    fitted_loss: float
    cross_fitted_loss: float
    cross_fitted_accuracy: float
    behind: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Choice:
    """Every way, judged, the simplest first, and the one that was taken."""

    judged: list[Judged]
    winner: Judged


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Fits ways on all groups but some, each such fit once.

    Attributes:
        probabilities: shape (members, images, classes), rows summing to 1.
        labels: shape (images,), integers from 0.
        drivers: shape (images,): the witnesses of a standard error.
        groups: shape (images,), integers; no driver stands in two of them.
        ways: the simplest first.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    drivers: np.ndarray
    groups: np.ndarray
    ways: Sequence[Way]
    _evidence: dict[frozenset[int], Evidence] = field(default_factory=dict)
    _blends: dict[tuple[str, frozenset[int]], Blend] = field(default_factory=dict)

    @property
    def all_groups(self) -> list[int]:
        """The groups, ascending."""
        return [int(group) for group in np.unique(self.groups)]

    @property
    def most_images(self) -> int:
        """How many images a way is fitted on at most."""
        return MOST_ROWS // len(self.probabilities)

    def rows(self, without: frozenset[int]) -> np.ndarray:
        """The images that are not in these groups, ascending."""
        return np.flatnonzero(~np.isin(self.groups, list(without)))

    def blend(self, way: Way, without: frozenset[int]) -> Blend:
        """A way fitted on all groups but these."""
        key = way.name, without
        if key not in self._blends:
            if without not in self._evidence:
                self._evidence[without] = self.evidence(self.rows(without))
            self._blends[key] = way.fit(self._evidence[without])
        return self._blends[key]

    def evidence(self, rows: np.ndarray, members: Sequence[int] | None = None) -> Evidence:
        """What a way is fitted on: some images (every n-th of many), of some members (all where None).

        Penalties are chosen by groups where there are several: drivers of one fold were predicted by one network, whose
        peculiarities they share.
        """
        rows = thinned(rows, self.most_images)
        chosen = self.probabilities if members is None else self.probabilities[list(members)]
        split_by = self.groups if len(np.unique(self.groups[rows])) > 1 else self.drivers
        return Evidence(chosen[:, rows], self.labels[rows], split_by[rows])

    def calibrated_members(self) -> np.ndarray:
        """Each member, temperature and bias fitted on the other groups, shape (members, images, classes)."""
        calibrated = np.empty_like(self.probabilities)
        for group in self.all_groups:
            rows, without = self.groups == group, frozenset({group})
            if without not in self._evidence:
                self._evidence[without] = self.evidence(self.rows(without))
            for place, calibration in enumerate(self._evidence[without].calibrations):
                calibrated[place, rows] = calibration.predict(self.probabilities[place, rows])
        return calibrated

    def cross_fitted(self, way: Way, without: frozenset[int], images: np.ndarray) -> np.ndarray:
        """Predictions of each group that is not in `without` by a blend of the others, shape (images, classes).

        Args:
            images: the row numbers that are predicted; the other rows are nan.
        """
        predictions = np.full(self.probabilities.shape[1:], np.nan)
        for group in self.all_groups:
            if group not in without:
                rows = images[self.groups[images] == group]
                predictions[rows] = self.blend(way, without | {group}).predict(self.probabilities[:, rows])
        return predictions

    def choose(self, without: frozenset[int] = frozenset()) -> Choice:
        """Judges every way on all groups but these; of those within one standard error of the best, the simplest.

        Raises:
            ValueError: there are less than two other groups.
        """
        every = self.rows(without)
        if len(np.unique(self.groups[every])) < 2:
            raise ValueError("expected at least two groups to cross-fit")
        rows = thinned(every, self.most_images)
        labels, judged, losses = self.labels[rows], [], []
        for way in self.ways:
            blend, predictions = self.blend(way, without), self.cross_fitted(way, without, rows)
            losses.append(log_loss_per_image(predictions[rows], labels))
            judged.append(
                Judged(
                    way.name,
                    blend,
                    predictions,
                    log_loss(blend.predict(self.probabilities[:, rows]), labels),
                    float(losses[-1].mean()),
                    accuracy(predictions[rows], labels),
                )
            )
        best, drivers = losses[int(np.argmin([loss.mean() for loss in losses]))], self.drivers[rows]
        judged = [
            dataclasses.replace(one, behind=paired_difference(loss, best, drivers))
            for one, loss in zip(judged, losses, strict=True)
        ]
        near = [not_clearly_worse(loss, best, drivers) for loss in losses]
        place = near.index(True)
        if len(rows) < len(every):
            whole = self.cross_fitted(self.way(judged[place].name), without, every)
            judged[place] = dataclasses.replace(judged[place], cross_fitted=whole)
        return Choice(judged, judged[place])

    def way(self, name: str) -> Way:
        """The way of this name."""
        return next(way for way in self.ways if way.name == name)


def thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """Every n-th of many rows, so that at most so many are left."""
    return rows[:: -(-len(rows) // most)]


def groups_of(folds: np.ndarray, drivers: np.ndarray) -> np.ndarray:
    """Groups of drivers to cross-fit by: the folds, or, where these are too few or many, drivers dealt by their images.

    Args:
        folds, drivers: shape (images,).

    Returns:
        shape (images,), integers from 0. With fewer drivers than groups, each is a group.
    """
    numbers = np.unique(folds, return_inverse=True)[1]
    if FEWEST_GROUPS <= numbers.max() + 1 <= MOST_GROUPS:
        return numbers.astype(np.int64)
    names, places, counts = np.unique(drivers, return_inverse=True, return_counts=True)
    group_of = np.zeros(len(names), dtype=np.int64)
    sizes = np.zeros(min(len(names), MOST_GROUPS - 1))
    for driver in np.argsort(-counts, kind="stable"):
        group_of[driver] = int(sizes.argmin())
        sizes[group_of[driver]] += counts[driver]
    return group_of[places]

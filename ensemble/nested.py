"""Nested cross-validation over drivers: chooses a blending method, fits what follows it, and estimates what that gives.

A blend that is evaluated on the drivers it was fitted on looks too good. So there are three levels:

1. a method is evaluated on each group of drivers by blends fitted on the other groups ("cross-fitted");
2. by these losses the method is chosen: the simplest one within one standard error of the best. Prior matching,
   clusters, neighbour smoothing and the clip are fitted on its cross-fitted predictions, in this order (`fitted`);
3. for the estimate, each group is predicted by what the other groups alone would have chosen and fitted (`estimated`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.metric import Cloud, accuracy, paired_difference
from ensemble.calibration import Clustering, PriorMatching, choose_clip, clip, clipped_losses, fit_clustering, fit_prior
from ensemble.methods import FALLBACK, Blend, Method
from ensemble.neighbours import Graph, Smoothing, fit_smoothing, restricted

MOST_ROWS = 40_000  # members x images that a method is fitted and evaluated on: of more images, every n-th
FEWEST_GROUPS, MOST_GROUPS = 4, 6
STEPS = ("blend", "prior", "clusters", "neighbours")  # one after the other; all but the first only where they help


@dataclass(frozen=True, eq=False)
class Candidate:
    """A method, fitted on all allowed groups, and its evaluation.

    Attributes:
        losses: cross-fitted log loss of each image evaluated, in nats, with the best clip.
        fitted_loss, cross_fitted_loss: log loss in nats, on the drivers it was fitted on and on other drivers.
        cross_fitted_accuracy: 0 to 1.
        behind: cross-fitted loss minus the best method's, and its standard error over drivers, in nats.
    """

    method: Method
    blend: Blend
    losses: np.ndarray
    fitted_loss: float
    cross_fitted_accuracy: float
    behind: tuple[float, float] = (0.0, 0.0)

    @property
    def cross_fitted_loss(self) -> float:
        """The mean of `losses`."""
        return float(self.losses.mean())


@dataclass(frozen=True, eq=False)
class FinalBlend:
    """The chosen blend and the steps after it, in the order in which they are applied.

    Attributes:
        candidates: every method, the simplest first; empty where there were too few drivers to evaluate any.
        method, blend: the chosen ones.
        cross_fitted: the blend's cross-fitted predictions, shape (images, classes); rows not allowed are nan.
        prior, clustering, smoothing: None where it is not applied.
        clips: the smallest probability where each of `STEPS` is the last; the last is that of the submission.
    """

    candidates: list[Candidate]
    method: Method
    blend: Blend
    cross_fitted: np.ndarray
    prior: PriorMatching | None = None
    clustering: Clustering | None = None
    smoothing: Smoothing | None = None
    clips: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def predict(
        self, probabilities: np.ndarray, sets: np.ndarray, clouds: Sequence[Cloud], graphs: Mapping[str, Graph]
    ) -> dict[str, np.ndarray]:
        """Clipped predictions after each of `STEPS`, shape (images, classes); no graphs: no smoothing.

        Args:
            probabilities: shape (members, images, classes).
            sets, clouds, graphs: of these images, as of `NestedCrossValidation`.
        """
        blend = self.blend.predict(probabilities)
        matched = self.prior.predict(blend, sets) if self.prior else blend
        clustered = self.clustering.predict(matched, clouds) if self.clustering else matched
        smooth = self.smoothing.predict(clustered, graphs) if self.smoothing and graphs else clustered
        tables = zip(STEPS, (blend, matched, clustered, smooth), self.clips, strict=True)
        return {step: clip(table, smallest) for step, table, smallest in tables}


@dataclass(frozen=True, eq=False)
class Estimate:
    """Nested predictions: each group by what was fitted without it.

    Attributes:
        steps: clipped predictions after each of `STEPS`, shape (images, classes).
        methods: the names of the methods chosen without each group, in their order.
    """

    steps: dict[str, np.ndarray]
    methods: tuple[str, ...]

    @property
    def final(self) -> np.ndarray:
        """After the last step."""
        return self.steps[STEPS[-1]]


@dataclass(frozen=True, eq=False)
class NestedCrossValidation:
    """Fits and evaluates on all groups of drivers but some.

    Attributes:
        probabilities: shape (members, images, classes), rows summing to 1.
        labels: shape (images,), integers from 0.
        drivers: shape (images,): standard errors are over them.
        groups: shape (images,), integers; no driver is in two of them.
        methods: the simplest first.
        graphs: neighbours of all images, by feature; empty for no smoothing.
        sets: shape (images,): which images share a bias in prior matching; no set is in two groups.
        match_prior: 'auto', 'yes' or 'no'.
        clouds: the features of each set; empty for no clustering.
        cluster: 'auto' or 'yes'.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    drivers: np.ndarray
    groups: np.ndarray
    methods: Sequence[Method]
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    sets: np.ndarray = field(default_factory=lambda: np.zeros(0))
    match_prior: str = "no"
    clouds: Sequence[Cloud] = ()
    cluster: str = "auto"
    _blends: dict[tuple[str, frozenset[int]], Blend] = field(default_factory=dict)

    @property
    def all_groups(self) -> list[int]:
        """The groups, ascending."""
        return [int(group) for group in np.unique(self.groups)]

    def rows(self, without: frozenset[int], thinned: bool = False) -> np.ndarray:
        """The images that are not in these groups, ascending; of many only those that a method is fitted on."""
        rows = np.flatnonzero(~np.isin(self.groups, list(without)))
        most = MOST_ROWS // len(self.probabilities)
        return rows[:: -(-len(rows) // most) or 1] if thinned else rows

    def blend(self, method: Method, without: frozenset[int]) -> Blend:
        """A method fitted on all groups but these."""
        key = method.name, without
        if key not in self._blends:
            rows = self.rows(without, thinned=True)
            self._blends[key] = method.fit(self.probabilities[:, rows], self.labels[rows])
        return self._blends[key]

    def cross_fitted(self, method: Method, without: frozenset[int], images: np.ndarray) -> np.ndarray:
        """Predictions of each group not in `without` by a blend of the others; rows other than `images` are nan."""
        predictions = np.full(self.probabilities.shape[1:], np.nan)
        for group in set(self.all_groups) - without:
            rows = images[self.groups[images] == group]
            predictions[rows] = self.blend(method, without | {group}).predict(self.probabilities[:, rows])
        return predictions

    def candidates(self, without: frozenset[int] = frozenset()) -> list[Candidate]:
        """Evaluates every method on all groups but these, of which there must be two."""
        rows = self.rows(without, thinned=True)
        labels, drivers, found = self.labels[rows], self.drivers[rows], []
        for method in self.methods:
            blend, predictions = self.blend(method, without), self.cross_fitted(method, without, rows)[rows]
            fitted_loss = float(clipped_losses(blend.predict(self.probabilities[:, rows]), labels).mean())
            losses, right = clipped_losses(predictions, labels), accuracy(predictions, labels)
            found.append(Candidate(method, blend, losses, fitted_loss, right))
        best = min(found, key=lambda one: one.cross_fitted_loss).losses
        return [replace(one, behind=paired_difference(one.losses, best, drivers)) for one in found]

    def fitted(self, without: frozenset[int] = frozenset()) -> FinalBlend:
        """Chooses the method and fits what follows it, on all groups but these."""
        rows = self.rows(without)
        if len(np.unique(self.groups[rows])) < 2:  # nothing to choose by
            method = FALLBACK if FALLBACK in self.methods else self.methods[0]
            blend = self.blend(method, without)
            smallest = choose_clip(blend.predict(self.probabilities[:, rows]), self.labels[rows])
            return FinalBlend([], method, blend, np.empty(0), clips=(smallest,) * len(STEPS))
        candidates = self.candidates(without)
        chosen = next(one for one in candidates if one.behind[0] <= one.behind[1] + 1e-9)  # within its standard error
        cross_fitted = self.cross_fitted(chosen.method, without, rows)
        predictions, labels, drivers = cross_fitted[rows], self.labels[rows], self.drivers[rows]
        prior, clips = None, [choose_clip(predictions, labels)]
        if self.match_prior != "no":
            prior = fit_prior(predictions, labels, drivers, self.sets[rows], always=self.match_prior == "yes")
        if prior:
            predictions = prior.predict(predictions, self.sets[rows])
        clips.append(choose_clip(predictions, labels))
        clustering, clouds = None, clouds_among(self.clouds, rows)
        if clouds:
            clustering = fit_clustering(predictions, labels, drivers, clouds, always=self.cluster == "yes")
        if clustering:
            predictions = clustering.predict(predictions, clouds)
        clips.append(choose_clip(predictions, labels))
        graphs = restricted(self.graphs, rows)
        if smoothing := fit_smoothing(predictions, labels, drivers, graphs):
            predictions = smoothing.predict(predictions, graphs)
        clips.append(choose_clip(predictions, labels))
        steps = prior, clustering, smoothing
        return FinalBlend(candidates, chosen.method, chosen.blend, cross_fitted, *steps, tuple(clips))

    def estimated(self) -> Estimate:
        """Predicts each group by what is chosen and fitted on all the others."""
        fits = {group: self.fitted(frozenset({group})) for group in self.all_groups}
        steps = {step: np.empty(self.probabilities.shape[1:]) for step in STEPS}
        for group, fit in fits.items():
            rows = np.flatnonzero(self.groups == group)
            graphs = restricted(self.graphs, rows) if fit.smoothing else {}
            found = fit.predict(self.probabilities[:, rows], self.sets[rows], clouds_among(self.clouds, rows), graphs)
            for step, predictions in found.items():
                steps[step][rows] = predictions
        return Estimate(steps, tuple(fit.method.name for fit in fits.values()))

    def without_each(self, method: Method) -> list[np.ndarray]:
        """Cross-fitted predictions of a method that is fitted without each member in turn; two members at least."""
        predictions = []
        for member in range(len(self.probabilities)):
            others = np.delete(self.probabilities, member, axis=0)
            reduced = NestedCrossValidation(others, self.labels, self.drivers, self.groups, [method])
            predictions.append(reduced.cross_fitted(method, frozenset(), np.arange(len(self.labels))))
        return predictions


def clouds_among(clouds: Sequence[Cloud], rows: np.ndarray) -> list[Cloud]:
    """Those of some images alone (ascending numbers), renumbered from 0; a cloud's rows are all among them, or none."""
    return [(np.searchsorted(rows, own), points) for own, points in clouds if own[0] in rows]


def dealt(sizes: Sequence[int] | np.ndarray, hands: int) -> np.ndarray:
    """Deals things of these sizes, the largest first, each to the hand that has least; shape (things,), from 0."""
    totals, hand_of = np.zeros(hands), np.zeros(len(sizes), dtype=np.int64)
    for thing in np.argsort(-np.asarray(sizes), kind="stable"):
        hand_of[thing] = int(totals.argmin())
        totals[hand_of[thing]] += sizes[thing]
    return hand_of


def groups_of(folds: np.ndarray, drivers: np.ndarray) -> np.ndarray:
    """Groups of drivers: the folds, or, where these are too few or too many, drivers dealt by their images.

    All are of shape (images,), the groups integers from 0. With fewer drivers than groups, each is a group.
    """
    numbers = np.unique(folds, return_inverse=True)[1]
    if FEWEST_GROUPS <= numbers.max() + 1 <= MOST_GROUPS:
        return numbers.astype(np.int64)
    names, places, counts = np.unique(drivers, return_inverse=True, return_counts=True)
    return dealt(counts, min(len(names), MOST_GROUPS - 1))[places]

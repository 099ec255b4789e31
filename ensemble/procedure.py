"""The whole procedure, choose a way, fit it, listen to neighbours, and its nested judgement.

`Procedure.estimated` predicts each group of drivers by the procedure as run on all other groups: every choice in it, of
way, weights, calibration, penalties, clip, prior, neighbours and segments, is made without the drivers judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ensemble.neighbours import Graph
from ensemble.prior import PriorMatching, fit_prior
from ensemble.selection import Choice, CrossFit
from ensemble.transduction import NOTHING, Transduction, fit_transduction
from ensemble.ways import PER_CLASS_WAY, STACKING, Blend


@dataclass(frozen=True, eq=False)
class Fitted:
    """A blend and what follows it.

    Attributes:
        choice: every way, judged; None where there were too few drivers to judge any.
        name: of the way.
        prior: None where it is not matched.
    """

    choice: Choice | None
    name: str
    blend: Blend
    prior: PriorMatching | None
    transduction: Transduction

    @property
    def clip(self) -> float:
        """The clip that is applied last."""
        if self.transduction.smoothing:
            return self.transduction.epsilon
        return self.prior.epsilon if self.prior else self.blend.epsilon


@dataclass(frozen=True, eq=False)
class Estimated:
    """Nested predictions, shape (images, classes): each group by the procedure that never saw it.

    Attributes:
        blend: by the blend alone.
        plain: with what was chosen of the prior, without neighbours.
        final: with what was chosen of neighbours and segments.
        ways: the way that was chosen without each group, in their order.
    """

    blend: np.ndarray
    plain: np.ndarray
    final: np.ndarray
    ways: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Procedure:
    """What the procedure works on.

    Attributes:
        cross_fit: the predictions, and the ways to blend them.
        graphs: neighbours of all images, by feature; empty for none.
        sets: shape (images,), of whole groups: which images share what moves them to the prior.
        match_prior: 'auto', 'yes' or 'no'.
    """

    cross_fit: CrossFit
    graphs: Mapping[str, Graph]
    sets: np.ndarray
    match_prior: str = "auto"

    def fitted(self, without: frozenset[int] = frozenset()) -> Fitted:
        """Runs the procedure on all groups but some."""
        cross_fit = self.cross_fit
        if len(cross_fit.all_groups) - len(without) < 2:
            simple = next((way for way in cross_fit.ways if way.name == "uniform arithmetic"), cross_fit.ways[0])
            return Fitted(None, simple.name, cross_fit.blend(simple, without), None, NOTHING)
        choice, rows = cross_fit.choose(without), cross_fit.rows(without)
        labels, drivers = cross_fit.labels[rows], cross_fit.drivers[rows]
        predictions = choice.winner.cross_fitted[rows]
        prior = fit_prior(predictions, labels, drivers, self.sets[rows], self.match_prior)
        if prior:
            predictions = prior.predict(predictions, self.sets[rows])
        transduction = fit_transduction(predictions, labels, drivers, restricted(self.graphs, rows))
        return Fitted(choice, choice.winner.name, choice.winner.blend, prior, transduction)

    def estimated(self) -> Estimated:
        """Predicts each group by the procedure run on all the others."""
        cross_fit = self.cross_fit
        blend = np.empty(cross_fit.probabilities.shape[1:])
        parts = []
        for group in cross_fit.all_groups:
            rows = np.flatnonzero(cross_fit.groups == group)
            parts.append((rows, self.fitted(frozenset({group}))))
            blend[rows] = parts[-1][1].blend.predict(cross_fit.probabilities[:, rows])
        plain, final = blend.copy(), np.empty_like(blend)
        for rows, one in parts:
            if one.prior and one.choice:
                known = (
                    one.choice.winner.cross_fitted.copy()
                )  # of the other groups, by blends without these rows' labels
                known[rows] = blend[rows]
                shared = np.flatnonzero(self.sets == self.sets[rows[0]])
                plain[rows] = one.prior.predict(known[shared], np.zeros(len(shared)))[np.isin(shared, rows)]
            final[rows] = one.transduction.predict(plain[rows], restricted(self.graphs, rows))
        return Estimated(blend, plain, final, tuple(one.name for _, one in parts))


def restricted(graphs: Mapping[str, Graph], rows: np.ndarray) -> dict[str, Graph]:
    """The graphs of some images alone."""
    return {name: graph.restricted(rows) for name, graph in graphs.items()}


def without_each(cross_fit: CrossFit, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Cross-fitted predictions of a way with all members, and refitted without each in turn; two members at least.

    In place of the ways that choose a penalty, which would take long, plain weights are refitted.
    """
    slow = name in (STACKING, PER_CLASS_WAY)
    way, predictions = cross_fit.way("weighted geometric, calibrated" if slow else name), []
    whole = cross_fit.cross_fitted(way, frozenset(), np.arange(len(cross_fit.labels)))
    for place in range(len(cross_fit.probabilities)):
        kept = [other for other in range(len(cross_fit.probabilities)) if other != place]
        others = np.empty(cross_fit.probabilities.shape[1:])
        for group in cross_fit.all_groups:
            evidence, held_out = cross_fit.evidence(cross_fit.rows(frozenset({group})), kept), cross_fit.groups == group
            others[held_out] = way.fit(evidence).predict(cross_fit.probabilities[kept][:, held_out])
        predictions.append(others)
    return whole, predictions

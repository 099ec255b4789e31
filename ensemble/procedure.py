"""The whole procedure, choose a way, fit it, listen to neighbours, and its nested judgement.

`estimated` predicts each group of drivers by the procedure as run on all other groups: every choice in it (way, weights,
calibration, penalties, clip, neighbours, segments) is made without the drivers that it is judged on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ensemble.neighbours import Graph
from ensemble.selection import Choice, CrossFit
from ensemble.transduction import NOTHING, Transduction, fit_transduction
from ensemble.ways import Blend


@dataclass(frozen=True, eq=False)
class Fitted:
    """A blend and what follows it.

    Attributes:
        choice: every way, judged; None where there were too few drivers to judge any.
        name: of the way.
    """

    choice: Choice | None
    name: str
    blend: Blend
    transduction: Transduction


@dataclass(frozen=True, eq=False)
class Estimated:
    """Nested predictions, shape (images, classes): each group by the procedure that never saw it.

    Attributes:
        plain: without neighbours.
        final: with what was chosen of neighbours and segments.
        ways: the way that was chosen without each group, in their order.
    """

    plain: np.ndarray
    final: np.ndarray
    ways: tuple[str, ...]


def fitted(cross_fit: CrossFit, graphs: Mapping[str, Graph], without: frozenset[int] = frozenset()) -> Fitted:
    """Runs the procedure on all groups but some.

    Args:
        graphs: neighbours of all images, by feature; empty for none.
    """
    if len(cross_fit.all_groups) - len(without) < 2:
        simple = next((way for way in cross_fit.ways if way.name == "uniform arithmetic"), cross_fit.ways[0])
        return Fitted(None, simple.name, cross_fit.blend(simple, without), NOTHING)
    choice = cross_fit.choose(without)
    winner, rows = choice.winner, cross_fit.rows(without)
    transduction = fit_transduction(
        winner.cross_fitted[rows], cross_fit.labels[rows], cross_fit.drivers[rows], restricted(graphs, rows)
    )
    return Fitted(choice, winner.name, winner.blend, transduction)


def estimated(cross_fit: CrossFit, graphs: Mapping[str, Graph]) -> Estimated:
    """Predicts each group by the procedure run on all the others."""
    plain = np.empty(cross_fit.probabilities.shape[1:])
    final, names = np.empty_like(plain), []
    for group in cross_fit.all_groups:
        rows = np.flatnonzero(cross_fit.groups == group)
        without = fitted(cross_fit, graphs, frozenset({group}))
        plain[rows] = without.blend.predict(cross_fit.probabilities[:, rows])
        final[rows] = without.transduction.predict(plain[rows], restricted(graphs, rows))
        names.append(without.name)
    return Estimated(plain, final, tuple(names))


def restricted(graphs: Mapping[str, Graph], rows: np.ndarray) -> dict[str, Graph]:
    """The graphs of some images alone."""
    return {name: graph.restricted(rows) for name, graph in graphs.items()}


def without_each(cross_fit: CrossFit, name: str) -> list[np.ndarray]:
    """Cross-fitted predictions of a way refitted without each member in turn; two members at least."""
    way, predictions = cross_fit.way(name), []
    for place in range(len(cross_fit.probabilities)):
        kept = [other for other in range(len(cross_fit.probabilities)) if other != place]
        others = np.empty(cross_fit.probabilities.shape[1:])
        for group in cross_fit.all_groups:
            evidence, held_out = cross_fit.evidence(cross_fit.rows(frozenset({group})), kept), cross_fit.groups == group
            others[held_out] = way.fit(evidence).predict(cross_fit.probabilities[kept][:, held_out])
        predictions.append(others)
    return predictions

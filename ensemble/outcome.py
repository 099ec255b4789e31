"""Everything that is computed of a blend, before anything is written or said."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from common.errors import UserError
from common.metric import log_loss_per_image
from ensemble import diagnosis, score_tables
from ensemble.expectation import Expectation, expected_loss, guessed_test_drivers
from ensemble.features import graph_of_test, out_of_fold_graphs
from ensemble.members import Predictions
from ensemble.options import Options
from ensemble.pooling import POOLS, uniform_weights
from ensemble.prior import sets_of
from ensemble.procedure import Estimated, Fitted, Procedure, without_each
from ensemble.selection import Choice, CrossFit, groups_of
from ensemble.ways import ways


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished blend.

    Attributes:
        fitted: the chosen way and what follows it, on all drivers.
        nested: predictions out of fold by the whole procedure without the drivers judged.
        cross_fitted: of the way that `without_members` is compared with, shape (images, 10).
        test, test_plain: predictions of the test set with all that was chosen, and without neighbours.
        choice: of the way, on all drivers.
        expectation: of `nested.final`.
        calibrated_members: cross-fitted, shape (members, images, 10).
        guessed_drivers: whether the number of test drivers is a guess.
    """

    predictions: Predictions
    fitted: Fitted
    choice: Choice
    nested: Estimated
    cross_fitted: np.ndarray
    test: np.ndarray
    test_plain: np.ndarray
    expectation: Expectation
    guessed_drivers: bool
    calibrated_members: np.ndarray
    without_members: list[np.ndarray]


def outcome_of(predictions: Predictions, options: Options) -> Outcome:
    """Runs the procedure, judges it, and predicts the test set.

    Raises:
        UserError: there is only one driver, or a file of features is malformed.
    """
    images, labels = predictions.images, predictions.labels
    drivers = images["subject"].to_numpy()
    if len(np.unique(drivers)) < 2:
        raise UserError(
            f"only driver {drivers[0]} is out of fold: a blend must be judged on other drivers than it was fitted on. "
            "Train another fold."
        )
    groups = groups_of(images["fold"].to_numpy(), drivers)
    test_size, known = len(predictions.test_images), len(np.unique(drivers))
    guessed = options.test_drivers == 0
    many = guessed_test_drivers(test_size or len(images), len(images), known) if guessed else options.test_drivers
    spaces = predictions.spaces if options.neighbours else ()
    cross_fit = CrossFit(predictions.out_of_fold, labels, drivers, groups, ways(len(predictions.names)))
    graphs = out_of_fold_graphs(spaces, images, test_size) if spaces else {}
    procedure = Procedure(cross_fit, graphs, sets_of(groups, drivers, many), options.match_prior)
    with threadpool_limits(1):  # many small fits: with a thread a core they took three times as long, waiting
        whole, nested = procedure.fitted(), procedure.estimated()
    if whole.choice is None:
        raise ValueError("expected two groups of drivers at least")

    test = test_plain = whole.blend.predict(predictions.test)
    if test_size and whole.prior:
        test = test_plain = whole.prior.predict(test_plain, np.zeros(test_size))
    if test_size and whole.transduction.smoothing:
        feature = whole.transduction.smoothing.feature
        graph = graph_of_test(spaces, feature, predictions.test_images)
        test = whole.transduction.predict(test_plain, {feature: graph})
    cross_fitted = whole.choice.winner.cross_fitted
    without: list[np.ndarray] = []
    if len(predictions.names) > 1:
        with threadpool_limits(1):
            cross_fitted, without = without_each(cross_fit, whole.name)
    return Outcome(
        predictions=predictions,
        fitted=whole,
        choice=whole.choice,
        nested=nested,
        cross_fitted=cross_fitted,
        test=test,
        test_plain=test_plain,
        expectation=expected_loss(log_loss_per_image(nested.final, labels), drivers, many),
        guessed_drivers=guessed,
        calibrated_members=cross_fit.calibrated_members(),
        without_members=without,
    )


def tables_of(outcome: Outcome) -> dict[str, pd.DataFrame]:
    """The frames of the run folder, by the names of their files without '.csv'."""
    predictions, final = outcome.predictions, outcome.nested.final
    labels, images = predictions.labels, predictions.images
    subjects = images["subject"].to_numpy()
    blend = outcome.fitted.blend
    uniform = POOLS["arithmetic"](predictions.out_of_fold, uniform_weights(len(predictions.names)))
    before = "before: uniform mean" if len(predictions.names) > 1 else "before: the model alone"
    calibrated = [(before, uniform), ("after: blend", outcome.nested.plain)]
    if outcome.fitted.transduction.smoothing:
        calibrated.append(("after: blend with neighbours", final))
    members = zip(predictions.names, predictions.out_of_fold, outcome.calibrated_members, strict=True)
    of_members = [
        pair for name, raw, after in members for pair in ((f"{name}: before", raw), (f"{name}: after", after))
    ]
    rows = [
        *zip(predictions.names, predictions.out_of_fold, strict=True),
        (score_tables.FITTED, blend.predict(predictions.out_of_fold)),
        (score_tables.CROSS_FITTED, outcome.nested.plain),
    ]
    if outcome.fitted.transduction.smoothing:
        rows.append((score_tables.WITH_NEIGHBOURS, final))
    names, scored = zip(*rows, strict=True)
    return {
        "scores": score_tables.scores(names, scored, labels, images["fold"].to_numpy()),
        "ways": score_tables.ways_table(outcome.choice),
        "by_driver": score_tables.by_driver(subjects, final, labels),
        "by_class": score_tables.by_class(final, labels),
        "confusion": diagnosis.confusion(final, labels),
        "correlation": diagnosis.error_correlation(predictions.names, list(predictions.out_of_fold), labels),
        "members": diagnosis.leave_one_out(
            predictions.names,
            [float(share) for share in blend.shares()],
            outcome.cross_fitted,
            outcome.without_members,
            list(predictions.out_of_fold),
            labels,
            subjects,
        ),
        "costliest": diagnosis.costliest(images, final, labels),
        "reliability": diagnosis.reliabilities(calibrated, labels),
        "reliability_of_models": diagnosis.reliabilities(of_members, labels),
    }

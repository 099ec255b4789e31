"""Everything that is computed of a blend, before anything is written or said."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ensemble import diagnosis, report
from ensemble.calibration import match_prior, smoothed_prior
from ensemble.clipping import clip
from ensemble.expectation import Expectation, expected_loss, guessed_test_drivers
from ensemble.features import graph_of_test, out_of_fold_graphs
from ensemble.members import Predictions
from ensemble.options import Options
from ensemble.pooling import POOLS, uniform_weights
from ensemble.procedure import Estimated, Fitted, estimated, fitted, without_each
from ensemble.selection import CrossFit, groups_of
from ensemble.ways import ways
from preprocessing.competition import NUMBER_OF_CLASSES
from preprocessing.errors import UserError
from preprocessing.metric import log_loss, log_loss_per_image


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished blend.

    Attributes:
        fitted: the chosen way and what follows it, on all drivers.
        nested: predictions out of fold by the whole procedure without the drivers judged.
        cross_fitted: of the chosen way alone, shape (images, 10).
        test, test_plain: predictions of the test set with all that was chosen, and without neighbours.
        expectation: of `nested.final`; `expectation_plain`: of `nested.plain`.
        guessed_drivers: whether the number of test drivers is a guess.
        prior_loss: nested log loss if the prior were matched.
    """

    predictions: Predictions
    fitted: Fitted
    nested: Estimated
    cross_fitted: np.ndarray
    test: np.ndarray
    test_plain: np.ndarray
    expectation: Expectation
    expectation_plain: Expectation
    guessed_drivers: bool
    prior_loss: float
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
    cross_fit = CrossFit(predictions.out_of_fold, labels, drivers, groups, ways(len(predictions.names)))
    test_size = len(predictions.test_images)
    spaces = predictions.spaces if options.neighbours else ()
    graphs = out_of_fold_graphs(spaces, images, test_size) if spaces else {}
    whole = fitted(cross_fit, graphs)
    nested = estimated(cross_fit, graphs)
    cross_fitted = cross_fit.cross_fitted(cross_fit.way(whole.name))

    matched = _matched_by_group(nested.final, labels, groups)
    prior_loss = log_loss(matched, labels)
    test_plain = whole.blend.predict(predictions.test)
    test = test_plain
    if whole.transduction.smoothing and test_size:
        feature = whole.transduction.smoothing.feature
        test = whole.transduction.predict(
            test_plain, {feature: graph_of_test(spaces, feature, predictions.test_images)}
        )
    if options.match_prior:
        nested = Estimated(_matched_by_group(nested.plain, labels, groups), matched, nested.ways)
        prior = smoothed_prior(labels, NUMBER_OF_CLASSES)
        test, test_plain = (
            clip(match_prior(table, prior), 1e-6) if test_size else table for table in (test, test_plain)
        )

    guessed = options.test_drivers == 0
    known = len(np.unique(drivers))
    many = guessed_test_drivers(test_size or len(images), len(images), known) if guessed else options.test_drivers
    expectations = [
        expected_loss(log_loss_per_image(table, labels), drivers, many) for table in (nested.final, nested.plain)
    ]
    several = len(predictions.names) > 1
    left_out = without_each(cross_fit, whole.name) if several else []
    return Outcome(
        predictions, whole, nested, cross_fitted, test, test_plain, *expectations, guessed, prior_loss, left_out
    )


def _matched_by_group(table: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each group's predictions moved to the prior of the others, as the test set's would be to that of training."""
    matched = np.empty_like(table)
    for group in np.unique(groups):
        rows = groups == group
        matched[rows] = clip(match_prior(table[rows], smoothed_prior(labels[~rows], NUMBER_OF_CLASSES)), 1e-6)
    return matched


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
    rows = [
        *zip(predictions.names, predictions.out_of_fold, strict=True),
        (report.FITTED, blend.predict(predictions.out_of_fold)),
        (report.CROSS_FITTED, outcome.nested.plain),
    ]
    if outcome.fitted.transduction.smoothing:
        rows.append((report.WITH_NEIGHBOURS, final))
    names, scored = zip(*rows, strict=True)
    return {
        "scores": report.scores(names, scored, labels, images["fold"].to_numpy()),
        "ways": report.ways_table(outcome.fitted.choice),
        "by_driver": report.by_driver(subjects, final, labels),
        "by_class": report.by_class(final, labels),
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
    }

"""Computes everything about a blend, before anything is written or printed."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from common.errors import UserError
from common.metric import accuracy, log_loss, log_loss_per_image
from common.prior import floored
from common.settings import as_json
from ensemble.calibration import Calibration, PriorMatching, clip
from ensemble.expectation import Expectation, expected_loss, guessed_test_drivers
from ensemble.members import Predictions
from ensemble.methods import Blend, methods_for
from ensemble.neighbours import graph_of_test, out_of_fold_graphs
from ensemble.nested import Estimate, FinalBlend, NestedCrossValidation, groups_of
from ensemble.options import Options
from preprocessing.same_driver import UNKNOWN, same_driver

MOST_UNREADABLE = 0.1  # of the photographs, for drivers to be recognised


@dataclass(frozen=True, eq=False)
class BlendResult:
    """A finished blend.

    Attributes:
        final: the chosen method and what follows it, fitted on all drivers.
        nested: predictions of each group of drivers by what was chosen and fitted without it.
        test, test_without_neighbours: predictions of the test set with all that was chosen, and without smoothing.
        expectation: for new drivers, from `nested.final`.
        guessed_drivers: whether the number of test drivers is a guess.
        without_members: cross-fitted predictions without each member in turn; empty for one member.
        recognised: how many drivers prior matching recognised in the test set; None where it could not.
    """

    predictions: Predictions
    final: FinalBlend
    nested: Estimate
    test: np.ndarray
    test_without_neighbours: np.ndarray
    expectation: Expectation
    guessed_drivers: bool
    without_members: list[np.ndarray]
    recognised: int | None

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each member."""
        return dict(zip(self.predictions.names, self.final.blend.weights.tolist(), strict=True))

    def as_json(self) -> dict[str, Any]:
        """All that was chosen, as JSON values; methods.csv has the losses of every method."""
        predictions, final, nested = self.predictions, self.final, self.nested
        return {
            "method": final.method.name,
            "weights": self.weights,
            "blend": final.blend.as_json(),
            "prior": asdict(final.prior) if final.prior else None,
            "recognised_test_drivers": self.recognised,
            "neighbours": asdict(final.smoothing) if final.smoothing else None,
            "clip": final.clip,
            "fold_means": [as_json(one) for one in predictions.fold_means],
            "nested_log_loss_of_blend": log_loss(nested.blend, predictions.labels),
            "nested_log_loss_without_neighbours": log_loss(nested.without_neighbours, predictions.labels),
            "nested_log_loss": log_loss(nested.final, predictions.labels),
            "nested_accuracy": accuracy(nested.final, predictions.labels),
            "nested_methods": list(nested.methods),
            "expectation": as_json(self.expectation) if np.isfinite(self.expectation.highest) else None,
            "images": len(predictions.images),
            "drivers": int(predictions.images["subject"].nunique()),
            "test_images": len(predictions.test_images),
        }


def blended(predictions: Predictions, options: Options) -> BlendResult:
    """Chooses and fits the blend, estimates its loss on new drivers, and predicts the test set.

    Raises:
        UserError: there is only one driver, or a file of features is malformed.
    """
    images, labels = predictions.images, predictions.labels
    drivers = images["subject"].to_numpy()
    known, test_size = len(np.unique(drivers)), len(predictions.test_images)
    if known < 2:
        raise UserError(
            f"only driver {drivers[0]} is out of fold: a blend must be evaluated on other drivers than it was fitted "
            "on. Train another fold."
        )
    groups = groups_of(images["fold"].to_numpy(), drivers)
    test_drivers = options.test_drivers or guessed_test_drivers(test_size or len(images), len(images), known)
    spaces = predictions.spaces if options.neighbours else ()
    recognised = recognised_sets(predictions, groups) if options.match_prior != "no" else None
    sets, test_sets = recognised or (groups, np.zeros(test_size))
    # One bias for the whole test set may help less than one for each group out of fold: only where it is asked for.
    match_prior = "no" if options.match_prior == "auto" and not recognised else options.match_prior
    validation = NestedCrossValidation(
        predictions.out_of_fold,
        labels,
        drivers,
        groups,
        methods_for(len(predictions.names)),
        graphs=out_of_fold_graphs(spaces, images, test_size) if spaces else {},
        sets=sets,
        match_prior=match_prior,
    )
    with threadpool_limits(1):  # many small fits: one thread a core takes three times as long, most of it waiting
        final, nested = validation.fitted(), validation.estimated()
        without_members = validation.without_each(final.method) if len(predictions.names) > 1 else []

    test = without_neighbours = final.blend.predict(predictions.test)
    if test_size and final.prior:
        test = without_neighbours = matched_test(predictions, final.blend, final.prior, test_sets)
    if test_size and final.smoothing:
        graph = graph_of_test(spaces, final.smoothing.feature, predictions.test_images)
        test = final.smoothing.predict(without_neighbours, {final.smoothing.feature: graph})
    return BlendResult(
        predictions,
        final,
        nested,
        clip(test, final.clip),
        clip(without_neighbours, final.clips[1]),
        expected_loss(log_loss_per_image(nested.final, labels), drivers, test_drivers),
        options.test_drivers == 0,
        without_members,
        len(set(test_sets.tolist()) - {UNKNOWN}) if recognised else None,
    )


def matched_test(predictions: Predictions, blend: Blend, prior: PriorMatching, sets: np.ndarray) -> np.ndarray:
    """Predictions of the test set after prior matching; shape (test images, classes).

    Members whose test predictions were matched before, in their pseudo-labels, are not matched again: the biases are
    those of the other members' blend, times these members' share of the weights.
    """
    others = blend.weights * [name not in predictions.matched for name in predictions.names]
    share = others.sum()
    logarithms = np.log(floored(blend.predict(predictions.test)))
    if share > 0:
        unmatched = replace(blend, weights=others / share).predict(predictions.test)
        logarithms += share * (prior.logarithms(unmatched, sets) - np.log(floored(unmatched)))
    return Calibration(prior.scale).predict(softmax(logarithms, axis=1))


def recognised_sets(predictions: Predictions, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Which images share a bias in prior matching, out of fold and of the test set: those that show one driver.

    Drivers are recognised in both in the same way, so that what is fitted out of fold holds for the test set. (Where
    two drivers of different groups are taken for one, these are divided all the same.)

    Args:
        groups: shape (images,), from `groups_of`: no set is in two of them.

    Returns:
        Two arrays of integers, of shape (images,) and (test images,); None without readable photographs.
    """
    if not predictions.photographs:
        return None
    known = same_driver(predictions.photographs, predictions.out_of_fold.mean(axis=0))
    test = same_driver(predictions.test_photographs, predictions.test.mean(axis=0))
    if (np.concatenate([known, test]) == UNKNOWN).mean() >= MOST_UNREADABLE:
        return None
    return np.unique(np.stack([groups, known]), axis=1, return_inverse=True)[1], test

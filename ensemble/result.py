"""Computes everything about a blend, from `Predictions` to `BlendResult`, before anything is written or printed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from common.errors import UserError
from common.metric import accuracy, log_loss, log_loss_per_image
from common.settings import as_json
from ensemble import Options
from ensemble.methods import methods_for
from ensemble.neighbours import Space, graph_of_test, out_of_fold_graphs
from ensemble.nested import STEPS, Estimate, FinalBlend, NestedCrossValidation, groups_of
from preprocessing.same_driver import UNKNOWN, Outlines, clouds_of, same_driver

MOST_UNREADABLE = 0.1  # of the photographs out of fold, or of the test set, for drivers to be recognised
LEVEL = 0.9  # of the prediction interval
DRAWS, RESAMPLINGS = 2000, 100  # of the bootstrap: of drivers, and of the images of each
SMALLEST_LOSS = 1e-6  # nats; keeps logarithms finite where a driver has no loss
PUBLISHED = ((12, 0.15), (50, 0.190), (144, 0.256), (182, 0.289))  # place, private log loss (the first one: about)
TEAMS = 1440


@dataclass(frozen=True, eq=False)
class Predictions:
    """What every blending method works on, wherever it was read from.

    Attributes:
        names: the members, in the order of the first axis of both arrays.
        images: frame img,subject,classname,fold of the images out of fold, in the order of folds.csv.
        labels: shape (images,), the true class as an integer from 0.
        out_of_fold: shape (members, images, 10), float64, rows summing to 1.
        test_images: names of the test images, in the order of the sample submission.
        test: shape (members, test images, 10), float64, rows summing to 1; the mean of the member's fold models,
            sharpened to their confidence.
        scales: what the log-probabilities of that mean were multiplied by, for each member.
        spaces: the members whose features are known.
        photographs, test_photographs: the files of all images, in the order of both; empty where they are not known.
    """

    names: tuple[str, ...]
    images: pd.DataFrame
    labels: np.ndarray
    out_of_fold: np.ndarray
    test_images: pd.Index
    test: np.ndarray
    scales: tuple[float, ...] = ()
    spaces: tuple[Space, ...] = ()
    photographs: tuple[Path, ...] = ()
    test_photographs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Expectation:
    """The estimate of the log loss on new drivers.

    Attributes:
        loss: nested out-of-fold log loss, nats.
        lowest, highest: between them the loss on `test_drivers` new drivers lies with probability `level`.
    """

    loss: float
    lowest: float
    highest: float
    test_drivers: int
    level: float = LEVEL


@dataclass(frozen=True, eq=False)
class BlendResult:
    """A finished blend.

    Attributes:
        final: the chosen method and what follows it, fitted on all drivers.
        nested: predictions of each group of drivers by what was chosen and fitted without it.
        test_steps: clipped predictions of the test set after each of `STEPS`.
        expectation: for new drivers, from `nested.final`.
        without_members: cross-fitted predictions without each member in turn; empty for one member.
        recognised: how many drivers were recognised in the test set; None where none could be.
    """

    predictions: Predictions
    final: FinalBlend
    nested: Estimate
    test_steps: dict[str, np.ndarray]
    expectation: Expectation
    without_members: list[np.ndarray]
    recognised: int | None

    @property
    def test(self) -> np.ndarray:
        """Predictions of the test set with all that was chosen."""
        return self.test_steps[STEPS[-1]]

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
            "clusters": asdict(final.clustering) if final.clustering else None,
            "clip": final.clips[-1],
            "scales_of_fold_means": list(predictions.scales),
            "nested_log_losses": {step: log_loss(table, predictions.labels) for step, table in nested.steps.items()},
            "nested_log_loss": log_loss(nested.final, predictions.labels),
            "nested_accuracy": accuracy(nested.final, predictions.labels),
            "nested_methods": list(nested.methods),
            "expectation": as_json(self.expectation),
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
    guess = round((test_size or len(images)) * known / len(images))
    test_drivers = options.test_drivers or min(max(1, guess), 10_000)  # the most that the option takes
    spaces, names, folds = predictions.spaces, pd.Index(images["img"]), images["fold"].to_numpy()
    asked_for = options.match_prior != "no" or options.driver_clusters != "no"
    recognised = recognised_sets(predictions, groups) if asked_for else None
    sets, test_sets = recognised or (groups, np.zeros(test_size))
    # One bias for the whole test set may help less than one for each group out of fold: only where it is asked for.
    match_prior = "no" if options.match_prior == "auto" and not recognised else options.match_prior
    cluster = recognised is not None and options.driver_clusters != "no"
    validation = NestedCrossValidation(
        predictions.out_of_fold,
        labels,
        drivers,
        groups,
        methods_for(len(predictions.names)),
        graphs=out_of_fold_graphs(spaces, names, folds, test_size) if options.neighbours and spaces else {},
        sets=sets,
        match_prior=match_prior,
        clouds=clouds_of(Outlines.of(predictions.photographs), sets) if cluster else (),
        cluster=options.driver_clusters,
    )
    with threadpool_limits(1):  # many small fits: one thread a core takes three times as long, most of it waiting
        final, nested = validation.fitted(), validation.estimated()
        without_members = validation.without_each(final.method) if len(predictions.names) > 1 else []

    return BlendResult(
        predictions,
        final,
        nested,
        steps_of_test(predictions, final, test_sets),
        expected_loss(log_loss_per_image(nested.final, labels), drivers, test_drivers),
        without_members,
        len(set(test_sets.tolist()) - {UNKNOWN}) if recognised else None,
    )


def steps_of_test(predictions: Predictions, final: FinalBlend, sets: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions of the test set after each of `STEPS`, clipped; reads its photographs and features where needed."""
    clouds, graphs, images = [], {}, predictions.test_images
    if len(images) and final.clustering:
        clouds = clouds_of(Outlines.of(predictions.test_photographs), sets)
    if len(images) and final.smoothing:
        feature = final.smoothing.feature
        graphs = {feature: graph_of_test(predictions.spaces, feature, images)}
    return final.predict(predictions.test, sets, clouds, graphs)


def recognised_sets(predictions: Predictions, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Which images show one driver, out of fold and of the test set; below 0: nobody knows whom.

    Drivers are recognised in both in the same way, so that what is fitted out of fold holds for the test set. No set is
    in two groups: drivers of different ones that are taken for one are divided. None without readable photographs.
    """
    if not predictions.photographs:
        return None
    known = same_driver(predictions.photographs, predictions.out_of_fold.mean(axis=0))
    test = same_driver(predictions.test_photographs, predictions.test.mean(axis=0))
    if any(len(part) and (part == UNKNOWN).mean() >= MOST_UNREADABLE for part in (known, test)):
        return None
    sets = np.unique(np.stack([groups, known]), axis=1, return_inverse=True)[1]
    return np.where(known == UNKNOWN, UNKNOWN - groups, sets), test


def expected_loss(losses: np.ndarray, drivers: np.ndarray, test_drivers: int) -> Expectation:
    """Estimate and prediction interval by a bootstrap over drivers and, within each, over images.

    An interval for the mean over the drivers at hand would be far too narrow: the test set is another draw. Each draw
    here takes as many known drivers with replacement as there are, for what is not known of the mean, and
    `test_drivers` for the test set. The logarithms of their losses, as losses of drivers are skewed and positive,
    differ by an error, which is widened for the variance that a bootstrap of few lacks, and as Student's distribution
    is wider than the normal one.

    Args:
        losses: shape (images,), log loss of each image out of fold, in nats.
        drivers: shape (images,), of two drivers at least.
        test_drivers: how many the test set has, at least 1.

    Source: Davison and Hinkley, Bootstrap methods and their application (1997), 3.8 and 6.3 (prediction errors).
    """
    from scipy.stats import norm, t

    def resampled_means(values: np.ndarray) -> np.ndarray:
        counts = random.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLINGS)
        return np.asarray(counts @ values / len(values))

    def drawn(count: int) -> np.ndarray:
        who = random.integers(known, size=(DRAWS, count))
        values = means[who, random.integers(RESAMPLINGS, size=who.shape)]
        return np.log(np.maximum((values * sizes[who]).sum(axis=1) / sizes[who].sum(axis=1), SMALLEST_LOSS))

    random = np.random.default_rng(0)
    parts = [losses[drivers == driver] for driver in np.unique(drivers)]
    known, sizes = len(parts), np.array([len(part) for part in parts], dtype=np.float64)
    means = np.stack([resampled_means(part) for part in parts])  # (drivers, RESAMPLINGS)
    tail = (1 - LEVEL) / 2
    widened = np.sqrt(known / (known - 1)) * t.ppf(1 - tail, known - 1) / norm.ppf(1 - tail)
    errors = drawn(test_drivers) - drawn(known)
    low, high = np.exp(widened * np.quantile(errors, [tail, 1 - tail]))
    loss = float(losses.mean())
    return Expectation(loss, float(loss * low), float(loss * high), test_drivers)


def place_among_published(loss: float) -> str:
    """Where a private score stands among those that were published: 'between places 12 and 50'."""
    places, better = [place for place, _ in PUBLISHED], sum(score < loss for _, score in PUBLISHED)
    if better == 0:
        return f"place {places[0]} or better"
    if better == len(places):
        return f"behind place {places[-1]}"
    return f"between places {places[better - 1]} and {places[better]}"

"""Bottleneck models: a linear classifier on a frozen network's features, for all folds in one process.

The features take one pass over the images; then a fold takes seconds.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common import environment
from common.competition import CLASSES, NUMBER_OF_CLASSES
from common.errors import UserError
from common.files import written_whole
from common.run_folder import LOG, NETWORK, OUT_OF_FOLD_FEATURES, TEST_FEATURES
from models.finetuning import fold as engine
from models.finetuning import runtime
from models.finetuning.architecture import Recipe
from models.finetuning.data.sources import FoldData, Source, stores
from models.finetuning.fold_run import FoldRun
from models.finetuning.network.build import build, plain_copy, prepare_random_weights
from models.finetuning.network.head import GRIDS, search, softmax
from models.finetuning.network.network import Network
from preprocessing import folds as driver_folds
from preprocessing.dataset import Dataset
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation

COPIES_IN_A_FIT = 5  # of the features, at most
INNER_FOLDS = 4  # at most; the other folds of the run where there are at least three of them


def train_folds(works: Sequence[FoldRun], dataset: Dataset, folds: pd.DataFrame) -> None:
    """As `fold.train_fold`, for fold runs that differ in their fold only; those that are finished are skipped."""
    with contextlib.ExitStack() as held:
        for own in works:
            held.enter_context(own.folder.locked())
        settings = [(own, own.settings(dataset.test, dataset.broken_test)) for own in works]
        left = [(own, values) for own, values in settings if not own.is_finished(values)]
        if left:  # another process may have trained them when this one started
            with engine.failure_recorded([own.folder for own, _ in left]):
                _train(left, dataset, folds)


def _train(work: Sequence[tuple[FoldRun, dict[str, Any]]], dataset: Dataset, folds: pd.DataFrame) -> None:
    started = time.monotonic()
    first = work[0][0]
    settings, recipe = first.recipe, first.recipe.network_recipe()
    numbers, labels = folds["fold"].to_numpy(), folds["classname"].map(CLASSES.index).to_numpy()
    searched = not settings.regularisation or settings.calibrate
    inner = [inner_folds(folds, int(own.fold)) if searched else np.where(numbers == own.fold, -1, 0) for own, _ in work]
    policy = runtime.start(first.precision, first.seed, first.deterministic)
    for own, own_settings in work:
        own.start(own_settings, runtime.versions())
    say = engine.speaker(*(own.folder / LOG for own, _ in work))
    which = " ".join(str(own.fold) for own, _ in work)
    say(f"{first.model_name}, folds {which}: {policy}, seed {first.seed}")

    labelled, test = stores(settings, dataset, folds, first.cache, first.cache_limit)
    network = build(first.architecture, recipe, first.weights, policy, first.seed)
    if first.weights == "none":
        prepare_random_weights(network, labelled, np.arange(len(labelled)))
    features, test_features = _features(first, recipe, policy, network, [labelled, test], say)
    grid = (settings.regularisation,) if settings.regularisation else GRIDS[settings.classifier]
    workers = environment.at_a_time(min(first.workers, environment.cores()), COPIES_IN_A_FIT * features.nbytes)
    choices = search(features, labels, settings.classifier, grid, settings.calibrate, inner, workers)
    model = plain_copy(network, first.architecture, recipe)
    for (own, own_settings), (linear, regularisation) in zip(work, choices, strict=True):
        data = FoldData(labelled, labels, np.flatnonzero(numbers != own.fold), np.flatnonzero(numbers == own.fold))
        held_out = features[data.held_out]
        scores = engine.leave_out_of_fold(own, data, folds, softmax(linear(held_out)))
        engine.leave_features(own.folder / OUT_OF_FOLD_FEATURES, held_out, np.ones(len(held_out), bool))
        engine.leave_test(own, data, dataset, softmax(linear(test_features)))
        engine.leave_features(own.folder / TEST_FEATURES, test_features, engine.readable(dataset))
        engine.leave_history(own, [])
        model.get_layer("head").get_layer("logits").set_weights([linear.kernel, linear.bias])
        with written_whole(own.folder / NETWORK) as temporary:
            model.save(temporary)
        seconds = round(time.monotonic() - started, 1)
        own.require_same_settings(own_settings)
        own.folder.finish({**scores, "regularisation": regularisation, "seconds": seconds}, own.outputs)
        engine.speaker(own.folder / LOG)(
            f"{own.model_name}, fold {own.fold}: held-out log loss {scores['log_loss']:.4f}, accuracy "
            f"{scores['accuracy']:.1%} with C {regularisation:g}",
            True,
        )


def inner_folds(folds: pd.DataFrame, fold: int) -> np.ndarray:
    """Folds of the training part by driver: the run's other folds where there are three or more, else new ones.

    Shape (images,), from 0; -1 for the images of `fold`, which is held out.
    """
    numbers = folds["fold"].to_numpy()
    training = folds[numbers != fold]
    if training["fold"].nunique() >= INNER_FOLDS - 1:
        others = [training[training["fold"] != number] for number in np.unique(training["fold"])]
        if all(table["classname"].nunique() == NUMBER_OF_CLASSES for table in others):
            return np.where(numbers == fold, -1, np.where(numbers > fold, numbers - 1, numbers))
    drivers = training["subject"].nunique()
    try:
        if drivers < 2:
            raise UserError(f"the training part of fold {fold} has one driver.")
        table = driver_folds.make_folds(training, min(INNER_FOLDS, drivers))
    except UserError as error:
        raise UserError(
            f"fold {fold}: too few drivers to choose the regularisation and to calibrate on held-out ones of the "
            f"training part ({error}) Take more --folds or more data, or --classifier logistic --no-calibrate "
            "--regularisation 0.01."
        ) from error
    inner = folds["img"].map(table.set_index("img")["fold"])
    return inner.fillna(-1).to_numpy(dtype=np.int64)


def _features(
    work: FoldRun, recipe: Recipe, policy: str, network: Network, stores: list[ImageStore], say: Callable[[str], None]
) -> list[np.ndarray]:
    """Features of labelled and test images, shape (images, features), float32; from the cache or by one pass."""
    cache, found, started = engine.activation_cache(work, recipe, network, policy, say), [], time.monotonic()
    for store in stores:
        rows, source = np.arange(len(store)), Source(network, store, Augmentation(), work.seed, work.workers)
        found.append((cache.kept(source, rows) if cache else source).predict(rows, "features")[1])
    counts = " + ".join(f"{len(one):,}" for one in found)
    say(f"{found[0].shape[1]:,} features of {counts} images in {time.monotonic() - started:.1f} s")
    return found

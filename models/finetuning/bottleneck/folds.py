"""A classifier on a frozen network's features, for all folds in one process: one pass, then seconds a fold."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from common import machine
from common.competition import CLASSES, NUMBER_OF_CLASSES
from common.errors import UserError
from common.files import written_whole
from models.finetuning import fold as engine
from models.finetuning import needs, outputs, piece, runtime
from models.finetuning.bottleneck.command import network_recipe
from models.finetuning.bottleneck.linear import GRIDS, Choice, Search, softmax
from models.finetuning.data.features import FeatureStore
from models.finetuning.data.sources import FoldData
from models.finetuning.network import head
from models.finetuning.network import weights as pretrained
from models.finetuning.network.build import build, plain_copy, prepare_random_weights
from models.finetuning.network.network import Network
from models.finetuning.piece import Piece
from preprocessing import folds as driver_folds
from preprocessing.dataset import Dataset
from preprocessing.images import ImageStore

COPIES_IN_A_FIT = 5  # of the features, at most
INNER_FOLDS = 4  # at most; the other folds of the run where there are at least three of them
Work = list[tuple[Piece, dict[str, Any]]]


def make_folds(work: Work, dataset: Dataset, folds: pd.DataFrame, cache: Path, cache_limit: int) -> None:
    """Makes pieces that differ in their fold only, and leaves their files in the run folder.

    Args:
        work: the pieces, each with `piece.settings(...)`.
        dataset: the checked data.
        folds: img, subject, classname, fold; in the order of `dataset.train`.
        cache: the cache folder.
        cache_limit: the most bytes of decoded images, activations and features in it.

    Raises:
        UserError: an unknown layer, weights that do not fit, too few drivers, a folder that cannot be written to.
    """
    with contextlib.ExitStack() as held:
        for own, _ in work:
            held.enter_context(piece.held(own))
        left = [(own, settings) for own, settings in work if not piece.is_finished(own, settings)]
        if left:  # another process may have been at them when this one started
            with piece.failure_recorded([own for own, _ in left]):
                _make(left, dataset, folds, cache, cache_limit)


def _make(work: Work, dataset: Dataset, folds: pd.DataFrame, cache: Path, cache_limit: int) -> None:
    begun = time.monotonic()
    first = work[0][0]
    settings, recipe = first.recipe, network_recipe(first.recipe)
    numbers, labels = folds["fold"].to_numpy(), folds["classname"].map(CLASSES.index).to_numpy()
    searched = not settings.regularisation or settings.calibrate
    inner = [inner_folds(folds, int(own.fold)) if searched else np.where(numbers == own.fold, -1, 0) for own, _ in work]
    policy, reason = runtime.start(first.precision, first.seed)
    for own, own_settings in work:
        piece.begin(own, own_settings, runtime.versions(), policy)
    say = engine.speaker(*(own.folder / "log.txt" for own, _ in work))
    which = " ".join(str(own.fold) for own, _ in work)
    say(f"{first.model_name}, folds {which}: {policy} ({reason}), seed {first.seed}")

    labelled, test = engine.stores(settings, dataset, folds, cache, cache_limit)
    network = build(first.architecture, recipe, first.weights, policy, first.seed)
    if first.weights == "none":
        prepare_random_weights(network, labelled, np.arange(len(labelled)))
    features, test_features = _features(first, policy, network, [labelled, test], cache, cache_limit, say)
    grid = (settings.regularisation,) if settings.regularisation else GRIDS[settings.classifier]
    search = Search(np.asarray(features), labels, settings.classifier, grid, settings.calibrate)
    workers = needs.at_a_time(min(first.workers, machine.cores()), COPIES_IN_A_FIT * search.features.nbytes)
    with search.fitting(inner, workers) as choices:
        model = plain_copy(network, lambda: build(first.architecture, recipe, "none", "float32", first.seed))
        for (own, _), choosing in zip(work, choices, strict=True):
            data = FoldData(labelled, labels, np.flatnonzero(numbers != own.fold), np.flatnonzero(numbers == own.fold))
            choice = choosing.result()
            head.set_head(model.get_layer("head"), choice.linear.kernel, choice.linear.bias)
            results: dict[str, Any] = dict(_leave(own, choice, model, data, dataset, folds, features, test_features))
            results |= {"regularisation": choice.regularisation, "seconds": round(time.monotonic() - begun, 1)}
            piece.finish(own, results)
            engine.speaker(own.folder / "log.txt")(
                f"{own.model_name}, fold {own.fold}: held-out log loss {results['log_loss']:.4f}, accuracy "
                f"{results['accuracy']:.1%} with C {choice.regularisation:g}"
            )


def inner_folds(folds: pd.DataFrame, fold: int) -> np.ndarray:
    """Folds of the training part by driver: the run's other folds where there are three or more, else new ones.

    Args:
        folds: img, subject, classname, fold.
        fold: the one that is held out.

    Returns:
        shape (images,), from 0; -1 for the images of `fold`.

    Raises:
        UserError: too few drivers, or a class would be missing from an inner training part.
    """
    numbers = folds["fold"].to_numpy()
    training = folds[numbers != fold]
    if training["fold"].nunique() >= INNER_FOLDS - 1:
        lacking = [n for n in np.unique(training["fold"]) if _lacks_a_class(training[training["fold"] != n])]
        if not lacking:
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


def _lacks_a_class(table: pd.DataFrame) -> bool:
    return table["classname"].nunique() < NUMBER_OF_CLASSES


def _features(
    work: Piece,
    policy: str,
    network: Network,
    stores: list[ImageStore],
    cache: Path,
    limit: int,
    say: Callable[[str], None],
) -> list[np.ndarray]:
    """Features of labelled and test images, from the cache or by one pass."""
    settings, name = work.recipe, work.architecture.name
    decides = {
        "architecture": name,
        "weights": pretrained.identity(work.architecture, work.weights),
        "seed": work.seed if work.weights == "none" else 0,
        "pooled_layers": settings.pooled_layers,
        "pooling": settings.pooling,
        "precision": policy,
        "versions": runtime.versions(),
    }
    store = FeatureStore(f"{name}_{settings.image_size}", decides, stores, cache, limit)
    begun = time.monotonic()
    features = store.read(network, work.workers, say)
    seconds = time.monotonic() - begun
    how = (
        "from the cache"
        if not store.computed
        else f"computed in {seconds:.1f} s, {len(store) / max(seconds, 1e-9):.1f} images/s"
    )
    say(f"{features[0].shape[1]:,} features of {len(features[0]):,} + {len(features[1]):,} images, {how}")
    return features


def _leave(
    work: Piece,
    choice: Choice,
    model: keras.Model,
    data: FoldData,
    dataset: Dataset,
    folds: pd.DataFrame,
    features: np.ndarray,
    test_features: np.ndarray,
) -> dict[str, float]:
    """Writes predictions, features, the search and the network; returns the held-out scores."""
    own = np.asarray(features[data.held_out])
    scores = outputs.leave_out_of_fold(work, data, folds, softmax(choice.linear(own)), own)
    outputs.leave_test(work, data, dataset, softmax(choice.linear(test_features)), test_features)
    outputs.leave_history(work, [])
    columns = ["regularisation", "inner_log_loss", "inner_accuracy"]
    with written_whole(work.folder / "regularisation.csv") as temporary:
        pd.DataFrame(choice.tried, columns=columns).to_csv(temporary, index=False, lineterminator="\n")
    with written_whole(work.folder / "model.keras") as temporary:
        model.save(temporary)
    return scores

"""What a trained fold run leaves: prediction tables, pooled features, history; each written whole or not at all."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.competition import NUMBER_OF_CLASSES
from common.files import written_whole
from common.metric import accuracy, log_loss
from common.run_folder import (
    HISTORY,
    OUT_OF_FOLD,
    OUT_OF_FOLD_FEATURES,
    OUT_OF_FOLD_WITHOUT_TTA,
    TEST,
    TEST_FEATURES,
    TEST_WITHOUT_TTA,
)
from common.tables import write_predictions
from models.finetuning.data.prediction import with_tta
from models.finetuning.data.sources import FoldData, Source
from models.finetuning.fold_run import FoldRun
from models.finetuning.network.network import Network
from preprocessing.dataset import Dataset

PART = 4096  # images whose features are in memory at a time; whole batches of predictions


def leave_predictions(
    work: FoldRun,
    network: Network,
    data: FoldData,
    dataset: Dataset,
    folds: pd.DataFrame,
    trained_on: Source,
    tested_on: Source,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Writes the out-of-fold and test tables and their features; returns the held-out scores."""
    tta = (work.recipe.tta, work.seed, work.workers)
    scores: dict[str, float] = {}
    if len(data.held_out):
        plain, features = trained_on.predict(data.held_out, "held-out drivers")
        probabilities = with_tta(network.predictor, data.store, data.held_out, plain, *tta)
        scores = leave_out_of_fold(work, data, folds, probabilities, features)
    if scores and work.recipe.tta:
        without = leave_out_of_fold(work, data, folds, plain, name=OUT_OF_FOLD_WITHOUT_TTA)
        scores |= {f"{score}_without_tta": value for score, value in without.items()}
        say(f"with --tta {work.recipe.tta}: {scores['log_loss']:.4f}, without: {without['log_loss']:.4f}")
    rows = np.arange(len(tested_on.images))
    plain = _predict_test(work, dataset, tested_on)
    probabilities = with_tta(network.predictor, tested_on.images, rows, plain, *tta)
    leave_test(work, data, dataset, probabilities)
    if work.recipe.tta:
        leave_test(work, data, dataset, plain, name=TEST_WITHOUT_TTA)
    return scores


def _predict_test(work: FoldRun, dataset: Dataset, source: Source) -> np.ndarray:
    """Probabilities of the readable test images, part by part; their features go to the disk on the way."""
    count, width = len(source.images), source.network.predictor.outputs[1].shape[-1]
    found = []
    with _feature_file(work.folder / TEST_FEATURES, _readable(dataset), width) as append:
        for start in range(0, max(1, count), PART):
            title = "test images" + (f", part {start // PART + 1} of {-(-count // PART)}" if count > PART else "")
            probabilities, features = source.predict(np.arange(start, min(start + PART, count)), title)
            append(features)
            found.append(probabilities)
    return np.concatenate(found)


def leave_out_of_fold(
    work: FoldRun,
    data: FoldData,
    folds: pd.DataFrame,
    probabilities: np.ndarray,
    features: np.ndarray | None = None,
    name: str = OUT_OF_FOLD,
) -> dict[str, float]:
    """Writes the table and the features of the held-out drivers; returns their scores."""
    write_predictions(work.folder / name, folds["img"].iloc[data.held_out].tolist(), probabilities)
    if features is not None:
        readable = np.ones(len(features), bool)
        with _feature_file(work.folder / OUT_OF_FOLD_FEATURES, readable, features.shape[1]) as append:
            append(features)
    labels = data.labels[data.held_out]
    return {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels)}


def leave_test(
    work: FoldRun,
    data: FoldData,
    dataset: Dataset,
    probabilities: np.ndarray,
    features: np.ndarray | None = None,
    name: str = TEST,
) -> None:
    """Writes the table and the features of the test images, of which the readable ones are given."""
    readable = _readable(dataset)
    prior = np.bincount(data.labels[data.training], minlength=NUMBER_OF_CLASSES) / len(data.training)
    every = np.tile(prior, (len(dataset.test), 1))  # a test image that cannot be read gets the class prior
    every[readable] = probabilities
    write_predictions(work.folder / name, dataset.test, every)
    if features is not None:
        with _feature_file(work.folder / TEST_FEATURES, readable, features.shape[1]) as append:
            append(features)


def leave_history(work: FoldRun, epochs: Sequence[dict[str, Any]]) -> None:
    """Writes history.csv: a row for each epoch, if there was any."""
    columns = ["epoch", "stage", "training_loss", "held_out_log_loss", "held_out_accuracy", "seconds"]
    with written_whole(work.folder / HISTORY) as temporary:
        pd.DataFrame(epochs, columns=columns).to_csv(temporary, index=False, lineterminator="\n")


def _readable(dataset: Dataset) -> np.ndarray:
    """Shape (test images,), bool."""
    return np.array([img not in dataset.broken_test for img in dataset.test])


@contextlib.contextmanager
def _feature_file(path: Path, readable: np.ndarray, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes features as float16, some at a time: those of a large test set would be a GB in memory.

    Args:
        readable: shape (images,), bool; the others have zeros.
        width: of the features.

    Yields:
        what appends features, shape (some of the readable images, width), in their order.
    """
    largest = np.finfo(np.float16).max
    places = iter(np.flatnonzero(readable))
    with written_whole(path) as temporary:
        stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(len(readable), width))

        def append(features: np.ndarray) -> None:
            for start in range(0, len(features), PART):
                part = features[start : start + PART]
                stored[list(itertools.islice(places, len(part)))] = np.clip(part, -largest, largest)

        yield append
        stored.flush()

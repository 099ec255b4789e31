"""What a trained piece leaves: prediction tables, pooled features, history; each written whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from models.finetuning import piece
from models.finetuning.network import Network
from models.finetuning.piece import Piece
from models.finetuning.sources import Source
from models.finetuning.training import FoldData, Trainer
from models.finetuning.views import mean_with_views
from preprocessing.competition import NUMBER_OF_CLASSES
from preprocessing.dataset import Dataset
from preprocessing.files import written_whole
from preprocessing.metric import accuracy, log_loss
from preprocessing.tables import write_predictions

PART = 2048  # images whose features are converted at a time


def leave_predictions(
    work: Piece,
    network: Network,
    data: FoldData,
    dataset: Dataset,
    folds: pd.DataFrame,
    trained_on: Source,
    tested_on: Source,
    say: Callable[[str], None],
) -> dict[str, float]:
    """Writes the out-of-fold and test tables and their features; returns the held-out scores."""
    views = (work.recipe.tta, work.seed, work.workers)
    scores: dict[str, float] = {}
    if len(data.held_out):
        plain, features = trained_on.predict(data.held_out, "held-out drivers")
        probabilities = mean_with_views(network.predictor, data.store, data.held_out, plain, *views)
        scores = leave_out_of_fold(work, data, folds, probabilities, features)
    if scores and work.recipe.tta:
        without = leave_out_of_fold(work, data, folds, plain, name=piece.OUTPUTS_OF_TTA[0])
        scores |= {f"{score}_without_tta": value for score, value in without.items()}
        say(f"with {work.recipe.tta} views of each image {scores['log_loss']:.4f}, without {without['log_loss']:.4f}")
    rows = np.arange(len(tested_on.images))
    plain, features = tested_on.predict(rows, "test images")
    probabilities = mean_with_views(network.predictor, tested_on.images, rows, plain, *views)
    leave_test(work, data, dataset, probabilities, features)
    if work.recipe.tta:
        leave_test(work, data, dataset, plain, name=piece.OUTPUTS_OF_TTA[1])
    return scores


def leave_out_of_fold(
    work: Piece,
    data: FoldData,
    folds: pd.DataFrame,
    probabilities: np.ndarray,
    features: np.ndarray | None = None,
    name: str = "out_of_fold.csv",
) -> dict[str, float]:
    """Writes the table and the features of the held-out drivers; returns their scores."""
    write_predictions(work.folder / name, folds["img"].iloc[data.held_out].tolist(), probabilities)
    if features is not None:
        _save_features(work.folder / "out_of_fold_features.npy", features, np.ones(len(features), bool))
    labels = data.labels[data.held_out]
    return {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels)}


def leave_test(
    work: Piece,
    data: FoldData,
    dataset: Dataset,
    probabilities: np.ndarray,
    features: np.ndarray | None = None,
    name: str = "test.csv",
) -> None:
    """Writes the table and the features of the test images, of which the readable ones are given."""
    readable = np.array([img not in dataset.broken_test for img in dataset.test])
    prior = np.bincount(data.labels[data.training], minlength=NUMBER_OF_CLASSES) / len(data.training)
    every = np.tile(prior, (len(dataset.test), 1))  # a test image that cannot be read gets the class prior
    every[readable] = probabilities
    write_predictions(work.folder / name, dataset.test, every)
    if features is not None:
        _save_features(work.folder / "test_features.npy", features, readable)


def leave_history(work: Piece, trainer: Trainer) -> None:
    """Writes history.csv: a row for each epoch."""
    columns = ["epoch", "stage", "training_loss", "held_out_log_loss", "held_out_accuracy", "seconds"]
    with written_whole(work.folder / "history.csv") as temporary:
        pd.DataFrame(trainer.progress.history, columns=columns).to_csv(temporary, index=False, lineterminator="\n")


def _save_features(path: Path, features: np.ndarray, readable: np.ndarray) -> None:
    """Writes features as float16 part by part, since all of a large test set's would be hundreds of MB in memory.

    Args:
        features: shape (images that could be read, features).
        readable: shape (images,), bool; the others have zeros.
    """
    largest = np.finfo(np.float16).max
    places = np.flatnonzero(readable)
    with written_whole(path) as temporary:
        shape = (len(readable), features.shape[1])
        stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, len(places), PART):
            part = slice(start, start + PART)
            stored[places[part]] = np.clip(features[part], -largest, largest)
        stored.flush()

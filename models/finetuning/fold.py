"""One piece from its first to its last file: network, head, training, predictions. Runs in a process of its own."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from models.finetuning import head, initialisation, piece, runtime
from models.finetuning.network import Network, build, save_model
from models.finetuning.piece import Piece
from models.finetuning.prediction import predict
from models.finetuning.training import FoldData, Trainer
from models.finetuning.watching import watched
from preprocessing.competition import CLASSES, NUMBER_OF_CLASSES
from preprocessing.dataset import Dataset
from preprocessing.errors import UserError
from preprocessing.files import written_whole
from preprocessing.images import ImageStore
from preprocessing.metric import accuracy, log_loss
from preprocessing.tables import write_predictions


def train_fold(
    work: Piece, dataset: Dataset, folds: pd.DataFrame, settings: dict, cache: Path, cache_limit: int
) -> None:
    """Trains one fold and leaves its files in the run folder.

    Args:
        work: what to train.
        dataset: the checked data.
        folds: img, subject, classname, fold; in the order of `dataset.train`.
        settings: `work.settings(...)`.
        cache: the cache folder.
        cache_limit: the most bytes of decoded images in it.

    Raises:
        UserError: weights that do not fit, a loss that is no longer a number, a folder that cannot be written to.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    with piece.held(work):
        _train(work, dataset, folds, settings, cache, cache_limit)


def _train(work: Piece, dataset: Dataset, folds: pd.DataFrame, settings: dict, cache: Path, cache_limit: int) -> None:
    begun = time.monotonic()
    policy, reason = runtime.start(work.precision, work.seed)
    piece.begin(work, settings, runtime.versions(), policy)
    say = _speaker(work.folder / "log.txt")
    say(f"{work.model_name}, fold {work.fold}: {policy} ({reason}), seed {work.seed}")
    say(work.changes())

    network = build(work.architecture, work.recipe, work.weights, policy, work.seed)
    labelled, test = _stores(work, dataset, folds, cache, cache_limit, say)
    data = _fold_data(work, folds, labelled)
    say(
        f"{len(data.training):,} training images, {len(data.held_out):,} of held-out drivers, {len(test):,} test images"
    )

    trainer = Trainer(
        network,
        work.recipe,
        work.augmentation,
        data,
        precision=policy,
        seed=work.seed,
        workers=work.workers,
        checkpoint_path=work.folder / piece.CHECKPOINT,
        say=say,
    )
    if work.weights == "none":
        sample = data.training[np.linspace(0, len(data.training) - 1, initialisation.IMAGES).astype(int)]
        initialisation.prepare_random_weights(network, np.stack([labelled.read(int(row)) for row in sample]))
    if not trainer.resume() and work.recipe.head_start == "logistic":
        _start_head(network, work, data, say)
    with watched(work, settings, trainer):
        trainer.train()

    results = _leave_predictions(work, network, data, dataset, folds, test)
    _leave_history(work, trainer)
    with written_whole(work.folder / "model.keras") as temporary:
        save_model(network, lambda: build(work.architecture, work.recipe, "none", "float32", work.seed), temporary)
    results |= {"best_epoch": trainer.progress.best_epoch, "seconds": round(time.monotonic() - begun, 1)}
    piece.finish(work, results)
    shutil.rmtree(work.folder / "checkpoint", ignore_errors=True)
    say(
        f"{work.model_name}, fold {work.fold}: held-out log loss {results['log_loss']:.4f}, accuracy "
        f"{results['accuracy']:.1%} with the weights of epoch {results['best_epoch']}, {results['seconds']:.0f} s"
    )


def _speaker(log: Path) -> Callable[[str], None]:
    """Prints a line and keeps it in the log."""
    from tqdm import tqdm

    def say(line: str) -> None:
        tqdm.write(line)
        try:
            with log.open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        except OSError as error:
            raise UserError(f"cannot write {log}: {error.strerror}. The same command goes on from here.") from error

    return say


def _stores(
    work: Piece, dataset: Dataset, folds: pd.DataFrame, cache: Path, limit: int, say: Callable[[str], None]
) -> tuple[ImageStore, ImageStore]:
    """Decoded images, labelled and test (unreadable test images left out)."""
    labelled_paths = [dataset.train_path(row.img, row.classname) for row in folds.itertuples()]
    test_paths = [dataset.test_path(img) for img in dataset.test if img not in dataset.broken_test]
    size, crop, fingerprint = work.recipe.image_size, work.recipe.crop, dataset.fingerprint
    labelled = ImageStore(labelled_paths, size, cache, fingerprint, limit, crop)
    test = ImageStore(test_paths, size, cache, fingerprint, limit, crop)
    labelled.prepare(work.workers, say, keep=[test])
    test.prepare(work.workers, say, keep=[labelled])
    return labelled, test


def _fold_data(work: Piece, folds: pd.DataFrame, store: ImageStore) -> FoldData:
    labels = folds["classname"].map(CLASSES.index).to_numpy()
    numbers = folds["fold"].to_numpy()
    training = np.flatnonzero(numbers != work.fold)
    if 0 < work.recipe.train_images < len(training):  # rows follow the videos, so every n-th row thins each of them
        training = training[np.linspace(0, len(training) - 1, work.recipe.train_images).round().astype(int)]
    lost = sorted(set(range(NUMBER_OF_CLASSES)) - set(labels[training]))
    if lost:
        raise UserError(
            f"--train-images {work.recipe.train_images} leaves no image of {', '.join(CLASSES[k] for k in lost)} to "
            "train on. Use more."
        )
    return FoldData(store, labels, training, np.flatnonzero(numbers == work.fold))


def _start_head(network: Network, work: Piece, data: FoldData, say: Callable[[str], None]) -> None:
    """Sets the head to the logistic regression on the network's features as they are before training."""
    _, features = predict(network.predictor, data.store, data.training, work.workers, "features for the head")
    kernel, bias = head.fit_logistic(
        features, data.labels[data.training], work.recipe.head_regularisation, NUMBER_OF_CLASSES
    )
    head.set_head(network.head, kernel, bias)
    size, strength = features.shape[1], work.recipe.head_regularisation
    say(f"the head starts as a logistic regression on {size:,} frozen features (C {strength:g})")


def _leave_predictions(
    work: Piece, network: Network, data: FoldData, dataset: Dataset, folds: pd.DataFrame, test: ImageStore
) -> dict[str, float]:
    """Writes the out-of-fold and test tables and their features; returns the held-out scores."""
    probabilities, features = predict(network.predictor, data.store, data.held_out, work.workers, "held-out drivers")
    write_predictions(work.folder / "out_of_fold.csv", folds["img"].iloc[data.held_out].tolist(), probabilities)
    _save_array(work.folder / "out_of_fold_features.npy", features)
    labels = data.labels[data.held_out]
    scores = {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels)}

    test_probabilities, test_features = predict(
        network.predictor, test, np.arange(len(test)), work.workers, "test images"
    )
    readable = np.array([img not in dataset.broken_test for img in dataset.test])
    prior = np.bincount(data.labels[data.training], minlength=NUMBER_OF_CLASSES) / len(data.training)
    every = np.tile(prior, (len(dataset.test), 1))  # a test image that cannot be read gets the class prior
    every[readable] = test_probabilities
    every_feature = np.zeros((len(dataset.test), test_features.shape[1]), np.float32)
    every_feature[readable] = test_features
    write_predictions(work.folder / "test.csv", dataset.test, every)
    _save_array(work.folder / "test_features.npy", every_feature)
    return scores


def _leave_history(work: Piece, trainer: Trainer) -> None:
    columns = ["epoch", "stage", "training_loss", "held_out_log_loss", "held_out_accuracy", "seconds"]
    with written_whole(work.folder / "history.csv") as temporary:
        pd.DataFrame(trainer.progress.history, columns=columns).to_csv(temporary, index=False, lineterminator="\n")


def _save_array(path: Path, array: np.ndarray) -> None:
    largest = np.finfo(np.float16).max
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.clip(array, -largest, largest).astype(np.float16), allow_pickle=False)

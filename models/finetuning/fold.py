"""One fold run from its first to its last file: network, head, training, predictions. Runs in its own process."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import errors, run_folder
from common.competition import NUMBER_OF_CLASSES
from common.errors import UserError, last_line, masked
from common.files import cannot_write, written_whole
from common.metric import accuracy, log_loss
from common.run_folder import FoldFolder
from common.tables import write_predictions
from models.finetuning import runtime
from models.finetuning.architecture import Recipe
from models.finetuning.data.activations import ActivationCache, split
from models.finetuning.data.sources import FoldData, Source, fold_data, stores, with_pseudo_labels, with_tta
from models.finetuning.fold_run import FoldRun, pseudo_settings
from models.finetuning.network import weights
from models.finetuning.network.build import build, plain_copy, prepare_random_weights
from models.finetuning.network.head import fit_logistic
from models.finetuning.network.network import Network
from models.finetuning.training.tracking import watched
from models.finetuning.training.trainer import Trainer
from preprocessing.dataset import Dataset
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation

LONGEST_SILENCE = 60  # seconds
PART = 4096  # test images whose features are in memory at a time; whole batches of predictions

Say = Callable[..., None]


def train_fold(work: FoldRun, dataset: Dataset, folds: pd.DataFrame) -> None:
    """Trains one fold and leaves its files in the run folder; `folds` has the order of `dataset.train`."""
    with work.folder.locked():
        settings = work.settings(dataset.test, dataset.broken_test)
        if work.is_finished(settings):  # by a process that trained it when this one started
            return
        with failure_recorded([work.folder]):
            _train(work, dataset, folds, settings)


def _train(work: FoldRun, dataset: Dataset, folds: pd.DataFrame, settings: dict[str, Any]) -> None:
    started = time.monotonic()
    policy = runtime.start(work.precision, work.seed, work.deterministic)
    work.start(settings, runtime.versions())
    say = speaker(work.folder / run_folder.LOG)
    same, why = runtime.choose_determinism(work.deterministic)
    words = f"{policy}, {'' if same else 'not '}deterministic ({why}), seed {work.seed}"
    say(f"{work.model_name}, fold {work.fold}: {words}")
    say(work.changes())
    say(work.configuration())

    network = build(work.architecture, work.recipe, work.weights, policy, work.seed)
    labelled, test = stores(work.recipe, dataset, folds, work.cache, work.cache_limit)
    labelled.prepare(work.workers, say, keep=[test])
    test.prepare(work.workers, say, keep=[labelled])
    data = fold_data(work.recipe, work.fold, folds, labelled)
    counts = f"{len(data.training):,} training images, {len(data.held_out):,} of held-out drivers"
    say(f"{counts}, {len(test):,} test images")

    trained_on, tested_on = _sources(work, network, data, test, policy, say)
    if tables := work.pseudo_tables():
        if not pseudo_settings(tables).items() <= settings.items():
            raise UserError(
                f"--pseudo-labels {work.recipe.pseudo_labels}: that run has changed since this fold began; it may "
                "still be training. Start again when it is finished."
            )
        say(f"pseudo-labels of {len(test):,} test images from {len(tables)} tables: {', '.join(map(str, tables))}")
    trained_on = with_pseudo_labels(tables, work.recipe, dataset, data, trained_on, tested_on)
    checkpoint = work.folder / run_folder.CHECKPOINT
    trainer = train_network(work, network, data, trained_on, policy, checkpoint, say, settings)

    results = _leave_predictions(work, network.predictor, data, dataset, folds, trained_on, tested_on)
    leave_history(work, trainer.progress.history)
    with written_whole(work.folder / run_folder.NETWORK) as temporary:
        plain_copy(network, work.architecture, work.recipe).save(temporary)
    results |= {"best_epoch": trainer.progress.best_epoch, "seconds": round(time.monotonic() - started, 1)}
    work.require_same_settings(settings)  # another process may have finished a fold with others
    work.folder.finish(results, work.outputs)
    evaluated = "nobody held out"
    if "log_loss" in results:
        evaluated = f"held-out log loss {results['log_loss']:.4f}, accuracy {results['accuracy']:.1%}"
    epochs = f"best epoch {results['best_epoch']} of {len(trainer.progress.history)}"
    say(f"{work.model_name}, fold {work.fold}: {evaluated}, {epochs}, {results['seconds']:.0f} s", True)


def train_network(
    work: FoldRun,
    network: Network,
    data: FoldData,
    source: Source,
    policy: str,
    checkpoint: Path,
    say: Say,
    settings: dict[str, Any],
) -> Trainer:
    """Starts the head and trains the network, which is left with its best weights; goes on from a checkpoint."""
    trainer = Trainer(network, work.recipe, data, source, policy, work.seed, checkpoint, say)
    if work.weights == "none":
        prepare_random_weights(network, data.store, data.training)
    if not trainer.resume() and work.recipe.head_start == "logistic":
        _, features = source.predict(data.training, "features for the head")
        strength = work.recipe.head_regularisation
        network.head.get_layer("logits").set_weights(fit_logistic(features, data.labels[data.training], strength))
        say(f"the head starts as a logistic regression on {features.shape[1]:,} frozen features (C {strength:g})")
    with watched(work, settings, trainer):
        trainer.train()
    return trainer


def _sources(
    work: FoldRun, network: Network, data: FoldData, test: ImageStore, policy: str, say: Say
) -> tuple[Source, Source]:
    """Where the inputs for the labelled and the test images come from: photographs, or activations of frozen layers.

    No activations with random weights or where each fold takes other images: no two folds would share anything.
    """
    augmentation = work.augmentation or Augmentation()
    labelled = Source(network, data.store, augmentation, work.seed, work.workers)
    tested = Source(network, test, augmentation, work.seed, work.workers)
    shared = work.weights != "none" and len(data.training) + len(data.held_out) == len(data.labels)
    wanted = work.activations == "yes" or (work.activations == "auto" and not runtime.has_accelerator())
    activations = activation_cache(work, work.recipe, network, policy, say) if shared and wanted else None
    return activations.sources(labelled, tested, data, work.recipe) if activations else (labelled, tested)


def activation_cache(work: FoldRun, recipe: Recipe, network: Network, policy: str, say: Say) -> ActivationCache | None:
    """The activations of a network's frozen layers; None where there is nothing to keep."""
    parts = split(network, recipe)
    if parts is None:
        return None
    decides: dict[str, Any] = {
        "weights": weights.identity(work.architecture, work.weights),
        "precision": policy,
        "versions": runtime.versions(),
        "pooled_layers": recipe.pooled_layers,
        "pooling": recipe.pooling,  # where the boundary is the features themselves
    }
    if work.weights == "none":
        decides["seed"] = work.seed
    return ActivationCache(parts, work.cache, work.cache_limit, work.architecture.name, decides, say)


def speaker(*logs: Path) -> Say:
    """Keeps a line in the logs, and prints those for which a second argument is true, notes, and with --verbose all.

    Where no bar is seen, so that nothing else shows that it works, a line a minute is printed.
    """
    verbose, label = errors.VERBOSE in os.environ, os.environ.get(errors.LABEL, "")
    printed = time.monotonic()

    def say(line: str, shown: bool = False) -> None:
        nonlocal printed
        silent = time.monotonic() - printed > LONGEST_SILENCE and not errors.is_watched()
        if shown or verbose or silent or line.startswith("note: "):
            errors.say(line if shown or not label else f"{label} | {line}", sys.stdout)
            printed = time.monotonic()
        for log in logs:
            try:
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            except OSError as error:
                raise cannot_write(log, error) from error

    return say


@contextlib.contextmanager
def failure_recorded(folders: Sequence[FoldFolder]) -> Iterator[None]:
    """Writes what an exception says to failed.json of each fold run, and a bug's traceback to its log.txt."""
    try:
        yield
    except Exception as error:
        for folder in folders:
            reason = f"failed: {error}"
            if not isinstance(error, UserError):
                with contextlib.suppress(OSError), (folder / run_folder.LOG).open("a", encoding="utf-8") as stream:
                    stream.write(masked(traceback.format_exc()))
                reason = f"failed: {last_line(error)} (full traceback: {folder / run_folder.LOG})"
            folder.fail(reason)
        raise


def _leave_predictions(
    work: FoldRun, predictor: Any, data: FoldData, dataset: Dataset, folds: pd.DataFrame, labelled: Source, test: Source
) -> dict[str, Any]:
    """Writes the out-of-fold and test tables and their features; returns the held-out scores."""
    copies, scores = work.recipe.tta, dict[str, Any]()
    if len(data.held_out):
        plain, features = labelled.predict(data.held_out, "held-out drivers")
        scores = leave_out_of_fold(work, data, folds, with_tta(predictor, labelled, data.held_out, plain, copies))
        leave_features(work.folder / run_folder.OUT_OF_FOLD_FEATURES, features, np.ones(len(features), bool))
        if copies:
            without = leave_out_of_fold(work, data, folds, plain, name=run_folder.OUT_OF_FOLD_WITHOUT_TTA)
            scores |= {f"{score}_without_tta": value for score, value in without.items()}
    plain = _predict_test(work, dataset, test)
    leave_test(work, data, dataset, with_tta(predictor, test, np.arange(len(plain)), plain, copies))
    if copies:
        leave_test(work, data, dataset, plain, name=run_folder.TEST_WITHOUT_TTA)
    return scores


def _predict_test(work: FoldRun, dataset: Dataset, source: Source) -> np.ndarray:
    """Probabilities of the readable test images, part by part; their features go to the disk on the way."""
    places, width = np.flatnonzero(readable(dataset)), source.network.predictor.outputs[1].shape[-1]
    found = np.empty((len(places), NUMBER_OF_CLASSES), np.float32)
    with _stored_features(work.folder / run_folder.TEST_FEATURES, len(dataset.test), width) as stored:
        for start in range(0, len(places), PART):
            rows = np.arange(start, min(start + PART, len(places)))
            found[rows], features = source.predict(rows, f"test images from {start:,} of {len(places):,}")
            stored[places[rows]] = _as_half(features)
    return found


def leave_out_of_fold(
    work: FoldRun, data: FoldData, folds: pd.DataFrame, probabilities: np.ndarray, name: str = run_folder.OUT_OF_FOLD
) -> dict[str, float]:
    """Writes the table of the held-out drivers; returns their scores."""
    write_predictions(work.folder / name, folds["img"].iloc[data.held_out].tolist(), probabilities)
    labels = data.labels[data.held_out]
    return {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels)}


def leave_test(
    work: FoldRun, data: FoldData, dataset: Dataset, probabilities: np.ndarray, name: str = run_folder.TEST
) -> None:
    """Writes the table of the test images, of which the readable ones are given."""
    prior = np.bincount(data.labels[data.training], minlength=NUMBER_OF_CLASSES) / len(data.training)
    every = np.tile(prior, (len(dataset.test), 1))  # a test image that cannot be read gets the class prior
    every[readable(dataset)] = probabilities
    write_predictions(work.folder / name, dataset.test, every)


def leave_features(path: Path, features: np.ndarray, known: np.ndarray) -> None:
    """Writes the features of the `known` images, shape (images,), bool; those of the others are zeros."""
    places = np.flatnonzero(known)
    with _stored_features(path, len(known), features.shape[1]) as stored:
        for start in range(0, len(features), PART):
            stored[places[start : start + PART]] = _as_half(features[start : start + PART])


def leave_history(work: FoldRun, epochs: Sequence[dict[str, Any]]) -> None:
    """Writes history.csv: a row for each epoch, if there was any."""
    columns = ["epoch", "stage", "training_loss", "held_out_log_loss", "held_out_accuracy", "seconds"]
    with written_whole(work.folder / run_folder.HISTORY) as temporary:
        pd.DataFrame(epochs, columns=columns).to_csv(temporary, index=False, lineterminator="\n")


def readable(dataset: Dataset) -> np.ndarray:
    """Shape (test images,), bool."""
    return np.array([img not in dataset.broken_test for img in dataset.test])


def _as_half(features: np.ndarray) -> np.ndarray:
    largest = np.finfo(np.float16).max
    return np.clip(features, -largest, largest).astype(np.float16)


@contextlib.contextmanager
def _stored_features(path: Path, images: int, width: int) -> Iterator[np.ndarray]:
    """An array of zeros of shape (images, width) that is a file: of a large test set it would be a GB in memory."""
    with written_whole(path) as temporary:
        stored = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=(images, width))
        yield stored
        stored.flush()

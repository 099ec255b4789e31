"""One fold run from its first to its last file: network, head, training, predictions. Runs in its own process."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import terminal
from common.competition import CLASSES, NUMBER_OF_CLASSES
from common.errors import UserError, last_line, masked
from common.files import written_whole
from common.run_folder import ALL_DRIVERS, CHECKPOINT, LOG, NETWORK, FoldFolder
from models.finetuning import outputs, runtime
from models.finetuning.data.pseudo_labels import SHA256, identity, matched, soft_targets
from models.finetuning.data.sources import ActivationCache, FoldData, Source, WithPseudoLabels
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import head
from models.finetuning.network import weights as pretrained
from models.finetuning.network.build import build, plain_copy, prepare_random_weights
from models.finetuning.network.frozen import split
from models.finetuning.network.network import Network
from models.finetuning.recipe import Recipe
from models.finetuning.training.tracking import watched
from models.finetuning.training.trainer import Trainer
from preprocessing.dataset import Dataset
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation

LONGEST_SILENCE = 60  # seconds


def train_fold(work: FoldRun, dataset: Dataset, folds: pd.DataFrame) -> None:
    """Trains one fold and leaves its files in the run folder.

    Args:
        work: what to train.
        dataset: the checked data.
        folds: img, subject, classname, fold; in the order of `dataset.train`.

    Raises:
        UserError: weights that do not fit, a loss that is no longer a number, a folder that cannot be written to.
    """
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
    say = speaker(work.folder / LOG)
    same, why = runtime.choose_determinism(work.deterministic)
    words = f"{policy}, {'' if same else 'not '}deterministic ({why}), seed {work.seed}"
    say(f"{work.model_name}, fold {work.fold}: {words}")
    say(work.changes())
    say(work.configuration())

    network = build(work.architecture, work.recipe, work.weights, policy, work.seed)
    labelled, test = _stores(work, dataset, folds, say)
    data = fold_data(work, folds, labelled)
    say(
        f"{len(data.training):,} training images, {len(data.held_out):,} of held-out drivers, {len(test):,} test images"
    )

    trained_on, tested_on = _sources(work, network, data, test, policy, say)
    trained_on = _with_pseudo_labels(work, dataset, data, settings, trained_on, tested_on, say)
    trainer = train_network(
        work,
        network,
        data,
        trained_on,
        policy,
        work.folder / CHECKPOINT,
        say,
        watch=lambda trainer: watched(work, settings, trainer),
    )

    results = outputs.leave_predictions(work, network, data, dataset, folds, trained_on, tested_on, say)
    outputs.leave_history(work, trainer.progress.history)
    with written_whole(work.folder / NETWORK) as temporary:
        plain_copy(network, lambda: build(work.architecture, work.recipe, "none", "float32", work.seed)).save(temporary)
    results |= {"best_epoch": trainer.progress.best_epoch, "seconds": round(time.monotonic() - started, 1)}
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
    say: Callable[[str], None],
    watch: Callable[[Trainer], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Trainer:
    """Starts the head and trains the network, which is left with its best weights; goes on from a checkpoint.

    Args:
        source: of the labelled images.
        watch: entered while it trains.
    """
    trainer = Trainer(
        network,
        work.recipe,
        data,
        source,
        precision=policy,
        seed=work.seed,
        checkpoint_path=checkpoint,
        say=say,
    )
    if work.weights == "none":
        prepare_random_weights(network, data.store, data.training)
    if not trainer.resume() and work.recipe.head_start == "logistic":
        _start_head(network, source, work, data, say)
    with watch(trainer):
        trainer.train()
    return trainer


def _sources(
    work: FoldRun,
    network: Network,
    data: FoldData,
    test: ImageStore,
    policy: str,
    say: Callable[[str], None],
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


def activation_cache(
    work: FoldRun, recipe: Recipe, network: Network, policy: str, say: Callable[[str], None]
) -> ActivationCache | None:
    """The activations of a network's frozen layers; None where there is nothing to keep."""
    parts = split(network, recipe)
    if parts is None:
        return None
    decides: dict[str, Any] = {
        "weights": pretrained.identity(work.architecture, work.weights),
        "precision": policy,
        "versions": runtime.versions(),
        "pooled_layers": recipe.pooled_layers,
        "pooling": recipe.pooling,  # where the boundary is the features themselves
    }
    if work.weights == "none":
        decides["seed"] = work.seed
    return ActivationCache(parts, work.cache, work.cache_limit, work.architecture.name, decides, say)


def _with_pseudo_labels(
    work: FoldRun,
    dataset: Dataset,
    data: FoldData,
    settings: dict,
    labelled: Source,
    test: Source,
    say: Callable[[str], None],
) -> Source:
    """The labelled images, and what an earlier run believes of the test images besides, where the recipe wants that."""
    tables = work.pseudo_tables()
    if not tables:
        return labelled
    if identity(tables) != settings[SHA256]:
        raise UserError(
            f"--pseudo-labels {work.recipe.pseudo_labels}: that run has changed since this fold began; it may still be "
            f"training. Wait for it, or name one of its models: --pseudo-labels RUN/{tables[0].parts[-3]}"
        )
    images = [img for img in dataset.test if img not in dataset.broken_test]
    soft = soft_targets(tables, images)
    if work.recipe.pseudo_prior:
        paths = [dataset.test_path(img) for img in images]
        soft = matched(soft, paths, data.labels[data.training], work.workers)
    say(f"pseudo-labels of {len(soft):,} test images from {len(tables)} tables: {', '.join(map(str, tables))}")
    return WithPseudoLabels(labelled, test, soft, work.recipe.pseudo_ratio)


def speaker(*logs: Path) -> Callable[..., None]:
    """Keeps a line in the logs, and prints those for which a second argument is true, notes, and with --verbose all.

    Where no bar is seen, so that nothing else shows that it works, a line a minute is printed.
    """
    verbose, label = terminal.VERBOSE in os.environ, os.environ.get(terminal.LABEL, "")
    printed = time.monotonic()

    def say(line: str, shown: bool = False) -> None:
        nonlocal printed
        silent = time.monotonic() - printed > LONGEST_SILENCE and not terminal.is_watched()
        if shown or verbose or silent or line.startswith("note: "):
            terminal.say(line if shown or not label else f"{label} | {line}", sys.stdout)
            printed = time.monotonic()
        for log in logs:
            try:
                with log.open("a", encoding="utf-8") as stream:
                    stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            except OSError as error:
                raise UserError(
                    f"cannot write {log}: {error.strerror}. Free some space or make it writable; the same command "
                    "resumes."
                ) from error

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
                with contextlib.suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as stream:
                    stream.write(masked(traceback.format_exc()))
                reason = f"failed: {last_line(error)} (full traceback: {folder / LOG})"
            folder.fail(reason)
        raise


def _stores(
    work: FoldRun, dataset: Dataset, folds: pd.DataFrame, say: Callable[[str], None]
) -> tuple[ImageStore, ImageStore]:
    """Decoded images, labelled and test (unreadable test images left out)."""
    labelled, test = stores(work.recipe, dataset, folds, work.cache, work.cache_limit)
    labelled.prepare(work.workers, say, keep=[test])
    test.prepare(work.workers, say, keep=[labelled])
    return labelled, test


def stores(
    recipe: Any, dataset: Dataset, folds: pd.DataFrame, cache: Path, limit: int
) -> tuple[ImageStore, ImageStore]:
    """The labelled and the readable test images at the recipe's size and crop, nothing decoded yet."""
    labelled = [dataset.train_path(row.img, row.classname) for row in folds.itertuples()]
    test = [dataset.test_path(img) for img in dataset.test if img not in dataset.broken_test]
    size, crop, fingerprint = recipe.image_size, recipe.crop, dataset.fingerprint
    return (
        ImageStore(labelled, size, cache, fingerprint, limit, crop),
        ImageStore(test, size, cache, fingerprint, limit, crop),
    )


def fold_data(work: FoldRun, folds: pd.DataFrame, store: ImageStore) -> FoldData:
    """Which of the labelled images a fold trains on and which it holds out.

    Args:
        folds: img, subject, classname, fold; rows as in `store`.

    Raises:
        UserError: --train-images leaves a class without any image.
    """
    labels = folds["classname"].map(CLASSES.index).to_numpy()
    numbers = folds["fold"].to_numpy()
    held_out = np.zeros(len(numbers), bool) if work.fold == ALL_DRIVERS else numbers == work.fold
    training = np.flatnonzero(~held_out)
    if 0 < work.recipe.train_images < len(training):  # rows follow the videos, so every n-th row thins each of them
        training = training[np.linspace(0, len(training) - 1, work.recipe.train_images).round().astype(int)]
    lost = sorted(set(range(NUMBER_OF_CLASSES)) - set(labels[training]))
    if lost:
        raise UserError(
            f"--train-images {work.recipe.train_images} leaves no image of {', '.join(CLASSES[k] for k in lost)} to "
            "train on. Use more."
        )
    return FoldData(store, labels, training, np.flatnonzero(held_out))


def _start_head(network: Network, source: Source, work: FoldRun, data: FoldData, say: Callable[[str], None]) -> None:
    """Sets the head to the logistic regression on the network's features as they are before training."""
    _, features = source.predict(data.training, "features for the head")
    kernel, bias = head.fit_logistic(
        features, data.labels[data.training], work.recipe.head_regularisation, NUMBER_OF_CLASSES
    )
    head.set_head(network.head, kernel, bias)
    size, strength = features.shape[1], work.recipe.head_regularisation
    say(f"the head starts as a logistic regression on {size:,} frozen features (C {strength:g})")

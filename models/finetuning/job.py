"""One training job in this process (`python models/NAME.py --config FILE --fold K`), and its description."""

import dataclasses
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.environment import LESS_MEMORY, OF_EXECUTOR, with_threads
from common.errors import UserError, run_command
from models.finetuning import fold_run, runtime
from models.finetuning.fold_run import FoldRun
from models.finetuning.recipe import Bottleneck

if TYPE_CHECKING:
    import pandas as pd

    from preprocessing.dataset import Dataset


def run(config: Path, folds: Sequence[int | str]) -> None:
    """Trains a fold of a model; several folds only of a bottleneck model.

    Args:
        config: runs/NAME/MODEL/training.json
        folds: numbers, or 'all'.

    Raises:
        UserError: anything that a person can correct.
    """
    if os.environ.get(OF_EXECUTOR):
        threading.Thread(target=_end_with_executor, daemon=True).start()
    work = fold_run.load(config)
    limit_threads(work.threads)
    if os.environ.get(LESS_MEMORY):
        work = dataclasses.replace(work, workers=1)
    if len(folds) > 1 and not isinstance(work.recipe, Bottleneck):
        raise UserError(f"--fold {' '.join(map(str, folds))}: a process trains one fold. Start one command for each.")
    from preprocessing import dataset
    from preprocessing.folds import read_folds

    data = dataset.load(dataset.required(work.data), work.cache, work.skip_broken)
    train(work, folds, data, read_folds(work.run.folds, data.train))


def train(work: FoldRun, folds: Sequence[int | str], data: "Dataset", table: "pd.DataFrame") -> None:
    """Trains a fold of a model in this process, or several of a bottleneck model.

    Args:
        data: checked.
        table: the run's fold table, in any order.
    """
    table = table.set_index("img").loc[data.train["img"]].reset_index()
    runtime.load_keras()  # now that everything is known to be right
    if isinstance(work.recipe, Bottleneck):
        from models.finetuning.bottleneck import train_folds

        train_folds([work.of_fold(fold) for fold in folds], data, table)
    else:
        from models.finetuning.fold import train_fold

        train_fold(work.of_fold(folds[0]), data, table)


def _end_with_executor() -> None:
    """Ends this process when the executor that started it ends, in whatever way: then its end of our stdin closes."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def limit_threads(threads: int | None) -> None:
    """Limits what computes to so many cores. To be called before NumPy and the backend are loaded.

    Sums are rounded by how they are divided, so this decides a result's last bits.
    """
    os.environ.update(with_threads(threads))


def check_layers(config: str) -> None:
    """Builds a model's network without its weights, which checks the layers that its settings name."""

    def build() -> None:
        work = fold_run.load(Path(config))
        runtime.load_keras()
        from models.finetuning.network.build import build as build_network

        build_network(work.architecture, work.recipe, "none", "float32", 0)

    run_command(build)


def describe(work: FoldRun, numbers: Sequence[int | str], folds: "pd.DataFrame", test_images: int) -> str:
    """What `--dry-run` prints of some folds of a model: the network, what of it trains when, and in how many steps.

    Args:
        numbers: the folds.
        folds: frame img,subject,classname,fold.
        test_images: how many.

    Raises:
        UserError: a layer's name is unknown.
    """
    runtime.load_keras()
    from models.finetuning.network.build import build

    network = build(work.architecture, work.recipe, "none", "float32", work.seed)
    lines = [f"{work.model_name} in run {work.run.name}: {work.precision}, weights {work.weights}"]
    lines += [work.changes(), work.configuration()]
    layers = sum(bool(layer.weights) for layer in network.backbone.layers)
    lines.append(
        f"network: {work.recipe.image_size} pixels, {layers} layers with weights before the head, "
        f"{network.head.input_shape[-1]:,} features, {network.predictor.count_params():,} parameters"
    )
    steps = 0
    for fold in numbers:
        held_out = int((folds["fold"] == fold).sum())
        training = len(folds) - held_out
        training = min(training, work.recipe.train_images or training)
        steps = -(-training // work.recipe.batch_size)
        lines.append(
            f"fold {fold}: {training:,} training images in {steps:,} steps of {work.recipe.batch_size}, "
            f"{held_out:,} of held-out drivers, {test_images:,} test images"
        )
    return "\n".join(lines + _stage_lines(work, network, steps))


def _stage_lines(work: FoldRun, network: Any, steps: int) -> list[str]:
    """A line for each stage: its epochs and steps, and what trains."""
    from models.finetuning.network.network import count_blocks, set_trainable, trainable_summary
    from models.finetuning.training.optimisation import stages

    recipe = work.recipe
    planned = stages(recipe, count_blocks(network.backbone, recipe.trainable))
    if not planned:
        return ["the head alone is fitted, as a logistic regression; nothing else trains"]
    lines = []
    if recipe.head_start == "logistic":
        lines.append("first: the head is fitted as a logistic regression on the frozen network's features")
    for stage in planned:
        set_trainable(network, recipe, stage.name == "head", stage.top_blocks)
        epochs = f"{stage.epochs} epoch{'s' * (stage.epochs > 1)}, {stage.epochs * steps:,} steps"
        what = trainable_summary(network)
        lines.append(f"stage '{stage.name}': at most {epochs}, rate up to {stage.learning_rate:g}: {what}")
    return lines

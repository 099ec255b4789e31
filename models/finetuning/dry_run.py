"""What `--dry-run` prints of a model: the network, what of it trains when, and in how many steps."""

from collections.abc import Sequence

import pandas as pd

from models.finetuning import runtime
from models.finetuning.fold_run import FoldRun
from models.finetuning.network.build import build
from models.finetuning.network.network import Network, count_blocks, set_trainable, trainable_summary
from models.finetuning.training.optimisation import stages


def describe(work: FoldRun, numbers: Sequence[int | str], folds: pd.DataFrame, test_images: int) -> str:
    """The plan of some folds of a model, as lines for the terminal.

    Args:
        numbers: the folds.
        folds: frame img,subject,classname,fold.
        test_images: how many.

    Raises:
        UserError: a layer's name is unknown.
    """
    policy, reason = runtime.choose_precision(work.precision)
    network = build(work.architecture, work.recipe, "none", "float32", work.seed)
    lines = [f"{work.model_name} in run {work.run.name}: {policy} ({reason}), weights {work.weights}"]
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


def _stage_lines(work: FoldRun, network: Network, steps: int) -> list[str]:
    """A line for each stage: its epochs and steps, and what trains."""
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

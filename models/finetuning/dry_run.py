"""What `--dry-run` says: the network, what of it trains when, in how many steps, and what that needs."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from models.finetuning import needs, runtime
from models.finetuning.devices import find_devices
from models.finetuning.network.build import build
from models.finetuning.network.network import Network, count_blocks, set_trainable, trainable_summary
from models.finetuning.piece import Piece
from models.finetuning.training.optimisation import stages


def describe(pieces: Sequence[Piece], folds: pd.DataFrame, test_images: int, cache: Path, jobs: int) -> str:
    """The plan of pieces that differ in their fold only, as lines for the terminal.

    Args:
        folds: frame img,subject,classname,fold.
        test_images: how many.
        cache: the cache folder.
        jobs: how many at a time.

    Raises:
        UserError: a layer's name is unknown, or memory or disk cannot suffice.
    """
    piece = pieces[0]
    policy, reason = runtime.choose_precision(piece.precision)
    network = build(piece.architecture, piece.recipe, "none", "float32", piece.seed)
    lines = [f"{piece.model_name} in run {piece.run.name}: {policy} ({reason}), weights {piece.weights}"]
    lines += [piece.changes(), piece.configuration()]
    layers = sum(bool(layer.weights) for layer in network.backbone.layers)
    lines.append(
        f"network: {piece.recipe.image_size} pixels, {layers} layers with weights before the head, "
        f"{network.head.input_shape[-1]:,} features, {network.predictor.count_params():,} parameters"
    )
    steps = 0
    for one in pieces:
        held_out = int((folds["fold"] == one.fold).sum())
        training = len(folds) - held_out
        training = min(training, piece.recipe.train_images or training)
        steps = -(-training // piece.recipe.batch_size)
        lines.append(
            f"fold {one.fold}: {training:,} training images in {steps:,} steps of {piece.recipe.batch_size}, "
            f"{held_out:,} of held-out drivers, {test_images:,} test images"
        )
    lines += _stage_lines(piece, network, steps)
    estimate = needs.estimate(
        [(piece.architecture, piece.recipe, len(pieces))],
        train_images=len(folds),
        test_images=test_images,
        folds=int(folds["fold"].nunique()),
        bfloat16=policy == "mixed_bfloat16",
        jobs=jobs,
        devices=find_devices()[:1],
    )
    lines.append(needs.check(estimate, piece.run, cache))
    lines.append("nothing was started (--dry-run)")
    return "\n".join(lines)


def _stage_lines(piece: Piece, network: Network, steps: int) -> list[str]:
    """A line for each stage: its epochs and steps, and what trains."""
    recipe = piece.recipe
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

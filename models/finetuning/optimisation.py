"""Optimiser and learning rate of a stage of training."""

import dataclasses
import math

import keras

from models.finetuning.recipe import Recipe

STEP_DECAY = 0.1  # 'step' multiplies the rate by this at one half and at three quarters of the stage


@dataclasses.dataclass(frozen=True)
class Stage:
    """Some epochs in which the same variables train.

    Attributes:
        name: 'head' or 'network'.
        epochs: how many.
        learning_rate: the peak.
    """

    name: str
    epochs: int
    learning_rate: float


def stages(recipe: Recipe) -> list[Stage]:
    """The stages that a recipe asks for: the head by itself, then everything that trains."""
    planned = [
        Stage("head", recipe.head_epochs, recipe.head_learning_rate),
        Stage("network", recipe.epochs, recipe.learning_rate),
    ]
    return [stage for stage in planned if stage.epochs]


def make_optimizer(recipe: Recipe, stage: Stage, precision: str) -> keras.optimizers.Optimizer:
    """A fresh optimiser; its rate is set before each step. Under mixed_float16 it scales the loss."""
    optimizer = _plain_optimizer(recipe, stage)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer


def _plain_optimizer(recipe: Recipe, stage: Stage) -> keras.optimizers.Optimizer:
    clip = recipe.clip_norm or None
    if recipe.optimizer == "sgd":
        return keras.optimizers.SGD(stage.learning_rate, momentum=recipe.momentum, nesterov=True, global_clipnorm=clip)
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(stage.learning_rate, global_clipnorm=clip)
    optimizer = keras.optimizers.AdamW(stage.learning_rate, weight_decay=recipe.weight_decay, global_clipnorm=clip)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def learning_rate(recipe: Recipe, peak: float, step: int, steps: int) -> float:
    """The rate at a step of a stage.

    Args:
        peak: the stage's learning rate.
        step: from 0.
        steps: of the whole stage.
    """
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    if recipe.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    if recipe.schedule == "step":
        return peak * STEP_DECAY ** sum(progress >= point for point in (0.5, 0.75))
    return peak

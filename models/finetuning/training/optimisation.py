"""Optimiser and learning rate of a stage of training."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from models.finetuning.architecture import Recipe
from models.finetuning.runtime import apply_adam, only_if

STEP_DECAY = 0.1  # 'step' multiplies the rate by this at one half and at three quarters of the schedule
NOT_DECAYED = ["bias", "gamma", "beta"]  # by weight decay


@dataclasses.dataclass(frozen=True)
class Stage:
    """Some epochs in which the same variables train."""

    name: str  # 'head' or 'network'
    epochs: int
    learning_rate: float  # the peak
    top_blocks: int = 0  # that train, of those that the recipe lets train; 0 is all
    first: int = 0  # epochs of the schedule before this stage
    schedule: int = 0  # epochs of the whole schedule of the learning rate; 0 is those of this stage

    def rate(self, recipe: Recipe, epoch: int, step: int, steps: int) -> float:
        """The learning rate at a step of one of its epochs, both from 0; `steps` is of an epoch."""
        every, done = (self.schedule or self.epochs) * steps, (self.first + epoch) * steps + step
        warmup = round(recipe.warmup * every)
        if done < warmup:
            return self.learning_rate * (done + 1) / (warmup + 1)
        progress = (done - warmup) / max(1, every - warmup)
        if recipe.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        if recipe.schedule == "step":
            return self.learning_rate * STEP_DECAY ** sum(progress >= point for point in (0.5, 0.75))
        return self.learning_rate


def stages(recipe: Recipe, blocks: int = 1) -> list[Stage]:
    """The stages that a recipe asks for: the head by itself, then what trains, at once or `blocks` one by one."""
    planned = [Stage("head", recipe.head_epochs, recipe.head_learning_rate)]
    every, first = recipe.unfreeze_epochs, 0
    for number in range(1, blocks) if every else ():
        length = max(0, min(every, recipe.epochs - first))
        planned.append(Stage("network", length, recipe.learning_rate, number, first, recipe.epochs))
        first += every
    planned.append(Stage("network", max(0, recipe.epochs - first), recipe.learning_rate, 0, first, recipe.epochs))
    return [stage for stage in planned if stage.epochs]


class _Guarded:
    """Clips by the global norm, skips a step with NaN or infinite gradients, and scales each variable's learning rate.

    Keras's own clipping turns one infinite gradient, or squares that overflow, into NaN in every weight; without
    clipping one NaN stays in its weight and in Adam's moments. A skipped step does not count in `iterations`.
    """

    clip_norm: float = 0.0
    scales: tuple[float, ...] = ()  # of the learning rate, for each variable that trains; none is 1 for all

    def build(self, variables: Any) -> None:
        super().build(variables)  # type: ignore[misc]
        self.trained = lambda: variables  # a function: Keras makes variables in attributes the optimiser's own
        # TensorFlow calls `update_step` with the value of a Keras variable, JAX with the variable itself.
        self.positions = {id(own): number for number, x in enumerate(variables) for own in (x, x.value)}

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        this: Any = self
        if not this.built:
            this.build(trainable_variables)
        variables = self.trained() if trainable_variables is None else list(trainable_variables)
        pairs = [pair for pair in zip(grads, variables, strict=True) if pair[0] is not None]
        gradients = [gradient for gradient, _ in pairs]
        squares = [keras.ops.sum(keras.ops.square(gradient)) for gradient in gradients]
        norm = keras.ops.sqrt(keras.ops.sum(keras.ops.stack(squares)))
        if self.clip_norm:
            scale = keras.ops.minimum(1.0, self.clip_norm / norm)
            gradients = [gradient * scale for gradient in gradients]
        update = super().apply  # type: ignore[misc]
        only_if(
            keras.ops.isfinite(norm),
            lambda: update(gradients, [variable for _, variable in pairs]),
            [*variables, *this.variables],
        )

    def rate_of(self, variable: Any, learning_rate: Any) -> Any:
        """The learning rate of one variable."""
        return learning_rate * self.scales[self.positions[id(variable)]] if self.scales else learning_rate


class ScaledSGD(_Guarded, keras.optimizers.SGD):
    """SGD with a learning rate for each variable."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, self.rate_of(variable, learning_rate))


class ScaledAdam(_Guarded, keras.optimizers.Optimizer):
    """Adam and AdamW with a learning rate for each variable, in one pass over the memory where the backend can.

    Weight decay is done here too, since Keras's own takes the one rate of the optimiser for all.
    """

    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-7
    decay: float = 0.0

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.momentums, self.velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        ops, rate = keras.ops, self.rate_of(variable, learning_rate)
        if self.decay and not any(name in variable.name for name in NOT_DECAYED):
            self.assign(variable, variable * (1 - rate * self.decay))
        position = self.positions[id(variable)]
        momentum, velocity = self.momentums[position], self.velocities[position]
        if apply_adam(variable, momentum, velocity, gradient, self.iterations + 1, rate, self):
            return
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate = rate * ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(self.beta_1, step))
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        self.assign_sub(variable, momentum * rate / (ops.sqrt(velocity) + self.epsilon))


def make_optimizer(
    recipe: Recipe, stage: Stage, precision: str, scales: Sequence[float] = ()
) -> keras.optimizers.Optimizer:
    """A fresh optimiser; its rate, times `scales`, is set before each step. Under mixed_float16 it scales the loss."""
    options: dict[str, Any] = {"learning_rate": stage.learning_rate}
    if recipe.ema:
        options |= {"use_ema": True, "ema_momentum": recipe.ema, "ema_overwrite_frequency": None}
    optimizer: Any
    if recipe.optimizer == "sgd":
        optimizer = ScaledSGD(momentum=recipe.momentum, nesterov=True, **options)
    else:
        optimizer = ScaledAdam(**options)
        optimizer.decay = recipe.weight_decay if recipe.optimizer == "adamw" else 0.0
    optimizer.clip_norm = recipe.clip_norm
    if any(scale != 1 for scale in scales):
        optimizer.scales = tuple(scales)
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "mixed_float16" else optimizer

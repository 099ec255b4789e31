"""Training of one fold: epochs of steps, after each a held-out log loss and a checkpoint; the best weights are kept."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from common.competition import NUMBER_OF_CLASSES
from common.errors import DIVERGED, UserError
from common.metric import accuracy, log_loss
from models.finetuning.data.sources import FoldData, Source
from models.finetuning.network.network import (
    Network,
    count_blocks,
    leaves,
    rate_scales,
    set_trainable,
    trainable_summary,
)
from models.finetuning.recipe import Recipe
from models.finetuning.training import checkpoint
from models.finetuning.training.optimisation import Stage, make_optimizer, stages
from preprocessing.batches import training_order

WHAT_TO_CHANGE = (
    "What was made before is kept. Change a setting (a smaller --learning-rate, a smaller --clip-norm, or --precision "
    "float32) under another --run or --model-name, for all folds."
)

TRIES = 2  # for a step whose gradients are no numbers: what a processor reads amiss it may read right the next time
MOST_IN_A_ROW = 5  # steps that come to nothing


class DivergedError(UserError):
    """The loss is no longer a number. The same seed would give it again, so a retry is no use."""

    status = DIVERGED


class Trainer:
    """Trains a network on one fold, and goes on where a checkpoint says that it was."""

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        data: FoldData,
        source: Source,
        *,
        precision: str,
        seed: int,
        checkpoint_path: Path,
        say: Callable[[str], None],
    ) -> None:
        self.network = network
        self.source = source
        self.recipe = recipe
        self.data = data
        self.precision = precision
        self.seed = seed
        self.checkpoint_path = checkpoint_path
        self.say = say
        self.watch: Callable[[dict[str, Any]], None] = lambda row: None  # is told each new row of history
        self.progress = checkpoint.Progress(precision=precision)
        self.blocks = count_blocks(network.backbone, recipe.trainable)
        self.stages = stages(recipe, self.blocks)
        self._resumed: dict[str, np.ndarray] = {}
        self._moving: list[Any] = []  # what a forward pass writes: the statistics of the BatchNorm that trains

    def resume(self) -> bool:
        """Takes up an interrupted training; False where there is none."""
        if not self.checkpoint_path.exists():
            return False
        try:
            progress, arrays = checkpoint.load(self.checkpoint_path)
        except checkpoint.DamagedCheckpointError as error:
            self.checkpoint_path.unlink()
            self.say(f"{error} It is deleted, and this fold starts anew.")
            return False
        if progress.precision != self.precision:
            raise UserError(
                f"{self.checkpoint_path} was made in {progress.precision}, now it would go on in {self.precision}. "
                f"Go on with --precision {progress.precision}, or delete it to train this fold from its start."
            )
        self.progress, self._resumed = progress, arrays
        self.say(f"going on after epoch {len(self.progress.history)}, as the checkpoint in this folder says")
        return True

    def train(self) -> None:
        """Runs the remaining epochs, then sets the network to its best weights.

        Raises:
            DivergedError: the loss is no longer a number.
        """
        if not self.progress.best:
            self._judge(0.0, float("nan"))
        while self.progress.stage < len(self.stages):
            self._run_stage(self.stages[self.progress.stage])
            self.progress.stage += 1
            self.progress.epoch = 0
        checkpoint.assign(self.network.training.variables, self.progress.best)

    def _run_stage(self, stage: Stage) -> None:
        model, progress = self.network.training, self.progress
        optimizer = self._compile(stage)
        steps = -(-len(self.data.training) // self.recipe.batch_size)
        if self._resumed:
            checkpoint.assign(model.variables, checkpoint.ordered(self._resumed, "network"))
            values = checkpoint.ordered(self._resumed, "optimizer")
            if progress.epoch:
                checkpoint.assign(optimizer.variables, values)
            self._resumed = {}
        part = f", the top {stage.top_blocks} of {self.blocks} blocks" if stage.top_blocks else ""
        self.say(f"stage '{stage.name}'{part}: {trainable_summary(self.network)}")
        while progress.epoch < stage.epochs and not self._out_of_patience():
            begun = time.monotonic()
            loss = self._run_epoch(stage, steps)
            progress.epoch += 1
            seconds = time.monotonic() - begun
            if progress.epoch % self.recipe.judge_every == 0 or progress.epoch == stage.epochs:
                with self._averaged(optimizer):
                    self._judge(seconds, loss)
            else:
                self._add_row(seconds, loss)
            checkpoint.save(self.checkpoint_path, progress, model, optimizer)

    def _compile(self, stage: Stage) -> keras.optimizers.Optimizer:
        set_trainable(self.network, self.recipe, stage.name == "head", stage.top_blocks)
        scales = rate_scales(self.network, self.recipe.layer_decay)
        optimizer = make_optimizer(self.recipe, stage, self.precision, scales)
        self.source.network.compile(optimizer, self.recipe.label_smoothing)
        optimizer.build(self.network.training.trainable_variables)
        layers = [layer for layer in leaves([self.source.network.training]) if layer.trainable]
        normalised = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        self._moving = [variable for layer in normalised for variable in (layer.moving_mean, layer.moving_variance)]
        return optimizer

    @contextlib.contextmanager
    def _averaged(self, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
        """Within, the network has the running mean of its weights, where the recipe wants that to be judged."""
        variables = self.network.training.trainable_variables
        if not self.recipe.ema or not int(optimizer.iterations):  # no step yet, in float16 at a loss scaled too high
            yield
            return
        plain = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
        optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            checkpoint.assign(variables, plain)

    def _run_epoch(self, stage: Stage, steps: int) -> float:
        """Trains one epoch; returns the mean training loss, in nats."""
        network, epoch = self.source.network, len(self.progress.history) + 1
        order = training_order(self.data.training, self.recipe.batch_size, self.seed, epoch)
        targets = np.eye(NUMBER_OF_CLASSES, dtype=np.float32)[self.data.labels]
        batches = self.source.batches(targets, order, self.recipe.copy_of(epoch))
        bar = tqdm(total=order.size, desc=f"epoch {epoch}", unit="img", leave=False, disable=None)
        losses: list[float] = []
        in_a_row = again = 0
        for step, (inputs, wanted) in enumerate(batches):
            network.training.optimizer.learning_rate = stage.rate(self.recipe, self.progress.epoch, step, steps)
            loss, done, tries = self._step(inputs, wanted)
            in_a_row = 0 if done else in_a_row + 1
            again += done and tries > 1
            if in_a_row == min(MOST_IN_A_ROW, steps):
                raise DivergedError(
                    f"the training loss became {loss} in epoch {epoch}, step {step + 1} of {steps}, or its gradients "
                    f"did, and so it was in the {in_a_row} steps up to there. {WHAT_TO_CHANGE}"
                )
            if done:
                losses.append(loss)
            bar.update(len(inputs))
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.close()
        if again:
            self.say(f"epoch {epoch}: {again} of {steps} steps came to NaN or infinity and, tried again, to numbers")
        if len(losses) < steps:
            self.say(
                f"epoch {epoch}: {steps - len(losses)} of {steps} steps were left out, since their loss or gradients "
                "were no numbers (NaN or infinite); the weights are untouched by them"
            )
        return float(np.mean(losses))

    def _step(self, inputs: np.ndarray, wanted: np.ndarray) -> tuple[float, bool, int]:
        """One step, tried again where it comes to nothing, which leaves no trace in the network.

        In float16 a step that only overflows is no fault: the optimiser then scales the loss less.

        Returns:
            its loss; whether the network took it and it is finite; how often it was tried.
        """
        network, scaled = self.source.network, self.precision == "mixed_float16"
        moving = [keras.ops.convert_to_numpy(variable).copy() for variable in self._moving]
        loss, tries = float("nan"), 0
        while tries < TRIES:
            tries += 1
            before = int(network.training.optimizer.iterations)
            loss = network.train_on_batch(inputs, wanted)
            taken = int(network.training.optimizer.iterations) > before
            if np.isfinite(loss) and (taken or scaled):
                return loss, True, tries
            checkpoint.assign(self._moving, moving)
            if taken:  # the loss overflowed, its gradients did not
                break
        return loss, False, tries

    def _judge(self, seconds: float, training_loss: float) -> None:
        """Measures the held-out drivers, and keeps the best weights; the last ones where nobody is held out."""
        progress, data = self.progress, self.data
        if not len(data.held_out):
            progress.best_epoch = len(progress.history) + bool(progress.best)
            if progress.best:
                self._add_row(seconds, training_loss)
            progress.best = [keras.ops.convert_to_numpy(variable) for variable in self.network.training.variables]
            return
        probabilities, _ = self.source.predict(data.held_out, "held-out drivers")
        if not np.isfinite(probabilities).all():
            raise DivergedError(f"the network's predictions are no longer numbers. {WHAT_TO_CHANGE}")
        labels = data.labels[data.held_out]
        held_out, right = log_loss(probabilities, labels), accuracy(probabilities, labels)
        first = not progress.best
        better = held_out < progress.best_loss
        if better:
            progress.best_loss = held_out
            progress.best = [keras.ops.convert_to_numpy(variable) for variable in self.network.training.variables]
            progress.best_epoch = 0 if first else len(progress.history) + 1
        if first:
            self.say(f"before training: held-out log loss {held_out:.4f}, accuracy {right:.1%}")
        else:
            self._add_row(seconds, training_loss, held_out, right, " *" if better else "")

    def _add_row(
        self, seconds: float, training_loss: float, held_out: float = np.nan, right: float = np.nan, mark: str = ""
    ) -> None:
        """Adds a row of history and says one line."""
        stage, history = self.stages[self.progress.stage], self.progress.history
        row = {"epoch": len(history) + 1, "stage": stage.name, "training_loss": training_loss}
        row |= {"held_out_log_loss": held_out, "held_out_accuracy": right, "seconds": round(seconds, 1)}
        history.append(row)
        self.watch(row)
        judged = "" if np.isnan(held_out) else f"held-out log loss {held_out:.4f}{mark}, accuracy {right:.1%}, "
        rate = len(self.data.training) / max(seconds, 1e-9)
        self.say(
            f"epoch {row['epoch']} ({stage.name}): training loss {training_loss:.4f}, {judged}{seconds:.0f} s, "
            f"{rate:.1f} images/s"
        )

    def _out_of_patience(self) -> bool:
        done, stage_done = len(self.progress.history), self.progress.epoch
        if stage_done % self.recipe.judge_every:  # that epoch may be the best yet
            return False
        return stage_done >= self.recipe.patience and done - self.progress.best_epoch >= self.recipe.patience

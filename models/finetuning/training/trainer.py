"""Training of one fold: epochs of steps, after each a held-out log loss and a checkpoint; the best weights are kept.

The checkpoint is one file, from which a killed training resumes.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.competition import NUMBER_OF_CLASSES
from common.errors import DIVERGED, UserError, progress_bar
from common.files import append_checksum, is_intact, written_whole
from common.metric import accuracy, log_loss
from models.finetuning.architecture import Recipe
from models.finetuning.data.sources import FoldData, Source
from models.finetuning.network.network import (
    Network,
    leaves,
    rate_scales,
    set_trainable,
    trainable_blocks,
    trainable_summary,
)
from models.finetuning.training.optimisation import Stage, make_optimizer, stages
from preprocessing.batches import training_order

WHAT_TO_CHANGE = (
    "What was made before is kept. Change a setting (a smaller --learning-rate, a smaller --clip-norm, or --precision "
    "float32) under another --run or --model-name, for all folds."
)
MOST_IN_A_ROW = 5  # skipped steps
MOST_IN_FLOAT16 = 20  # there the first steps may overflow, until the loss scale has halved from 2**15 to what fits


class DivergedError(UserError):
    """The loss is no longer a number. The same seed would give it again, so a retry is no use."""

    status = DIVERGED


@dataclasses.dataclass
class Progress:
    """How far training has come."""

    stage: int = 0  # that the next epoch belongs to
    epoch: int = 0  # epochs done in that stage
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one row per finished epoch
    best_loss: float = float("inf")  # held-out log loss
    best_epoch: int = 0  # that reached it, counted over all stages; 0 is before training
    best: list[np.ndarray] = dataclasses.field(default_factory=list)  # the network's variables then


@dataclasses.dataclass
class Trainer:
    """Trains a network on one fold; resumes from a checkpoint."""

    network: Network
    recipe: Recipe
    data: FoldData
    source: Source  # of the labelled images; its network is `network`, or what of it lies above kept activations
    precision: str  # the dtype policy
    seed: int
    checkpoint_path: Path
    say: Callable[[str], None]  # gets a line for each epoch
    watch: Callable[[], None] = lambda: None  # is called after each new row of `progress.history`

    def __post_init__(self) -> None:
        self.progress = Progress()
        self.blocks = len(trainable_blocks(self.network.backbone, self.recipe.trainable))
        self.stages = stages(self.recipe, self.blocks)
        self._resumed: dict[str, np.ndarray] = {}
        self._skipped_in_a_row = 0
        self._moving: list[Any] = []  # what a forward pass writes: the statistics of the BatchNorm that trains

    def resume(self) -> bool:
        """Takes up an interrupted training; False where there is none."""
        if not self.checkpoint_path.exists():
            return False
        try:
            self.progress, self._resumed = load_checkpoint(self.checkpoint_path)
        except UserError as error:  # it is not as it was written
            self.checkpoint_path.unlink()
            self.say(f"note: {error} It is deleted, and this fold starts again.")
            return False
        self.say(f"resumes after epoch {len(self.progress.history)}, from the checkpoint in this folder")
        return True

    def train(self) -> None:
        """Runs the remaining epochs, then sets the network to its best weights; or a DivergedError."""
        if not self.progress.best:
            self._measure(0.0, float("nan"))
        while self.progress.stage < len(self.stages):
            self._run_stage(self.stages[self.progress.stage])
            self.progress.stage += 1
            self.progress.epoch = 0
        _assign(self.network.training.variables, self.progress.best)

    def _run_stage(self, stage: Stage) -> None:
        model, progress = self.network.training, self.progress
        optimizer = self._compile(stage)
        steps = -(-len(self.data.training) // self.recipe.batch_size)
        if self._resumed:
            _assign(model.variables, ordered(self._resumed, "network"))
            if progress.epoch:
                _assign(optimizer.variables, ordered(self._resumed, "optimizer"))
            self._resumed = {}
        part = f", the top {stage.top_blocks} of {self.blocks} blocks" if stage.top_blocks else ""
        self.say(f"stage '{stage.name}'{part}: {trainable_summary(self.network)}")
        bar = progress_bar(stage.epochs * steps, "training", initial=progress.epoch * steps)
        while progress.epoch < stage.epochs and not self._out_of_patience():
            best = f", log loss {progress.best_loss:.3f}" if np.isfinite(progress.best_loss) else ""
            bar.set_postfix_str(f"epoch {progress.epoch + 1} of {stage.epochs}{best}")
            started_at = time.monotonic()
            loss = self._run_epoch(stage, steps, bar)
            progress.epoch += 1
            seconds = time.monotonic() - started_at
            if progress.epoch % self.recipe.judge_every == 0 or progress.epoch == stage.epochs:
                with self._averaged(optimizer):
                    self._measure(seconds, loss)
            else:
                self._add_row(seconds, loss)
            save_checkpoint(self.checkpoint_path, progress, model.variables, optimizer.variables)
        bar.close()

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
        """Within, the network has the running mean of its weights, where the recipe asks for it."""
        variables = self.network.training.trainable_variables
        if not self.recipe.ema or not int(optimizer.iterations):  # no step yet, in float16 at a loss scaled too high
            yield
            return
        plain = _values(variables)
        optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            _assign(variables, plain)

    def _run_epoch(self, stage: Stage, steps: int, bar: Any) -> float:
        """Trains one epoch; returns the mean training loss, in nats."""
        network, epoch = self.source.network, len(self.progress.history) + 1
        order = training_order(self.data.training, self.recipe.batch_size, self.seed, epoch)
        targets = np.eye(NUMBER_OF_CLASSES, dtype=np.float32)[self.data.labels]
        batches = self.source.batches(targets, order, self.recipe.copy_of(epoch))
        losses: list[float] = []
        half = self.precision == "mixed_float16"
        most = MOST_IN_FLOAT16 if half else min(MOST_IN_A_ROW, steps)
        skipped = 0
        for step, (inputs, wanted) in enumerate(batches):
            network.training.optimizer.learning_rate = stage.rate(self.recipe, self.progress.epoch, step, steps)
            loss, done = self._step(inputs, wanted)
            skipped += not done
            self._skipped_in_a_row = 0 if done else self._skipped_in_a_row + 1
            if self._skipped_in_a_row == most:
                raise DivergedError(
                    f"the training loss became {loss} in epoch {epoch}, step {step + 1} of {steps}, or its gradients "
                    f"did, and so it was in the {most} steps up to there. {WHAT_TO_CHANGE}"
                )
            if done or (half and np.isfinite(loss)):
                losses.append(loss)
            bar.update()
        if skipped:  # usual in float16 until it has found its loss scale
            self.say(
                f"{'' if half else 'note: '}epoch {epoch}: {skipped} of {steps} steps were skipped, since their loss "
                "or gradients were no numbers (NaN or infinite); the weights are untouched by them"
            )
        return float(np.mean(losses)) if losses else float("nan")

    def _step(self, inputs: np.ndarray, wanted: np.ndarray) -> tuple[float, bool]:
        """One step, its loss, and whether that is finite and was taken; any other leaves no trace in the network."""
        network = self.source.network
        moving = _values(self._moving)
        before = int(network.training.optimizer.iterations)
        loss = network.train_on_batch(inputs, wanted)
        if np.isfinite(loss) and int(network.training.optimizer.iterations) > before:
            return loss, True
        _assign(self._moving, moving)
        return loss, False

    def _measure(self, seconds: float, training_loss: float) -> None:
        """Measures the held-out drivers, and keeps the best weights; the last ones where nobody is held out."""
        progress, data = self.progress, self.data
        first, held_out, right = not progress.best, float("nan"), float("nan")
        if len(data.held_out):
            probabilities, _ = self.source.predict(data.held_out, "held-out drivers")
            if not np.isfinite(probabilities).all():
                raise DivergedError(f"the network's predictions are no longer numbers. {WHAT_TO_CHANGE}")
            labels = data.labels[data.held_out]
            held_out, right = log_loss(probabilities, labels), accuracy(probabilities, labels)
        better = held_out < progress.best_loss or not len(data.held_out)
        if better:
            progress.best_loss = held_out
            progress.best = _values(self.network.training.variables)
            progress.best_epoch = 0 if first else len(progress.history) + 1
        if not first:
            self._add_row(seconds, training_loss, held_out, right, " *" if better else "")
        elif len(data.held_out):
            self.say(f"before training: held-out log loss {held_out:.4f}, accuracy {right:.1%}")

    def _add_row(
        self, seconds: float, training_loss: float, held_out: float = np.nan, right: float = np.nan, mark: str = ""
    ) -> None:
        """Adds a row of history and prints one line."""
        stage, history = self.stages[self.progress.stage], self.progress.history
        row = {"epoch": len(history) + 1, "stage": stage.name, "training_loss": training_loss}
        row |= {"held_out_log_loss": held_out, "held_out_accuracy": right, "seconds": round(seconds, 1)}
        history.append(row)
        self.watch()
        measured = "" if np.isnan(held_out) else f"held-out log loss {held_out:.4f}{mark}, accuracy {right:.1%}, "
        rate = len(self.data.training) / max(seconds, 1e-9)
        self.say(
            f"epoch {row['epoch']} ({stage.name}): training loss {training_loss:.4f}, {measured}{seconds:.0f} s, "
            f"{rate:.1f} images/s"
        )

    def _out_of_patience(self) -> bool:
        done, stage_done = len(self.progress.history), self.progress.epoch
        if stage_done % self.recipe.judge_every:  # that epoch may be the best yet
            return False
        return stage_done >= self.recipe.patience and done - self.progress.best_epoch >= self.recipe.patience


def save_checkpoint(path: Path, progress: Progress, network: list[Any], optimizer: list[Any]) -> None:
    """Writes progress, and the variables of the network (seeds included) and of the optimiser."""
    state = {key: value for key, value in dataclasses.asdict(progress).items() if key != "best"}
    lists = {"network": _values(network), "optimizer": _values(optimizer), "best": progress.best}
    arrays = {f"{name}_{i}": value for name, values in lists.items() for i, value in enumerate(values)}
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, state=np.array(json.dumps(state)), **arrays)
        stream.flush()
        append_checksum(temporary)  # the archive's own checksums leave out its directory


def load_checkpoint(path: Path) -> tuple[Progress, dict[str, np.ndarray]]:
    """Reads what `save_checkpoint` wrote: progress, and the arrays NAME_0, NAME_1, ... of each list."""
    try:
        if not is_intact(path):
            raise ValueError("its checksum does not match")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        progress = Progress(**json.loads(str(arrays.pop("state"))))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is corrupted ({error}).") from error
    progress.best = ordered(arrays, "best")
    return progress, arrays


def ordered(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """The arrays PREFIX_0, PREFIX_1, ... as a list."""
    count = sum(name.startswith(f"{prefix}_") for name in arrays)
    return [arrays[f"{prefix}_{number}"] for number in range(count)]


def _values(variables: list[Any]) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def _assign(variables: list[Any], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)

"""Training of a fold: what may change, what must not, going on after an interruption, and what a recipe may not say."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss
from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Recipe
from models.finetuning.data.sources import FoldData, Source
from models.finetuning.network.build import build
from models.finetuning.network.network import Network
from models.finetuning.training.optimisation import Stage, make_optimizer
from models.finetuning.training.trainer import DivergedError, Trainer, load_checkpoint, ordered
from preprocessing import dataset
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation
from tests.trees import make_tree

SIZE = ImageSize(32, 40)
SMALLEST: dict[str, object] = {"pooled_layers": ("block2_pool",)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    """Four drivers, of whom the last is held out."""
    folder = tmp_path_factory.mktemp("training")
    found = dataset.load(make_tree(folder / "data"), cache=folder / "cache")
    paths = [found.train_path(row.img, row.classname) for row in found.train.itertuples()]
    store = ImageStore(paths, SIZE, folder / "cache", found.fingerprint, 2**30)
    store.prepare(2)
    labels = found.train["classname"].map(CLASSES.index).to_numpy()
    held_out = (found.train["subject"] == found.train["subject"].max()).to_numpy()
    return FoldData(store, labels, np.flatnonzero(~held_out), np.flatnonzero(held_out))


Make = Callable[..., Trainer]


class WildTargets(Source):
    """Gives targets that are no numbers in the first steps of an epoch."""

    wild = 0

    def batches(self, targets: np.ndarray, order: np.ndarray, copy: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, (images, wanted) in enumerate(super().batches(targets, order, copy)):
            yield images, wanted * (np.nan if number < self.wild else 1)


class StopError(Exception):
    """Stands for whatever ends a process between two epochs."""


@pytest.fixture
def make(data: FoldData, tmp_path: Path) -> Make:
    """A factory of trainers, of a cut VGG16 unless named: `make("folder of its checkpoint", epochs=3, ...)`."""

    def make_trainer(
        folder: str = "", name: str = "vgg16", data: FoldData = data, precision: str = "float32", **changes: object
    ) -> Trainer:
        say, wild = changes.pop("say", str), changes.pop("wild", 0)
        settings = {"image_size": SIZE, "batch_size": 20, "epochs": 2, "head_start": "random", "trainable": "all"}
        settings |= {"pooled_layers": ("block3_pool",)} | changes
        recipe = dataclasses.replace(zoo.find(name).recipe, **settings)
        network = build(zoo.find(name), recipe, "none", precision, seed=1)
        source = WildTargets(network, data.store, Augmentation(), 1, 2)
        source.wild = wild
        return Trainer(network, recipe, data, source, precision, 1, tmp_path / folder / "state.npz", say)

    return make_trainer


def test_fine_tuning_leaves_batch_norm_as_it_was_unless_asked(make: Make) -> None:
    def statistics(network: Network) -> list[np.ndarray]:
        norms = [x for x in network.backbone.layers if isinstance(x, keras.layers.BatchNormalization)]
        return [keras.ops.convert_to_numpy(variable) for layer in norms for variable in layer.variables]

    for mode in ("inference", "training"):
        trainer = make(mode, "mobilenet", batch_norm=mode, epochs=1, patience=9, pooled_layers=("conv_pw_2_relu",))
        network = trainer.network
        before = statistics(network)
        kernel = np.array(network.backbone.get_layer("conv1").kernel)
        trainer._run_stage(trainer.stages[0])
        same = [np.array_equal(a, b) for a, b in zip(before, statistics(network), strict=True)]
        assert not np.array_equal(kernel, network.backbone.get_layer("conv1").kernel)
        assert all(same) if mode == "inference" else not all(same)


def test_an_interrupted_fold_goes_on_to_the_very_same_network(make: Make) -> None:
    ways = {"ema": 0.8, "layer_decay": 0.7, "head_l2": 1e-3, "patience": 9, "head_epochs": 1, "learning_rate": 1e-4}
    whole = make("whole", **ways)
    whole.train()

    def stop_after_two_epochs(line: str) -> None:
        if line.startswith("epoch 3"):
            raise StopError

    with pytest.raises(StopError):
        make("cut", say=stop_after_two_epochs, **ways).train()
    resumed = make("cut", **ways)
    assert resumed.resume()
    assert len(resumed.progress.history) == 2
    resumed.train()
    assert [row["epoch"] for row in resumed.progress.history] == [1, 2, 3]
    for measure in ("training_loss", "held_out_log_loss"):
        expected = [row[measure] for row in whole.progress.history]
        assert [row[measure] for row in resumed.progress.history] == expected
    for ours, theirs in zip(resumed.network.training.weights, whole.network.training.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_the_mean_of_the_weights_is_kept_while_training_goes_on_from_the_weights(make: Make, precision: str) -> None:
    plain = {"trainable": "head", "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "warmup": 0.0}
    kernels = []
    for epochs, ema in ((1, 0.0), (2, 0.0), (2, 0.8)):  # of a single step each
        trainer = make(f"{epochs}, {ema}", precision=precision, batch_size=60, epochs=epochs, ema=ema, **plain)
        trainer.train()
        assert trainer.progress.best_epoch == epochs
        kernels.append(np.array(trainer.network.head.get_layer("logits").kernel))
    first, second, mean = kernels
    np.testing.assert_allclose(mean, 0.8 * first + 0.2 * second, atol=1e-6)
    assert np.abs(mean - second).max() > 1e-4


def test_the_head_trains_alone_first_then_the_top_block_then_what_the_recipe_says(make: Make) -> None:
    trainer = make(trainable="from block2", head_epochs=1, unfreeze_epochs=1, patience=9)
    network = trainer.network
    before = kernels_of(network)
    moved = []
    for number, stage in enumerate(trainer.stages):
        trainer.progress.stage, trainer.progress.epoch = number, 0
        trainer._run_stage(stage)
        after = kernels_of(network)
        moved.append({name.partition("_")[0] for name in before if not np.array_equal(before[name], after[name])})
        before = after
    assert moved == [{"logits"}, {"logits", "block3"}, {"logits", "block2", "block3"}]


def test_layer_decay_shortens_the_steps_of_lower_blocks(make: Make) -> None:
    plain = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.5, "schedule": "constant", "warmup": 0.0}
    plain |= {"epochs": 1, "batch_size": 60, "dropout": 0.0} | SMALLEST
    steps = []
    for decay in (1.0, 0.5):
        trainer = make(str(decay), layer_decay=decay, **plain)
        network = trainer.network
        before = kernels_of(network)
        trainer._run_stage(trainer.stages[0])
        assert int(network.training.optimizer.iterations) == 1, "60 images, a single step"
        after = kernels_of(network)
        steps.append({name: float(np.linalg.norm(after[name] - before[name])) for name in before})
    expected = {"logits": 1.0, "block2_conv2": 0.5, "block2_conv1": 0.5, "block1_conv1": 0.25}
    for name, scale in expected.items():
        assert steps[1][name] == pytest.approx(scale * steps[0][name], rel=0.01), name
        assert steps[0][name] > 0


def kernels_of(network: Network) -> dict[str, np.ndarray]:
    layers = [*network.backbone.layers, *network.head.layers]
    return {layer.name: np.array(layer.kernel) for layer in layers if hasattr(layer, "kernel")}


def test_the_weights_of_the_best_epoch_are_kept_not_the_last(make: Make) -> None:
    wild = {"optimizer": "sgd", "learning_rate": 10.0, "schedule": "constant", "warmup": 0.0}
    trainer = make(trainable="head", **wild, **SMALLEST)
    trainer.train()
    assert trainer.progress.best_epoch < 2, "each step is far too long"
    held_out = trainer.data.held_out
    probabilities, _ = trainer.source.predict(held_out, "")
    labels = trainer.data.labels[held_out]
    assert log_loss(probabilities, labels) == pytest.approx(trainer.progress.best_loss, abs=1e-6)
    assert trainer.progress.history[-1]["held_out_log_loss"] > trainer.progress.best_loss + 0.1


@pytest.mark.parametrize(
    ("settings", "evaluated"),
    [
        ({"epochs": 3, "patience": 2}, [False, True, True]),
        # patience ends a training only after an epoch that was evaluated
        ({"epochs": 9, "patience": 3, "learning_rate": 1e-30, "optimizer": "sgd"}, [False, True, False, True]),
    ],
)
def test_epochs_between_measurements_are_only_trained(make: Make, settings: dict, evaluated: list[bool]) -> None:
    trainer = make(judge_every=2, **settings)
    trainer.train()
    assert [not np.isnan(row["held_out_log_loss"]) for row in trainer.progress.history] == evaluated


def test_where_nobody_is_held_out_the_last_weights_are_kept_and_nothing_stops_early(make: Make, data: FoldData) -> None:
    everybody = dataclasses.replace(data, training=np.arange(len(data.labels)), held_out=np.empty(0, np.int64))
    trainer = make(data=everybody, trainable="head", epochs=3, patience=1)
    trainer.train()
    assert [row["epoch"] for row in trainer.progress.history] == [1, 2, 3]
    assert all(np.isnan(row["held_out_log_loss"]) for row in trainer.progress.history)
    assert trainer.progress.best_epoch == 3
    _, arrays = load_checkpoint(trainer.checkpoint_path)
    for ours, saved in zip(trainer.network.training.variables, ordered(arrays, "network"), strict=True):
        np.testing.assert_array_equal(ours, saved)


def test_a_loss_that_is_no_number_stops_with_the_settings_to_change(make: Make) -> None:
    settings = {"optimizer": "sgd", "learning_rate": 10.0, "clip_norm": 0.0, "warmup": 0.0, "epochs": 9, "patience": 9}
    trainer = make(head_l2=10.0, **settings)  # the penalty alone multiplies the kernel by -199 a step
    with pytest.raises(DivergedError, match=r"--learning-rate|--precision"):
        trainer.train()


def test_a_wild_step_is_left_out_and_reported(make: Make) -> None:
    lines: list[str] = []
    trainer = make(wild=1, say=lines.append, epochs=1, batch_size=6, trainable="head")
    trainer.train()
    assert any(line.startswith("note: epoch 1: 1 of 10 steps were skipped") for line in lines)
    assert np.isfinite(trainer.progress.history[0]["training_loss"])
    assert all(np.isfinite(variable).all() for variable in trainer.network.training.variables)


@pytest.mark.parametrize(
    ("precision", "changes", "words"),
    [
        # in the precision of a T4, where a smaller loss scale may help, and with BatchNorm fused into the kernels
        (
            "mixed_float16",
            {"trainable": "from conv_dw_12", "pooled_layers": (), "epochs": 3},
            r"in epoch 2, step 10 of 10, .* in the 20 steps up to there",
        ),
        (
            "float32",
            {"batch_norm": "training", "pooled_layers": ("conv_pw_2_relu",), "epochs": 1},
            "the training loss became nan in epoch 1, step 5 of",
        ),
    ],
)
def test_wild_steps_leave_no_trace_and_stop_a_fold_in_the_end(
    make: Make, precision: str, changes: dict[str, object], words: str
) -> None:
    trainer = make(name="mobilenet", wild=10, precision=precision, batch_size=6, **changes)
    before = [np.array(variable) for variable in trainer.network.training.weights]
    with pytest.raises(DivergedError, match=words):
        trainer.train()
    for one, other in zip(before, trainer.network.training.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("schedule", ["cosine", "constant", "step"])
def test_the_learning_rate_warms_up_to_its_peak_and_never_exceeds_it(schedule: str) -> None:
    recipe = Recipe(schedule=schedule, warmup=0.1)
    rates = [Stage("network", 1, 2.0).rate(recipe, 0, step, 100) for step in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx({"cosine": 0.0, "constant": 2.0, "step": 0.02}[schedule], abs=1e-3)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_variable_moves_by_its_share_of_the_learning_rate(name: str, precision: str) -> None:
    if precision == "mixed_float16" and keras.backend.backend() == "jax":
        pytest.skip("Keras scales a loss on JAX only inside its own training step")
    recipe = Recipe(optimizer=name, weight_decay=0.3, clip_norm=0.0)
    start, gradient = np.arange(1.0, 4.0, dtype=np.float32), keras.ops.convert_to_tensor(np.float32([3, -2, 1]))
    scales = (1.0, 0.5, 0.125)
    variables = [keras.Variable(start, name=f"kernel_{i}") for i in range(3)]
    optimizer = make_optimizer(recipe, Stage("network", 1, 0.1), precision, scales)
    optimizer.build(variables)
    optimizer.learning_rate = 0.01
    optimizer.apply([optimizer.scale_loss(gradient)] * 3, variables)
    keras_own = {
        "sgd": keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        "adam": keras.optimizers.Adam(0.01),
        "adamw": keras.optimizers.AdamW(0.01, weight_decay=0.3),
    }[name]
    expected = keras.Variable(start)
    keras_own.apply([gradient], [expected])
    assert np.abs(np.array(expected) - start).min() > 1e-3
    for scale, variable in zip(scales, variables, strict=True):
        np.testing.assert_allclose(np.array(variable) - start, scale * (np.array(expected) - start), atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"trainable": "head", "layer_decay": 0.8}, "--layer-decay with --trainable head"),
        ({"trainable": "head", "unfreeze_epochs": 1}, "--unfreeze-epochs with --trainable head"),
        ({"unfreeze_epochs": 3, "epochs": 3}, r"only the topmost block would ever train.*--epochs 6"),
        ({"epochs": 0, "head_start": "random"}, "nothing would train"),
        ({"pseudo_ratio": 1.0}, "--pseudo-ratio with --pseudo-labels none: it would change nothing"),
        ({"hidden_units": 64}, "--head-start random"),
        ({"optimizer": "sgd", "weight_decay": 0.01}, "--weight-decay with --optimizer sgd: it would change nothing"),
        ({"momentum": 0.8}, "--momentum with --optimizer adamw"),
        ({"head_learning_rate": 0.01}, "add --head-epochs 2"),
        ({"head_start": "zero", "head_epochs": 1, "head_regularisation": 1.0}, "add --head-start logistic"),
    ],
)
def test_settings_that_contradict_each_other_are_told_in_one_line(chosen: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        zoo.find("vgg16").settings_for(chosen)
    zoo.find("vgg16").settings_for({"head_epochs": 2, "head_start": "logistic"})

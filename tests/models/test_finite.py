"""No weight ever becomes NaN or infinite, whatever the gradients, the logits or the photographs are."""

import keras
import numpy as np
import pytest

from common.environment import THREADS
from models.finetuning import runtime
from models.finetuning.architecture import Recipe
from models.finetuning.network.network import set_trainable
from models.finetuning.training.optimisation import Stage, make_optimizer, stages
from tests.commands import run_python
from tests.models.test_networks import network_of

LARGEST = float(np.finfo(np.float32).max)


def values(variables: list) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf, LARGEST, 1e20], ids=str)
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_of_wild_gradients_changes_nothing_and_the_next_is_as_if_it_had_not_been(
    name: str, clip_norm: float, wild: float
) -> None:
    recipe = Recipe(optimizer=name, clip_norm=clip_norm, ema=0.5)
    plain, wild_row = np.float32([3, -2, 1]), np.float32([3, wild, 1])
    found = []
    for rows in ([plain, wild_row, plain], [plain, plain]):
        variables = [keras.Variable(np.arange(1.0, 4.0, dtype=np.float32), name=f"kernel_{i}") for i in range(2)]
        optimizer = make_optimizer(recipe, Stage("network", 1, 0.1), "mixed_bfloat16")
        optimizer.build(variables)
        for row in rows:
            optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in (plain, row)], variables)
        assert int(optimizer.iterations) == 2
        found.append(values([*variables, *optimizer.variables]))
    for one, other in zip(*found, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("norm", [0.0, 1e-30, 1e-3, 1e3, 1e18])
def test_large_and_vanishing_gradients_are_clipped_to_the_norm(norm: float) -> None:
    for most in (1.0, float("inf")):
        recipe = Recipe(optimizer="sgd", momentum=0.0, clip_norm=most)
        variable = keras.Variable(np.zeros(4, np.float32))
        optimizer = make_optimizer(recipe, Stage("network", 1, 1.0), "float32")
        optimizer.apply([keras.ops.convert_to_tensor(np.full(4, norm / 2, np.float32))], [variable])
        np.testing.assert_allclose(np.linalg.norm(np.array(variable).astype(float)), min(norm, most), rtol=1e-5)


@pytest.mark.parametrize("batch_norm", ["inference", pytest.param("training", marks=pytest.mark.slow)])
def test_photographs_of_one_colour_and_any_logits_leave_finite_weights(batch_norm: str) -> None:
    precision = "mixed_bfloat16"
    network, recipe = network_of("mobilenet", precision=precision, batch_norm=batch_norm)
    set_trainable(network, recipe, head_only=False)
    network.compile(make_optimizer(recipe, stages(recipe)[0], precision), recipe.label_smoothing)
    targets = np.eye(10, dtype=np.float32)[[0, 4, 9, 9]]
    for level in (0, 255):
        images = np.full((4, *network.training.input_shape[1:]), level, np.uint8)
        assert np.isfinite(network.train_on_batch(images, targets))
    kernel = network.head.get_layer("logits").kernel
    signs = np.sign(np.random.default_rng(0).normal(size=kernel.shape)).astype(np.float32)
    for size in (1e4, 1e30, LARGEST):  # logits that are far apart, that overflow the loss, and that are no numbers
        kernel.assign(signs * size)
        network.train_on_batch(images, targets)
        network.train_on_batch(np.random.default_rng(1).integers(0, 256, images.shape, dtype=np.uint8), targets)
        assert all(np.isfinite(array).all() for array in values(network.training.trainable_variables))


POISONED = """
import numpy as np
from models.finetuning import runtime
runtime.load_keras()
assert runtime.clear_new_memory(0xFF)  # all that malloc gives out is full of NaN
runtime.start("mixed_bfloat16", 0)
import tensorflow as tf
images = tf.cast(tf.random.normal((1, 9, 157, 32)), tf.bfloat16)
kernel = tf.Variable(tf.cast(tf.random.normal((3, 3, 32, 64)), tf.bfloat16))
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.cast(tf.nn.conv2d(images, kernel, 1, "SAME"), tf.float32))
print("numbers" if np.isfinite(tape.gradient(loss, kernel).numpy().astype(np.float32)).all() else "NaN")
"""


@pytest.mark.skipif(runtime.bfloat16_unit() != runtime.AMX, reason="only AMX's convolutions read what nobody wrote")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="they are oneDNN's")
def test_weight_gradients_do_not_depend_on_what_lay_in_memory() -> None:
    done = run_python("-c", POISONED, **{"TF_CPP_MIN_LOG_LEVEL": "3", THREADS: "2"})
    assert done.stdout.split()[-1] == "numbers"

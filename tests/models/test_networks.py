"""Every architecture of the zoo: preprocessing as its authors had it, and what is saved predicts the same."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common.errors import UserError
from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.network.build import build, plain_copy, preprocessed
from models.finetuning.network.network import Network, set_trainable
from models.finetuning.recipe import Kind

QUICKLY_TESTED = ("vgg16", "mobilenet")  # by what a developer runs; the others in the slow tests
ZOO = [pytest.param(name, marks=[] if name in QUICKLY_TESTED else [pytest.mark.slow]) for name in zoo.names()]


def small(name: str, **changes: object) -> tuple[zoo.Architecture, object]:
    """An architecture with its recipe at its smallest size, not square."""
    architecture = zoo.find(name)
    least = architecture.least_size
    recipe = dataclasses.replace(architecture.recipe, image_size=ImageSize(least, least + 21), **changes)
    return architecture, recipe


@pytest.mark.parametrize("name", ZOO)
def test_the_declared_number_of_parameters_is_that_of_the_network(name: str) -> None:
    architecture, recipe = small(name)
    whole = dataclasses.replace(recipe, pooled_layers=(), image_size=architecture.recipe.image_size)
    assert build(architecture, whole, "none", "float32", seed=0).backbone.count_params() == architecture.parameters


def images(network: Network, count: int = 3) -> np.ndarray:
    shape = network.training.input_shape[1:]
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("name", ZOO)
def test_preprocessing_is_that_of_keras_applications(name: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    inputs = keras.Input((8, 9, 3), dtype="uint8")
    ours = keras.Model(inputs, preprocessed(inputs, zoo.find(name).preprocessing)).predict_on_batch(pixels)
    module, _, function = zoo.find(name).builder.partition(":")
    function = "VGG16" if name == "googlenet" else function  # both of Caffe
    builder = getattr(keras.applications, function)
    assert module == "keras.applications" or name == "googlenet"
    reference = importlib.import_module(builder.__module__).preprocess_input
    np.testing.assert_allclose(ours, reference(pixels.astype(np.float32)), atol=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_trains_one_step_and_the_saved_network_predicts_from_pixels_alone(name: str, tmp_path: Path) -> None:
    architecture, recipe = small(name)
    network = build(architecture, recipe, "none", "float32", seed=0)
    set_trainable(network, recipe, head_only=False)
    network.compile("sgd")
    batch = images(network)
    before = network.predictor.predict_on_batch(batch)[0]
    assert np.isfinite(network.train_on_batch(batch, np.eye(10, dtype=np.float32)[[0, 4, 9]]))
    after, features = network.predictor.predict_on_batch(batch)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)
    assert features.shape == (3, network.head.input_shape[1])

    plain_copy(network, lambda: build(architecture, recipe, "none", "float32", seed=0)).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.input.dtype == "uint8"
    np.testing.assert_allclose(loaded.predict_on_batch(batch), after, atol=1e-6)


@pytest.mark.slow
def test_a_saved_convnext_whose_layers_are_keras_s_private_ones_loads_without_our_code(tmp_path: Path) -> None:
    architecture, recipe = small("convnext_tiny")
    network = build(architecture, recipe, "none", "float32", seed=0)
    batch = images(network)
    np.save(tmp_path / "images.npy", batch)
    plain_copy(network, lambda: build(architecture, recipe, "none", "float32", seed=0)).save(tmp_path / "model.keras")
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras', safe_mode=True)\n"
        "np.save('seen.npy', model.predict_on_batch(np.load('images.npy')))\n"
        "assert not any(name.split('.')[0] in ('models', 'preprocessing') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    expected, _ = network.predictor.predict_on_batch(batch)
    np.testing.assert_allclose(np.load(tmp_path / "seen.npy"), expected, atol=1e-6)


def test_a_network_trained_in_bfloat16_is_saved_in_float32_and_its_rows_sum_to_one(tmp_path: Path) -> None:
    architecture, recipe = small("mobilenet")
    network = build(architecture, recipe, "none", "mixed_bfloat16", seed=0)
    batch = images(network)
    probabilities, features = network.predictor.predict_on_batch(batch)
    assert probabilities.dtype == features.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    plain_copy(network, lambda: build(architecture, recipe, "none", "float32", seed=0)).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    policies = {layer.dtype_policy.name for layer in loaded.get_layer("backbone").layers}
    assert policies == {"float32"}
    np.testing.assert_allclose(loaded.predict_on_batch(batch), probabilities, atol=0.05)


def test_weights_of_a_folder_are_loaded_and_those_of_another_network_are_refused(tmp_path: Path) -> None:
    source = keras.applications.ResNet50(weights=None, include_top=False)
    source.save_weights(tmp_path / "resnet50.weights.h5")
    architecture, recipe = small("resnet50")
    network = build(architecture, recipe, str(tmp_path), "float32", seed=3)
    for ours, theirs in zip(network.backbone.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    (tmp_path / "resnet50.weights.h5").rename(tmp_path / "vgg16.weights.h5")
    architecture, recipe = small("vgg16")
    with pytest.raises(UserError, match="not the weights of vgg16"):
        build(architecture, recipe, str(tmp_path), "float32", seed=0)
    (tmp_path / "vgg16.weights.h5").write_bytes(b"not HDF5 at all")
    with pytest.raises(UserError, match="not the weights of vgg16"):
        build(architecture, recipe, str(tmp_path), "float32", seed=0)


def test_too_small_images_and_unknown_layers_are_told_in_one_line() -> None:
    architecture, recipe = small("inception_v3")
    with pytest.raises(UserError, match="--image-size 74x75: inception_v3 needs at least 75x75"):
        architecture.settings_for(Kind(), {"image_size": ImageSize(74, 75)})
    with pytest.raises(UserError, match="Did you mean mixed7"):
        build(architecture, dataclasses.replace(recipe, pooled_layers=("mixd7",)), "none", "float32", seed=0)


def test_what_trains_is_what_the_recipe_says() -> None:
    architecture, recipe = small("resnet50")
    network = build(architecture, recipe, "none", "float32", seed=0)
    head = network.head.trainable_variables

    def training(head_only: bool, **changes: object) -> list[str]:
        set_trainable(network, dataclasses.replace(recipe, **changes), head_only)
        return [variable.path for variable in network.training.trainable_variables]

    assert len(training(head_only=True)) == len(head) == 2
    assert len(training(head_only=False, trainable="head")) == 2
    convolutions = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(training(head_only=False)) == 2 * len(convolutions) + 2
    assert len(training(head_only=False, batch_norm="training")) == 2 * len(convolutions) + 2 * len(norms) + 2
    assert len(training(head_only=False, trainable="last 2", batch_norm="training")) == 2 + 2 + 2
    last = [layer.kernel.path for layer in convolutions if layer.name.startswith("conv5")]
    last += [layer.bias.path for layer in convolutions if layer.name.startswith("conv5")]
    paths = training(head_only=False, trainable="from conv5_block1_1_conv")
    assert len(last) == 20
    assert sorted(paths) == sorted([*last, *(variable.path for variable in head)])
    for wrong in ("last 0", "last 9999", "from nowhere", "everything"):
        with pytest.raises(UserError):
            set_trainable(network, dataclasses.replace(recipe, trainable=wrong), head_only=False)


@pytest.mark.parametrize(
    ("name", "until"),
    [
        pytest.param("resnet50", "conv5_block3_out", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "out_relu", marks=pytest.mark.slow),
        ("mobilenet_v2", "block_4_add"),
    ],
)
def test_frozen_batch_norm_folded_into_kernels_computes_and_trains_the_same(name: str, until: str) -> None:
    architecture, recipe = small(name, dropout=0.0, pooled_layers=(until,))
    network = build(architecture, recipe, "none", "float32", seed=0)
    random = np.random.default_rng(2)
    norms = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        for variable in layer.weights:  # else the folded scale would be nearly 1
            low, high = (0.8, 1.2) if float(np.mean(variable)) else (-0.1, 0.1)
            variable.assign(random.uniform(low, high, variable.shape))
    set_trainable(network, recipe, head_only=False)
    plain = keras.Model(network.preprocessing.input, network.backbone(network.preprocessing.output))
    unfolded = keras.Model(plain.input, network.head(keras.layers.GlobalAveragePooling2D()(plain.output)))
    folded = [layer for layer in network.predictor.get_layer("backbone").layers if "fused" in layer.name]
    assert len(folded) == len(norms)

    batch, targets = images(network), np.eye(10, dtype=np.float32)[[0, 4, 8]]
    logits = unfolded.predict_on_batch(batch)
    np.testing.assert_allclose(network.training.predict_on_batch(batch), logits, atol=1e-3 * np.abs(logits).max())
    weights = [*network.backbone.weights, *network.head.weights]
    start = [np.array(variable) for variable in weights]
    moves = []
    for model in (network.training, unfolded):
        for variable, value in zip(weights, start, strict=True):
            variable.assign(value)
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=keras.losses.CategoricalCrossentropy(from_logits=True))
        model.train_on_batch(batch, targets)
        moves.append([np.array(variable) - value for variable, value in zip(weights, start, strict=True)])
    compared = 0
    for one, other in zip(*moves, strict=True):
        largest = np.abs(other).max()
        if largest > 1e-4:  # else rounding is all there is
            np.testing.assert_allclose(one, other, atol=0.02 * largest)
            compared += 1
    assert compared > 5


def test_folding_computes_in_the_precision_of_the_backbone() -> None:
    architecture, recipe = small("mobilenet")
    exact = build(architecture, recipe, "none", "float32", seed=0)
    half = build(architecture, recipe, "none", "mixed_bfloat16", seed=0)
    _, features = exact.predictor.predict_on_batch(images(exact))
    _, rounded = half.predictor.predict_on_batch(images(half))
    assert 0 < np.abs(rounded - features).max() < 0.05 * np.abs(features).max()
    assert str(rounded.dtype) == "float32"

"""Every architecture of the zoo: preprocessing as its authors had it, and what is saved predicts the same."""

import dataclasses
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

from common.errors import UserError
from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Recipe
from models.finetuning.network.build import build, plain_copy, preprocessed
from models.finetuning.network.googlenet import GoogLeNet
from models.finetuning.network.network import Network, blocks, set_trainable
from tests.commands import run_python, succeeded

QUICKLY_TESTED = ("vgg16", "mobilenet")  # by what a developer runs; the others in the slow tests
ZOO = [pytest.param(name, marks=[] if name in QUICKLY_TESTED else [pytest.mark.slow]) for name in zoo.names()]


TARGETS = np.eye(10, dtype=np.float32)[[0, 4, 9]]


def network_of(
    name: str, weights: str = "none", precision: str = "float32", **changes: object
) -> tuple[Network, Recipe]:
    """A network and its recipe, at its smallest size unless told otherwise, not square."""
    least = zoo.find(name).least_size
    recipe = dataclasses.replace(zoo.find(name).recipe, **{"image_size": ImageSize(least, least + 21)} | changes)
    return build(zoo.find(name), recipe, weights, precision, seed=0), recipe


@pytest.mark.parametrize("name", ZOO)
def test_the_declared_number_of_parameters_is_that_of_the_network(name: str) -> None:
    network, _ = network_of(name, pooled_layers=(), image_size=zoo.find(name).recipe.image_size)
    assert network.backbone.count_params() == zoo.find(name).parameters


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


@pytest.mark.parametrize(
    ("name", "precision", "tolerance"),
    [
        *(pytest.param(*name.values, "float32", 1e-6, marks=name.marks) for name in ZOO),
        ("mobilenet", "mixed_bfloat16", 0.05),
    ],
)
def test_trains_one_step_and_the_saved_network_predicts_from_pixels_alone(
    name: str, precision: str, tolerance: float, tmp_path: Path
) -> None:
    network, recipe = network_of(name, precision=precision)
    set_trainable(network, recipe, head_only=False)
    network.compile("sgd")
    batch = images(network)
    before = network.predictor.predict_on_batch(batch)[0]
    assert np.isfinite(network.train_on_batch(batch, TARGETS))
    after, features = network.predictor.predict_on_batch(batch)
    assert after.dtype == features.dtype == np.float32
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)
    assert features.shape == (3, network.head.input_shape[1])

    plain_copy(network, zoo.find(name), recipe).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.input.dtype == "uint8"
    assert {layer.dtype_policy.name for layer in loaded.get_layer("backbone").layers} == {"float32"}
    np.testing.assert_allclose(loaded.predict_on_batch(batch), after, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "googlenet"])  # with private layers of Keras; of our own builder
def test_a_saved_network_loads_without_our_code(name: str, tmp_path: Path) -> None:
    network, recipe = network_of(name)
    batch = images(network)
    np.save(tmp_path / "images.npy", batch)
    plain_copy(network, zoo.find(name), recipe).save(tmp_path / "model.keras")
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras', safe_mode=True)\n"
        "np.save('seen.npy', model.predict_on_batch(np.load('images.npy')))\n"
        "assert not any(name.split('.')[0] in ('models', 'preprocessing') for name in sys.modules)\n"
    )
    succeeded(run_python("-c", script, cwd=tmp_path))
    expected, _ = network.predictor.predict_on_batch(batch)
    np.testing.assert_allclose(np.load(tmp_path / "seen.npy"), expected, atol=1e-6)


def test_what_trains_is_what_the_recipe_says() -> None:
    network, recipe = network_of("resnet50")
    head = network.head.trainable_variables

    def training(head_only: bool, **changes: object) -> list[str]:
        set_trainable(network, dataclasses.replace(recipe, **changes), head_only)
        return [variable.path for variable in network.training.trainable_variables]

    assert len(training(head_only=True)) == len(head) == 2
    assert len(training(head_only=False, trainable="head")) == 2
    convolutions = [layer for layer in network.backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(training(head_only=False)) == 2 * len(convolutions) + 2
    assert len(training(head_only=False, trainable="last 2", batch_norm="training")) == 2 + 2 + 2
    paths = training(head_only=False, trainable="from conv5_block1_1_conv")
    last = [layer for layer in convolutions if layer.name.startswith("conv5")]
    expected = [variable.path for layer in last for variable in (layer.kernel, layer.bias)]
    assert sorted(paths) == sorted([*expected, *(variable.path for variable in head)])
    for wrong in ("last 0", "last 9999", "from nowhere", "everything"):
        with pytest.raises(UserError):
            set_trainable(network, dataclasses.replace(recipe, trainable=wrong), head_only=False)
    with pytest.raises(UserError, match=r"Did you mean block5_pool\?"):
        network_of("vgg16", pooled_layers=("blok5_pool",))


@pytest.mark.parametrize("until", [pytest.param("out_relu", marks=pytest.mark.slow), "block_4_add"])
def test_frozen_batch_norm_fused_into_kernels_computes_and_trains_the_same(until: str) -> None:
    network, recipe = network_of("mobilenet_v2", dropout=0.0, pooled_layers=(until,))
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

    batch = images(network)
    logits = unfolded.predict_on_batch(batch)
    np.testing.assert_allclose(network.training.predict_on_batch(batch), logits, atol=1e-3 * np.abs(logits).max())
    weights = [*network.backbone.weights, *network.head.weights]
    start = [np.array(variable) for variable in weights]
    moves = []
    for model in (network.training, unfolded):
        for variable, value in zip(weights, start, strict=True):
            variable.assign(value)
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=keras.losses.CategoricalCrossentropy(from_logits=True))
        model.train_on_batch(batch, TARGETS)
        moves.append([np.array(variable) - value for variable, value in zip(weights, start, strict=True)])
    compared = 0
    for one, other in zip(*moves, strict=True):
        largest = np.abs(other).max()
        if largest > 1e-4:  # else rounding is all there is
            np.testing.assert_allclose(one, other, atol=0.02 * largest)
            compared += 1
    assert compared > 5


def cross_entropy(logits: np.ndarray) -> float:
    return float(np.mean(keras.ops.categorical_crossentropy(TARGETS, logits, from_logits=True)))


@pytest.mark.slow
def test_auxiliary_heads_train_at_their_weight_and_are_not_saved(tmp_path: Path) -> None:
    source = GoogLeNet(input_shape=(75, 90, 3))
    source.save_weights(tmp_path / "googlenet.weights.h5")
    network, recipe = network_of("googlenet", str(tmp_path), image_size=ImageSize(75, 90), dropout=0.0)
    assert zoo.find("googlenet").auxiliary_weight == 0.3  # the paper's
    assert [output.shape for output in network.training.outputs] == [(None, 10)] * 3
    for ours, theirs in zip(network.backbone.weights, source.weights, strict=True):  # the file is of the main part
        np.testing.assert_array_equal(ours, theirs)

    set_trainable(network, recipe, head_only=False)
    network.compile("sgd")
    batch = images(network)
    main, first, second = network.training.predict_on_batch(batch)
    loss = network.training.test_on_batch(batch, [TARGETS] * 3, return_dict=True)["loss"]
    assert loss == pytest.approx(cross_entropy(main) + 0.3 * (cross_entropy(first) + cross_entropy(second)), rel=1e-4)
    probabilities, _ = network.predictor.predict_on_batch(batch)
    np.testing.assert_allclose(probabilities, keras.ops.softmax(main), atol=1e-6)

    watched = [layer for layer in network.auxiliary_layers if layer.weights]
    watched += [network.backbone.get_layer("inception_5b_1x1")]
    before = [np.array(layer.weights[0]) for layer in watched]
    network.train_on_batch(batch, TARGETS)
    for layer, old in zip(watched, before, strict=True):
        assert not np.array_equal(old, layer.weights[0]), layer.name

    plain_copy(network, zoo.find("googlenet"), recipe).save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert saved.count_params() == source.count_params() + 10 * 1025
    assert not any("auxiliary" in layer.name for layer in saved.get_layer("backbone").layers)


@pytest.mark.slow
def test_auxiliary_heads_are_left_out_where_they_are_no_use() -> None:
    size = ImageSize(75, 90)
    for changes, outputs in (
        ({"auxiliary": False}, 1),
        ({"trainable": "head"}, 1),
        ({"pooled_layers": ("inception_4b_output",)}, 2),  # the second leaves after the cut
    ):
        assert len(network_of("googlenet", image_size=size, **changes)[0].training.outputs) == outputs


@pytest.mark.slow
def test_from_an_exact_name_comes_before_a_prefix_and_an_unknown_block_is_told() -> None:
    network, recipe = network_of("inception_v3", pooled_layers=(), trainable="from mixed1")  # mixed10 starts so too
    set_trainable(network, recipe, head_only=False)
    later = [layer for name, block in blocks(network.backbone).items() for layer in block if name > "mixed1"]
    training = [layer for layer in network.backbone.layers if layer.trainable_weights]
    assert training == [layer for layer in later if isinstance(layer, keras.layers.Conv2D)]
    with pytest.raises(UserError, match=r"no such layer or block. Did you mean block5\? The blocks: block1, .*block5"):
        network_of("vgg16", pooled_layers=(), trainable="from blok5")


@pytest.mark.slow
def test_flatten_keeps_every_place_and_avgmax_both_poolings() -> None:
    settings = {"image_size": ImageSize(75, 90), "pooled_layers": ()}
    flat, _ = network_of("vgg16", pooling="flatten", **settings)
    batch = images(flat)
    maps = flat.backbone.predict_on_batch(flat.preprocessing.predict_on_batch(batch))
    np.testing.assert_allclose(flat.predictor.predict_on_batch(batch)[1], maps.reshape(3, -1), rtol=1e-4, atol=1e-5)
    both, _ = network_of("vgg16", pooling="avgmax", **settings)
    expected = np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(both.predictor.predict_on_batch(batch)[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_head_l2_adds_the_squares_of_the_head_s_kernels_to_the_loss() -> None:
    network, _ = network_of("mobilenet", dropout=0.0, head_l2=0.5, hidden_units=7)
    network.compile("sgd")
    batch = images(network)
    loss = network.training.test_on_batch(batch, TARGETS, return_dict=True)["loss"]
    squares = sum(float((np.array(network.head.get_layer(x).kernel) ** 2).sum()) for x in ("hidden", "logits"))
    assert loss == pytest.approx(cross_entropy(network.training.predict_on_batch(batch)) + 0.5 * squares, rel=1e-4)

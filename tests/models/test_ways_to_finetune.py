"""Each way to fine-tune does what its `--help` says: what trains, heads, rates of layers, and what is refused."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from common.errors import UserError
from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.network.build import build, plain_copy
from models.finetuning.network.googlenet import GoogLeNet
from models.finetuning.network.network import Network, blocks, rate_scales, set_trainable, trainable_summary
from models.finetuning.recipe import Recipe

pytestmark = pytest.mark.slow  # builds many networks

TARGETS = np.eye(10, dtype=np.float32)[[0, 4, 9]]


def network_of(name: str, weights: str = "none", **changes: object) -> tuple[Network, Recipe]:
    every_layer = {"pooled_layers": (), "trainable": "all"} if name.startswith("vgg") else {}
    settings = {"image_size": ImageSize(75, 90), "dropout": 0.0} | every_layer | changes
    recipe = dataclasses.replace(zoo.find(name).recipe, **settings)
    return build(zoo.find(name), recipe, weights, "float32", seed=0), recipe


def images(network: Network) -> np.ndarray:
    shape = (3, *network.training.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cross_entropy(logits: np.ndarray) -> float:
    return float(np.mean(keras.ops.categorical_crossentropy(TARGETS, logits, from_logits=True)))


def test_auxiliary_heads_train_at_their_weight_and_are_not_saved(tmp_path: Path) -> None:
    source = GoogLeNet(input_shape=(75, 90, 3))
    source.save_weights(tmp_path / "googlenet.weights.h5")
    network, recipe = network_of("googlenet", str(tmp_path))
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

    plain_copy(network, lambda: network_of("googlenet")[0]).save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert saved.count_params() == source.count_params() + 10 * 1025
    assert not any("auxiliary" in layer.name for layer in saved.get_layer("backbone").layers)


def test_auxiliary_heads_are_left_out_where_they_are_no_use() -> None:
    assert len(network_of("googlenet", auxiliary=False)[0].training.outputs) == 1
    assert len(network_of("googlenet", trainable="head")[0].training.outputs) == 1
    cut, _ = network_of("googlenet", pooled_layers=("inception_4b_output",))  # the second leaves after the cut
    assert len(cut.training.outputs) == 2
    assert len(network_of("vgg16")[0].training.outputs) == 1


@pytest.mark.parametrize(
    ("name", "what", "first", "others"),
    [
        ("vgg16", "from block5", "block5_conv1", ["block5_conv2", "block5_conv3"]),
        ("vgg16", "from block4_conv3", "block4_conv3", ["block5_conv1", "block5_conv2", "block5_conv3"]),
        ("mobilenet", "from conv_dw_13", "conv_dw_13", ["conv_pw_13"]),
    ],
)
def test_from_takes_a_layer_or_the_first_of_a_block(name: str, what: str, first: str, others: list[str]) -> None:
    network, recipe = network_of(name, trainable=what)
    set_trainable(network, recipe, head_only=False)
    training = [layer.name for layer in network.backbone.layers if layer.trainable_weights]
    assert training == [first, *others]
    summary = trainable_summary(network)
    count = sum(int(np.prod(v.shape)) for v in network.training.trainable_variables)
    assert summary.startswith(f"{len(training) + 1} of ")
    assert f"train, from {first} to logits: {count:,} of" in summary
    set_trainable(network, recipe, head_only=True)
    assert "layers train, logits: " in trainable_summary(network)


def test_from_an_exact_name_comes_before_a_prefix_and_an_unknown_block_is_told() -> None:
    network, recipe = network_of("inception_v3", pooled_layers=(), trainable="from mixed1")  # mixed10 starts so too
    set_trainable(network, recipe, head_only=False)
    later = [layer for name, block in blocks(network.backbone).items() for layer in block if name > "mixed1"]
    training = [layer for layer in network.backbone.layers if layer.trainable_weights]
    assert training == [layer for layer in later if isinstance(layer, keras.layers.Conv2D)]
    with pytest.raises(UserError, match=r"no such layer or block. Did you mean block5\? The blocks: block1, .*block5"):
        network_of("vgg16", trainable="from blok5")


@pytest.mark.parametrize(("name", "count"), [("vgg19", 5), ("resnet50", 5), ("googlenet", 11), ("convnext_tiny", 8)])
def test_blocks_hold_every_layer_with_weights_once_and_in_order(name: str, count: int) -> None:
    backbone = network_of(name)[0].backbone
    found = blocks(backbone)
    assert len(found) == count
    assert [layer for block in found.values() for layer in block] == [x for x in backbone.layers if x.weights]


def test_flatten_keeps_every_place_and_avgmax_both_poolings() -> None:
    flat, _ = network_of("vgg16", pooling="flatten")
    batch = images(flat)
    maps = flat.backbone.predict_on_batch(flat.preprocessing.predict_on_batch(batch))
    np.testing.assert_allclose(flat.predictor.predict_on_batch(batch)[1], maps.reshape(3, -1), rtol=1e-4, atol=1e-5)
    both, _ = network_of("vgg16", pooling="avgmax")
    expected = np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(both.predictor.predict_on_batch(batch)[1], expected, rtol=1e-4, atol=1e-5)


def test_head_l2_adds_the_squares_of_the_head_s_kernels_to_the_loss() -> None:
    network, _ = network_of("mobilenet", head_l2=0.5, hidden_units=7)
    network.compile("sgd")
    batch = images(network)
    loss = network.training.test_on_batch(batch, TARGETS, return_dict=True)["loss"]
    squares = sum(float((np.array(network.head.get_layer(x).kernel) ** 2).sum()) for x in ("hidden", "logits"))
    assert loss == pytest.approx(cross_entropy(network.training.predict_on_batch(batch)) + 0.5 * squares, rel=1e-4)


def test_layer_decay_falls_from_the_head_down_block_by_block() -> None:
    network, recipe = network_of("vgg16")
    set_trainable(network, recipe, head_only=False)
    scales = dict(zip((v.path for v in network.training.trainable_variables), rate_scales(network, 0.5), strict=True))
    assert scales["logits/kernel"] == 1
    assert scales["block5_conv3/kernel"] == scales["block5_conv1/bias"] == 0.5
    assert scales["block4_conv1/kernel"] == 0.25
    assert scales["block1_conv1/kernel"] == 0.5**5


def test_gradual_unfreezing_adds_a_block_at_a_time() -> None:
    network, recipe = network_of("vgg16", trainable="from block3", unfreeze_epochs=1)
    for count, first in ((1, "block5_conv1"), (2, "block4_conv1"), (0, "block3_conv1")):
        set_trainable(network, recipe, head_only=False, top_blocks=count)
        assert f"train, from {first} to logits" in trainable_summary(network)

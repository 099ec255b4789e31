"""From an architecture and a recipe to a network: pixels in, preprocessing, backbone, pooled features, head.

RGB uint8 (height, width, 3) -> preprocessing (float32) -> backbone -> pooled features -> dropout -> ten logits
"""

import dataclasses
import importlib
from typing import Any

import keras
import numpy as np

from models.finetuning import weights as pretrained
from models.finetuning.architecture import Architecture
from models.finetuning.layers import BACKBONE, backbone_layer, trainable_layers
from models.finetuning.recipe import Recipe
from preprocessing.competition import NUMBER_OF_CLASSES

CAFFE_MEAN_RGB = (123.68, 116.779, 103.939)  # ImageNet's mean, 0 to 255
TORCH_MEAN_RGB, TORCH_DEVIATION_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the same, 0 to 1


@dataclasses.dataclass(frozen=True)
class Network:
    """One network seen from several sides; all share their variables.

    Attributes:
        training: images -> logits, shape (batch, 10), float32.
        predictor: images -> probabilities (batch, 10) and pooled features (batch, features), float32.
        head: pooled features -> logits.
        preprocessing: images -> what the backbone sees.
    """

    training: keras.Model
    predictor: keras.Model
    head: keras.Model
    preprocessing: keras.Model

    @property
    def backbone(self) -> keras.Model:
        """The pretrained part."""
        return self.training.get_layer(BACKBONE)


def build(architecture: Architecture, recipe: Recipe, weights: str, precision: str, seed: int) -> Network:
    """Builds the network with its pretrained weights (or random ones) and a random head.

    Args:
        weights: 'imagenet', 'none', or a folder of weights files.
        precision: the dtype policy of the backbone. Preprocessing, pooling, head and softmax stay in float32.
        seed: of the random weights.

    Raises:
        UserError: the weights do not fit, or a layer's name is unknown.
    """
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    try:
        backbone = _backbone(architecture, recipe, weights)
    finally:
        keras.config.set_dtype_policy("float32")
    images = keras.Input((recipe.image_size.height, recipe.image_size.width, 3), dtype="uint8", name="images")
    pixels = preprocessed(images, architecture.preprocessing)
    maps = backbone(pixels)
    features = _pooled(maps if isinstance(maps, list) else [maps], recipe.pooling)
    head = _head(features.shape[-1], recipe, seed)
    logits = head(features)
    return Network(
        training=keras.Model(images, logits, name="training"),
        predictor=keras.Model(images, [keras.layers.Softmax(name="probabilities")(logits), features], name="predictor"),
        head=head,
        preprocessing=keras.Model(images, pixels, name="preprocessed"),
    )


def preprocessed(images: Any, mode: str) -> Any:
    """The pixels as the pretrained network wants them, made of built-in layers so that a saved network needs no code.

    Args:
        images: symbolic, shape (batch, height, width, 3), uint8 RGB.
        mode: 'tf', 'caffe', 'torch' or 'included', as in `keras.applications.imagenet_utils.preprocess_input`.

    Returns:
        symbolic, float32.
    """
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="preprocessing")(images)
    if mode == "caffe":
        centred = keras.layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEAN_RGB], name="preprocessing")(images)
        return keras.ops.flip(centred, axis=-1)  # the channels, RGB to BGR: not the picture
    if mode == "torch":
        scale = [1 / (255 * deviation) for deviation in TORCH_DEVIATION_RGB]
        offset = [-mean / deviation for mean, deviation in zip(TORCH_MEAN_RGB, TORCH_DEVIATION_RGB, strict=True)]
        return keras.layers.Rescaling(scale, offset=offset, name="preprocessing")(images)
    if mode == "included":
        return keras.layers.Rescaling(1.0, name="preprocessing")(images)
    raise ValueError(f"preprocessing {mode!r}: expected tf, caffe, torch or included")


def set_trainable(network: Network, recipe: Recipe, head_only: bool) -> None:
    """Marks what trains next. Takes effect with the next `compile`, which Keras needs.

    BatchNorm layers are frozen one by one in inference mode: calling the backbone with `training=False` would not do.
    """
    backbone = network.backbone
    backbone.trainable = True
    training = set() if head_only else {layer.name for layer in trainable_layers(backbone, recipe.trainable)}
    for layer in backbone.layers:
        frozen_norm = isinstance(layer, keras.layers.BatchNormalization) and recipe.batch_norm == "inference"
        layer.trainable = layer.name in training and not frozen_norm


def trainable_summary(network: Network) -> str:
    """One line: how many layers and parameters train, and their share of all."""
    every = [layer for layer in network.backbone.layers if layer.weights] + [
        x for x in network.head.layers if x.weights
    ]
    training = [layer for layer in every if layer.trainable_weights]
    count = sum(int(np.prod(v.shape)) for v in network.training.trainable_variables)
    total = network.training.count_params()
    return (
        f"{len(training)} of {len(every)} layers train: {count:,} of {total:,} parameters ({100 * count / total:.1f} %)"
    )


def save_model(network: Network, build_again: Any, path: Any) -> None:
    """Saves images -> probabilities, in float32 whatever it was trained in.

    Args:
        build_again: builds a network like `network` in float32 (its weights are overwritten).
        path: ends in .keras.
    """
    plain: Network = build_again()
    for source, target in zip(network.predictor.weights, plain.predictor.weights, strict=True):
        target.assign(keras.ops.convert_to_numpy(source))
    model = keras.Model(plain.training.input, plain.predictor.outputs[0], name="distracted_driver")
    model.save(path)


def _backbone(architecture: Architecture, recipe: Recipe, weights: str) -> keras.Model:
    size = recipe.image_size
    module, _, function = architecture.builder.partition(":")
    builder = getattr(importlib.import_module(module), function)
    shape = (size.height, size.width, 3)
    if weights == "imagenet":
        with pretrained.download_errors(architecture):
            whole = builder(weights="imagenet", include_top=False, input_shape=shape)
    else:
        whole = builder(weights=None, include_top=False, input_shape=shape)
    pretrained.load(whole, architecture, weights)
    outputs = [backbone_layer(whole, name).output for name in recipe.pooled_layers] or whole.outputs
    backbone = keras.Model(whole.inputs, outputs if len(outputs) > 1 else outputs[0], name=BACKBONE)
    trainable_layers(backbone, recipe.trainable)  # a layer that is not there is told now, not after an hour
    return backbone


def _pooled(maps: list[Any], pooling: str) -> Any:
    layers = {"avg": [keras.layers.GlobalAveragePooling2D], "max": [keras.layers.GlobalMaxPooling2D]}
    layers["avgmax"] = layers["avg"] + layers["max"]
    pooled = [layer(dtype="float32")(feature_map) for feature_map in maps for layer in layers[pooling]]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate(name="features")(pooled)


def _head(features: int, recipe: Recipe, seed: int) -> keras.Model:
    inputs = keras.Input((features,), name="features")
    hidden = inputs
    if recipe.hidden_units:
        hidden = keras.layers.Dense(recipe.hidden_units, activation="relu", name="hidden")(hidden)
    if recipe.dropout:
        hidden = keras.layers.Dropout(recipe.dropout, seed=seed, name="dropout")(hidden)
    return keras.Model(inputs, keras.layers.Dense(NUMBER_OF_CLASSES, name="logits")(hidden), name="head")

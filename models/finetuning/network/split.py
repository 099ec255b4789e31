"""The part of a network below everything that trains: its outputs are the same in every epoch and every fold.

    images -> trunk (frozen) -> activations at the boundary -> top (what trains, and what lies above it) -> logits
                             -> features that the frozen part pools ->

The boundary is one tensor through which all paths from the image to what trains lead, as near to the head as can be.
Both parts share their variables with the network that they were cut from.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from models.finetuning import runtime
from models.finetuning.network.build import Network, as_list, joined_features, pooled_features
from models.finetuning.network.fusion import folded
from models.finetuning.network.layers import leaves, trainable_layers
from models.finetuning.recipe import Recipe

RANDOM_LAYERS = (keras.layers.Dropout, keras.layers.GaussianNoise)


@dataclasses.dataclass(frozen=True)
class Split:
    """A network cut in two.

    Attributes:
        name: of the boundary: the trunk's last layer.
        trunk: images (batch, height, width, 3) uint8 -> activations, in the dtype that the network computes in; where
            the frozen part has features of its own, both as rows of bytes (batch, bytes), uint8.
        top: `training` and `predictor` of the network, but from what the trunk gives.
    """

    name: str
    trunk: keras.Model
    top: Network


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Where a backbone is cut.

    Attributes:
        layer: whose output everything that trains is computed from.
        beside: places, among the backbone's outputs, of those that are frozen and not the layer's own.
        upper: output of the layer -> the backbone's other outputs, in their order.
    """

    layer: Any
    beside: tuple[int, ...]
    upper: keras.Model

    def lower(self, backbone: keras.Model) -> list[Any]:
        """What the part below gives: the layer's output, and those beside it."""
        return [self.layer.output, *(backbone.outputs[place] for place in self.beside)]

    def in_order(self, above: Sequence[Any], beside: Sequence[Any]) -> list[Any]:
        """What belongs to each of the backbone's outputs, from what belongs to `upper`'s and to those beside."""
        found = list(above)
        for place, one in zip(self.beside, beside, strict=True):  # in ascending order
            found.insert(place, one)
        return found


def split(network: Network, recipe: Recipe) -> Split | None:
    """Cuts a network below the lowest layer that the recipe lets train.

    Returns:
        None where there is nothing to cut off: the first layers train, an auxiliary head branches off, or the
        frozen part draws random numbers.
    """
    if network.auxiliary_layers:
        return None
    backbone = network.backbone
    training = trainable_layers(backbone, recipe.trainable)
    if not training:
        return None if _draws(backbone.layers) else _above_features(network)
    found = boundary(backbone, training)
    if found is None:
        return None
    lower = keras.Model(backbone.inputs, found.lower(backbone))
    if _draws(lower.layers):
        return None
    images = network.predictor.input
    activations, *maps = as_list(folded(lower)(network.preprocessing(images)))
    beside = [pooled_features(feature_map, recipe.pooling) for feature_map in maps]
    upper = folded(found.upper) if recipe.batch_norm == "inference" else found.upper
    kept = Packed(name="packed")([activations, *beside]) if beside else activations
    inputs = keras.Input(kept.shape[1:], dtype=kept.dtype, name="activations")
    activations, *beside = Unpacked([activations, *beside])(inputs) if beside else [inputs]
    above = [pooled_features(feature_map, recipe.pooling) for feature_map in as_list(upper(activations))]
    top = _from(network, inputs, joined_features(found.in_order(above, beside)))
    return Split(found.layer.name, keras.Model(images, kept, name="trunk"), top)


def _draws(layers: list[Any]) -> bool:
    """Whether some layer draws random numbers in training, as it does with frozen weights too."""
    return any(isinstance(leaf, RANDOM_LAYERS) and leaf.rate for leaf in leaves(layers))


def boundary(backbone: keras.Model, training: list[Any]) -> Boundary | None:
    """The layer nearest to the head whose output all that trains is computed from, and the part above it.

    Args:
        training: of the backbone's layers; at least one.

    Returns:
        None where there is no such layer, or it and those below it have no weights.
    """
    wanted = {id(layer) for layer in training}
    first = next(place for place, layer in enumerate(backbone.layers) if id(layer) in wanted)
    frozen = [not wanted & {id(x) for x in keras.Model(backbone.inputs, output).layers} for output in backbone.outputs]
    below = backbone.layers[1:first]
    for place, layer in reversed(list(enumerate(below))):
        if not any(leaf.weights for leaf in below[: place + 1]):
            return None  # padding and rescaling cost less than what keeps them
        beside = [at for at, x in enumerate(backbone.outputs) if frozen[at] and x is not layer.output]
        above = [x for at, x in enumerate(backbone.outputs) if at not in beside]
        try:
            upper = keras.Model(layer.output, [keras.layers.Identity()(x) if x is layer.output else x for x in above])
        except ValueError:  # some path to the outputs leads past it
            continue
        if wanted <= {id(other) for other in upper.layers}:
            return Boundary(layer, tuple(beside), upper)
    return None


class Packed(keras.layers.Layer):
    """Arrays of any dtypes, an image a row, as one array of bytes: shape (batch, bytes), uint8."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, dtype="float32", autocast=False)

    def call(self, arrays: Sequence[Any]) -> Any:
        """Args: arrays, each of shape (batch, ...)."""
        rows = [keras.ops.reshape(runtime.bitcast(x, "uint8"), (-1, _bytes(x.shape[1:], x.dtype))) for x in arrays]
        return keras.ops.concatenate(rows, axis=-1)


class Unpacked(keras.layers.Layer):
    """What `Packed` made one array of.

    Args:
        like: arrays of the shapes and dtypes that were packed.
    """

    def __init__(self, like: Sequence[Any]) -> None:
        super().__init__(name="unpacked", dtype="float32", autocast=False)
        self.kinds = [(tuple(x.shape[1:]), keras.backend.standardize_dtype(x.dtype)) for x in like]

    def call(self, rows: Any) -> list[Any]:
        """Args: rows, shape (batch, bytes), uint8."""
        sizes = [_bytes(shape, dtype) for shape, dtype in self.kinds]
        parts = keras.ops.split(rows, np.cumsum(sizes)[:-1].tolist(), axis=-1)
        found = []
        for part, (shape, dtype) in zip(parts, self.kinds, strict=True):
            whole = keras.ops.reshape(part, (-1, *shape, _bytes((), dtype)))
            found.append(runtime.bitcast(whole, dtype))
        return found


def _bytes(shape: Sequence[int], dtype: Any) -> int:
    """Of one image's array."""
    bits = {"bfloat16": 16, "float16": 16, "float32": 32}[keras.backend.standardize_dtype(dtype)]
    return math.prod(shape) * bits // 8


def _above_features(network: Network) -> Split:
    """Only the head trains: the boundary is what it sees."""
    images, features = network.predictor.input, network.predictor.outputs[1]
    inputs = keras.Input(features.shape[1:], dtype=features.dtype, name="activations")
    return Split("features", keras.Model(images, features, name="trunk"), _from(network, inputs, inputs))


def _from(network: Network, inputs: Any, features: Any) -> Network:
    logits = network.head(features)
    probabilities = keras.layers.Softmax(name="probabilities")(logits)
    return dataclasses.replace(
        network,
        training=keras.Model(inputs, logits, name="training"),
        predictor=keras.Model(inputs, [probabilities, keras.layers.Identity()(features)], name="predictor"),
    )

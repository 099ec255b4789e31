"""The part of a network below everything that trains: its outputs are the same in every epoch and every fold.

    images -> trunk (frozen) -> activations at the boundary -> top (what trains, and what lies above it) -> logits

The boundary is one tensor through which all paths from the image lead, as near to the head as can be. Both parts share
their variables with the network that they were cut from.
"""

import dataclasses
from typing import Any

import keras

from models.finetuning.folding import folded
from models.finetuning.layers import leaves, trainable_layers
from models.finetuning.network import Network, pooled_features
from models.finetuning.recipe import Recipe

RANDOM_LAYERS = (keras.layers.Dropout, keras.layers.GaussianNoise)


@dataclasses.dataclass(frozen=True)
class Split:
    """A network cut in two.

    Attributes:
        name: of the boundary: the trunk's last layer.
        trunk: images (batch, height, width, 3) uint8 -> activations, in the dtype that the network computes in.
        top: `training` and `predictor` of the network, but from activations.
    """

    name: str
    trunk: keras.Model
    top: Network


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
        return _above_features(network)
    found = boundary(backbone, training)
    if found is None:
        return None
    layer, upper = found
    lower = keras.Model(backbone.inputs, layer.output)
    if any(isinstance(leaf, RANDOM_LAYERS) and leaf.rate for leaf in leaves(lower.layers)):
        return None
    images = network.predictor.input
    trunk = keras.Model(images, folded(lower)(network.preprocessing(images)), name="trunk")
    computed = folded(upper) if recipe.batch_norm == "inference" else upper
    return Split(layer.name, trunk, _network_above(network, computed, recipe))


def boundary(backbone: keras.Model, training: list[Any]) -> tuple[Any, keras.Model] | None:
    """The layer nearest to the head whose output all that trains is computed from, and the part above it.

    Args:
        training: of the backbone's layers; at least one.

    Returns:
        None where there is no such layer.
    """
    wanted = {id(layer) for layer in training}
    first = next(place for place, layer in enumerate(backbone.layers) if id(layer) in wanted)
    for layer in reversed(backbone.layers[1:first]):
        outputs = [keras.layers.Identity()(x) if x is layer.output else x for x in backbone.outputs]
        try:
            upper = keras.Model(layer.output, outputs)
        except ValueError:  # some path to the outputs leads past it
            continue
        if wanted <= {id(other) for other in upper.layers}:
            return layer, upper
    return None


def _network_above(network: Network, upper: keras.Model, recipe: Recipe) -> Network:
    inputs = upper.inputs[0]
    activations = keras.Input(inputs.shape[1:], dtype=inputs.dtype, name="activations")
    features = pooled_features(upper(activations), recipe.pooling)
    return _from(network, activations, features)


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

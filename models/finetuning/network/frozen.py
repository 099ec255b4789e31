"""What frozen layers save: BatchNorm fused into the convolutions, and a split below everything that trains.

A convolution followed by a frozen BatchNorm is a convolution with another kernel and bias,

    gamma * (w * x + b - mean) / sqrt(variance + epsilon) + beta = (scale * w) * x + (scale * (b - mean) + beta),

and kernels are far smaller than feature maps. The product is computed in each step, so what trains, what the optimiser
sees and what is saved is the plain kernel: training is the same but for rounding.

Below the lowest layer that trains, outputs are the same in every epoch and every fold:

    images -> trunk (frozen) -> activations at the boundary -> top (what trains, and what lies above it) -> logits

The boundary is one tensor through which all paths from the image to what trains lead, as near to the head as possible.
Both parts share their variables with the network that they were split from.
"""

import dataclasses
from typing import Any

import keras

from models.finetuning.network.network import (
    Network,
    Split,
    leaves,
    pooled_features,
    trainable_layers,
)
from models.finetuning.recipe import Recipe

RANDOM_LAYERS = (keras.layers.Dropout, keras.layers.GaussianNoise)


def fused(model: keras.Model) -> keras.Model:
    """The same function of the same variables, its convolutions and the BatchNorm behind them done as one.

    Only right while these BatchNorm layers are frozen, which makes them affine.

    Args:
        model: functional, such as a backbone of keras.applications; stays as it is.
    """
    made_from: dict[int, tuple[Any, Any]] = {}  # the output of a convolution, and that it was made of what

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        inputs = arguments[0] if arguments else None
        if isinstance(layer, keras.layers.BatchNormalization) and id(inputs) in made_from:
            convolution, images = made_from[id(inputs)]
            return FusedConvolution(convolution, layer)(images)
        outputs = layer(*arguments, **keywords)
        if _can_fuse(layer):
            made_from[id(outputs)] = (layer, inputs)
            kept.append(outputs)
        return outputs

    kept: list[Any] = []  # so that no id is taken twice
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _can_fuse(layer: Any) -> bool:
    plain = type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    return plain and layer.activation is keras.activations.linear and getattr(layer, "groups", 1) == 1


class FusedConvolution(keras.layers.Layer):
    """A convolution and the frozen BatchNorm behind it, whose variables it uses.

    Args:
        convolution: a Conv2D or DepthwiseConv2D without activation.
        norm: over its channels.
    """

    def __init__(self, convolution: Any, norm: Any) -> None:
        super().__init__(name=f"{convolution.name}_fused", dtype=convolution.dtype_policy, autocast=False)
        self.convolution = convolution
        self.norm = norm
        self.built = True

    def call(self, images: Any) -> Any:
        """Args: images, shape (batch, height, width, channels)."""
        convolution, norm = self.convolution, self.norm
        scale = keras.ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        shift = -norm.moving_mean * scale
        if convolution.use_bias:
            shift = shift + convolution.bias * scale
        if norm.center:
            shift = shift + norm.beta
        kernel, convolve = convolution.kernel, keras.ops.conv
        if isinstance(convolution, keras.layers.DepthwiseConv2D):
            convolve = keras.ops.depthwise_conv
            kernel = kernel * keras.ops.reshape(scale, kernel.shape[-2:])
        else:
            kernel = kernel * scale
        outputs = convolve(
            keras.ops.cast(images, self.compute_dtype),
            keras.ops.cast(kernel, self.compute_dtype),
            strides=tuple(convolution.strides),
            padding=convolution.padding,
            dilation_rate=convolution.dilation_rate,
            data_format=convolution.data_format,
        )
        return outputs + keras.ops.cast(shift, self.compute_dtype)


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
    layer, upper = found
    lower = keras.Model(backbone.inputs, layer.output)
    if _draws(lower.layers):
        return None
    images = network.predictor.input
    activations = fused(lower)(network.preprocessing(images))
    inputs = keras.Input(activations.shape[1:], dtype=activations.dtype, name="activations")
    upper = fused(upper) if recipe.batch_norm == "inference" else upper
    top = _from(network, inputs, pooled_features(upper(inputs), recipe.pooling))
    return Split(layer.name, keras.Model(images, activations, name="trunk"), top)


def _draws(layers: list[Any]) -> bool:
    """Whether some layer draws random numbers in training, as it does with frozen weights too."""
    return any(isinstance(leaf, RANDOM_LAYERS) and leaf.rate for leaf in leaves(layers))


def boundary(backbone: keras.Model, training: list[Any]) -> tuple[Any, keras.Model] | None:
    """The layer nearest to the head whose output all that trains is computed from, and the part above it.

    Args:
        training: of the backbone's layers; at least one.

    Returns:
        None where there is no such layer, or it and those below it have no weights.
    """
    wanted = {id(layer) for layer in training}
    first = next(place for place, layer in enumerate(backbone.layers) if id(layer) in wanted)
    below = backbone.layers[1:first]
    for place, layer in reversed(list(enumerate(below))):
        if not any(leaf.weights for leaf in below[: place + 1]):
            return None  # padding and rescaling cost less than what keeps them
        outputs = [keras.layers.Identity()(x) if x is layer.output else x for x in backbone.outputs]
        try:
            upper = keras.Model(layer.output, outputs if len(outputs) > 1 else outputs[0])
        except ValueError:  # some path to the outputs leads past it
            continue
        if wanted <= {id(other) for other in upper.layers}:
            return layer, upper
    return None


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

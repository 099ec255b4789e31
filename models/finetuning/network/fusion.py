"""Frozen BatchNorm costs a pass over every feature map, in float32: here it is done to the kernels instead.

A convolution followed by a frozen BatchNorm is a convolution with other numbers in it,

    gamma * (w * x + b - mean) / sqrt(variance + epsilon) + beta = (scale * w) * x + (scale * (b - mean) + beta),

and kernels are far smaller than what they make. The product is taken anew in each step, so what trains, what the
optimiser sees and what is saved is the kernel itself: training is the same but for rounding.
"""

from typing import Any

import keras


def folded(model: keras.Model) -> keras.Model:
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
            return FoldedConvolution(convolution, layer)(images)
        outputs = layer(*arguments, **keywords)
        if _can_fold(layer):
            made_from[id(outputs)] = (layer, inputs)
            kept.append(outputs)
        return outputs

    kept: list[Any] = []  # so that no id is taken twice
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _can_fold(layer: Any) -> bool:
    plain = type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    return plain and layer.activation is keras.activations.linear and getattr(layer, "groups", 1) == 1


class FoldedConvolution(keras.layers.Layer):
    """A convolution and the frozen BatchNorm behind it, whose variables it uses.

    Args:
        convolution: a Conv2D or DepthwiseConv2D without activation.
        norm: over its channels.
    """

    def __init__(self, convolution: Any, norm: Any) -> None:
        super().__init__(name=f"{convolution.name}_folded", dtype=convolution.dtype_policy, autocast=False)
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

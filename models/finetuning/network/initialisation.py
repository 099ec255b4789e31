"""Random weights that can be trained: `--weights none`, as the demo uses it.

With BatchNorm or LayerNorm (ConvNeXt) there is little to do. Without them (VGG, GoogLeNet), many ReLU layers in a row
squeeze all images into nearly the same features, and training sits at ln 10 for ever. So each convolution gets, from a
batch of real images, the bias and the scale that give each of its channels mean 0 and deviation 1: what BatchNorm would
do, once, at first.
"""

from typing import Any

import keras
import numpy as np

from models.finetuning.network.build import Network
from models.finetuning.network.layers import leaves

BATCH_NORM_MOMENTUM = 0.9  # Keras's 0.99 needs thousands of steps before inference mode is right
IMAGES = 64  # in the batch that the statistics are taken from


def prepare_random_weights(network: Network, images: np.ndarray) -> None:
    """Makes a network of random weights trainable.

    Args:
        images: shape (batch, height, width, 3), uint8, RGB, of many drivers and classes.

    Source: Krähenbühl et al. 2015, "Data-dependent initializations of convolutional neural networks".
    """
    layers = leaves([network.backbone, *network.auxiliary_layers])
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = BATCH_NORM_MOMENTUM
    if norms or any(isinstance(layer, keras.layers.LayerNormalization) for layer in layers):
        return
    pixels = network.preprocessing(images)
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
            _equalise(network.backbone, layer, pixels)


def _equalise(backbone: keras.Model, layer: keras.layers.Conv2D, pixels: Any) -> None:
    """Mean 0 and deviation 1 for each channel of one convolution, before its activation."""
    activation, layer.activation = layer.activation, keras.activations.linear
    try:
        outputs = keras.ops.cast(keras.Model(backbone.inputs, layer.output)(pixels), "float32")
    finally:
        layer.activation = activation
    values = keras.ops.convert_to_numpy(outputs)
    mean, deviation = values.mean(axis=(0, 1, 2)), values.std(axis=(0, 1, 2)) + 1e-6
    layer.kernel.assign(layer.kernel / deviation)
    layer.bias.assign((layer.bias - mean) / deviation)

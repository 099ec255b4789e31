"""From an architecture and a recipe to a network: pixels in, preprocessing, backbone, pooled features, head.

RGB uint8 (height, width, 3) -> preprocessing (float32) -> backbone -> pooled features -> dropout -> ten logits
"""

import contextlib
from typing import Any

import keras
import numpy as np

from common.competition import NUMBER_OF_CLASSES
from models.finetuning.architecture import Architecture, Recipe
from models.finetuning.network import weights as pretrained
from models.finetuning.network.network import Network, backbone_layer, leaves, pooled_features, trainable_layers
from preprocessing.images import ImageStore

BACKBONE = "backbone"  # name of that part in a saved network
CAFFE_MEAN_RGB = (123.68, 116.779, 103.939)  # ImageNet's mean, 0 to 255
TORCH_MEAN_RGB, TORCH_DEVIATION_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the same, 0 to 1
BATCH_NORM_MOMENTUM = 0.9  # of random weights: Keras's 0.99 needs thousands of steps before inference mode is right
INITIALISATION_IMAGES = 64  # whose statistics random weights are scaled by


def build(architecture: Architecture, recipe: Recipe, weights: str, precision: str, seed: int) -> Network:
    """Builds the network with pretrained weights or random ones, and a random head; a UserError where they do not fit.

    Args:
        weights: 'imagenet', 'none', or a folder of weights files.
        precision: the dtype policy of the backbone. Preprocessing, pooling, head and softmax stay in float32.
    """
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    try:
        backbone, auxiliary = _backbone(architecture, recipe, weights)
    finally:
        keras.config.set_dtype_policy("float32")
    images = keras.Input((recipe.image_size.height, recipe.image_size.width, 3), dtype="uint8", name="images")
    pixels = preprocessed(images, architecture.preprocessing)
    computed = fused(backbone) if recipe.batch_norm == "inference" else backbone
    features = pooled_features(computed(pixels), recipe.pooling)
    head = _head(features.shape[-1], recipe, seed)
    logits = head(features)
    training, layers = keras.Model(images, logits, name="training"), ()
    if auxiliary:
        training, layers = _with_auxiliary(images, pixels, backbone, auxiliary, head, recipe)
    return Network(
        training=training,
        predictor=keras.Model(images, [keras.layers.Softmax(name="probabilities")(logits), features], name="predictor"),
        backbone=backbone,
        head=head,
        preprocessing=keras.Model(images, pixels, name="preprocessed"),
        auxiliary_layers=layers,
        loss_weights=(1.0, *[architecture.auxiliary_weight] * len(auxiliary)),
    )


def preprocessed(images: Any, mode: str) -> Any:
    """Images (batch, height, width, 3), uint8 RGB, as the pretrained network wants them, by built-in layers.

    Args:
        mode: 'tf', 'caffe', 'torch' or 'included', as in `keras.applications.imagenet_utils.preprocess_input`.
    """
    scale, offset = {
        "tf": (1 / 127.5, -1.0),
        "caffe": (1.0, [-mean for mean in CAFFE_MEAN_RGB]),
        "torch": (
            [1 / (255 * deviation) for deviation in TORCH_DEVIATION_RGB],
            [-mean / deviation for mean, deviation in zip(TORCH_MEAN_RGB, TORCH_DEVIATION_RGB, strict=True)],
        ),
        "included": (1.0, 0.0),
    }[mode]
    pixels = keras.layers.Rescaling(scale, offset=offset, name="preprocessing")(images)
    return keras.ops.flip(pixels, axis=-1) if mode == "caffe" else pixels  # the channels, RGB to BGR: not the picture


def plain_copy(network: Network, architecture: Architecture, recipe: Recipe) -> keras.Model:
    """The network to be saved: images -> probabilities, in float32 whatever it was trained in; with a layer 'head'."""
    plain = build(architecture, recipe, "none", "float32", 0)
    pairs = [(network.backbone, plain.backbone), (network.head, plain.head)]
    for source, target in ((a, b) for one, other in pairs for a, b in zip(one.weights, other.weights, strict=True)):
        target.assign(keras.ops.convert_to_numpy(source))
    features = pooled_features(plain.backbone(plain.preprocessing.output), recipe.pooling)
    probabilities = keras.layers.Softmax(name="probabilities")(plain.head(features))
    return keras.Model(plain.preprocessing.input, probabilities, name="distracted_driver")


def _backbone(architecture: Architecture, recipe: Recipe, weights: str) -> tuple[keras.Model, list[Any]]:
    """The backbone, which ends at the pooled layers, and the outputs of those auxiliary branches that leave it."""
    size = recipe.image_size
    shape = (size.height, size.width, 3)
    branched = architecture.auxiliary_weight > 0 and recipe.auxiliary and recipe.trainable != "head"
    options = {"auxiliary": True} if branched else {}
    source = "imagenet" if weights == "imagenet" else None
    with pretrained.downloading(architecture) if source else contextlib.nullcontext():
        whole = architecture.build(weights=source, include_top=False, input_shape=shape, **options)
    branches: list[Any] = []
    if branched:
        whole, branches = keras.Model(whole.inputs, whole.outputs[0]), whole.outputs[1:]
    pretrained.load(whole, architecture, weights)
    outputs = [backbone_layer(whole, name).output for name in recipe.pooled_layers] or whole.outputs
    backbone = keras.Model(whole.inputs, outputs if len(outputs) > 1 else outputs[0], name=BACKBONE)
    trainable_layers(backbone, recipe.trainable)  # an unknown layer is reported now, not after an hour
    beyond = {id(layer) for layer in whole.layers} - {id(layer) for layer in backbone.layers}
    kept = [x for x in branches if not beyond & {id(layer) for layer in keras.Model(whole.inputs, x).layers}]
    return backbone, kept


def _with_auxiliary(
    images: Any, pixels: Any, backbone: keras.Model, branches: list[Any], head: keras.Model, recipe: Recipe
) -> tuple[keras.Model, tuple[Any, ...]]:
    """The network to train where there are auxiliary heads, and the layers of these."""
    count = len(backbone.outputs)
    branched = keras.Model(backbone.inputs, [*backbone.outputs, *branches], name=BACKBONE)
    outputs = branched(pixels)
    classifiers = [
        keras.layers.Dense(NUMBER_OF_CLASSES, name=f"auxiliary_logits_{i + 1}") for i in range(len(branches))
    ]
    logits = [head(pooled_features(outputs[:count], recipe.pooling))]
    logits += [classifier(output) for classifier, output in zip(classifiers, outputs[count:], strict=True)]
    own = {id(layer) for layer in backbone.layers}
    layers = [layer for layer in branched.layers if id(layer) not in own]
    return keras.Model(images, logits, name="training"), (*layers, *classifiers)


def _head(features: int, recipe: Recipe, seed: int) -> keras.Model:
    inputs = keras.Input((features,), name="features")
    penalty = {"kernel_regularizer": keras.regularizers.L2(recipe.head_l2)} if recipe.head_l2 else {}
    hidden = inputs
    if recipe.hidden_units:
        hidden = keras.layers.Dense(recipe.hidden_units, activation="relu", name="hidden", **penalty)(hidden)
    if recipe.dropout:
        hidden = keras.layers.Dropout(recipe.dropout, seed=seed, name="dropout")(hidden)
    start = "zeros" if recipe.head_start == "zero" else "glorot_uniform"
    logits = keras.layers.Dense(NUMBER_OF_CLASSES, kernel_initializer=start, name="logits", **penalty)
    return keras.Model(inputs, logits(hidden), name="head")


def fused(model: keras.Model) -> keras.Model:
    """The same function of the same variables, its convolutions and the frozen BatchNorm behind them done as one.

    A convolution followed by a frozen BatchNorm is a convolution with another kernel and bias,

        gamma * (w * x + b - mean) / sqrt(variance + epsilon) + beta = (scale * w) * x + (scale * (b - mean) + beta),

    and kernels are far smaller than feature maps. The product is computed in each step, so what trains, what the
    optimiser sees and what is saved is the plain kernel: training is the same but for rounding.

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
    """A Conv2D or DepthwiseConv2D without activation and the frozen BatchNorm behind it, whose variables it uses."""

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


def prepare_random_weights(network: Network, store: ImageStore, rows: np.ndarray) -> None:
    """Makes a network of random weights trainable: `--weights none`, as the demo uses it.

    With BatchNorm or LayerNorm there is little to do. Without them (VGG, GoogLeNet), many ReLU layers in a row squeeze
    all images into nearly the same features, and the loss stays at ln 10. So each convolution gets, from a batch of
    images, the bias and the scale that give each of its channels mean 0 and deviation 1, as BatchNorm would
    (Krähenbühl et al. 2015, "Data-dependent initializations of convolutional neural networks").
    """
    layers = leaves([network.backbone, *network.auxiliary_layers])
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = BATCH_NORM_MOMENTUM
    if norms or any(isinstance(layer, keras.layers.LayerNormalization) for layer in layers):
        return
    sample = rows[np.linspace(0, len(rows) - 1, INITIALISATION_IMAGES).astype(int)]
    pixels = network.preprocessing(np.stack([store.read(int(row)) for row in sample]))
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

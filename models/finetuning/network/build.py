"""From an architecture and a recipe to a network: pixels in, preprocessing, backbone, pooled features, head.

RGB uint8 (height, width, 3) -> preprocessing (float32) -> backbone -> pooled features -> dropout -> ten logits
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from common.competition import NUMBER_OF_CLASSES
from common.errors import UserError
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from models.finetuning.network.fusion import folded
from models.finetuning.network.layers import BACKBONE, backbone_layer, heights, leaves, trainable_layers
from models.finetuning.recipe import Recipe

CAFFE_MEAN_RGB = (123.68, 116.779, 103.939)  # ImageNet's mean, 0 to 255
TORCH_MEAN_RGB, TORCH_DEVIATION_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the same, 0 to 1


@dataclasses.dataclass(frozen=True)
class Network:
    """One network seen from several sides; all share their variables.

    Attributes:
        training: images -> logits, shape (batch, 10), float32; with auxiliary heads a list, theirs behind the main.
        predictor: images -> probabilities (batch, 10) and pooled features (batch, features), float32.
        backbone: the pretrained part, as it is saved; `training` and `predictor` compute it as `folding` does.
        head: pooled features -> logits.
        preprocessing: images -> what the backbone sees.
        pooling: how the backbone's outputs become features.
        auxiliary_layers: of the auxiliary heads, which only `training` contains.
        loss_weights: of the outputs of `training`.
    """

    training: keras.Model
    predictor: keras.Model
    backbone: keras.Model
    head: keras.Model
    preprocessing: keras.Model
    pooling: str
    auxiliary_layers: tuple[Any, ...] = ()
    loss_weights: tuple[float, ...] = (1.0,)

    def compile(self, optimizer: Any, label_smoothing: float = 0.0) -> None:
        """Compiles `training`; the losses of auxiliary heads have their own weights."""
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        many = len(self.loss_weights) > 1
        weights = list(self.loss_weights) if many else None
        losses = [loss] * len(self.loss_weights) if many else loss
        self.training.compile(optimizer=optimizer, loss=losses, loss_weights=weights)

    def train_on_batch(self, images: np.ndarray, targets: np.ndarray) -> float:
        """One step. Args: images uint8 (batch, height, width, 3); targets (batch, 10). Returns the loss, in nats."""
        count = len(self.loss_weights)
        self.training.reset_metrics()  # else Keras returns a mean over steps
        return float(
            self.training.train_on_batch(images, [targets] * count if count > 1 else targets, return_dict=True)["loss"]
        )


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
        backbone, auxiliary = _backbone(architecture, recipe, weights)
    finally:
        keras.config.set_dtype_policy("float32")
    images = keras.Input((recipe.image_size.height, recipe.image_size.width, 3), dtype="uint8", name="images")
    pixels = preprocessed(images, architecture.preprocessing)
    computed = folded(backbone) if recipe.batch_norm == "inference" else backbone
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
        pooling=recipe.pooling,
        auxiliary_layers=layers,
        loss_weights=(1.0, *[architecture.auxiliary_weight] * len(auxiliary)),
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


def pooled_features(maps: Any, pooling: str) -> Any:
    """Feature maps of a backbone as one row of numbers an image, float32.

    Args:
        maps: symbolic, one or several of shape (batch, height, width, channels).
        pooling: 'avg', 'max', 'avgmax' or 'flatten'.
    """
    layers: dict[str, list[Any]] = {
        "avg": [keras.layers.GlobalAveragePooling2D],
        "max": [keras.layers.GlobalMaxPooling2D],
    }
    layers |= {"avgmax": layers["avg"] + layers["max"], "flatten": [keras.layers.Flatten]}
    return joined_features([layer(dtype="float32")(one) for one in as_list(maps) for layer in layers[pooling]])


def joined_features(pooled: list[Any]) -> Any:
    """Rows of features, each of shape (batch, features), as one."""
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate()(pooled)


def set_trainable(network: Network, recipe: Recipe, head_only: bool, top_blocks: int = 0) -> None:
    """Marks what trains next. Takes effect with the next `compile`, which Keras needs.

    BatchNorm layers are frozen one by one in inference mode: calling the backbone with `training=False` would not do.
    Auxiliary heads always train, as the head does.

    Args:
        top_blocks: of what the recipe lets train, only the N blocks nearest to the head; 0 is all.
    """
    backbone = network.backbone
    backbone.trainable = True
    training = [] if head_only else trainable_layers(backbone, recipe.trainable, top_blocks)
    names = {layer.name for layer in training}
    for layer in backbone.layers:
        layer.trainable = layer.name in names
    for layer in leaves(training):
        if isinstance(layer, keras.layers.BatchNormalization) and recipe.batch_norm == "inference":
            layer.trainable = False


def rate_scales(network: Network, layer_decay: float) -> list[float]:
    """What the learning rate is multiplied by, for each of `network.training.trainable_variables`.

    The heads have 1, the topmost block `layer_decay`, the one below it `layer_decay` squared, and so on.
    """
    below = heights(network.backbone)
    powers = {id(v): below[x.name] for x in network.backbone.layers for v in x.trainable_variables}
    return [layer_decay ** powers.get(id(variable), 0) for variable in network.training.trainable_variables]


def trainable_summary(network: Network) -> str:
    """One line: how many layers and parameters train, from which to which, and their share of all."""
    every = [x for x in leaves([network.backbone, *network.auxiliary_layers, network.head]) if x.weights]
    training = [layer for layer in every if layer.trainable_weights]
    first, last = training[0].name, training[-1].name
    count = sum(int(np.prod(v.shape)) for v in network.training.trainable_variables)
    total = network.training.count_params()
    span = first if len(training) == 1 else f"from {first} to {last}"
    return (
        f"{len(training)} of {len(every)} layers train, {span}: "
        f"{count:,} of {total:,} parameters ({100 * count / total:.1f} %)"
    )


def save_model(network: Network, build_again: Any, path: Any) -> None:
    """Saves images -> probabilities, in float32 whatever it was trained in.

    Args:
        build_again: builds a network like `network` in float32 (its weights are overwritten).
        path: ends in .keras.
    """
    plain_copy(network, build_again).save(path)


def copy_backbone(source: Network, target: Network) -> None:
    """Gives a network the backbone's weights of another; its head and its auxiliary heads stay as they are.

    Raises:
        UserError: the backbones end at different layers, or are of different architectures.
    """
    shapes = [[tuple(weight.shape) for weight in network.backbone.weights] for network in (source, target)]
    if shapes[0] != shapes[1]:
        raise UserError(
            "pooled_layers: the trained network is cut elsewhere, so its weights do not fit. Keep its pooled_layers, "
            "or start from the architecture's name."
        )
    for ours, theirs in zip(target.backbone.weights, source.backbone.weights, strict=True):
        ours.assign(keras.ops.convert_to_numpy(theirs))


def plain_copy(network: Network, build_again: Any) -> keras.Model:
    """Images -> probabilities in float32, as `save_model` saves it; its head is its layer 'head'."""
    plain: Network = build_again()
    pairs = [(network.backbone, plain.backbone), (network.head, plain.head)]
    for source, target in ((a, b) for one, other in pairs for a, b in zip(one.weights, other.weights, strict=True)):
        target.assign(keras.ops.convert_to_numpy(source))
    images = plain.preprocessing.input
    features = pooled_features(plain.backbone(plain.preprocessing.output), plain.pooling)
    probabilities = keras.layers.Softmax(name="probabilities")(plain.head(features))
    return keras.Model(images, probabilities, name="distracted_driver")


def _backbone(architecture: Architecture, recipe: Recipe, weights: str) -> tuple[keras.Model, list[Any]]:
    """The backbone, which ends at the pooled layers, and the outputs of those auxiliary branches that leave it."""
    size = recipe.image_size
    shape = (size.height, size.width, 3)
    branched = architecture.auxiliary_weight > 0 and recipe.auxiliary and recipe.trainable != "head"
    options = {"auxiliary": True} if branched else {}
    if weights == "imagenet":
        with pretrained.downloading(architecture, architecture.published_weights):
            whole = architecture.build(weights="imagenet", include_top=False, input_shape=shape, **options)
    else:
        whole = architecture.build(weights=None, include_top=False, input_shape=shape, **options)
    branches: list[Any] = []
    if branched:
        whole, branches = keras.Model(whole.inputs, whole.outputs[0]), whole.outputs[1:]
    pretrained.load(whole, architecture, weights)
    outputs = [backbone_layer(whole, name).output for name in recipe.pooled_layers] or whole.outputs
    backbone = keras.Model(whole.inputs, outputs if len(outputs) > 1 else outputs[0], name=BACKBONE)
    trainable_layers(backbone, recipe.trainable)  # a layer that is not there is told now, not after an hour
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


def as_list(outputs: Any) -> list[Any]:
    """The outputs of a model that has one, or several."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


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

"""A network and its parts: backbone, pooled features, head; its blocks, and which of them train."""

import dataclasses
import re
from typing import Any

import keras
import numpy as np

from common.errors import UserError
from common.settings import nearest
from models.finetuning import runtime
from models.finetuning.recipe import Recipe

BACKBONE = "backbone"
OPENING = re.compile(  # the start of a layer's name that says which block it belongs to, in keras.applications
    r"(convnext_\w+?_)?(stem|top|block_?\d+|stage_\d+|expanded_conv|conv_dw_\d+|conv_?\d+(?!\d|d)|inception_\d[a-z])",
    re.IGNORECASE,
)
CLOSING = re.compile(r"mixed\d+")  # Inception names only the layer that ends a block; those before have numbers


@dataclasses.dataclass(frozen=True)
class Network:
    """One network seen from several sides; all share their variables.

    Attributes:
        training: images -> logits, shape (batch, 10), float32; with auxiliary heads a list, theirs behind the main.
        predictor: images -> probabilities (batch, 10) and pooled features (batch, features), float32.
        backbone: the pretrained part, as it is saved; `training` and `predictor` fuse its frozen BatchNorm.
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
        jit = runtime.compiles_with_xla()
        self.training.compile(optimizer=optimizer, loss=losses, loss_weights=weights, jit_compile=jit)

    def train_on_batch(self, images: np.ndarray, targets: np.ndarray) -> float:
        """One step. Args: images uint8 (batch, height, width, 3); targets (batch, 10). Returns the loss, in nats."""
        count = len(self.loss_weights)
        self.training.reset_metrics()  # else Keras returns a mean over steps
        return float(
            self.training.train_on_batch(images, [targets] * count if count > 1 else targets, return_dict=True)["loss"]
        )


@dataclasses.dataclass(frozen=True)
class Split:
    """A network cut in two.

    Attributes:
        name: of the boundary: the trunk's last layer.
        trunk: images (batch, height, width, 3) uint8 -> activations, in the dtype that the network computes in.
        top: `training` and `predictor` of the network, but from what the trunk gives.
    """

    name: str
    trunk: keras.Model
    top: Network


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
    pooled = [layer(dtype="float32")(one) for one in as_list(maps) for layer in layers[pooling]]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate()(pooled)


def as_list(outputs: Any) -> list[Any]:
    """The outputs of a model that has one, or several."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


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


def backbone_layer(backbone: Any, name: str) -> Any:
    """The layer of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        raise UserError(f"no layer {name!r} in this network{nearest(name, names) or '.'} Its last ones: {names[-8:]}")
    return backbone.layers[names.index(name)]


def blocks(backbone: Any) -> dict[str, list[Any]]:
    """The backbone's layers that have weights, by block, both from the image up.

    A layer whose name tells no block belongs to the block that it stands in. In a network that names no blocks, each
    layer is one.
    """
    found: dict[str, list[Any]] = {}
    unnamed: list[Any] = []
    current = ""
    for layer in backbone.layers:
        if CLOSING.fullmatch(layer.name):
            found[layer.name], unnamed, current = [*unnamed, layer], [], ""
        elif match := OPENING.match(layer.name):
            current = match[0]
            found.setdefault(current, []).extend([*unnamed, layer])
            unnamed = []
        else:
            (found[current] if current else unnamed).append(layer)
    if found:
        found[next(reversed(found))].extend(unnamed)
    else:
        found = {layer.name: [layer] for layer in unnamed}
    weighted = {name: [layer for layer in layers if layer.weights] for name, layers in found.items()}
    return {name: layers for name, layers in weighted.items() if layers}


def trainable_layers(backbone: Any, what: str, top_blocks: int = 0) -> list[Any]:
    """The backbone's layers that a `--trainable` setting lets train, in the network's order.

    Args:
        what: 'all', 'head' (none of the backbone), 'last N' (that have weights), 'from NAME' (the layer of that name,
            else the first whose name starts with it, and all after).
        top_blocks: of these, only those in the N blocks nearest to the head; 0 is all.

    Raises:
        UserError: anything else, an unknown layer or block, or more layers than there are.
    """
    layers = _named_layers(backbone, what)
    if not top_blocks:
        return layers
    allowed = {id(layer) for block in _blocks_of(backbone, layers)[-top_blocks:] for layer in block}
    return [layer for layer in layers if id(layer) in allowed]


def count_blocks(backbone: Any, what: str) -> int:
    """How many blocks a `--trainable` setting lets train, whole or in part."""
    return len(_blocks_of(backbone, _named_layers(backbone, what)))


def heights(backbone: Any) -> dict[str, int]:
    """For each layer that has weights, by name, how many blocks it lies below the head: 1 in the topmost block."""
    return {layer.name: depth for depth, block in enumerate(reversed(blocks(backbone).values()), 1) for layer in block}


def leaves(layers: list[Any]) -> list[Any]:
    """The layers themselves, with those inside another in its place."""
    return [leaf for layer in layers for leaf in (leaves(layer.layers) if hasattr(layer, "layers") else [layer])]


def _blocks_of(backbone: Any, layers: list[Any]) -> list[list[Any]]:
    """The blocks that any of these layers belongs to."""
    wanted = {id(layer) for layer in layers}
    return [block for block in blocks(backbone).values() if any(id(layer) in wanted for layer in block)]


def _named_layers(backbone: Any, what: str) -> list[Any]:
    weighted = [layer for layer in backbone.layers if layer.weights]
    if what == "all":
        return weighted
    if what == "head":
        return []
    if match := re.fullmatch(r"last (\d+)", what):
        count = int(match[1])
        if not 1 <= count <= len(weighted):
            raise UserError(f"--trainable {what!r}: this network has {len(weighted)} layers with weights.")
        return weighted[-count:]
    if match := re.fullmatch(r"from (\S+)", what):
        return [layer for layer in backbone.layers[_position(backbone, match[1]) :] if layer.weights]
    raise UserError(
        f"--trainable {what!r}: expected all, head, 'last N' or 'from NAME' (a layer or block), such as 'from mixed7'."
    )


def _position(backbone: Any, name: str) -> int:
    """Of the layer of that name, else of the first whose name starts with it."""
    names = [layer.name for layer in backbone.layers]
    if name in names:
        return names.index(name)
    for position, other in enumerate(names):
        if other.startswith(name):
            return position
    known = list(blocks(backbone))
    hint = nearest(name, known) or nearest(name, names) or "."
    raise UserError(f"--trainable 'from {name}': no such layer or block{hint} The blocks: {', '.join(known)}.")

"""A network and its parts: backbone, pooled features, head; its blocks, and which of them train."""

import dataclasses
import re
from typing import Any

import keras
import numpy as np

from common.errors import UserError
from common.settings import nearest
from models.finetuning import runtime
from models.finetuning.architecture import Recipe

OPENING = re.compile(  # the start of a layer's name that says which block it belongs to, in keras.applications
    r"(convnext_\w+?_)?(stem|top|block_?\d+|stage_\d+|expanded_conv|conv_dw_\d+|conv_?\d+(?!\d|d)|inception_\d[a-z])",
    re.IGNORECASE,
)
CLOSING = re.compile(r"mixed\d+")  # Inception names only the layer that ends a block; those before have numbers


@dataclasses.dataclass(frozen=True)
class Network:
    """One network seen from several sides; all share their variables."""

    training: keras.Model  # images -> logits (batch, 10), float32; a list with those of auxiliary heads behind them
    predictor: keras.Model  # images -> probabilities (batch, 10) and pooled features (batch, features), float32
    backbone: keras.Model  # the pretrained part, as it is saved; the others fuse its frozen BatchNorm
    head: keras.Model  # pooled features -> logits
    preprocessing: keras.Model  # images -> what the backbone sees
    auxiliary_layers: tuple[Any, ...] = ()  # of the auxiliary heads, which only `training` contains
    loss_weights: tuple[float, ...] = (1.0,)  # of the outputs of `training`

    def compile(self, optimizer: Any, label_smoothing: float = 0.0) -> None:
        """Compiles `training`; the losses of auxiliary heads have their own weights."""
        loss: Any = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
        weights = None
        if len(self.loss_weights) > 1:
            loss, weights = [loss] * len(self.loss_weights), list(self.loss_weights)
        jit = runtime.compiles_with_xla()
        self.training.compile(optimizer=optimizer, loss=loss, loss_weights=weights, jit_compile=jit)

    def train_on_batch(self, images: np.ndarray, targets: np.ndarray) -> float:
        """One step. Args: images uint8 (batch, height, width, 3); targets (batch, 10). Returns the loss, in nats."""
        count = len(self.loss_weights)
        self.training.reset_metrics()  # else Keras returns a mean over steps
        wanted = [targets] * count if count > 1 else targets
        return float(self.training.train_on_batch(images, wanted, return_dict=True)["loss"])


def pooled_features(maps: Any, pooling: str) -> Any:
    """Feature maps (batch, height, width, channels), one or several, as one row of numbers an image, float32."""
    average, largest = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
    kinds = {"avg": [average], "max": [largest], "avgmax": [average, largest], "flatten": [keras.layers.Flatten]}
    outputs = maps if isinstance(maps, (list, tuple)) else [maps]
    pooled = [layer(dtype="float32")(one) for one in outputs for layer in kinds[pooling]]
    return pooled[0] if len(pooled) == 1 else keras.layers.Concatenate()(pooled)


def set_trainable(network: Network, recipe: Recipe, head_only: bool, top_blocks: int = 0) -> None:
    """Marks what trains next, of it only the `top_blocks` nearest to the head. Takes effect with the next `compile`.

    BatchNorm layers are frozen one by one in inference mode: calling the backbone with `training=False` would not do.
    Auxiliary heads always train, as the head does.
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
    in_order = enumerate(reversed(blocks(network.backbone).values()), 1)
    below = {layer.name: depth for depth, block in in_order for layer in block}
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
    """The layer of that name; a UserError names the nearest where there is none."""
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
    """The layers of a backbone that a `--trainable` setting lets train, from the image up; only of the top N blocks."""
    return [layer for block in trainable_blocks(backbone, what)[-top_blocks:] for layer in block]


def trainable_blocks(backbone: Any, what: str) -> list[list[Any]]:
    """As `trainable_layers`, by block: those that train whole or in part."""
    wanted = {id(layer) for layer in _named_layers(backbone, what)}
    found = [[layer for layer in block if id(layer) in wanted] for block in blocks(backbone).values()]
    return [block for block in found if block]


def leaves(layers: list[Any]) -> list[Any]:
    """The layers themselves, with those inside another in its place."""
    return [leaf for layer in layers for leaf in (leaves(layer.layers) if hasattr(layer, "layers") else [layer])]


def _named_layers(backbone: Any, what: str) -> list[Any]:
    weighted = [layer for layer in backbone.layers if layer.weights]
    if what in ("all", "head"):
        return weighted if what == "all" else []
    if match := re.fullmatch(r"last (\d+)", what):
        count = int(match[1])
        if not 1 <= count <= len(weighted):
            raise UserError(f"--trainable {what!r}: this network has {len(weighted)} layers with weights.")
        return weighted[-count:]
    if match := re.fullmatch(r"from (\S+)", what):
        names, name = [layer.name for layer in backbone.layers], match[1]
        found = [other for other in names if other == name] or [other for other in names if other.startswith(name)]
        if not found:
            known = list(blocks(backbone))
            hint = nearest(name, known) or nearest(name, names) or "."
            raise UserError(f"--trainable {what!r}: no such layer or block{hint} The blocks: {', '.join(known)}.")
        return [layer for layer in backbone.layers[names.index(found[0]) :] if layer.weights]
    raise UserError(
        f"--trainable {what!r}: expected all, head, 'last N' or 'from NAME' (a layer or block), such as 'from mixed7'."
    )

"""Naming parts of a backbone: its blocks, what trains ('all', 'head', 'last N', 'from LAYER'), what is pooled."""

import re
from typing import Any

from common.errors import UserError
from common.settings import nearest

BACKBONE = "backbone"
OPENING = re.compile(  # the start of a layer's name that says which block it belongs to, in keras.applications
    r"(convnext_\w+?_)?(stem|top|block_?\d+|stage_\d+|expanded_conv|conv_dw_\d+|conv_?\d+(?!\d|d)|inception_\d[a-z])",
    re.IGNORECASE,
)
CLOSING = re.compile(r"mixed\d+")  # Inception names only the layer that ends a block; those before have numbers


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

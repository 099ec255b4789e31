"""Naming parts of a backbone: 'all', 'head', 'last N', 'from LAYER', and the layers that features are pooled from."""

import re
from typing import Any

from preprocessing.errors import UserError
from preprocessing.settings import nearest

BACKBONE = "backbone"


def backbone_layer(backbone: Any, name: str) -> Any:
    """The layer of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    names = [layer.name for layer in backbone.layers]
    if name not in names:
        raise UserError(f"no layer {name!r} in this network{nearest(name, names) or '.'} Its last ones: {names[-8:]}")
    return backbone.layers[names.index(name)]


def trainable_layers(backbone: Any, what: str) -> list[Any]:
    """The backbone's layers that a `--trainable` setting lets train, in the network's order.

    Args:
        what: 'all', 'head' (none of the backbone), 'last N' (that have weights), 'from LAYER' (it and all after).

    Raises:
        UserError: anything else, an unknown layer, or more layers than there are.
    """
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
        first = backbone_layer(backbone, match[1])
        position = backbone.layers.index(first)
        return [layer for layer in backbone.layers[position:] if layer.weights]
    raise UserError(f"--trainable {what!r}: expected all, head, 'last N' or 'from LAYER', such as 'from mixed7'.")

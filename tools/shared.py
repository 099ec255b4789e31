"""Networks that were trained on the same frozen layers compute these once.

    pictures -> trunk, the same in all -> activations -> top of the first  -> probabilities
                                                      -> top of the second -> probabilities, ...

Which layers are the same is found by comparing their weights, so it needs no record of how the networks were trained.
"""

import dataclasses
import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from models.finetuning.network.build import as_list
from models.finetuning.network.layers import BACKBONE
from models.finetuning.network.split import Boundary, boundary


@dataclasses.dataclass(frozen=True)
class Group:
    """Networks that see the same pictures.

    Attributes:
        members: their numbers.
        trunk: what they share, images (batch, height, width, 3) uint8 -> activations; None is nothing.
        tops: of each, activations (without a trunk: images) -> probabilities (batch, 10).
        ends: the trunk's last layer; nothing without a trunk.
    """

    members: tuple[int, ...]
    trunk: Any
    tops: tuple[Any, ...]
    ends: str = ""

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """The probabilities of each member, (batch, 10)."""
        seen = images if self.trunk is None else self.trunk.predict_on_batch(images)
        return [np.asarray(top.predict_on_batch(seen)) for top in self.tops]


def grouped(models: Sequence[Any], kinds: Sequence[Hashable]) -> list[Group]:
    """The networks, in groups that share a trunk as far up as their weights are the same.

    Args:
        models: as they are saved, images -> probabilities.
        kinds: for each, what it must have in common with another to share anything with it.
    """
    by_start: dict[Any, list[int]] = {}
    for number, (model, kind) in enumerate(zip(models, kinds, strict=True)):
        by_start.setdefault((kind, _start(model)), []).append(number)
    found: list[Group] = []
    for members in by_start.values():
        group = _sharing(tuple(members), [models[number] for number in members]) if len(members) > 1 else None
        found += [group] if group else [Group((number,), None, (models[number],)) for number in members]
    return found


def _start(model: Any) -> Any:
    """What tells networks apart that share nothing: the first weights, or which network it is without a backbone."""
    backbone = _backbone(model)
    weighted = [layer for layer in backbone.layers if layer.weights] if backbone else []
    return _checksum(weighted[0]) if weighted else id(model)


def _sharing(members: tuple[int, ...], models: Sequence[Any]) -> Group | None:
    """One group of these networks; None where they are not alike, or share no layer through which all paths lead."""
    backbones = [_backbone(model) for model in models]
    shapes = [
        [[tuple(weight.shape) for weight in layer.weights] for layer in backbone.layers] for backbone in backbones
    ]
    if any(other != shapes[0] for other in shapes[1:]):
        return None
    sums = [[_checksum(layer) for layer in backbone.layers] for backbone in backbones]
    differing = [place for place, column in enumerate(zip(*sums, strict=True)) if len(set(column)) > 1]
    if not differing:
        last = backbones[0].layers[-1].name
        return Group(members, _below(models[0], None), tuple(_above(model, None) for model in models), last)
    cuts = [boundary(backbone, [backbone.layers[place] for place in differing]) for backbone in backbones]
    places = {backbone.layers.index(cut.layer) if cut else -1 for backbone, cut in zip(backbones, cuts, strict=True)}
    if -1 in places or len(places) > 1:
        return None
    tops = tuple(_above(model, cut) for model, cut in zip(models, cuts, strict=True) if cut)
    return Group(members, _below(models[0], cuts[0]), tops, cuts[0].layer.name if cuts[0] else "")


def _backbone(model: Any) -> Any:
    """The nested model of that name; None in a network that is not of our making."""
    return next((layer for layer in model.layers if layer.name == BACKBONE and hasattr(layer, "layers")), None)


def _checksum(layer: Any) -> str:
    """Of a layer's weights."""
    import keras

    digest = hashlib.sha256()
    for weight in layer.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()


def _below(model: Any, cut: Boundary | None) -> Any:
    """Images -> what the part of the backbone below a boundary makes of them; None is all outputs of the backbone."""
    import keras

    backbone = _backbone(model)
    pixels = model.layers[model.layers.index(backbone) - 1].output
    lower = keras.Model(backbone.inputs, backbone.outputs if cut is None else cut.lower(backbone))
    return keras.Model(model.input, lower(pixels), name="trunk")


def _above(model: Any, cut: Boundary | None) -> Any:
    """What `_below` gives -> probabilities."""
    import keras

    backbone = _backbone(model)
    maps = list(backbone._inbound_nodes[-1].output_tensors)  # where the network calls it
    rest = keras.Model(maps, model.output)
    below = maps if cut is None else cut.lower(backbone)
    inputs = [keras.Input(tuple(x.shape[1:]), dtype=x.dtype) for x in below]
    outputs = inputs if cut is None else cut.in_order(as_list(cut.upper(inputs[0])), inputs[1:])
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], rest(outputs), name="top")

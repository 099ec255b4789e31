"""Where the networks of a run look, as Grad-CAM heat maps: at hands and telephone, or at the cabin?

    python -m tools.explain --run full photo.jpg other.jpg
    python -m tools.explain --run full --model inception_v3 data/imgs/test --most 8 --out sheet.jpg
    python -m tools.explain --run full photo.jpg --classes c0,c1

A sheet with a row for each photograph: itself, then for each model (the mean of its folds) the places that speak for
its most probable classes. Yellow is most; grey is nothing, or speaks against. Each picture has a scale of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.competition import CLASSES
from common.errors import UserError, run_command
from common.files import written_whole
from common.run_folder import CACHE, FoldFolder
from common.settings import CommandLine, names_in, whole_number
from models.finetuning import runtime
from preprocessing.settings import REGIONS
from tools.predict import MOST_AT_ONCE, add_choice, chosen, in_batches, load, seen_by

if TYPE_CHECKING:
    import numpy as np

    from tools.pictures import Photograph

TILE_WIDTH, CAPTION, GAP = 320, 30, 8  # pixels
DIMMED, GLOW = 0.8, 0.65  # shares: light of the picture under a heat map, and its largest opacity


def _classes(text: str) -> list[int]:
    names = names_in(text)
    if not names or not set(names) <= set(CLASSES):
        raise argparse.ArgumentTypeError(f"expected classes from c0 to c9, such as c0,c3, found {text!r}")
    return [CLASSES.index(name) for name in names]


def main() -> None:
    parser = CommandLine(prog="python -m tools.explain", description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    add_choice(parser)
    parser.add_argument("--top", type=whole_number(1, 10), default=2, metavar="N", help="most probable classes [2]")
    parser.add_argument("--classes", type=_classes, default=[], metavar="C,C", help="these classes instead, as c0,c3")
    parser.add_argument("--most", type=whole_number(1, 1000), default=12, metavar="N", help="photographs at most [12]")
    out = CACHE / "explained.jpg"
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="the sheet [explained.jpg in cache]")
    arguments = parser.parse_args()
    if arguments.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--out {arguments.out}: expected the name of a picture, .jpg or .png.")
    folds = chosen(arguments)

    from preprocessing.images import encoded
    from tools.pictures import find

    found = find(arguments.pictures, videos=False)
    if len(found.photographs) > arguments.most:
        print(f"{arguments.most} of {len(found.photographs):,} photographs (--most)")
    sheet = draw_sheet(found.readable(arguments.most), folds, arguments.classes, arguments.top)
    with written_whole(arguments.out) as temporary:
        temporary.write_bytes(encoded(sheet, arguments.out.suffix.lower()))
    print(f"{arguments.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    if found.left_out:
        print(found.summary())


class HeatMaps:
    """Heat maps of one network, images -> probabilities: which places of a picture speak for a class.

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391. Where a network pools several feature maps, their heat is
    added up: all are in the logit's own unit.
    """

    def __init__(self, model: Any) -> None:
        keras = runtime.load_keras()
        kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Flatten)
        pooled = {id(layer.input): layer.input for layer in model.layers if isinstance(layer, kinds)}
        maps = [tensor for tensor in pooled.values() if len(tensor.shape) == 4]
        if not maps:
            raise UserError(f"the network {model.name} pools no feature map: Grad-CAM needs one.")
        self._seen = keras.Model(model.input, [*maps, model.output])
        self._from_maps = keras.Model(maps, model.get_layer("probabilities").input)

    def predict(self, images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The pooled feature maps, and probabilities of shape (batch, 10), of images (batch, height, width, 3)."""
        import numpy as np

        *maps, probabilities = (np.asarray(output, np.float32) for output in self._seen.predict_on_batch(images))
        return maps, probabilities

    def heat(self, maps: list[np.ndarray], classes: np.ndarray) -> np.ndarray:
        """What each place adds to the logit of each image's class; only what speaks for it (Grad-CAM's ReLU).

        Shape (batch, rows, columns) of the finest of the maps, which are those of `predict`; not negative.
        """
        import cv2
        import numpy as np

        keras = runtime.load_keras()
        wanted = np.eye(self._from_maps.output_shape[-1], dtype=np.float32)[classes]
        found = runtime.gradients(
            lambda tensors: keras.ops.sum(self._from_maps(tensors, training=False) * wanted, axis=-1), maps
        )
        rows, columns = max(array.shape[1] for array in maps), max(array.shape[2] for array in maps)
        heat = np.zeros((len(classes), rows, columns), np.float32)
        for array, gradient in zip(maps, found, strict=True):
            weights = gradient.mean(axis=(1, 2), keepdims=True)  # of each channel, as in the paper
            places = (array * weights).sum(axis=-1)
            share = array.shape[1] * array.shape[2] / (rows * columns)  # a coarse place stands for several fine ones
            for number, image in enumerate(places):
                heat[number] += share * cv2.resize(image, (columns, rows))
        return np.maximum(heat, 0.0)


def draw_sheet(photographs: list[Photograph], folds: Sequence[FoldFolder], classes: list[int], top: int) -> np.ndarray:
    """A row for each photograph: itself, then for each model a heat map of each class, or of its `top` classes."""
    import numpy as np

    rows = [[tile(photograph.whole(), photograph.name)] for photograph in photographs]
    for model in dict.fromkeys(fold.model for fold in folds):
        _add_model(rows, photographs, [fold for fold in folds if fold.model == model], classes, top)
    return np.vstack([np.hstack(tiles) for tiles in rows])


def _add_model(
    rows: list[list[np.ndarray]], photographs: list[Photograph], folds: list[FoldFolder], classes: list[int], top: int
) -> None:
    """Adds the heat maps of one model to the rows of a sheet."""
    import numpy as np

    from tools.pictures import class_words

    networks, (size, crop) = [HeatMaps(load(fold)) for fold in folds], seen_by(folds[0])
    for batch in in_batches(list(zip(rows, photographs, strict=True)), MOST_AT_ONCE):
        images = np.stack([photograph.seen(size, crop) for _, photograph in batch])
        seen = [network.predict(images) for network in networks]
        mean = np.mean([probabilities for _, probabilities in seen], axis=0)
        asked = np.tile(classes, (len(batch), 1)) if classes else np.argsort(-mean, axis=1, kind="stable")[:, :top]
        for wanted in asked.T:
            found = [network.heat(maps, wanted) for network, (maps, _) in zip(networks, seen, strict=True)]
            heat = np.mean(found, axis=0)
            for number, (row, photograph) in enumerate(batch):
                words = f"{folds[0].model}: {class_words(wanted[number])} {mean[number, wanted[number]]:.0%}"
                row.append(tile(lit(photograph.whole(), heat[number], crop), words))


def lit(picture: np.ndarray, heat: np.ndarray, crop: str) -> np.ndarray:
    """The picture in grey under a heat map of its part `crop`: from violet over red to yellow, where it is most."""
    import cv2
    import numpy as np

    share = np.zeros(picture.shape[:2], np.float32)
    region = REGIONS[crop].of(share)
    scaled = heat / max(float(heat.max()), 1e-12)
    region[:] = np.clip(cv2.resize(scaled, region.shape[::-1], interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = np.rint(255 * share).astype(np.uint8)
    glow = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = GLOW * np.sqrt(share)[..., None]
    return np.rint(grey * DIMMED * (1 - opacity) + glow * opacity).astype(np.uint8)


def tile(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture, `TILE_WIDTH` wide under a caption, with a gap at its right and below."""
    import cv2
    import numpy as np

    from tools.pictures import PAPER, write

    height = max(1, round(picture.shape[0] * TILE_WIDTH / picture.shape[1]))
    whole = np.full((height + CAPTION + GAP, TILE_WIDTH + GAP, 3), PAPER, np.uint8)
    whole[CAPTION:-GAP, :-GAP] = cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
    write(whole, caption, (4, round(0.68 * CAPTION)), CAPTION // 2, TILE_WIDTH - 8)
    return whole


if __name__ == "__main__":
    run_command(main)

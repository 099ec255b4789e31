"""Where the networks of a run look, as Grad-CAM heat maps: at hands and telephone, or at the cabin?

    python -m tools.explain --run full photo.jpg other.jpg
    python -m tools.explain --run full --model inception_v3 data/imgs/test --most 8 --out sheet.jpg
    python -m tools.explain --run full photo.jpg --classes c0,c1

A sheet with a row for each photograph: itself, then for each model (the mean of its folds) the places that speak for
its most probable classes. Yellow is most; grey is nothing, or speaks against. Each picture has a scale of its own.

Source: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.competition import CLASSES
from common.errors import UserError, run_command
from common.files import written_whole
from common.run_folder import CACHE, RunFolder
from common.settings import CommandLine
from models.finetuning import runtime
from tools import drawing
from tools.networks import MOST_AT_ONCE, FinishedFold, add_choice, finished_folds, in_batches, load
from tools.pictures import Photograph


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.explain", description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    add_choice(parser)
    parser.add_argument(
        "--top", type=int, choices=range(1, 11), default=2, metavar="N", help="most probable classes [2]"
    )
    parser.add_argument("--classes", type=_classes, default=[], metavar="C,C", help="these classes instead, as c0,c3")
    parser.add_argument("--most", type=int, default=12, metavar="N", help="at most N photographs, evenly spaced [12]")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "explained.jpg", metavar="FILE", help="[explained.jpg in cache]"
    )
    return parser


def _classes(text: str) -> list[int]:
    import argparse

    names = text.replace(",", " ").split()
    wrong = [name for name in names if name not in CLASSES]
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"expected classes from c0 to c9, such as c0,c3, found {text!r}")
    return [CLASSES.index(name) for name in names]


def main() -> None:
    arguments = command_line().parse_args()
    if arguments.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--out {arguments.out}: expected the name of a picture, .jpg or .png.")
    if arguments.most < 1:
        raise UserError(f"--most {arguments.most}: expected at least 1.")
    fold_runs = finished_folds(RunFolder.existing(arguments.run, arguments.runs), arguments.model, arguments.fold)

    from tools import pictures

    found = pictures.find(arguments.pictures, videos=False)
    if len(found.photographs) > arguments.most:
        print(f"{arguments.most} of {len(found.photographs):,} photographs (--most)")
    photographs = found.decodable(pictures.evenly_spaced(found.photographs, arguments.most))

    from tools.drawing import encoded
    from tools.explain import draw_sheet

    sheet = draw_sheet(photographs, fold_runs, arguments.classes, arguments.top)
    with written_whole(arguments.out) as temporary:
        temporary.write_bytes(encoded(sheet, arguments.out.suffix.lower()))
    print(f"{arguments.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    if found.left_out:
        print(found.summary())


TILE_WIDTH, CAPTION, GAP = 320, 30, 8  # pixels


class HeatMaps:
    """Heat maps of one network.

    Where a network pools several feature maps, their heat is added up: all are in the logit's own unit.

    Args:
        model: images -> probabilities, as `model.keras` holds it.

    Raises:
        UserError: the network pools no feature map.
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
        """The pooled feature maps, and probabilities of shape (batch, 10).

        Args:
            images: shape (batch, height, width, 3), uint8, RGB.
        """
        *maps, probabilities = (np.asarray(output, np.float32) for output in self._seen.predict_on_batch(images))
        return maps, probabilities

    def heat(self, maps: list[np.ndarray], classes: np.ndarray) -> np.ndarray:
        """What each place adds to a class's logit; only what speaks for it (Grad-CAM's ReLU).

        Args:
            maps: of `predict`.
            classes: shape (batch,), the class that is asked about in each image.

        Returns:
            shape (batch, rows, columns) of the finest of the maps, float32, not negative.
        """
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


def mean_heat(found: list[np.ndarray]) -> np.ndarray:
    """The mean over networks, each of shape (batch, rows, columns), in the finest of their rows and columns."""
    rows, columns = max(heat.shape[1] for heat in found), max(heat.shape[2] for heat in found)
    return np.mean([[cv2.resize(image, (columns, rows)) for image in heat] for heat in found], axis=0)


def draw_sheet(
    photographs: list[Photograph], fold_runs: Sequence[FinishedFold], classes: list[int], top: int
) -> np.ndarray:
    """A row for each photograph: itself, then for each model a heat map for each class.

    Args:
        classes: numbers of the classes; none is the `top` most probable ones of each photograph.

    Returns:
        shape (height, width, 3), uint8, RGB.
    """
    columns = [[drawing.tile(_tile_sized(p.whole()), p.name, CAPTION, GAP) for p in photographs]]
    for model in dict.fromkeys(fold_run.model for fold_run in fold_runs):
        own = [fold_run for fold_run in fold_runs if fold_run.model == model]
        columns += _columns_of_a_model(photographs, own, classes, top)
    return np.vstack([np.hstack(tiles) for tiles in zip(*columns, strict=True)])


def _columns_of_a_model(
    photographs: list[Photograph], fold_runs: list[FinishedFold], classes: list[int], top: int
) -> list[list[np.ndarray]]:
    networks = [HeatMaps(load(fold_run)) for fold_run in fold_runs]
    size, crop = fold_runs[0].image_size, fold_runs[0].crop
    columns: list[list[np.ndarray]] = [[] for _ in classes or range(top)]
    for batch in in_batches(photographs, MOST_AT_ONCE):
        images = np.stack([photograph.seen(size, crop) for photograph in batch])
        seen = [network.predict(images) for network in networks]
        mean = np.mean([probabilities for _, probabilities in seen], axis=0)
        asked = np.tile(classes, (len(batch), 1)) if classes else np.argsort(-mean, axis=1, kind="stable")[:, :top]
        for rank, column in enumerate(columns):
            heat = mean_heat(
                [network.heat(maps, asked[:, rank]) for network, (maps, _) in zip(networks, seen, strict=True)]
            )
            for number, photograph in enumerate(batch):
                which = int(asked[number, rank])
                words = f"{fold_runs[0].model}: {drawing.class_words(which)} {mean[number, which]:.0%}"
                lit = drawing.lit(_tile_sized(photograph.whole()), heat[number], crop)
                column.append(drawing.tile(lit, words, CAPTION, GAP))
    return columns


def _tile_sized(picture: np.ndarray) -> np.ndarray:
    height = max(1, round(picture.shape[0] * TILE_WIDTH / picture.shape[1]))
    return cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    run_command(main)

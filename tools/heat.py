"""Grad-CAM heat maps: which places of a picture speak for a class; and sheets of them.

Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from common.errors import UserError
from models.finetuning import runtime
from tools import drawing
from tools.finished import FinishedFold
from tools.networks import MOST_AT_ONCE, in_batches, load
from tools.pictures import Photograph

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
            found = [network.heat(maps, asked[:, rank]) for network, (maps, _) in zip(networks, seen, strict=True)]
            heat = np.mean(found, axis=0)
            for number, photograph in enumerate(batch):
                which = int(asked[number, rank])
                words = f"{fold_runs[0].model}: {drawing.class_words(which)} {mean[number, which]:.0%}"
                lit = drawing.lit(_tile_sized(photograph.whole()), heat[number], crop)
                column.append(drawing.tile(lit, words, CAPTION, GAP))
    return columns


def _tile_sized(picture: np.ndarray) -> np.ndarray:
    height = max(1, round(picture.shape[0] * TILE_WIDTH / picture.shape[1]))
    return cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)

"""Grad-CAM: which places of a picture speak for a class (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391)."""

from typing import Any

import cv2
import numpy as np

from common.errors import UserError
from models.finetuning import runtime


class HeatMaps:
    """Heat maps of one network.

    A network that pools several feature maps is asked about each of them, and their heat is added up: all are in the
    logit's own unit.

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
            raise UserError(f"the network {model.name} pools no feature map: there are no places to tell apart.")
        self._seen = keras.Model(model.input, [*maps, model.output])
        self._judged = keras.Model(maps, model.get_layer("probabilities").input)

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
        wanted = np.eye(self._judged.output_shape[-1], dtype=np.float32)[classes]
        found = runtime.gradients(
            lambda tensors: keras.ops.sum(self._judged(tensors, training=False) * wanted, axis=-1), maps
        )
        rows, columns = max(array.shape[1] for array in maps), max(array.shape[2] for array in maps)
        heat = np.zeros((len(classes), rows, columns), np.float32)
        for array, gradient in zip(maps, found, strict=True):
            weights = gradient.mean(axis=(1, 2), keepdims=True)  # of each channel, as in the paper
            places = (array * weights).sum(axis=-1)
            share = array.shape[1] * array.shape[2] / (rows * columns)  # a coarse place stands for several fine ones
            for number, image in enumerate(places):
                heat[number] += share * cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        return np.maximum(heat, 0.0)


def mean_heat(found: list[np.ndarray]) -> np.ndarray:
    """The mean over networks, each of shape (batch, rows, columns), in the finest of their rows and columns."""
    rows, columns = max(heat.shape[1] for heat in found), max(heat.shape[2] for heat in found)
    resized = [
        np.stack([cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR) for image in heat])
        for heat in found
    ]
    return np.mean(resized, axis=0)

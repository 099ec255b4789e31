"""A saved network and its predictions, for two versions of Keras to exchange.

python -m tests.kaggle.exchange save DIR; python -m tests.kaggle.exchange load DIR
"""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np

from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.network.build import build, plain_copy

NETWORKS = ("mobilenet", "resnet50", "convnext_tiny")  # each with another preprocessing
SIZE = ImageSize(64, 64)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIZE.height, SIZE.width, 3), dtype=np.uint8)


def save(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        recipe = dataclasses.replace(zoo.find(name).recipe, image_size=SIZE, pooled_layers=())
        model = plain_copy(build(zoo.find(name), recipe, "none", "float32", 0), zoo.find(name), recipe)
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", model.predict_on_batch(IMAGES))


def load(folder: Path) -> None:
    for name in NETWORKS:
        model = keras.saving.load_model(folder / f"{name}.keras", compile=False, safe_mode=True)
        np.testing.assert_allclose(model.predict_on_batch(IMAGES), np.load(folder / f"{name}.npy"), atol=1e-5)
        print(f"{name}: loads with Keras {keras.__version__} and predicts the same")


if __name__ == "__main__":
    {"save": save, "load": load}[sys.argv[1]](Path(sys.argv[2]))

"""Predictions of a network for the images of a store: probabilities and pooled features; test-time augmentation.

Test-time augmentation averages predictions of slightly moved, scaled and turned copies of an image in log space. Never
a flip: left and right hands are different classes. The features stay those of the image as it is.
"""

import dataclasses
import os

import keras
import numpy as np

from common import terminal
from common.environment import LESS_MEMORY
from common.tables import geometric_mean
from models.finetuning import runtime
from preprocessing.batches import Augmented, plain_batches
from preprocessing.images import Rows
from preprocessing.settings import Augmentation

# A quarter where the process before ran out of memory: features and predictions are rounded differently, no more.
PREDICTION_BATCH = 16 if os.environ.get(LESS_MEMORY) else 64

TTA = dataclasses.replace(Augmentation.neutral(), augmentation=1.0, rotation=4.0, translation=0.04, zoom=0.08)


def predict(
    predictor: keras.Model, store: Rows, rows: np.ndarray, workers: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a predictor over images, with a progress bar.

    Args:
        predictor: images (or what `store` holds) -> [probabilities, features], as `network.Network.predictor`.
        rows: shape (images,), the rows of `store` to predict, in this order.
        what: the progress bar's title.

    Returns:
        probabilities, shape (images, 10), float32; features, shape (images, features), float32.
    """
    predictor.jit_compile = runtime.compiles_with_xla()
    widths = [output.shape[-1] for output in predictor.outputs]
    probabilities, features = (np.empty((len(rows), width), np.float32) for width in widths)
    done = 0
    bar = terminal.bar(len(rows), what)
    for images, count in plain_batches(store, rows, PREDICTION_BATCH, workers):
        batch_probabilities, batch_features = predictor.predict_on_batch(images)
        probabilities[done : done + count] = np.asarray(batch_probabilities)[:count]
        features[done : done + count] = np.asarray(batch_features)[:count]
        done += count
        bar.update(count)
    bar.close()
    return probabilities, features


def with_tta(
    predictor: keras.Model, images: Rows, rows: np.ndarray, plain: np.ndarray, copies: int, seed: int, workers: int
) -> np.ndarray:
    """The mean of the predictions of images and of augmented copies, which depend on (seed, copy, image) alone.

    Args:
        predictor: images -> [probabilities, features].
        rows: of `images`.
        plain: shape (rows, classes), its predictions of the images as they are.
        copies: of each image; with 0 the result is `plain`.

    Returns:
        shape (rows, classes).
    """
    tables = [plain]
    for copy in range(1, copies + 1):
        what = f"test-time augmentation {copy} of {copies}"
        tables.append(predict(predictor, Augmented(images, TTA, seed, copy), rows, workers, what)[0])
    return geometric_mean(tables) if copies else plain

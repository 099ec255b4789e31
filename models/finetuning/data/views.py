"""Test-time augmentation: slightly moved, scaled and turned views of an image, their predictions averaged in log space.

Never a flip: left and right hands are different classes. The features stay those of the image as it is.
"""

import dataclasses

import keras
import numpy as np

from models.finetuning.data.prediction import predict
from preprocessing.augmentation_settings import Augmentation
from preprocessing.batches import Augmented, Rows
from common.log_space import geometric_mean

NOTHING = Augmentation(
    **{field.name: 100.0 if field.name == "jpeg" else 0.0 for field in dataclasses.fields(Augmentation)}
)
VIEWS = dataclasses.replace(NOTHING, augmentation=1.0, rotation=4.0, translation=0.04, zoom=0.08)


def mean_with_views(
    predictor: keras.Model, images: Rows, rows: np.ndarray, plain: np.ndarray, views: int, seed: int, workers: int
) -> np.ndarray:
    """The mean of the predictions of images and of views of them, which depend on (seed, view, image) alone.

    Args:
        predictor: images -> [probabilities, features].
        rows: of `images`.
        plain: shape (rows, classes), what it predicts of the images as they are.
        views: of each image, besides.

    Returns:
        shape (rows, classes); `plain` itself where no view is asked for.
    """
    tables = [plain]
    for view in range(1, views + 1):
        seen = Augmented(images, VIEWS, seed, view)
        tables.append(predict(predictor, seen, rows, workers, f"view {view} of {views}")[0])
    return geometric_mean(tables) if views else plain

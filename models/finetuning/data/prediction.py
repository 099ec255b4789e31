"""Predictions of a network for the images of a store: probabilities and pooled features."""

import os

import keras
import numpy as np
from tqdm import tqdm

from models.finetuning.processes import LESS_MEMORY
from preprocessing.batches import Rows, plain_batches

# A quarter where the process before ran out of memory: features and predictions are rounded differently, no more.
PREDICTION_BATCH = 16 if os.environ.get(LESS_MEMORY) else 64


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
    widths = [output.shape[-1] for output in predictor.outputs]
    probabilities, features = (np.empty((len(rows), width), np.float32) for width in widths)
    done = 0
    bar = tqdm(total=len(rows), desc=what, unit="img", leave=False, disable=None)
    for images, count in plain_batches(store, rows, PREDICTION_BATCH, workers):
        batch_probabilities, batch_features = predictor.predict_on_batch(images)
        if not np.isfinite(batch_probabilities).all():  # what a processor read amiss it may read right now
            batch_probabilities, batch_features = predictor.predict_on_batch(images)
        probabilities[done : done + count] = np.asarray(batch_probabilities)[:count]
        features[done : done + count] = np.asarray(batch_features)[:count]
        done += count
        bar.update(count)
    bar.close()
    return probabilities, features

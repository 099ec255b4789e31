"""Test-time augmentation: small changes, never mirrored, the same ones every time, averaged in log space."""

from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest

from common.settings import ImageSize
from models.finetuning.sources import TTA, Source, with_tta
from preprocessing.batches import Augmented
from preprocessing.images import ImageStore
from tests.preprocessing.test_batches import likeness
from tests.trees import write_image

ROWS = np.array([4, 0, 2])


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    """Bright at the left with a dark spot at the upper right: no symmetry of any kind."""
    for row in range(6):
        pixels = np.repeat(np.linspace(220 - row * 9, 60, 64)[None, :, None], 48, axis=0).repeat(3, axis=2)
        pixels[5:20, 44:58] = 20
        write_image(tmp_path / f"{row}.jpg", pixels.astype(np.uint8))
    return ImageStore([tmp_path / f"{row}.jpg" for row in range(6)], ImageSize(48, 64), tmp_path, "a", 0)


@pytest.fixture
def predictor() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((48, 64, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs))
    return keras.Model(inputs, [keras.layers.Dense(10, activation="softmax")(flat), flat])


def test_the_mean_is_of_the_plain_prediction_and_each_view_whatever_the_number_of_workers(
    images: ImageStore, predictor: keras.Model
) -> None:
    plain = np.asarray(predictor.predict_on_batch(np.stack([images.read(row) for row in ROWS]))[0])

    def averaged(copies: int, seed: int, workers: int) -> np.ndarray:
        return with_tta(predictor, Source(cast(Any, None), images, TTA, seed, workers), ROWS, plain, copies)

    found = [averaged(3, 5, workers) for workers in (1, 4)]
    np.testing.assert_array_equal(found[0], found[1])
    tables = [plain]
    for view in (1, 2, 3):
        seen = Augmented(images, TTA, 5, view)
        tables.append(np.asarray(predictor.predict_on_batch(np.stack([seen.read(row) for row in ROWS]))[0]))
    expected = np.exp(np.mean(np.log(np.asarray(tables, np.float64)), axis=0))
    np.testing.assert_allclose(found[0], expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
    assert np.abs(found[0] - plain).max() > 1e-3
    assert not np.array_equal(found[0], averaged(3, 6, 1))
    assert averaged(0, 5, 1) is plain


def test_views_are_small_and_no_mirror_images(images: ImageStore) -> None:
    image = images.read(0)
    for view in range(1, 30):
        seen = Augmented(images, TTA, 0, view).read(0)
        assert not np.array_equal(seen, image)
        assert likeness(seen, image) > 0.9
        assert likeness(seen, image) > likeness(seen, image[:, ::-1]) + 0.5

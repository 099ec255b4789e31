"""The same code on JAX: a fold from its first file to its last, and steps of wild gradients that change nothing."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from common.settings import ImageSize
from common.tables import read_predictions
from preprocessing.images import read_image
from tests.commands import run_python, succeeded
from tests.trees import make_tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]
SIZE = ImageSize(32, 40)


def on_jax(*words: object) -> str:
    """Runs `python WORDS...` in the repository, on JAX's CPU; returns what it says."""
    return succeeded(run_python(*words, timeout=400, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")).stdout


def test_a_fold_trained_on_jax_predicts_the_same_on_tensorflow(tmp_path: Path) -> None:
    assert keras.backend.backend() != "jax"
    data = make_tree(tmp_path / "data", drivers=2, images_per_class=1)
    weights = tmp_path / "weights"
    weights.mkdir()
    keras.applications.MobileNet(weights=None, include_top=False).save_weights(weights / "mobilenet.weights.h5")

    options = f"--image-size {SIZE} --epochs 1 --batch-size 5 --folds 2 --fold 0 --run jax"
    where = ["--data", data, "--weights", weights, "--runs", tmp_path / "runs", "--cache", tmp_path / "c"]
    said = on_jax("models/mobilenet.py", *options.split(), "--verbose", "--trainable", "from conv_pw_13", *where)
    assert "mobilenet, fold 0: float32" in said
    assert "activations at conv_dw_13_relu for 20 images are computed once" in said
    fold_folder = tmp_path / "runs" / "jax" / "mobilenet" / "fold_0"
    table = read_predictions(fold_folder / "test.csv")
    pixels = [read_image(data / "imgs" / "test" / name, SIZE) for name in table.index]
    model = keras.saving.load_model(fold_folder / "model.keras", compile=False)
    np.testing.assert_allclose(model.predict_on_batch(np.stack(pixels)), table, atol=1e-3)


def test_wild_steps_of_jax_change_nothing() -> None:
    on_jax("-m", "pytest", "-p", "no:cacheprovider", "tests/models/test_training.py", "-k", "wild")

"""The same code on JAX: a fold from its first file to its last, and no weight that is no number."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from models.finetuning.prediction import PREDICTION_BATCH
from preprocessing.images import read_image
from preprocessing.run_folder import REPOSITORY
from preprocessing.settings import ImageSize
from preprocessing.tables import read_predictions
from tests.trees import make_tree

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]


def on_jax(*words: object) -> str:
    """Runs `python WORDS...` in the repository, on JAX's CPU; returns what it says."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_a_fold_trained_on_jax_predicts_the_same_on_tensorflow(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "data", drivers=2, images_per_class=1)
    options = "--weights none --image-size 32x40 --epochs 1 --batch-size 5 --folds 2 --fold 0 --run jax"
    trained = ["--trainable", "from block5", "--head-start", "logistic", "--clip-norm", "1"]
    where = ["--data", data, "--runs", tmp_path / "runs", "--cache", tmp_path / "cache"]
    said = on_jax("models/vgg16.py", *options.split(), *trained, *where)
    assert "float32 (jax on a CPU gains nothing by less)" in said
    assert "activations at block4_pool for 20 images are computed once" in said
    piece = tmp_path / "runs" / "jax" / "vgg16" / "fold_0"
    table = read_predictions(piece / "test.csv")
    pixels = [read_image(data / "imgs" / "test" / name, ImageSize(32, 40)) for name in table.index]
    assert keras.backend.backend() != "jax"
    assert len(pixels) <= PREDICTION_BATCH
    model = keras.saving.load_model(piece / "model.keras", compile=False)
    np.testing.assert_allclose(model.predict_on_batch(np.stack(pixels)), table, atol=1e-3)


def test_no_weight_becomes_nan_on_jax() -> None:
    said = on_jax("-m", "pytest", "tests/models/test_finite.py", "-q", "-p", "no:xdist", "-m", "not slow")
    assert "failed" not in said

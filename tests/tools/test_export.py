"""One file with everything in it, which predicts what the run's networks predict."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import keras
import numpy as np
import pytest

from common.files import read_json
from common.run_folder import RunFolder
from common.tables import read_predictions
from tests.commands import here
from tests.fold_runs import finish_fold
from tests.tools.conftest import TrainedRun
from tools import export
from tools.pictures import find
from tools.predict import Networks, finished_folds, load, seen_by

needs = {
    to: pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in names), reason="not installed")
    for to, names in export.NEEDED.items()
}


@pytest.fixture(autouse=True)
def tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # which the command sets for its process


def run_export(trained: TrainedRun, *options: object) -> CompletedProcess[str]:
    return here("tools.export", *trained.choice, "--images", trained.data / "imgs" / "test", *options)


@pytest.mark.parametrize("to", [pytest.param(to, marks=mark) for to, mark in needs.items()])
def test_the_file_predicts_the_test_table_from_pixels_alone(to: str, trained: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / f"network{export.SUFFIXES[to]}"
    assert "checked on 6 photographs" in run_export(trained, "--to", to, "--out", out).stdout
    predict = {"onnx": export.onnx_predictor, "litert": export.litert_predictor}[to](out)
    photographs = find([trained.data / "imgs" / "test"]).photographs
    (fold,) = finished_folds(RunFolder(trained.runs / "tiny"))
    images = np.stack([photograph.seen(*seen_by(fold)) for photograph in photographs])
    expected = read_predictions(trained.folder / "test.csv").loc[[photograph.name for photograph in photographs]]
    np.testing.assert_allclose(predict(images), expected, atol=1e-5)
    np.testing.assert_allclose(predict(images[:1]), expected[:1], atol=1e-5)
    if to == "onnx":
        import onnx

        model = onnx.load(str(out))
        assert [output.name for output in model.graph.output] == ["probabilities"]
        assert json.loads({p.key: p.value for p in model.metadata_props}["classes"])["c0"] == "safe driving"


@needs["onnx"]
def test_a_file_that_predicts_something_else_is_not_written(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    def as_a_broken_converter(path: Path, folds: list) -> None:
        model = onnx.load(str(path))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * values, tensor.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(export, "_describe", as_a_broken_converter)
    done = run_export(trained, "--to", "onnx", "--out", tmp_path / "network.onnx")
    assert "was not written: it differs" in done.stderr
    assert list(tmp_path.iterdir()) == []


def small_network(folder: Path, seed: int) -> None:
    """A fold run with a network of a few random numbers."""
    images = keras.Input((16, 24, 3), dtype="uint8")
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
    kernel = keras.initializers.RandomNormal(stddev=9.0, seed=seed)
    logits = keras.layers.Dense(10, kernel_initializer=kernel)(features)
    folder.mkdir(parents=True)
    keras.Model(images, keras.layers.Softmax(name="probabilities")(logits)).save(folder / "model.keras")
    settings = {"image_size": "16x24", "crop": "whole"}
    finish_fold(folder.parents[1], folder.parent.name, int(folder.name.removeprefix("fold_")), settings)


def test_the_mean_network_is_the_mean_that_predict_gives_of_folds_then_of_models(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/fold_0", "a/fold_1", "b/fold_0")):
        small_network(tmp_path / name, seed)
    fold_runs = finished_folds(RunFolder(tmp_path))
    assert [str(one) for one in fold_runs] == ["a, fold 0", "a, fold 1", "b, fold 0"]
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    of_a, also_of_a, of_b = (np.asarray(load(one).predict_on_batch(images)) for one in fold_runs)
    expected = ((of_a + also_of_a) / 2 + of_b) / 2
    loaded = Networks(fold_runs, batch=4)
    np.testing.assert_allclose(loaded.predict([lambda size, crop, i=i: i for i in images]), expected, atol=1e-6)
    np.testing.assert_allclose(export.mean_network(fold_runs).predict_on_batch(images), expected, atol=1e-6)


def test_networks_that_see_different_images_cannot_be_one_file(trained: TrainedRun, tmp_path: Path) -> None:
    for model, changes in (("a", {}), ("b", {"crop": "upper_body"})):
        folder = tmp_path / "two" / model / "fold_0"
        shutil.copytree(trained.folder, folder)
        settings = read_json(folder / "config.json")["settings"]
        finish_fold(tmp_path / "two", model, 0, settings | changes)
    done = here("tools.export", "--run", "two", "--runs", tmp_path, "--to", "onnx")
    assert re.search(r"a: 32x48, whole; b: 32x48, upper_body.*Choose with --model", done.stderr)


def test_what_is_not_installed_is_told_with_the_command(trained: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export.NEEDED, "litert", ("no_such_runtime",))
    done = run_export(trained, "--to", "litert")
    assert "no-such-runtime, which is not installed: .venv/bin/python -m pip install -r requirements/" in done.stderr
    done = run_export(trained, "--to", "onnx", "--out", "network.tflite")
    assert "expected a name that ends in .onnx" in done.stderr

"""One file with everything in it, which predicts what the run's networks predict."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common.errors import UserError
from common.files import read_json
from common.run_folder import RunFolder
from common.tables import read_predictions
from tests.fold_runs import finish_fold
from tests.tools.conftest import TrainedRun
from tools import export, networks
from tools.finished import finished_folds
from tools.networks import Networks, load
from tools.pictures import find

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.NEEDED["onnx"]),
    reason="requirements/export.txt is not installed",
)
needs_litert = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.NEEDED["litert"]),
    reason="requirements/export.txt is not installed",
)


def run_export(monkeypatch: pytest.MonkeyPatch, trained: TrainedRun, *options: object) -> None:
    images = trained.data / "imgs" / "test"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # which the command sets for its process
    monkeypatch.setattr(sys, "argv", ["export", *trained.choice, "--images", str(images), *map(str, options)])
    export.main()


@pytest.mark.parametrize("to", [pytest.param("onnx", marks=needs_onnx), pytest.param("litert", marks=needs_litert)])
def test_the_file_predicts_the_test_table_from_pixels_alone(
    to: str, trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"network{export.SUFFIXES[to]}"
    run_export(monkeypatch, trained, "--to", to, "--out", out)
    assert "checked on 6 photographs" in capsys.readouterr().out
    predict = {"onnx": networks.onnx_predictor, "litert": networks.litert_predictor}[to](out)
    photographs = find([trained.data / "imgs" / "test"]).photographs
    (fold_run,) = finished_folds(RunFolder(trained.runs / "tiny"))
    images = np.stack([photograph.seen(fold_run.image_size, fold_run.crop) for photograph in photographs])
    expected = read_predictions(trained.folder / "test.csv").loc[[photograph.name for photograph in photographs]]
    np.testing.assert_allclose(predict(images), expected, atol=1e-5)
    np.testing.assert_allclose(predict(images[:1]), expected[:1], atol=1e-5)
    if to == "onnx":
        import onnx

        model = onnx.load(str(out))
        assert [output.name for output in model.graph.output] == ["probabilities"]
        assert json.loads({p.key: p.value for p in model.metadata_props}["classes"])["c0"] == "safe driving"


@needs_onnx
def test_a_file_that_predicts_something_else_is_not_written(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    def as_a_broken_converter(path: Path, fold_runs: list) -> None:
        model = onnx.load(str(path))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * values, tensor.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(networks, "_describe", as_a_broken_converter)
    with pytest.raises(UserError, match="was not written: it differs"):
        run_export(monkeypatch, trained, "--to", "onnx", "--out", tmp_path / "network.onnx")
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
    assert loaded.pictures == 3
    np.testing.assert_allclose(networks.mean_network(fold_runs).predict_on_batch(images), expected, atol=1e-6)


def test_networks_that_see_different_images_cannot_be_one_file(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.folder, tmp_path / "runs" / "two" / "a" / "fold_0")
    shutil.copytree(trained.folder, tmp_path / "runs" / "two" / "b" / "fold_0")
    changed = read_json(tmp_path / "runs" / "two" / "b" / "fold_0" / "config.json")["settings"]
    finish_fold(tmp_path / "runs" / "two", "b", 0, changed | {"crop": "upper_body"})
    monkeypatch.setattr(sys, "argv", ["export", "--run", "two", "--runs", str(tmp_path / "runs"), "--to", "onnx"])
    with pytest.raises(UserError, match=r"a: 32x48, whole; b: 32x48, upper_body.*Choose with --model"):
        export.main()


def test_what_is_not_installed_is_told_with_the_command(trained: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export.NEEDED, "litert", ("no_such_runtime",))
    with pytest.raises(
        UserError, match=r"no-such-runtime, which is not installed: .*pip install -r requirements/export"
    ):
        run_export(monkeypatch, trained, "--to", "litert")
    with pytest.raises(UserError, match=r"expected a name that ends in \.onnx"):
        run_export(monkeypatch, trained, "--to", "onnx", "--out", "network.tflite")

"""Pretrained weights: downloaded once, by one process, never half; a folder's files in each layout, under each name."""

import dataclasses
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common.errors import UserError
from common.run_folder import REPOSITORY
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights

MOBILENET = zoo.find("mobilenet")

# As Keras's get_file: it writes in place, and takes a file that is there for whole.
DOWNLOADS = """
import sys, time
from pathlib import Path
from models.finetuning import architecture as zoo
from models.finetuning.network import weights

source, mobilenet = Path(sys.argv[1]).read_bytes(), zoo.find("mobilenet")
kept = weights.published_file(mobilenet)
with weights.downloading(mobilenet):
    if kept.exists():
        assert kept.read_bytes() == source, "half a download was loaded"
        print("found")
    else:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("wb", buffering=0) as stream:
            stream.write(source[: len(source) // 2])
            print("half", flush=True)
            time.sleep(2)
            stream.write(source[len(source) // 2 :])
        print("whole")
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Keras would keep MobileNet's weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return weights.published_file(MOBILENET)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["layers/kernel"] = np.arange(100_000, dtype=np.float32)
    return tmp_path / "source.h5"


def test_folds_side_by_side_download_once_and_nobody_loads_a_half(kept: Path, source: Path) -> None:
    command = [sys.executable, "-c", DOWNLOADS, str(source)]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "half\n"
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert first.communicate(timeout=60)[0] == "whole\n"
    assert (second.returncode, second.stdout) == (0, "found\n"), second.stderr
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_what_an_interrupted_download_left_is_not_taken_for_the_weights(
    kept: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_bytes(source.read_bytes()[:100_000])
    monkeypatch.setattr(weights, "reachable", lambda: False)
    with pytest.raises(UserError, match="not on this machine"):
        weights.check_available(MOBILENET, "imagenet")
    with weights.downloading(MOBILENET):
        assert not kept.exists()
        kept.write_bytes(source.read_bytes())
    assert "is incomplete" in capsys.readouterr().err
    weights.check_available(MOBILENET, "imagenet")


def test_a_failed_download_names_the_ways_out(kept: Path) -> None:
    told = pytest.raises(UserError, match=r"no route to host .*--weights DIR.*mobilenet\.weights\.h5")
    with told, weights.downloading(MOBILENET):
        raise OSError("no route to host")
    assert not list(kept.parent.iterdir())


def save_as_published(network: Any, path: Path) -> None:
    """Writes the layout of the files that Keras publishes, as Keras 2 did, and an array that it does not list."""
    with h5py.File(path, "w") as stored:
        stored.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        stored.create_dataset("conv_preds/kernel:0", data=np.zeros((10, 10), np.float32))
        for layer in network.layers:
            group = stored.create_group(layer.name)
            variables = [*layer.trainable_weights, *layer.non_trainable_weights]
            group.attrs["weight_names"] = [f"{variable.path}:0".encode() for variable in variables]
            for variable in variables:
                group[f"{variable.path}:0"] = variable.numpy()


def save_as_keras_3_does(network: Any, path: Path) -> None:
    network.save_weights(path.with_name("network.weights.h5"))
    path.with_name("network.weights.h5").rename(path)


PUBLISHED = [zoo.find(name) for name in zoo.names() if zoo.find(name).published_weights]


@pytest.mark.parametrize(
    ("architecture", "file", "save"),
    [
        (MOBILENET, "mobilenet.weights.h5", save_as_published),
        (MOBILENET, "mobilenet.weights.h5", save_as_keras_3_does),
        (MOBILENET, MOBILENET.published_weights, save_as_keras_3_does),
        *(pytest.param(x, x.published_weights, save_as_published, marks=pytest.mark.slow) for x in PUBLISHED),
    ],
)
def test_each_layout_is_loaded_under_each_name_without_a_word(
    tmp_path: Path, architecture: Architecture, file: str, save: Callable[[Any, Path], None]
) -> None:
    network = architecture.build(weights=None, include_top=False)
    generator = np.random.default_rng(0)
    for variable in network.weights:
        variable.assign(generator.random(variable.shape, np.float32))
    save(network, tmp_path / file)
    side = max(96, architecture.least_size)
    loaded = architecture.build(weights=None, include_top=False, input_shape=(side, side, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.check_available(architecture, str(tmp_path))
        weights.load(loaded, architecture, str(tmp_path))
    for ours, theirs in zip(loaded.weights, network.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("five numbers", "expected 3,228,864 numbers .*, found 5"),
        ("a page", "not a readable HDF5 file"),
        ("a link", "lie in other files"),
        ("no layout", "not a readable HDF5 file of Keras"),
    ],
)
def test_a_wrong_file_is_refused_at_once(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mobilenet.weights.h5"
    with h5py.File(path, "w") as stored:
        stored.create_dataset("conv1/conv1/kernel:0", (5 if content == "five numbers" else MOBILENET.parameters,), "f4")
        if content != "no layout":
            stored.attrs["layer_names"] = [b"conv1"]
            stored["conv1"].attrs["weight_names"] = [b"conv1/kernel:0"]
    if content == "a link":
        shutil.copy(path, tmp_path / "other.h5")
        with h5py.File(path, "a") as stored:
            del stored["conv1"]
            stored["conv1"] = h5py.ExternalLink("other.h5", "conv1")
    if content == "a page":
        path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=rf"{words}.*or Keras's own {MOBILENET.published_weights}"):
        weights.check_available(MOBILENET, str(tmp_path))


def test_the_advice_is_right_where_keras_publishes_nothing() -> None:
    with pytest.raises(UserError, match=r"python -m models\.finetuning\.network\.googlenet FILE\.onnx --out DIR"):
        weights.check_available(zoo.find("googlenet"), "imagenet")
    mine = dataclasses.replace(MOBILENET, name="mine", builder="models.mine:Mine", published_weights="")
    with pytest.raises(UserError, match=r"models\.mine\.Mine\(include_top=False\)\.save_weights"):
        weights.check_available(mine, "imagenet")

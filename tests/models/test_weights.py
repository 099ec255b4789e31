"""Published weights: downloaded once, by one process, and never taken for whole when they are not."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from models.finetuning import architecture as zoo
from models.finetuning import weights
from preprocessing.errors import UserError
from preprocessing.run_folder import REPOSITORY

MOBILENET = zoo.find("mobilenet")

# As Keras's get_file: it writes in place, and takes a file that is there for whole.
DOWNLOADS = """
import sys, time
from pathlib import Path
from models.finetuning import architecture as zoo
from models.finetuning import weights

source, mobilenet = Path(sys.argv[1]).read_bytes(), zoo.find("mobilenet")
kept = weights.keras_cache() / mobilenet.published_weights
with weights.downloading(mobilenet, mobilenet.published_weights):
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
    return weights.keras_cache() / MOBILENET.published_weights


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["kernel"] = np.arange(100_000, dtype=np.float32)
    return tmp_path / "source.h5"


def test_folds_side_by_side_download_once_and_nobody_loads_a_half(kept: Path, source: Path) -> None:
    command = [sys.executable, "-c", DOWNLOADS, str(source)]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and first.stdout.readline() == "half\n"
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert first.communicate(timeout=60)[0] == "whole\n"
    assert (second.returncode, second.stdout) == (0, "found\n"), second.stderr
    assert f"{kept} is being downloaded" in second.stderr
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_what_an_interrupted_download_left_is_not_taken_for_the_weights(
    kept: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_bytes(source.read_bytes()[:100_000])
    monkeypatch.setattr(weights, "reachable", lambda: False)
    with pytest.raises(UserError, match="not on this machine"):
        weights.check_available(MOBILENET, "imagenet")
    with weights.downloading(MOBILENET, kept.name):
        assert not kept.exists()
        kept.write_bytes(source.read_bytes())
    assert "is not whole" in capsys.readouterr().err
    weights.check_available(MOBILENET, "imagenet")
    with weights.downloading(MOBILENET, kept.name):
        assert kept.exists()


def test_a_failed_download_names_the_ways_out(kept: Path) -> None:
    told = pytest.raises(UserError, match=r"no route to host .*--weights DIR.*mobilenet\.weights\.h5")
    with told, weights.downloading(MOBILENET, kept.name):
        raise OSError("no route to host")
    assert not list(kept.parent.iterdir())


def test_where_keras_may_not_write_it_looks_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(weights.os, "access", lambda path, mode: path != tmp_path)
    assert weights.keras_cache() == Path("/tmp/.keras/models")  # noqa: S108


def test_a_file_that_is_no_weights_names_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "mobilenet.weights.h5").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"not a readable HDF5 file .*--weights none"):
        weights.weights_file(MOBILENET, str(tmp_path))

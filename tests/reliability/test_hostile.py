"""What strangers may have made: networks and arrays; and secrets in errors."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from common.errors import UserError, masked, run_command
from common.kaggle_client import secrets
from common.run_folder import NETWORK, REPOSITORY, FoldFolder, RunFolder
from ensemble.neighbours import load_features
from tools import predict


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def fold(tmp_path: Path) -> FoldFolder:
    folder = RunFolder(tmp_path).fold("vgg16", 0)
    folder.path.mkdir(parents=True)
    return folder


def test_no_code_of_ours_lets_numpy_or_keras_run_what_they_load() -> None:
    rooms = ("common", "preprocessing", "models", "ensemble", "pipeline", "tools", "benchmarks")
    for path in (p for room in rooms for p in (REPOSITORY / room).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib)\b", text, re.MULTILINE), path
        assert not re.search(r"allow_pickle=(?!False)|safe_mode=(?!True)|unsafe_deserialization", text), path


def test_an_array_with_a_pickle_in_it_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    for name in ("features.npy", "plain.npy"):
        with pytest.raises(UserError, match="cannot be read as an array"):
            load_features(tmp_path / name, 1)
    assert not (tmp_path / "sprung").exists()


def test_a_network_with_code_in_it_is_refused(fold: FoldFolder, tmp_path: Path) -> None:
    inputs, place = keras.Input((8, 8, 3)), str(tmp_path / "sprung")
    trap = keras.layers.Lambda(lambda x: (__import__("os").mkdir(place), x)[1], output_shape=(8, 8, 3))
    keras.Model(inputs, trap(inputs)).save(fold / NETWORK)
    with pytest.raises(UserError, match="cannot be loaded"):
        predict.load(fold)
    assert not (tmp_path / "sprung").exists()


def test_a_network_that_would_fill_the_memory_is_refused(fold: FoldFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MOST_BYTES", 999)
    with zipfile.ZipFile(fold / NETWORK, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("model.weights.h5", bytes(1000))
    with pytest.raises(UserError, match="bytes unpacked"):
        predict.load(fold)


SECRET = "kgat_0123456789abcdef"


@pytest.mark.parametrize("variable", ["KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_API_V1_TOKEN_PATH", "WANDB_API_KEY"])
def test_no_secret_is_repeated(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text(SECRET + "\n")
    monkeypatch.setenv(variable, str(tmp_path / "token") if variable.endswith("PATH") else SECRET)
    said = masked(f"401 for https://me:{SECRET}@kaggle.com with {SECRET}", *secrets())
    assert SECRET not in said
    assert "***" in said

    def fail() -> None:
        raise UserError("https://me:p4ssw0rd@host refused " + ("" if variable.endswith("PATH") else SECRET))

    with pytest.raises(SystemExit):
        run_command(fail)
    told = capsys.readouterr().err
    assert SECRET not in told
    assert "p4ssw0rd" not in told
    assert "https://***@host" in told

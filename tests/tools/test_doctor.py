"""The table that says what this machine has and what each network does on it; and which packages are too old."""

import os
from importlib import metadata

import pytest

from common.errors import UserError
from tests.commands import run_python, succeeded
from tools import doctor


@pytest.mark.slow
def test_it_prints_what_is_here_and_trains_predicts_saves_and_loads_each_network() -> None:
    secret = "KGAT_0123456789abcdef"
    words = ("--models", "mobilenet_v2", "--seconds", 1, "--weights", "none", "--precision", "float32")
    done = succeeded(run_python("-m", "tools.doctor", *words, timeout=600, KAGGLE_API_TOKEN=secret))
    lines = {line.partition(" ")[0]: line for line in done.stdout.splitlines()}
    for name in ("system", "packages", "machine", "data", "weights", "GPUs", "backend", "precision", "same"):
        assert name in lines
    assert "float32 (as asked)" in lines["precision"]
    assert "keras" in lines["packages"]
    cells = lines["mobilenet_v2"].split()
    steps, training, prediction = int(cells[2]), float(cells[3]), float(cells[4])
    assert steps >= 1 and training > 0 and prediction > 0
    assert float(cells[8]) < doctor.LARGEST_DIFFERENCE
    assert secret not in done.stdout + done.stderr and os.environ["HOME"] + "/" not in done.stdout


@pytest.mark.slow
def test_a_network_that_fails_is_a_line_of_the_table() -> None:
    found = doctor.measured("mobilenet", "/nowhere", "float32", "auto", 1.0, limit=600)
    assert "no such folder" in found["failed"]
    assert "failed, status 1" in doctor.row(doctor.zoo.find("mobilenet"), found, 0)


def test_what_is_older_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"keras {metadata.version('keras')}" in doctor.check_installed()
    monkeypatch.setitem(doctor.LOWEST, ("absent",), "1")
    monkeypatch.setitem(doctor.LOWEST, ("keras",), "999.10rc1")
    with pytest.raises(UserError, match=r"keras 999.10rc1 or newer, found \d.*absent 1 or newer, found none") as told:
        doctor.check_installed()
    assert "In a Kaggle notebook" in str(told.value)


def test_a_backend_that_is_not_used_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(doctor, "BACKENDS", doctor.BACKENDS | {"jax": (("numpy",), "1")})
    assert not any(name.startswith("tensorflow") for name in doctor.check_installed())
    monkeypatch.setattr(doctor, "BACKENDS", {"jax": (("numpy",), "999")})
    with pytest.raises(UserError, match="numpy 999 or newer, found"):
        doctor.check_installed()

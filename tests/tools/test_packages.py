"""The oldest packages that will do, and that it is said which are older."""

from importlib import metadata

import pytest

from common.errors import UserError
from tools import doctor


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

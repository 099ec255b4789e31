"""The oldest packages that will do, and that it is said which are older."""

from importlib import metadata

import pytest

from common.errors import UserError
from tools import doctor


@pytest.mark.parametrize(
    ("installed", "fits"), [("3.8.0", True), ("3.10.0rc1", True), ("3.7.9", False), ("2.15", False)]
)
def test_versions_are_compared_as_numbers(installed: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: installed if name == "keras" else real(name))
    if fits:
        assert f"keras {installed}" in doctor.check_installed()
        return
    with pytest.raises(UserError, match=rf"keras 3\.8\.0 or newer, found {installed}\. In a Kaggle notebook"):
        doctor.check_installed()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.LOWEST, ("no-such-package",), "1")
    with pytest.raises(UserError, match="no-such-package 1 or newer, found none"):
        doctor.check_installed()


def test_a_backend_that_is_not_used_need_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(doctor, "BACKENDS", doctor.BACKENDS | {"jax": (("numpy",), "1")})
    assert not any(name.startswith("tensorflow") for name in doctor.check_installed())

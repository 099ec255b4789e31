"""A machine with a stand-in for Kaggle's client, and with nothing else of Kaggle."""

import os
from pathlib import Path

import pytest


def install_client(program: str, token: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a package `kaggle` first on the path of Python's processes, and credentials where Kaggle's client has them.

    Args:
        program: what `python -m kaggle` shall run.
        folder: an empty one; its home/ becomes the home.
    """
    client = folder / "site" / "kaggle"
    client.mkdir(parents=True)
    (client / "__init__.py").write_text("CLIENT = 'stand-in'")
    (client / "__main__.py").write_text(program)
    (folder / "home").mkdir()
    for name in [name for name in os.environ if "KAGGLE" in name or name == "XDG_CONFIG_HOME"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)

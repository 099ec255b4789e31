"""A machine with a stand-in for Kaggle's client, and with nothing else of Kaggle."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import stand_in_client


def install_client(token: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a package `kaggle` first on the path of Python's processes, and credentials where Kaggle's client has them.

    Args:
        folder: an empty one; its home/ becomes the home.

    Returns:
        What the stand-in keeps of Kaggle, $STAND_IN.
    """
    client, state = folder / "site" / "kaggle", folder / "state"
    for new in (client, state, folder / "home"):
        new.mkdir(parents=True)
    (client / "__init__.py").write_text("CLIENT = 'stand-in'")
    shutil.copy(stand_in_client.__file__, client / "__main__.py")
    for name in [name for name in os.environ if "KAGGLE" in name or name == "XDG_CONFIG_HOME"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    monkeypatch.setenv("STAND_IN", str(state))
    return state


def calls(state: Path) -> list[list[str]]:
    """The command lines that the client was called with, so far."""
    path = state / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

"""Fixtures of all rooms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from common import environment
from tests.trees import make_tree

environment.pin()  # as commands do
settings.register_profile("repository", deadline=None)  # another process on the same core is no failure
settings.load_profile("repository")


@pytest.fixture
def tiny_tree(tmp_path: Path) -> Callable[..., Path]:
    """A factory of tiny data folders: `tiny_tree(drivers=4, images_per_class=2, ...)` gives its root."""
    count = 0

    def make(**options: Any) -> Path:
        nonlocal count
        count += 1
        return make_tree(tmp_path / f"data_{count}", **options)

    return make


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data folder for all tests of a module, alone in its parent."""
    return make_tree(tmp_path_factory.mktemp("module") / "data")

"""`--help` of every light command answers at once: it loads nothing that takes seconds to import."""

import pytest

from tests.commands import heavy_packages

COMMANDS = ("blend", "score", "submit")
TOOLS = ("predict", "compare", "explain", "export", "classify", "doctor", "experiments", "report")


@pytest.mark.parametrize(
    "module", [*(f"ensemble.{name}" for name in COMMANDS), *(f"tools.{name}" for name in TOOLS), "preprocessing.demo"]
)
def test_help_loads_nothing_heavy(module: str) -> None:
    assert heavy_packages("-m", module) == set()

"""The notebook: its code compiles, and runs from its first cell to its last as Jupyter runs it."""

import importlib.util
import json
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from tests.commands import run_python
from tools.kaggle import bundled_files

NOTEBOOK = REPOSITORY / "kaggle" / "statefarm.ipynb"


def test_its_code_compiles_and_it_holds_no_outputs() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), cell["id"], "exec")
            assert cell["outputs"] == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbconvert") is None, reason="nbconvert is not installed")
def test_it_trains_blends_and_shows_the_report_on_the_demo(tmp_path: Path) -> None:
    for name, content in bundled_files().items():  # a copy, whose runs/ is its own
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_bytes(content)
    options = "--demo --models mobilenet --weights none --image-size 32x32 --epochs 1"
    text = NOTEBOOK.read_text().replace("--time-budget 8h30m", options)
    (tmp_path / "code" / "kaggle").mkdir()
    (tmp_path / "code" / "kaggle" / "statefarm.ipynb").write_text(text)
    command = ["-m", "nbconvert", "--to", "notebook", "--execute", "--output", "executed.ipynb"]
    notebooks = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "IPYTHONDIR": str(tmp_path / "ipython")}
    done = run_python(*command, tmp_path / "code" / "kaggle" / "statefarm.ipynb", timeout=1200, **notebooks)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "code" / "kaggle" / "executed.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "log loss" in printed
    assert "submissions/demo.csv" in printed
    shown = ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output.get("data", {})]
    assert any("<iframe srcdoc=" in text and "mobilenet" in text for text in shown)

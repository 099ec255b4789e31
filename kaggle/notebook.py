"""Writes kaggle/statefarm.ipynb: python kaggle/notebook.py [FILE]"""

import json
import sys
from pathlib import Path

CELLS = (
    """# Distracted drivers

From the photographs to a submission, in a notebook. On Kaggle: accept the competition's
[rules](https://www.kaggle.com/competitions/state-farm-distracted-driver-detection/rules), *Add input* the
competition, choose *GPU T4 x2*, and either turn *Internet* on, or attach the code and the networks' weights as
datasets (`docs/kaggle.md`). Elsewhere it takes the data that `run_all.sh` finds; without any, a rendered demo set.""",
    """REPOSITORY = ""  # address to clone the code from, where it is not attached and this is not its folder
OPTIONS = "--time-budget 8h30m"  # of run_all.sh: --help lists them
SUBMIT = False  # True uploads the result with Kaggle's client, which needs a login""",
    """import html
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from IPython.display import HTML, display

inputs = Path("/kaggle/input")
here = [folder for folder in (Path.cwd(), Path.cwd().parent) if (folder / "run_all.sh").is_file()]
attached = [path.parent for depth in range(1, 7) for path in inputs.glob("*/" * depth + "run_all.sh")]
if here:
    code = here[0]
else:
    code = Path("/kaggle/tmp/code" if inputs.is_dir() else "code").absolute()
    if attached and not code.exists():
        shutil.copytree(attached[0], code)  # the inputs are read-only
    elif not code.exists():
        subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(code)], check=True)


def run(*words):
    \"\"\"Runs a command in the code's folder with this notebook's packages, and shows what it prints.\"\"\"
    environment = os.environ | {"STATEFARM_PACKAGES": "installed", "PYTHONUNBUFFERED": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with subprocess.Popen(
        words, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="")
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: see above")


code""",
    """## Train, predict, blend

Interrupt it at any time: the same cell resumes.""",
    """options = shlex.split(OPTIONS)
if inputs.is_dir():  # data and weights from the mounts, the runs in /kaggle/working
    run(sys.executable, "-m", "tools.kaggle", "kernel", "/kaggle", *options)
    runs, submissions = Path("/kaggle/working/runs"), Path("/kaggle/tmp/submissions")
else:
    run("bash", "run_all.sh", *options)
    runs, submissions = code / "runs", code / "submissions\"""",
    """## The report""",
    """reports = sorted(runs.glob("*/report.html"), key=lambda path: path.stat().st_mtime)
report = reports[-1]
display(HTML(f'<iframe srcdoc="{html.escape(report.read_text())}" width="100%" height="900"></iframe>'))""",
    """## Submit

On Kaggle, *Save version*; then *Submit* in its Output tab, at `submission.csv`. Or from here: `SUBMIT = True`.""",
    """name = report.parent.name
print(submissions / f"{name}.csv")
if SUBMIT:
    run(sys.executable, "-m", "ensemble.submit", name, "--runs", str(runs), "--submissions", str(submissions))""",
)


def cell(number: int, source: str) -> dict:
    """A cell of the notebook; text that starts with '#' is Markdown."""
    common = {"id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    if source.startswith("#"):
        return {"cell_type": "markdown", **common}
    return {"cell_type": "code", "execution_count": None, "outputs": [], **common}


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("statefarm.ipynb")
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [cell(number, source) for number, source in enumerate(CELLS)],
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    out.write_text(json.dumps(notebook, indent=1) + "\n")


if __name__ == "__main__":
    main()

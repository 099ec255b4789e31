"""What is printed while a command works: bars on a terminal alone, and lines above them."""

import os
import re
import subprocess
import sys

import pytest

from common import errors
from common.run_folder import REPOSITORY
from tests.commands import run_python

WORK = """
from common import errors
with errors.progress_bar(4, "training", mininterval=0) as bar:
    for _ in range(4):
        bar.update()
    errors.say("fold 0 is finished")
"""


def on_a_terminal(**environment: str) -> str:
    """What the code prints on a terminal, as a screen shows it: lines without what was drawn over."""
    code = f"import pty; pty.spawn([{sys.executable!r}, '-c', {WORK!r}])"
    own = {name: text for name, text in os.environ.items() if name not in ("JPY_PARENT_PID", "COLUMNS")}
    own |= {"TERM": "xterm", errors.LABEL: "vgg16, fold 0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=own, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    return done.stdout.decode()


def test_a_terminal_has_a_bar_that_names_the_fold_and_is_gone_in_the_end() -> None:
    shown = on_a_terminal()
    assert "vgg16, fold 0: training  50 % |" in shown
    assert re.search(r"\r\x1b\[Jfold 0 is finished\r\n", shown), "the bar is cleared before the line"
    assert re.search(r"\r\x1b\[K\r+$", shown), "and in the end"


@pytest.mark.parametrize("environment", [{"JPY_PARENT_PID": "1"}, {"TERM": "dumb"}])
def test_a_notebooks_cell_has_lines_alone(environment: dict[str, str]) -> None:
    assert on_a_terminal(**environment) == "fold 0 is finished\r\n"


def test_a_pipe_has_lines_alone() -> None:
    done = run_python("-c", WORK)
    assert (done.stdout, done.stderr) == ("", "fold 0 is finished\n")

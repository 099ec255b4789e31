"""Ctrl-C and SIGTERM in a command's first second, while its modules are imported."""

import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.commands import run_python

ENTRY_POINTS = [["models/vgg16.py"], *(["-m", f"{name}"] for name in ("pipeline", "ensemble.blend", "tools.report"))]
SITE = """
    import importlib.abc, os, signal, sys

    class Interrupt(importlib.abc.MetaPathFinder):
        '''Sends a signal as soon as a module of ours is looked for, other than a package or the one that answers.'''

        def find_spec(self, name, path=None, target=None):
            if name.startswith(("preprocessing.", "models.", "ensemble.", "tools.", "pipeline.")):
                os.kill(os.getpid(), int(os.environ["TEST_SIGNAL"]))
            return None

    signal.signal(signal.SIGINT, getattr(signal, os.environ["TEST_HANDLER"]))  # background tests inherit 'ignored'
    sys.meta_path.insert(0, Interrupt())
"""


def interrupted(
    words: list[str], folder: Path, number: signal.Signals, handler: str = "default_int_handler"
) -> subprocess.CompletedProcess[str]:
    """Runs Python, with a signal as the first of our modules is imported."""
    (folder / "sitecustomize.py").write_text(textwrap.dedent(SITE))
    variables = {"PYTHONPATH": str(folder), "TEST_SIGNAL": str(int(number)), "TEST_HANDLER": handler}
    return run_python(*words, **variables)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", ENTRY_POINTS)
def test_an_interrupt_while_modules_are_imported_is_one_line(
    words: list[str], number: signal.Signals, tmp_path: Path
) -> None:
    done = interrupted(words, tmp_path, number)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr.strip() == "stopped. The same command goes on from here; nothing finished is lost."


def test_where_ctrl_c_is_ignored_it_stays_ignored(tmp_path: Path) -> None:
    done = interrupted(["-m", "preprocessing.folds", "--help"], tmp_path, signal.SIGINT, "SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_imports_us_handles_ctrl_c_itself(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nsys.path.insert(0, '')\ntry:\n    import models, tools, models.finetuning\n"
        "except KeyboardInterrupt:\n    print('mine')\n"
    )
    for words in ([str(program)], ["-c", program.read_text()]):
        done = interrupted(words, tmp_path, signal.SIGINT)
        assert (done.returncode, done.stdout, done.stderr) == (0, "mine\n", "")

"""Ctrl-C and SIGTERM in a command's first second, while its modules are imported."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from tests.reliability.pipeline import descendants

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
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


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


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("seconds", [0.03, 0.1])
def test_ctrl_c_while_the_processes_that_render_start(seconds: float, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "preprocessing.demo", "--out", str(tmp_path / "demo"), "--workers", "2"]
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not any(b"spawn_main" in command_line(pid) for pid in descendants(process.pid)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(seconds)  # different moments of the start of the first process: before, while and after Python sets up
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert not list(tmp_path.iterdir())


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

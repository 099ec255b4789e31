"""How a command ends: in time, and in words; also in its first second, while its modules are imported."""

import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from tests.commands import run_python


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_in_the_midst_of_a_long_step_does_not_wait_for_its_end(number: signal.Signals) -> None:
    code = """
        import hashlib, signal
        from common.errors import run_command

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

        def main():
            print("ready", flush=True)
            hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)  # native code: Python hears of no signal until its end

        run_command(main)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)  # the step takes many minutes
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.decode().strip() == "stopped. The same command goes on from here; nothing finished is lost."


def test_a_package_that_is_not_installed_is_named_with_what_to_type(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "common", tmp_path / "common")
    code = "from common.errors import run_command; run_command(lambda: __import__('numpi'))"
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"the package numpi is not installed for {sys.executable}" in done.stderr
    assert "./run_all.sh" in done.stderr and ".venv/bin/python instead of python" in done.stderr


STALE = "OSError(116, os.strerror(116), 'runs/full/vgg16/fold_0/finished.json')"
NOT_DETERMINISTIC = "A deterministic GPU implementation of ResizeNearestNeighborGrad is not currently available."


def of_a_library(name: str, said: str) -> str:
    return f"type({name!r}, (Exception,), {{}})({said!r})"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("MemoryError()", 5, "error: out of memory"),
        (of_a_library("ResourceExhaustedError", "OOM when allocating tensor"), 5, "error: out of memory"),
        (of_a_library("JaxRuntimeError", "RESOURCE_EXHAUSTED: Out of memory"), 5, "error: out of memory"),
        (of_a_library("InternalError", "failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory"), 5, "error: out of memory"),
        (of_a_library("InternalError", "CUDNN_STATUS_EXECUTION_FAILED"), 1, "Traceback"),
        ("ValueError('a bug')", 1, "Traceback"),
        ("OSError(21, 'Is a directory', 'runs')", 1, "Traceback"),
        ("ModuleNotFoundError(name='models.numpi')", 1, "Traceback"),
        (STALE, 1, "error: runs/full/vgg16/fold_0/finished.json: Stale file handle. What is"),
        (of_a_library("UnimplementedError", NOT_DETERMINISTIC), 2, "Start the same command with --deterministic no"),
    ],
)
def test_an_error_has_its_status_and_one_line_and_a_bug_its_traceback(error: str, status: int, said: str) -> None:
    done = run_python(
        "-c", f"import os\nfrom common.errors import run_command\ndef main(): raise {error}\nrun_command(main)"
    )
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert ("Traceback" in done.stderr) == (said == "Traceback")
    assert (done.stderr.count("\n") == 1) == (said != "Traceback")


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

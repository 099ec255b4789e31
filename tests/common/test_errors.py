"""How a command ends: in time, and in words."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from tests.commands import run_python

LONG_STEP = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # native code: Python hears of no signal until its end


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_in_the_midst_of_a_long_step_does_not_wait_for_its_end(number: signal.Signals) -> None:
    code = f"""
        import hashlib, signal
        from common.errors import run_command

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

        def main():
            print("ready", flush=True)
            {LONG_STEP}

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


def test_what_fails_because_it_was_interrupted_was_interrupted() -> None:
    code = """
        import os, signal
        from common.errors import run_command

        def main():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                while True:
                    pass
            except KeyboardInterrupt:
                raise ImportError("as libraries do whose import is interrupted") from None

        run_command(main)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr
    assert "goes on from here" in done.stderr


def test_an_interrupt_in_a_finalizer_prints_no_traceback() -> None:
    code = """
        import os, signal
        from common.errors import run_command

        class Interrupted:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)

        run_command(lambda: Interrupted() and None)
        """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("made", [True, False])
def test_a_package_that_is_not_installed_is_named_with_what_to_type(made: bool, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "common", tmp_path / "common")
    if made:
        (tmp_path / ".venv").symlink_to(sys.prefix)
    code = "from common.errors import run_command; run_command(lambda: __import__('numpi'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert f"the package numpi is not installed for {sys.executable}" in done.stderr
    if made:
        requirements = re.findall(r"-[cr] (\S+)", done.stderr)
        assert ".venv/bin/python -m pip install" in done.stderr and len(requirements) == 2
        assert all((REPOSITORY / name).is_file() for name in requirements)
    else:
        assert "./run_all.sh" in done.stderr and ".venv/bin/python instead of python" in done.stderr


def test_a_module_of_ours_that_is_missing_is_a_bug() -> None:
    code = "from common.errors import run_command; run_command(lambda: __import__('models.numpi'))"
    done = run_python("-c", code)
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)


def test_a_second_signal_while_the_first_is_answered_changes_nothing() -> None:
    code = """
        import os, signal
        from common import errors

        say = errors._Stopping.say

        def interrupted_again(self):
            os.kill(os.getpid(), signal.SIGTERM)
            say(self)

        errors._Stopping.say = interrupted_again
        errors.run_command(lambda: os.kill(os.getpid(), signal.SIGTERM))
        """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("Traceback"), done.stderr.count("goes on")) == (130, 0, 1), done.stderr


@pytest.mark.parametrize(("number", "told"), [(errno.ESTALE, True), (errno.EACCES, True), (errno.EISDIR, False)])
def test_a_file_that_the_system_does_not_give_is_one_line_and_may_be_tried_again(number: int, told: bool) -> None:
    code = f"""
        import os
        from common.errors import run_command
        def main():
            raise OSError({number}, os.strerror({number}), "runs/full/vgg16/fold_0/finished.json")
        run_command(main)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert (len(lines) == 1) == told, done.stderr
    if told:
        assert lines[0].startswith(f"error: runs/full/vgg16/fold_0/finished.json: {os.strerror(number)}. What is")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("MemoryError()", 5),
        ("type('ResourceExhaustedError', (Exception,), {})('OOM when allocating tensor')", 5),
        ("type('JaxRuntimeError', (RuntimeError,), {})('RESOURCE_EXHAUSTED: Out of memory')", 5),
        ("type('JaxRuntimeError', (RuntimeError,), {})('INTERNAL: other')", 1),
        ("OSError(12, 'Cannot allocate memory')", 5),
        ("type('InternalError', (Exception,), {})('failed to allocate: CUDA_ERROR_OUT_OF_MEMORY: out of memory')", 5),
        ("type('UnknownError', (Exception,), {})('CUDNN_STATUS_ALLOC_FAILED in tensorflow/stream_executor')", 5),
        ("type('InternalError', (Exception,), {})('CUDNN_STATUS_EXECUTION_FAILED')", 1),
        ("ValueError('a bug')", 1),
    ],
)
def test_only_a_lack_of_memory_has_its_status_and_a_bug_its_traceback(error: str, status: int) -> None:
    code = f"from common.errors import run_command\ndef main(): raise {error}\nrun_command(main)"
    done = run_python("-c", code)
    assert done.returncode == status
    assert ("Traceback" in done.stderr) == (status == 1)
    assert ("error: out of memory" in done.stderr) == (status == 5)


def test_a_kernel_that_is_not_deterministic_names_the_option() -> None:
    said = "A deterministic GPU implementation of ResizeNearestNeighborGrad is not currently available."
    error = f"type('UnimplementedError', (Exception,), {{}})('{said}')"
    code = f"from common.errors import run_command\ndef main(): raise {error}\nrun_command(main)"
    done = run_python("-c", code)
    assert done.returncode == 2
    assert f"{said} Start the same command with --deterministic no" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_folder_for_temporary_files_one_line_says_so() -> None:
    code = """
        import resource
        from common.errors import run_command
        from models.finetuning import runtime

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing can be written anywhere, as on a read-only root
        run_command(runtime.load_keras)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: there is no folder for temporary files") and "TMPDIR=" in done.stderr
    assert len(done.stderr.splitlines()) == 1

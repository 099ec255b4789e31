"""setup.sh: one start at a time sets up .venv, and a file system without locks stops nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from preprocessing.run_folder import REPOSITORY

SET_UP = ["bash", "-c", "set -euo pipefail; source ./setup.sh requirements.txt; echo ready"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with setup.sh, so that its lock is nobody else's, and a `python` that is content with its packages."""
    shutil.copy(REPOSITORY / "setup.sh", tmp_path)
    write_program(tmp_path / "bin" / "python", "exit 0")
    return tmp_path


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "STATEFARM_PACKAGES": "installed", "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    return subprocess.Popen(SET_UP, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_a_file_system_without_locks_stops_nothing(folder: Path) -> None:
    write_program(folder / "bin" / "flock", "echo 'flock: 9: Bad file descriptor' >&2; exit 65")
    process = start(folder)
    assert process.communicate(timeout=60) == ("ready\n", "")
    assert process.returncode == 0


@pytest.mark.skipif(shutil.which("flock") is None, reason="this system has no flock, so nothing waits")
def test_a_second_start_says_that_it_waits(folder: Path) -> None:
    with (folder / "setup.sh").open() as lock:
        holder = subprocess.Popen(["flock", "--exclusive", str(lock.fileno())], pass_fds=[lock.fileno()])
        holder.wait(timeout=60)  # what it locked stays locked as long as this file is open
        process = start(folder)
        assert process.stderr is not None
        assert process.stderr.readline() == "Waiting for another start that sets up .venv (Ctrl-C ends this).\n"
        assert process.poll() is None
    assert process.communicate(timeout=60)[0] == "ready\n"
    assert process.returncode == 0

"""Whole commands: the same bytes twice, a fold that is killed, a table that rots between two starts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.run_folder import REPOSITORY
from tests.reliability.rot import flip
from tests.reliability.same_bytes import run_once

MODEL = "mobilenet"


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("STATEFARM_SAMPLE") and os.environ.get("PRETRAINED_WEIGHTS")),
    reason="needs real photographs and weights",
)
def test_two_runs_give_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    data, weights = Path(os.environ["STATEFARM_SAMPLE"]), Path(os.environ["PRETRAINED_WEIGHTS"])
    assert run_once(tmp_path / "1", data, weights, 1) == run_once(tmp_path / "3", data, weights, 3)


@pytest.mark.slow
def test_a_killed_fold_is_retried_then_left_out_and_the_blend_says_so(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    data = tiny_tree()
    places = ["--data", str(data), "--run", "tiny", "--runs", str(tmp_path / "runs")]
    options = ["--weights", "none", "--image-size", "32x32", "--folds", "2", "--epochs", "1"]
    options += ["--cache", str(tmp_path / "cache"), "--submissions", str(tmp_path), "--no-figures"]
    command = ["./run_all.sh", *places, *options, "--models", MODEL, "--jobs", "1"]
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "runs" / "tiny" / MODEL / ".fold_0.lock"
    killed: set[int] = set()
    while run.poll() is None and len(killed) < 2:  # each time that fold 0 is begun, the process that holds it
        words = log.read_text().split() if log.exists() else []
        pid = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if pid and pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    said, _ = run.communicate(timeout=600)
    assert len(killed) == 2
    assert "once more, alone" in said
    assert f"{MODEL} lacks fold 0; 1 of 2 folds are finished" in said
    assert f"{MODEL} lacks fold 0 (it was killed (signal 9)" in said, said
    assert run.returncode == 2, "not complete, and it says so"
    assert not (tmp_path / "tiny.csv").exists()

    blend = [sys.executable, "-m", "ensemble.blend", *places, "--submissions", str(tmp_path), "--no-figures"]
    allowed = subprocess.run([*blend, "--allow-missing"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert allowed.returncode == 0, allowed.stderr
    assert "INCOMPLETE" in allowed.stdout

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = (tmp_path / "tiny.csv").read_bytes()

    table = tmp_path / "runs" / "tiny" / MODEL / "fold_1" / "test.csv"
    (tmp_path / "runs" / "tiny" / "ensemble" / "blend.json").unlink()
    import random

    content = table.read_bytes()
    flip(table, random.Random(4))
    mended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert mended.returncode == 0, mended.stderr
    assert "test.csv" in mended.stderr
    assert table.read_bytes() == content, "that piece alone is made again, and is the same"
    assert (tmp_path / "tiny.csv").read_bytes() == whole

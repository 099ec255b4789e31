"""Whole commands: the same bytes twice, a fold that is killed, a table that rots between two starts."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.run_folder import CONFIG, REPOSITORY, TEST, RunFolder
from tests.reliability.pipeline import command_line, descendants
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
    places = ["--data", str(tiny_tree()), "--run", "tiny", "--runs", str(tmp_path / "runs")]
    places += ["--submissions", str(tmp_path)]
    options = ["--weights", "none", "--image-size", "32x32", "--folds", "2", "--epochs", "1", "--jobs", "1"]
    command = ["./run_all.sh", *places, "--cache", str(tmp_path / "cache"), "--models", MODEL, *options]
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed: set[int] = set()
    while run.poll() is None and len(killed) < 2:  # each time that fold 0 is started
        for pid in descendants(run.pid):
            words = command_line(pid)
            if pid not in killed and "--config" in words and words[words.index("--fold") + 1] == "0":
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    said, _ = run.communicate(timeout=600)
    assert len(killed) == 2
    assert "once more, alone" in said
    assert f"{MODEL} lacks fold 0 (it was killed (signal 9)" in said, said
    assert run.returncode == 2, "not complete, and it says so"
    assert not (tmp_path / "tiny.csv").exists()

    blend = [sys.executable, "-m", "ensemble.blend", *places]
    allowed = subprocess.run([*blend, "--allow-missing"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert allowed.returncode == 0, allowed.stderr
    assert "INCOMPLETE" in allowed.stdout

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    submission = (tmp_path / "tiny.csv").read_bytes()

    folder = RunFolder(tmp_path / "runs" / "tiny").fold(MODEL, 1)
    before = {name: (folder / name).read_bytes() for name in (CONFIG, TEST)}
    for name in before:
        flip(folder / name, random.Random(4))
        (tmp_path / "tiny.csv").unlink()
        again = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert f"{name} is corrupted" in again.stderr
        assert f"{MODEL}: 1 of 2 folds are finished already" in again.stderr, "that fold alone is trained again"
        assert (folder / TEST).read_bytes() == before[TEST]
        assert (tmp_path / "tiny.csv").read_bytes() == submission

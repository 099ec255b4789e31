"""What an interruption, a full disk, a mutated file or a changed byte can do: short modes of the commands here."""

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.files import sha256_of
from common.run_folder import CONFIG, OUT_OF_FOLD, OUT_OF_FOLD_FEATURES, REPOSITORY, TEST, TEST_FEATURES, RunFolder
from tests.commands import run_python, succeeded
from tests.reliability import full_disk, kills
from tests.reliability.fuzz import fuzz, readers
from tests.reliability.pipeline import MODEL, trainings
from tests.reliability.rot import Run, flip, kinds, rot


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    for name, reader in readers(tmp_path).items():
        counts, escapes = fuzz(name, reader, 300, 7, tmp_path)
        assert not escapes
        assert counts["read"] > 3, f"or the seeds of {name} are not valid"
        assert counts["refused"] > 30


@pytest.mark.parametrize("of_cache", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_changed_byte_reaches_a_submission(of_cache: bool, tmp_path: Path) -> None:
    every = {name: kind for name, kind in kinds(Run(tmp_path)).items() if of_cache == name.startswith("cached")}
    found, missed = rot(every, 2 * len(every), 3)
    assert not missed
    assert set(found) == set(every)


@pytest.mark.slow
def test_killed_and_stopped_at_random_moments_the_result_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wrong = kills.run(tmp_path, kills=3, gently=1, seed=2)
    assert wrong == 0, capsys.readouterr().out


@pytest.mark.slow
def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    try:
        with full_disk.small_disk(tmp_path / "probe", full_disk.PAGE):
            pass
    except subprocess.CalledProcessError:
        pytest.skip("mounting is not allowed here")
    assert full_disk.run(tmp_path, points=3) == [], capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("STATEFARM_SAMPLE") and os.environ.get("PRETRAINED_WEIGHTS")),
    reason="needs real photographs and weights",
)
def test_two_runs_give_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    """A fold of inception_v3 in bfloat16, on 100 training images at 75x100, and the blend of it."""
    sums = []
    options = "--precision mixed_bfloat16 --quick --train-images 100 --image-size 75x100 --epochs 1 --fold 0"
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        places = ["--data", os.environ["STATEFARM_SAMPLE"], "--run", "same", "--runs", folder / "runs"]
        train = ["models/inception_v3.py", *places, "--weights", os.environ["PRETRAINED_WEIGHTS"], "--cache", folder]
        train += [*options.split(), "--workers", workers]
        blend = ["-m", "ensemble.blend", *places, "--allow-missing", "--submissions", folder]
        for command in (train, blend):
            succeeded(run_python(*command, timeout=600))
        fold = RunFolder(folder / "runs" / "same").fold("inception_v3", 0)
        outputs = [fold / name for name in (OUT_OF_FOLD, TEST, OUT_OF_FOLD_FEATURES, TEST_FEATURES)]
        sums.append([sha256_of(path) for path in (*outputs, folder / "same.csv")])
    assert sums[0] == sums[1]


@pytest.mark.slow
def test_a_killed_fold_is_retried_then_left_out_and_the_blend_says_so(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    places = ["--data", str(tiny_tree()), "--run", "tiny", "--runs", str(tmp_path / "runs")]
    places += ["--submissions", str(tmp_path)]
    options = ["--weights", "none", "--image-size", "32x32", "--folds", "2", "--epochs", "1", "--jobs", "1"]
    command = ["./run_all.sh", *places, "--cache", str(tmp_path / "cache"), "--models", MODEL, *options]
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed = set()
    while run.poll() is None and len(killed) < 2:  # each time that fold 0 is started
        for process, fold in trainings(run).items():
            if fold == "0" and process not in killed:
                killed.add(process)
                process.kill()
        time.sleep(0.01)
    said, _ = run.communicate(timeout=600)
    assert len(killed) == 2
    assert "once more, alone" in said
    assert f"{MODEL} lacks fold 0 (it was killed (signal 9)" in said, said
    assert run.returncode == 2, "not complete, and it says so"
    assert not (tmp_path / "tiny.csv").exists()

    allowed = succeeded(run_python("-m", "ensemble.blend", *places, "--allow-missing"))
    assert "INCOMPLETE" in allowed.stdout

    folder = RunFolder(tmp_path / "runs" / "tiny").fold(MODEL, 1)
    results = []
    for corrupted in ("", CONFIG, TEST):
        (tmp_path / "tiny.csv").unlink(missing_ok=True)
        if corrupted:
            flip(folder / corrupted, random.Random(4))
        done = succeeded(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False))
        assert not corrupted or f"{corrupted} is corrupted" in done.stderr
        assert f"{MODEL}: 1 of 2 folds are finished already" in done.stderr, "one fold alone is trained"
        results.append([(folder / TEST).read_bytes(), (tmp_path / "tiny.csv").read_bytes()])
    assert results[0] == results[1] == results[2]

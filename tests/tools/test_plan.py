"""What run_all.sh is told before it starts: the stages' options, what the run needs, and what cannot work."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common import machine
from common.errors import UserError
from common.run_folder import REPOSITORY
from models.finetuning import architecture as zoo
from models.finetuning import needs as needs_of_a_run
from models.finetuning.needs import Needs, check, estimate
from models.finetuning.recipe import Kind

OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # the discard port: refused


def plan(*words: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.plan", *map(str, words)]
    variables = {name: value for name, value in os.environ.items() if name != "STATEFARM_DATA"} | environment
    return subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=60)


def test_the_options_of_each_stage_come_out_as_shell_assignments(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    data = tiny_tree()
    told = plan("--data", data, "--weights", "none", "--models", "vgg16,resnet50", "--epochs", 7, "--cache", tmp_path)
    assert told.returncode == 0, told.stderr
    script = told.stdout + 'printf "%s\\n" "$DEMO" "${MODELS[@]}" "$FOLDS" "$RUN"; echo "${MODEL_OPTIONS[@]}"'
    lines = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[:5] == ["no", "vgg16", "resnet50", "5", "full"]
    assert "--epochs 7" in lines[5]
    for word in ("disk", "memory", "time"):
        assert word in told.stderr


def test_without_data_it_says_so_and_plans_the_demo_from_random_weights(tmp_path: Path) -> None:
    if any(Path("/kaggle/input").glob("*")) or any((REPOSITORY / "data").glob("*")):
        pytest.skip("there is data on this machine")
    told = plan("--cache", tmp_path, "--runs", tmp_path / "runs", KERAS_HOME=str(tmp_path), **OFFLINE)
    assert told.returncode == 0, told.stderr
    assert "There is no competition data" in told.stderr
    assert "cannot be had here, so the demo starts from random ones" in told.stderr
    assert "DEMO=yes" in told.stdout
    assert "--weights none" in told.stdout


def test_weights_that_cannot_be_downloaded_are_reported(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    told = plan("--data", tiny_tree(), "--models", "resnet50", KERAS_HOME=str(tmp_path), **OFFLINE)
    assert told.returncode == 2
    assert "resnet50.weights.h5" in told.stderr
    assert "--weights none" in told.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "/nowhere.csv"], "/nowhere.csv"),
        (["--submissions", "/proc/none"], "cannot write"),
        (["--seed", "-1"], "expected a whole number from 0"),
        (["--models", "vgg16 resnet5"], "Did you mean resnet50?"),
        (["--image-size", "31x224"], "vgg16 needs at least 32x32"),
        (["--hidden-units", "64"], "--head-start random"),
        (["--run", "leaderboard"], "reserved"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(
    options: list[str], message: str, tiny_tree: Callable[..., Path]
) -> None:
    models = [] if "--models" in options else ["--models", "vgg16"]
    told = plan("--data", tiny_tree(), "--weights", "none", *models, *options)
    assert told.returncode == 2, told
    assert message in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


def test_too_little_disk_or_memory_stops_the_run(tmp_path: Path) -> None:
    fits = Needs(disk=1, cache_disk=10**15, memory=1, seconds=100.0)
    assert "2 min" in check(fits, tmp_path / "not" / "yet", tmp_path)
    with pytest.raises(UserError, match="GiB of memory"):
        check(Needs(disk=1, cache_disk=1, memory=machine.available_memory() * 2, seconds=1.0), tmp_path, tmp_path)
    with pytest.raises(UserError, match="are free"):
        check(Needs(disk=10**16, cache_disk=1, memory=1, seconds=1.0), tmp_path, tmp_path)


def test_a_full_cache_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    monkeypatch.setattr(needs_of_a_run, "free_bytes", lambda folder: 2**30 if folder == cache else 2**40)
    told = check(Needs(disk=2**33, cache_disk=2**35, memory=1, seconds=1.0), run, cache)
    assert "1024 GiB are free, 1 GiB in the cache's place" in told
    with pytest.raises(UserError, match=r"writes about 8\.0 GiB, 1\.0 GiB are free"):
        check(Needs(disk=2**33, cache_disk=2**35, memory=1, seconds=1.0), cache, run)


def test_the_estimate_grows_with_the_work() -> None:
    vgg16 = zoo.find("vgg16")

    def needs(size: int = 224, **counts: int) -> Needs:
        recipe = vgg16.settings_for(Kind(), {"batch_size": size // 7})[0]
        values = {"train_images": 1000, "test_images": 1000, "folds": 2} | counts
        return estimate([(vgg16, recipe, values["folds"])], bfloat16=False, **values)

    small = needs()
    assert needs(train_images=9000).seconds > small.seconds
    assert needs(folds=5).disk > small.disk
    assert needs(448).memory > small.memory

"""What ./run_all.sh checks and prints before it starts: options, jobs, resources, and what cannot work."""

import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common import environment
from common.errors import UserError
from common.run_folder import REPOSITORY
from pipeline import resources
from pipeline.resources import Needs, check
from tests.commands import run_python, succeeded

OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # the discard port: refused


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    monkeypatch.delenv("STATEFARM_DATA", raising=False)
    folders = ["--runs", tmp_path / "runs", "--cache", tmp_path / "cache", "--submissions", tmp_path / "out"]
    return functools.partial(run_python, "-m", "pipeline", *folders)


def test_a_dry_run_of_two_rounds_prints_the_timetable_and_writes_no_run(
    pipeline: Callable, tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    options = ("--data", tiny_tree(), "--weights", "none", "--preset", "strong", "--folds", 2, "--dry-run")
    done = succeeded(pipeline(*options, "--no-pseudo-prior"))
    jobs = ("inception_v3, fold 0", "mobilenet_v2, fold 1", "inception_v3_round2, fold 1")
    for words in ("disk", "memory", "time", *jobs, "nothing was started"):
        assert words in done.stderr
    assert "mobilenet_v2_round2" not in done.stderr
    times = [line.split() for line in done.stderr.splitlines() if ", fold " in line]
    first = max(ends for _, ends, *rest in times if "round2" not in str(rest))
    assert first == min(starts for starts, _, *rest in times if "round2" in str(rest)), "it waits for all of the first"
    assert "mobilenet_round2, fold 0" in pipeline(*options, "--models", "mobilenet").stderr
    assert not (tmp_path / "runs" / "strong").exists()


def test_jobs_are_listed_as_json_lines_and_each_command_is_one_of_them(
    pipeline: Callable, tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    data = tiny_tree()
    options = ("--models", "vgg16 mobilenet", "--weights", "none", "--quick", "--image-size", "32x40", "--list-jobs")
    done = succeeded(pipeline("--data", data, *options))
    jobs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(job["model"], job["folds"]) for job in jobs] == [
        *(("vgg16", [0]), ("vgg16", [1]), ("mobilenet", [0]), ("mobilenet", [1])),
    ]
    config = tmp_path / "runs" / "quick" / "vgg16" / "training.json"
    assert jobs[0]["command"] == f"python models/vgg16.py --config {config} --fold 0"
    assert str(data) in jobs[0]["inputs"] and all(Path(path).exists() for path in jobs[0]["inputs"])
    assert jobs[0]["outputs"] == [str(config.parent / "fold_0")]
    assert jobs[0]["memory_bytes"] > 10**9 and jobs[0]["expected_seconds"] > 0
    content = json.loads(config.read_text())
    assert (content["recipe"]["image_size"], content["data"]) == ("32x40", str(data))
    assert content["precision"] != "auto", "resolved once, for all folds"


def test_without_data_it_plans_the_demo_from_random_weights(pipeline: Callable, tmp_path: Path) -> None:
    if any(Path("/kaggle/input").glob("*")) or any((REPOSITORY / "data").glob("*")):
        pytest.skip("there is data on this machine")
    done = succeeded(pipeline("--dry-run", KERAS_HOME=str(tmp_path), **OFFLINE))
    assert "There is no competition data" in done.stderr
    assert "not available here, so the demo starts from random ones" in done.stderr
    assert "run      demo: vgg16 inception_v3 resnet50 on 2 folds" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "/nowhere.csv"], "/nowhere.csv"),
        (["--submissions", "/proc/none"], "cannot write"),
        (["--seed", "-1"], "expected 0 to"),
        (["--models", " "], "--models is empty"),
        (["--image-size", "31x224"], "vgg16 needs at least 32x32"),
        (["--models", "vgg16 inception_v3", "--image-size", "48x64"], "inception_v3 needs at least 75x75"),
        (["--models", "resnet50", "--weights", "imagenet"], "resnet50.weights.h5"),
        (["--hidden-units", "64"], "--head-start random"),
        (["--run", "leaderboard"], "reserved"),
        pytest.param(
            ["--models", "vgg16 mobilenet", "--trainable", "from block5_conv1", "--image-size", "32x32"],
            "conv_dw_13",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_work_is_reported_before_any_training(
    options: list[str], message: str, pipeline: Callable, tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    models = [] if "--models" in options else ["--models", "vgg16"]
    words = ("--data", tiny_tree(), "--weights", "none", "--folds", 2, *models, *options)
    done = pipeline(*words, KERAS_HOME=str(tmp_path), **OFFLINE)
    assert done.returncode == 2, done
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*/*/fold_*/config.json"))


def test_help_shows_the_everyday_options_and_help_all_every_option(pipeline: Callable) -> None:
    everyday, every = pipeline("--help").stdout, pipeline("--help-all").stdout
    assert sum(line.startswith("  -") for line in everyday.splitlines()) <= 25
    for option in ("--models", "--time-budget", "--data", "--weights", "--quick", "--help-all"):
        assert option in everyday
    for option in ("--learning-rate", "--cache-limit", "--clip", "--rotation"):
        assert option in every and option not in everyday


def test_too_little_disk_or_memory_stops_the_run_and_a_full_cache_disk_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cache = tmp_path / "not" / "yet", tmp_path / "cache"
    with pytest.raises(UserError, match="GiB of memory"):
        check(Needs(disk=1, cache_disk=1, memory=environment.available_memory() * 2, seconds=1.0), run, cache, ())
    assert "2 min" in check(Needs(disk=1, cache_disk=10**15, memory=1, seconds=100.0), run, cache, ())
    monkeypatch.setattr(resources, "free_bytes", lambda folder: 2**30 if folder == cache else 2**40)
    text = check(Needs(disk=2**33, cache_disk=2**35, memory=1, seconds=1.0), run, cache, ())
    assert "1024 GiB are free, 1 GiB on the cache's disk" in text
    with pytest.raises(UserError, match=r"writes about 8\.0 GiB, 1\.0 GiB are free"):
        check(Needs(disk=2**33, cache_disk=2**35, memory=1, seconds=1.0), cache, run, ())

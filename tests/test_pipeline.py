"""Whole paths: the commands that a person types, on a tiny real data folder."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.files import locked
from common.run_folder import REPOSITORY
from common.tables import read_predictions
from tests.commands import heavy_packages, refusal, succeeded

Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def type_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Types a command in the repository, with its outputs under tmp_path."""
    monkeypatch.delenv("STATEFARM_DATA", raising=False)

    def run(*words: object, outputs: bool = True) -> subprocess.CompletedProcess:
        places = ["--runs", tmp_path / "runs", "--cache", tmp_path / "cache"] if outputs else []
        command = [str(word) for word in (*words, *places)]
        if command[0].endswith(".py"):
            command = [sys.executable, *command]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)

    return run


def run_all(type_command: Command, data: Path, submissions: Path, *options: object) -> subprocess.CompletedProcess:
    settings = ["--weights", "none", "--quick", "--epochs", 2, "--seed", 3, "--submissions", submissions]
    return type_command("./run_all.sh", "--data", data, *settings, *options)


def test_the_whole_path_and_again_and_after_a_lost_submission(
    type_command: Command, tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    data = tiny_tree(drivers=4, images_per_class=2, test_images=7)
    options = ("--models", "vgg16", "--image-size", "32x40", "--run", "tiny")
    done = succeeded(run_all(type_command, data, tmp_path, *options))
    sample = pd.read_csv(data / "sample_submission.csv")
    submission = tmp_path / "tiny.csv"
    table = read_predictions(submission)
    assert list(table.index) == list(sample["img"])
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stdout.splitlines() if " | " not in line]  # which a slow machine prints each minute
    assert str(submission) in lines[-1]
    first, second, empty, *ending = lines
    for line in (first, second):
        assert re.match(r"vgg16, fold \d: held-out log loss", line)
    assert empty == "" and len(ending) <= 25, "one line a fold, and the block"
    assert "configuration: " not in done.stderr
    assert "configuration: " in (tmp_path / "runs/tiny/vgg16/fold_0/log.txt").read_text()
    for word in ("models", "blend", "expected    log loss", "report", "submission"):
        assert any(line.startswith(word) for line in ending), ending
    assert "Nothing: every model has finished every fold." in (tmp_path / "runs/tiny/report.html").read_text()
    fold_folder = tmp_path / "runs" / "tiny" / "vgg16" / "fold_1"
    names = {path.name for path in fold_folder.iterdir()}
    assert names == {
        *("config.json", "history.csv", "model.keras", "out_of_fold.csv", "out_of_fold_features.npy"),
        *("test.csv", "test_features.npy", "log.txt", "finished.json"),
    }
    folds = pd.read_csv(tmp_path / "runs" / "tiny" / "folds.csv")
    out_of_fold = read_predictions(fold_folder / "out_of_fold.csv")
    assert set(out_of_fold.index) == set(folds["img"][folds["fold"] == 1])
    assert len(np.load(fold_folder / "test_features.npy", allow_pickle=False)) == len(sample)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    succeeded(run_all(type_command, data, tmp_path, *options))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}

    content = submission.read_bytes()
    submission.unlink()
    succeeded(run_all(type_command, data, tmp_path, *options))
    assert submission.read_bytes() == content

    other = run_all(type_command, data, tmp_path, *options, "--learning-rate", "0.01")
    assert other.returncode == 2
    assert "learning_rate" in other.stderr
    assert "--run" in other.stderr


@pytest.mark.slow
def test_broken_images_are_left_out(type_command: Command, tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    data = tiny_tree(drivers=3, images_per_class=2)
    broken_train = sorted((data / "imgs" / "train" / "c2").iterdir())[0]
    broken_test = sorted((data / "imgs" / "test").iterdir())[0]
    broken_train.write_bytes(broken_train.read_bytes()[:300])
    broken_test.write_bytes(b"")
    options = ("--models", "mobilenet", "--image-size", "32x32", "--run", "broken", "--folds", 2)
    succeeded(run_all(type_command, data, tmp_path, *options, "--skip-broken", "--epochs", 1))
    fold = tmp_path / "runs" / "broken" / "mobilenet" / "fold_1"
    folds = pd.read_csv(tmp_path / "runs" / "broken" / "folds.csv")
    assert broken_train.name not in set(folds["img"])
    shares = folds["classname"][folds["fold"] != 1].value_counts(normalize=True)[list(CLASSES)]
    assert shares.nunique() > 1
    without_a_picture = read_predictions(fold / "test.csv").loc[broken_test.name]
    np.testing.assert_allclose(without_a_picture, shares, atol=1e-8)
    assert len(read_predictions(tmp_path / "broken.csv")) == 6


@pytest.mark.slow
def test_the_strong_preset_trains_a_second_round_on_the_first_rounds_predictions(
    type_command: Command, tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    data = tiny_tree(drivers=3, images_per_class=1, test_images=2)
    network = ("--models", "mobilenet", "--image-size", "32x32", "--pooled-layers", "conv_pw_1_relu")
    training = "--preset strong --run two --epochs 1 --head-start random --dropout 0.1"
    options = (*network, *training.split())
    listed = run_all(type_command, data, tmp_path, *options, "--list-jobs")
    assert "second round's jobs can be listed when these are finished" in listed.stderr
    succeeded(run_all(type_command, data, tmp_path, *options))
    run = tmp_path / "runs" / "two"
    for name in ("mobilenet", "mobilenet_round2"):
        settings = json.loads((run / name / "fold_1" / "config.json").read_text())["settings"]
        assert settings["dropout"] == 0.1, "an option of the command line wins in every member"
        assert settings.get("pseudo_labels_models") == (["mobilenet"] if name.endswith("_round2") else None)
        assert name in json.loads((run / "ensemble/blend.json").read_text())["weights"]
    again = run_all(type_command, data, tmp_path, *options, "--list-jobs")
    assert again.returncode == 0 and '"command"' not in again.stdout, again.stderr


WRONG = [
    ("models/vgg16.py --epoch 3", "Did you mean --epochs?"),
    ("./run_all.sh --models resnet5", "Did you mean resnet50?"),
    ("models/vgg16.py --log-to tensorboard,mlflov", "Did you mean mlflow?"),
    ("models/vgg16.py --weights tests", "expected vgg16.weights.h5"),
    ("models/vgg16.py --weights none --data /nowhere", "does not exist"),
    ("models/vgg16.py --run ../away", "expected letters, digits"),
    ("models/bottleneck.py --classifier logistik", "Did you mean logistic?"),
    ("models/bottleneck.py --architecture inception_v4", "Did you mean inception_v3?"),
    ("models/bottleneck.py --weights tests", "expected inception_v3.weights.h5"),
    ("models/bottleneck.py --classifier svm --no-calibrate", "its scores are no probabilities"),
    ("models/bottleneck.py --learning-rate 1", "unknown option --learning-rate"),
    ("models/bottleneck.py --model-name vgg16", "that is an architecture's own"),
]


@pytest.mark.parametrize(("command", "message"), WRONG)
def test_a_wrong_command_line_is_one_clear_message(command: str, message: str, type_command: Command) -> None:
    assert message in refusal(type_command(*command.split(), outputs=False))


def test_a_second_start_of_the_same_run_reports_who_works_on_it(
    type_command: Command, tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    with locked(tmp_path / "runs" / ".tiny.lock", "it is made"):
        told = run_all(type_command, tiny_tree(), tmp_path, "--run", "tiny", "--models", "mobilenet")
    assert told.returncode == 2, told
    assert f"the run tiny is being worked on by another process: process {os.getpid()} on " in told.stderr
    assert not (tmp_path / "runs" / "tiny").exists()


LIGHT = "preprocessing.demo ensemble.blend ensemble.score ensemble.submit tools.predict tools.compare tools.explain"
LIGHT += " tools.export tools.classify tools.doctor tools.experiments tools.report"


@pytest.mark.parametrize(
    "words", [["models/resnet50.py"], ["models/bottleneck.py"], *(["-m", name] for name in LIGHT.split())], ids=" ".join
)
def test_help_loads_nothing_that_takes_seconds_to_import(words: list[str]) -> None:
    assert heavy_packages(*words) == set()


def test_help_lists_every_setting_with_its_default(type_command: Command) -> None:
    told = type_command("models/resnet50.py", "--help", outputs=False)
    for words in ("--learning-rate", "[0.0003]", "--rotation", "degrees", "--image-size", "[224x224]", "--fold"):
        assert words in told.stdout

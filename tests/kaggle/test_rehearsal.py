"""A kernel's life in three versions, on a folder like Kaggle's: whole, with too little time, and continued.

The inputs are mounted read-only and there is no network, where this machine allows that; the code is the bundle's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from common.files import read_json
from common.run_folder import REPOSITORY, RunFolder
from common.tables import read_predictions
from tests.models.test_weights import save_as_published
from tests.trees import make_tree
from tools.kaggle import build_kernel, command_line, revision

MODEL_FILE = "mobilenet_1_0_224_tf_no_top.h5"  # as Keras names it
ISOLATED = ["unshare", "--mount", "--net", "bash", "-euc"]
MOUNTED = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; ! touch "$0/x" 2>/dev/null; exec "$@"'
OPTIONS = "--quick --image-size 32x32 --epochs 1 --run rehearsal --precision float32"


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """/kaggle, with the competition's data and random weights among its inputs.

    MobileNet's lie as in a Kaggle Model, six folders deep, in the layout of the files that Keras publishes.
    """
    import keras

    root = tmp_path / "kaggle"
    make_tree(root / "input" / "competitions" / "state-farm-distracted-driver-detection", test_images=5)
    weights = root / "input" / "datasets" / "someone" / "statefarm-weights"
    weights.mkdir(parents=True)
    keras.utils.set_random_seed(0)
    keras.applications.MobileNetV2(weights=None, include_top=False).save_weights(weights / "mobilenet_v2.weights.h5")
    model = root / "input" / "models" / "keras" / "mobilenet" / "keras" / "imagenet" / "2"
    model.mkdir(parents=True)
    save_as_published(keras.applications.MobileNet(weights=None, include_top=False), model / MODEL_FILE)
    (root / "working").mkdir()
    return root


def run_version(root: Path, tmp_path: Path, options: str) -> str:
    """Pushes and runs a version of the kernel as Kaggle would, with an empty working folder; returns what it said."""
    stamp = revision(allow_changes=True)
    words = ["someone", "--out", str(tmp_path), "--continue", "--options", f"{OPTIONS} {options}"]
    build_kernel(command_line("push").parse_args(words), stamp)
    command = [sys.executable, str(tmp_path / "kernel" / "kernel.py")]
    inputs = str(root / "input")
    if subprocess.run([*ISOLATED, MOUNTED, inputs, "true"], capture_output=True, check=False).returncode == 0:
        command = [*ISOLATED, MOUNTED, inputs, *command]
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "STATEFARM_KAGGLE": str(root)}
    environment |= {"STATEFARM_DEVICES": "0,1"}
    environment |= {name: os.environ[name] for name in ("KERAS_BACKEND",) if name in os.environ}
    done = subprocess.run(
        command, cwd=root / "working", env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rooms = [str(REPOSITORY / room) for room in ("models", "pipeline", "preprocessing", "ensemble", "tools", "kaggle")]
    assert not [room for room in rooms if room in done.stdout], f"another copy was used:\n{done.stdout}"
    return done.stdout


def next_version(root: Path) -> RunFolder:
    """Mounts the output as the next version finds it, and empties the working folder; returns the run that it has."""
    mounted = root / "input" / "notebooks" / "someone" / "statefarm-drivers"
    mounted.parent.mkdir(parents=True, exist_ok=True)
    if mounted.exists():
        mounted.rename(root / "older")
    (root / "working").rename(mounted)
    (root / "working").mkdir()
    if (root / "tmp").exists():
        (root / "tmp").rename(root / f"scratch_{len(list(root.iterdir()))}")
    return RunFolder(mounted / "runs" / "rehearsal")


def check_submission(root: Path) -> bytes:
    """That submission.csv holds a row for each image of the sample, which lies with the runs, in its order."""
    sample = pd.read_csv(root / "working" / "runs" / "sample_submission.csv")
    path = root / "working" / "submission.csv"
    assert list(read_predictions(path).index) == list(sample["img"])
    return path.read_bytes()


@pytest.mark.slow
def test_a_kernel_runs_offline_and_resumes_where_the_last_version_stopped(kaggle: Path, tmp_path: Path) -> None:
    run = RunFolder(kaggle / "working" / "runs" / "rehearsal")
    told = run_version(kaggle, tmp_path, "--models mobilenet --time-budget 2h")
    assert f"weights  mobilenet: {next(kaggle.rglob(MODEL_FILE))}" in told
    first = check_submission(kaggle)
    assert [str(folder) for folder in run.finished()] == ["mobilenet, fold 0", "mobilenet, fold 1"]
    stamps = {read_json(folder / "config.json")["git_revision"] for folder in run.finished()}
    assert len(stamps) == 1 and stamps.pop().startswith(revision(allow_changes=True)[:7])
    assert sorted(path.name for path in (kaggle / "working").iterdir()) == ["runs", "submission.csv"]

    earlier = next_version(kaggle)
    rows = read_json(earlier.durations)
    assert len(rows) == 2
    slow = rows[0] | {"model": "mobilenet_v2", "fold": "7", "seconds": 10_000.0}
    earlier.durations.write_text(json.dumps([*rows, slow]))  # as if this machine were slow with this network
    told = run_version(kaggle, tmp_path, "--models 'mobilenet mobilenet_v2' --time-budget 30m")
    assert "resumes run rehearsal" in told
    assert "no time for: mobilenet_v2, fold 0; mobilenet_v2, fold 1" in told
    assert "not in the blend yet: mobilenet_v2" in told
    assert check_submission(kaggle) == first

    next_version(kaggle)
    told = run_version(kaggle, tmp_path, "--models 'mobilenet mobilenet_v2' --time-budget 9h")
    assert "mobilenet: 2 of 2 folds are finished already" in told
    assert "INCOMPLETE" not in told
    check_submission(kaggle)
    assert len(run.finished()) == 4
    blend = read_json(run.ensemble / "blend.json")
    assert set(blend["weights"]) == {"mobilenet", "mobilenet_v2"}  # one of two untrained networks may get no weight
    finished = [row for row in read_json(run.durations) if row["ended"] == "finished" and row["fold"] != "7"]
    assert len(finished) == 4
    assert all(row["on"].startswith("2 x ") for row in finished), "two GPUs"

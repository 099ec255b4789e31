"""Curves to TensorBoard, Weights & Biases and MLflow: absent until asked for, complete after an interruption."""

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from models.finetuning.training import tracking as watching
from tests.commands import refusal, run_python, succeeded


def installed(*names: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)


def train(data: Path, folder: Path, *options: object) -> subprocess.CompletedProcess:
    words = "--weights none --image-size 32x40 --epochs 2 --head-start random --trainable head --batch-size 20 --fold 0"
    words += f" --folds 2 --precision float32 --run watched --runs {folder / 'runs'} --cache {folder / 'cache'}"
    return run_python("models/mobilenet.py", "--data", data, *words.split(), *options, WANDB_MODE="offline")


@pytest.mark.parametrize("name", watching.NAMES)
def test_a_package_that_is_not_there_is_told_before_anything_is_read(name: str, tmp_path: Path) -> None:
    if installed(name):
        pytest.skip(f"{name} is installed")
    assert f"error: --log-to {name}: the package" in refusal(train(tmp_path / "no data", tmp_path, "--log-to", name))


@pytest.mark.slow
@pytest.mark.skipif(not installed(*watching.NAMES), reason="requirements/logging.txt is not installed")
def test_every_epoch_arrives_at_all_of_them_and_decides_nothing(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = tiny_tree()
    succeeded(train(data, tmp_path, "--log-to", ",".join(watching.NAMES)))
    runs = tmp_path / "runs"
    fold_folder = runs / "watched" / "mobilenet" / "fold_0"
    history = pd.read_csv(fold_folder / "history.csv")
    events = EventAccumulator(str(fold_folder / "tensorboard" / "validation"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("epoch_log_loss")] == [1, 2]
    client = MlflowClient(f"sqlite:///{runs / '.mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(watching.PROJECT)
    (run,) = client.search_runs([experiment.experiment_id])
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "val_log_loss")]
    assert losses == pytest.approx(history["held_out_log_loss"].tolist())
    assert run.data.params["learning_rate"] == str(
        json.loads((fold_folder / "config.json").read_text())["settings"]["learning_rate"]
    )
    assert list(fold_folder.glob("wandb/offline-run-*/*.wandb"))

    succeeded(train(data, tmp_path, "--model-name", "plain"))
    columns = ["epoch", "training_loss", "held_out_log_loss"]
    pd.testing.assert_frame_equal(
        pd.read_csv(runs / "watched" / "plain" / "fold_0" / "history.csv")[columns], history[columns]
    )
    again = train(data, tmp_path)
    assert "1 of 1 folds are finished already" in again.stderr, "where curves go is no setting that decides a result"

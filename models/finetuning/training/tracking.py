"""Curves of a training elsewhere than in history.csv: TensorBoard, Weights & Biases, MLflow, by their Keras callbacks.

Nothing of it is imported unless asked for, and nothing of it decides a result.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import UserError, masked
from common.settings import nearest

if TYPE_CHECKING:
    from models.finetuning.fold_run import FoldRun

NAMES = ("tensorboard", "wandb", "mlflow")
PROJECT = "distracted-drivers"
LOGGED = {  # Keras's name -> ours
    **{"loss": "training_loss", "val_log_loss": "held_out_log_loss", "val_accuracy": "held_out_accuracy"},
    "seconds": "seconds",
}


def read_names(text: str) -> tuple[str, ...]:
    """Reads 'tensorboard,wandb', or 'none'."""
    names = () if text == "none" else tuple(dict.fromkeys(text.replace(",", " ").split()))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(NAMES)}, found {name!r}{nearest(name, NAMES)}"
            )
    return names


def check_installed(names: Sequence[str]) -> None:
    """Makes sure, without importing them, that the packages are there.

    Raises:
        UserError: one is not; names the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--log-to {name}: the package {name} is not installed. "
                f".venv/bin/python -m pip install -c requirements/logging.txt {name}"
            )
        if name in ("tensorboard", "wandb") and importlib.util.find_spec("tensorflow") is None:
            raise UserError(f"--log-to {name} needs TensorFlow, which is not installed. --log-to mlflow does without.")


@contextlib.contextmanager
def watched(work: "FoldRun", settings: dict[str, Any], trainer: Any) -> Iterator[None]:
    """Within, every row of the `Trainer`'s history goes to where `work.log_to` says; those made before go there first.

    Raises:
        UserError: one of them cannot be opened.
    """
    if not work.log_to:
        yield
        return
    import keras

    with contextlib.ExitStack() as opened:
        callbacks = [_opened(name, work, settings, opened) for name in work.log_to]
        together = keras.callbacks.CallbackList(callbacks, model=trainer.source.network.training)
        started = False

        def watch(row: dict[str, Any]) -> None:
            nonlocal started
            if not started:  # not before there is an optimiser, which some of them describe
                together.on_train_begin()
                started = True
            together.on_epoch_end(row["epoch"], {ours: float(row[theirs]) for ours, theirs in LOGGED.items()})

        trainer.watch = row_by_row(watch, trainer.progress.history)
        yield
        if started:
            together.on_train_end()


def row_by_row(watch: Any, earlier: Sequence[dict[str, Any]]) -> Any:
    """Calls `watch` with each new row, and before the first of them with those of an earlier start."""
    waiting = list(earlier)

    def watch_all(row: dict[str, Any]) -> None:
        while waiting:
            watch(waiting.pop(0))
        watch(row)

    return watch_all


def _opened(name: str, work: "FoldRun", settings: dict[str, Any], opened: contextlib.ExitStack) -> Any:
    """The Keras callback of one of `NAMES`; what must be closed goes to `opened`."""
    try:
        return {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[name](work, settings, opened)
    except Exception as error:  # each has errors of its own: no login, no network, no server
        reason = masked(" ".join(str(error).split()))[:300]
        hint = " Log in with 'wandb login', or set WANDB_MODE=offline." if name == "wandb" else ""
        raise UserError(f"--log-to {name}: {reason}{hint} The same command without it resumes from here.") from error


def _tensorboard(work: "FoldRun", settings: dict[str, Any], opened: contextlib.ExitStack) -> Any:
    """Into runs/NAME/MODEL/fold_K/tensorboard; 'tensorboard --logdir runs' finds them all."""
    import keras

    folder = work.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier start, whose rows are logged again
    return keras.callbacks.TensorBoard(folder, write_graph=False)


def _wandb(work: "FoldRun", settings: dict[str, Any], opened: contextlib.ExitStack) -> Any:
    """A run of its own in the project; the folds of a model are a group."""
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    group = f"{work.run.name}/{work.model_name}"
    name, folder = f"{group}/fold_{work.fold}", str(work.folder.path)
    run = wandb.init(project=PROJECT, name=name, group=group, config=settings, dir=folder, save_code=False)
    opened.callback(run.finish)
    return WandbMetricsLogger()


def _mlflow(work: "FoldRun", settings: dict[str, Any], opened: contextlib.ExitStack) -> Any:
    """A run of its own in the experiment; in runs/.mlflow unless MLFLOW_TRACKING_URI says where."""
    import mlflow
    from mlflow.keras import MlflowCallback

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        folder = work.run.path.parent.resolve() / ".mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        if mlflow.get_experiment_by_name(PROJECT) is None:
            mlflow.create_experiment(PROJECT, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(PROJECT)
    opened.enter_context(mlflow.start_run(run_name=f"{work.run.name}/{work.model_name}/fold_{work.fold}"))
    mlflow.log_params(settings)
    return MlflowCallback()

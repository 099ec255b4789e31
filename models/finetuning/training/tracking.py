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
from common.settings import names_in, nearest

if TYPE_CHECKING:
    from models.finetuning.fold_run import FoldRun

NAMES = ("tensorboard", "wandb", "mlflow")
PROJECT = "distracted-drivers"
LOGGED = {  # Keras's name -> ours
    "loss": "training_loss",
    "val_log_loss": "held_out_log_loss",
    "val_accuracy": "held_out_accuracy",
    "seconds": "seconds",
}


def read_names(text: str) -> tuple[str, ...]:
    """Reads 'tensorboard,wandb', or 'none'."""
    names = [] if text == "none" else names_in(text)
    for name in names:
        if name not in NAMES:
            hint = nearest(name, NAMES)
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(NAMES)}, found {name!r}{hint}")
    return tuple(dict.fromkeys(names))


def check_installed(names: Sequence[str]) -> None:
    """Makes sure, without importing them, that the packages are there."""
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
    """Within, each row of the `Trainer`'s history goes to where `work.log_to` says; earlier ones go there first."""
    if not work.log_to:
        yield
        return
    import keras

    with contextlib.ExitStack() as opened:
        callbacks = []
        for name in work.log_to:
            try:
                callbacks.append(_opened(name, work, settings, opened))
            except Exception as error:  # each has errors of its own: no login, no network, no server
                reason = masked(" ".join(str(error).split()))[:300]
                hint = " Log in with 'wandb login', or set WANDB_MODE=offline." if name == "wandb" else ""
                raise UserError(f"--log-to {name}: {reason}{hint} The same command without it resumes.") from error
        together = keras.callbacks.CallbackList(callbacks, model=trainer.source.network.training)
        history, sent = trainer.progress.history, 0

        def watch() -> None:
            nonlocal sent
            if not sent:  # not before there is an optimiser, which some of them describe
                together.on_train_begin()
            for row in history[sent:]:
                together.on_epoch_end(row["epoch"], {ours: float(row[theirs]) for ours, theirs in LOGGED.items()})
            sent = len(history)

        trainer.watch = watch
        yield
        if sent:
            together.on_train_end()


def _opened(name: str, work: "FoldRun", settings: dict[str, Any], opened: contextlib.ExitStack) -> Any:
    """The Keras callback of one of `NAMES`, with a run of its own; what must be closed goes to `opened`."""
    group = f"{work.run.name}/{work.model_name}"
    own = f"{group}/fold_{work.fold}"
    if name == "tensorboard":  # 'tensorboard --logdir runs' finds them all
        import keras

        folder = work.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier start, whose rows are logged again
        return keras.callbacks.TensorBoard(folder, write_graph=False)
    if name == "wandb":
        import wandb
        from wandb.integration.keras import WandbMetricsLogger

        folder = work.folder.path
        run = wandb.init(project=PROJECT, name=own, group=group, config=settings, dir=str(folder), save_code=False)
        opened.callback(run.finish)
        return WandbMetricsLogger()
    import mlflow
    from mlflow.keras import MlflowCallback

    if not os.environ.get("MLFLOW_TRACKING_URI"):
        folder = work.run.path.parent.resolve() / ".mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        if mlflow.get_experiment_by_name(PROJECT) is None:
            mlflow.create_experiment(PROJECT, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(PROJECT)
    opened.enter_context(mlflow.start_run(run_name=own))
    mlflow.log_params(settings)
    return MlflowCallback()

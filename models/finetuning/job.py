"""One training job in this process: `python models/NAME.py --config FILE --fold K` comes here."""

import dataclasses
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from common.environment import LESS_MEMORY, OF_EXECUTOR, with_threads
from common.errors import UserError, run_command
from models.finetuning import fold_run, runtime
from models.finetuning.fold_run import FoldRun
from models.finetuning.recipe import Bottleneck


def run(config: Path, folds: Sequence[int | str]) -> None:
    """Trains a fold of a model; several folds only of a bottleneck model.

    Args:
        config: runs/NAME/MODEL/training.json
        folds: numbers, or 'all'.

    Raises:
        UserError: anything that a person can correct.
    """
    if os.environ.get(OF_EXECUTOR):
        threading.Thread(target=_end_with_executor, daemon=True).start()
    work = fold_run.load(config)
    limit_threads(work.threads)
    if os.environ.get(LESS_MEMORY):
        work = dataclasses.replace(work, workers=1)
    if len(folds) > 1 and not isinstance(work.recipe, Bottleneck):
        raise UserError(f"--fold {' '.join(map(str, folds))}: a process trains one fold. Start one command for each.")
    data, table = read_data(work)
    runtime.load_keras()  # now that everything is known to be right
    if isinstance(work.recipe, Bottleneck):
        from models.finetuning.bottleneck.folds import train_folds

        train_folds([work.of_fold(fold) for fold in folds], data, table)
    else:
        from models.finetuning.fold import train_fold

        train_fold(work.of_fold(folds[0]), data, table)


def _end_with_executor() -> None:
    """Ends this process when the executor that started it ends, in whatever way: then its end of our stdin closes."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def limit_threads(threads: int | None) -> None:
    """Limits what computes to so many cores. To be called before NumPy and the backend are loaded.

    Sums are rounded by how they are divided, so this decides a result's last bits.
    """
    os.environ.update(with_threads(threads))


def read_data(work: FoldRun) -> tuple:
    """The checked data, and the run's fold table in the order of its training images."""
    from preprocessing import dataset, folds

    data = dataset.load(dataset.required(work.data), work.cache, work.skip_broken)
    table = folds.read_folds(work.run.folds, data.train)
    return data, table.set_index("img").loc[data.train["img"]].reset_index()


def check_layers(config: str) -> None:
    """Builds a model's network without its weights, which checks the layers that its settings name."""

    def build() -> None:
        work = fold_run.load(Path(config))
        runtime.load_keras()
        from models.finetuning.network.build import build as build_network

        build_network(work.architecture, work.recipe, "none", "float32", 0)

    run_command(build)

"""What a machine of a cluster does for a run: it is compared with the one that starts it, and trains jobs.

Nothing here knows of Ray: `pipeline.ray` sends what `files_of` returns, and has the nodes call the rest.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.environment import pinned
from common.errors import UserError
from common.run_folder import CONFIG, FAILED, FINISHED, LOG, REPOSITORY
from common.terminal import VERBOSE
from models.finetuning import fold_run
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights
from pipeline import resources
from preprocessing import dataset

LAST_PRINTED = 4000  # characters of what a failed job printed
SCRATCH = Path(tempfile.gettempdir()) / f"statefarm-{os.getuid()}"  # folders PID-... of the workers


def backend() -> str:
    """The name of the package that Keras computes with."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def files_of(work: FoldRun, folds: Sequence[int | str] = ()) -> dict[str, bytes]:
    """The small files that a job reads, by their path below the folder of runs; the configuration first."""
    paths = [work.save(), *([work.run.folds] if folds else [])]
    for fold in folds:
        for table in work.of_fold(fold).pseudo_tables():
            paths += [table, table.with_name(CONFIG), table.with_name(FINISHED), table.parents[2] / work.run.folds.name]
    return {str(path.relative_to(work.run.path.parent)): path.read_bytes() for path in paths}


def precision() -> str:
    """The dtype policy that --precision auto is here."""
    return resources.resolve_precision("auto", resources.find_devices())


def state(works: Sequence[FoldRun], package: str) -> dict[str, str]:
    """What has to be the same on every node."""
    packages = re.findall(r"^[\w-]+", (REPOSITORY / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    found = {"Python": platform.python_version()}
    for name in dict.fromkeys([*packages, package]):
        found[name] = "none"
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for work in works:
        found[f"weights of {work.architecture.name}"] = weights.identity(work.architecture, work.weights)
    return found | {"data": dataset.fingerprint_of_copy(works[0].data)}


def find_fault(models: Sequence[dict[str, bytes]], expected: dict[str, str], package: str) -> str:
    """What is wrong on this node, or differs from the machine that starts the run; empty where nothing is."""
    import psutil

    for left in SCRATCH.glob("*-*"):
        if not psutil.pid_exists(int(left.name.partition("-")[0])):  # its worker was killed
            shutil.rmtree(left, ignore_errors=True)
    try:
        with _scratch() as folder:
            works = [received(Path(folder), files) for files in models]
            for work in works:
                weights.check_available(work.architecture, work.weights)
            dataset.load(dataset.required(works[0].data), works[0].cache, works[0].skip_broken, progress=False)
            found = state(works, package)
    except UserError as error:
        return str(error)
    differing = [name for name in expected if found[name] != expected[name]]
    return "; ".join(f"{name}: expected {expected[name]}, as here, found {found[name]}" for name in differing)


def received(folder: Path, files: dict[str, bytes]) -> FoldRun:
    """Writes the files of `files_of` to a folder; returns the fold run, with the data and the cache of this node."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    work = fold_run.load(folder / next(iter(files)))
    data = work.data if work.data.is_dir() else Path(os.environ.get("STATEFARM_DATA", work.data))
    cache = work.cache if os.access(work.cache.parent, os.W_OK) else SCRATCH / "cache"
    work = dataclasses.replace(work, data=data, cache=cache)
    work.save()
    return work


def train(
    files: dict[str, bytes], folds: Sequence[int | str], environment: dict[str, str]
) -> tuple[tuple[int, str], dict[str, dict[str, Any]]]:
    """Trains the folds of a job in a process; returns (exit status, end of what it printed), and its files by fold."""
    import numpy as np

    with _scratch() as name:
        work, log = received(Path(name), files), Path(name) / "printed"
        words = [f"models/{work.script}.py", "--config", work.run.job_file(work.model_name), "--fold", *folds]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *map(str, words)],
                env=pinned(os.environ) | environment | {VERBOSE: "1"},
                stdin=subprocess.PIPE,  # it ends with this process, which holds the other end
                stdout=output,
                stderr=output,
            )
            status = process.wait()
        back: dict[str, dict[str, Any]] = {str(fold): {} for fold in folds}
        for fold in folds:
            own = work.of_fold(fold).folder.path
            for path in own.rglob("*"):
                if path.is_file() and (status == 0 or path.name in (LOG, FAILED)):
                    back[str(fold)][str(path.relative_to(own))] = np.fromfile(path, np.uint8)
        return (status, log.read_text(encoding="utf-8", errors="replace")[-LAST_PRINTED:]), back


def _scratch() -> tempfile.TemporaryDirectory:
    SCRATCH.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=SCRATCH, ignore_cleanup_errors=True)

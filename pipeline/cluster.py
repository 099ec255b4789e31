"""What every cluster needs: its machines, checks before anything trains, and what a machine does for a job.

Nothing here knows of Ray. Another kind of cluster is a subclass of `Cluster` and of `Executor`, chosen in
`pipeline.plan`.
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
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine
from common.environment import THREADS, keras_backend, pinned
from common.errors import UserError
from common.files import written_whole
from common.run_folder import CONFIG, FAILED, FINISHED, LOG, REPOSITORY, FoldFolder
from common.terminal import VERBOSE, say
from models.finetuning import fold_run, weights
from models.finetuning.fold_run import FoldRun
from pipeline import resources
from pipeline.executor import Executor
from pipeline.jobs import Job, words_of
from pipeline.schedule import Durations
from preprocessing import dataset

LAST_PRINTED = 4000  # characters of what a failed job printed
SCRATCH = Path(tempfile.gettempdir()) / f"statefarm-{os.getuid()}"  # on a machine: folders PID-... of its workers


@dataclass(frozen=True)
class Node:
    """A machine of a cluster: its name, and how much of it there is."""

    identity: str
    name: str
    cores: int
    gpus: int
    memory: int

    def __str__(self) -> str:
        return f"{self.name} ({_size(self.cores, self.memory)})"

    def fits(self, job: Job) -> int:
        """How many such jobs run on it at a time."""
        by_memory = self.memory // max(1, job.memory)
        return min(self.cores // cores_of(job), by_memory, self.gpus or by_memory)


class Cluster(ABC):
    """The machines that train a run.

    Attributes:
        nodes: those that answer.
    """

    nodes: list[Node]

    @abstractmethod
    def on_each(self, function: Callable[..., Any], *arguments: Any) -> dict[Node, Any]:
        """What a function returns on every machine, but for those that are lost meanwhile.

        Raises:
            UserError: a machine cannot run it.
        """

    @abstractmethod
    def executor(self, durations: Durations, works: Sequence[FoldRun]) -> Executor:
        """What runs the jobs of these models."""

    def precision(self, asked: str) -> str:
        """The dtype policy of --precision: 'auto' is what every machine can compute in."""
        found = self.on_each(precision)
        if asked == "auto":
            return found.popitem()[1] if len(set(found.values())) == 1 else "float32"
        if others := [node.name for node, policy in found.items() if asked not in (policy, "float32")]:
            say(f"note: {asked} is not what --precision auto is on {', '.join(others)}: it may be slow there")
        return asked

    def check(self, works: Sequence[FoldRun], jobs: Sequence[Job]) -> None:
        """Compares every machine with this one before anything trains: Python, packages, data and weights.

        The code is not compared: Ray sends this machine's.

        Args:
            works: the models of the run.

        Raises:
            UserError: a line for each machine that differs; or none is large enough for a job.
        """
        package = keras_backend()
        found = self.on_each(find_fault, [files_of(work) for work in works], state(works, package), package)
        faults = [f"node {node.name}: {fault}" for node, fault in found.items() if fault]
        if faults:
            raise UserError("\n".join(faults))
        for job in jobs:
            if not any(node.fits(job) for node in self.nodes):
                largest = max(self.nodes, key=lambda node: (node.cores, node.memory))
                raise UserError(
                    f"{job} asks for {_size(cores_of(job), job.memory)}; the largest node is {largest}. Take more "
                    f"--jobs, which divide the cores of this machine, or {THREADS}={largest.cores} before the command; "
                    "or a smaller --image-size."
                )
        say(f"cluster  {', '.join(map(str, self.nodes))}")


def cores_of(job: Job) -> int:
    """How many cores a job computes on."""
    asked = os.environ.get(THREADS, "")
    return job.threads or (int(asked) if asked.isdigit() else machine.cores())


def _size(cores: int, memory: int) -> str:
    return f"{cores} core{'s' * (cores > 1)} and {memory / 2**30:.1f} GiB"


def keep(folders: Sequence[FoldFolder], files: Mapping[str, Mapping[str, Any]]) -> int:
    """Writes what `train` returned into the run folder, `finished.json` last.

    Args:
        files: by fold, then by name; anything that has bytes.

    Returns:
        their size in bytes.
    """
    for folder in folders:
        own = files[str(folder.fold)]
        for name in sorted(own, key=lambda name: name == FINISHED):  # it says that all others are there
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with written_whole(folder / name) as temporary:
                temporary.write_bytes(memoryview(own[name]))
    return sum(memoryview(content).nbytes for own in files.values() for content in own.values())


def files_of(work: FoldRun, folds: Sequence[int | str] = ()) -> dict[str, bytes]:
    """The small files that a job reads, by their path below the folder of runs; the configuration first."""
    paths = [work.save(), *([work.run.folds] if folds else [])]
    for fold in folds:
        for table in work.of_fold(fold).pseudo_tables():
            paths += [table, table.with_name(CONFIG), table.with_name(FINISHED), table.parents[2] / work.run.folds.name]
    return {str(path.relative_to(work.run.path.parent)): path.read_bytes() for path in paths}


# What follows runs on the machines of the cluster.


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
            dataset.load(dataset.required(works[0].data), works[0].cache, works[0].skip_broken)
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
        words = words_of(work.script, work.run.job_file(work.model_name), folds)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *words],
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

"""Jobs on a Ray cluster: the same ones, on many machines. Nothing else here imports Ray (requirements/ray.txt).

A task trains one job in a folder of its own on its node and returns the files of its folds; only the pipeline writes to
the run folder, so nothing has to be shared but the code, which Ray copies. Nodes have the same Python packages, the
data at the same path or at $STATEFARM_DATA, and the weights at the same path.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from common import environment
from common.environment import OF_EXECUTOR, THREADS, keras_backend, pinned, with_threads
from common.errors import STOPPED, VERBOSE, UserError, say
from common.files import read_json, written_whole
from common.run_folder import CONFIG, FAILED, FINISHED, LOG, REPOSITORY, TEST
from models.finetuning import fold_run
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights
from pipeline import resources
from pipeline.executor import SMALLER_ENVIRONMENT, Executor
from pipeline.jobs import Durations, Job, words_of
from preprocessing import dataset

try:
    import ray
    from ray import exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ModuleNotFoundError:
    raise UserError(
        "--cluster needs Ray, which is not installed. Install it: .venv/bin/python -m pip install -c "
        "requirements/lock.txt -r requirements/ray.txt"
    ) from None

POLL_SECONDS = 2.0
NOT_SENT = ["/.git", "/.venv", "/data", "/cache", "/runs", "/submissions", "/docs", "/tests", "/benchmarks"]
SCRATCH = Path(tempfile.gettempdir()) / f"statefarm-{os.getuid()}"  # on a machine: folders PID-... of its workers
LOST = (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.TaskUnschedulableError)  # the node is gone


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

    def only(self) -> Any:
        """Makes a task run on this node and nowhere else."""
        return NodeAffinitySchedulingStrategy(self.identity, soft=False)


class RayCluster:
    """A running Ray cluster: 'auto' is the one that this machine belongs to, others are HOST:PORT of their head."""

    def __init__(self, address: str) -> None:
        if not ray.is_initialized():
            os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # the executor reports them
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                if address != "auto":  # Ray would try for longer
                    host, _, port = address.rpartition(":")
                    socket.create_connection((host, int(port)), 10.0).close()
                code = {"working_dir": str(REPOSITORY), "excludes": NOT_SENT}
                ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR)
            except (RuntimeError, ValueError, OSError, exceptions.RayError) as error:
                raise UserError(
                    f"--cluster {address}: no cluster answers there ({_line(error)}). Expected one that this machine "
                    "is part of (ray start --head; ray start --address on others)."
                ) from error
            for number, handler in handlers.items():  # Ray sets its own
                signal.signal(number, handler)
        alive = [node for node in ray.nodes() if node["Alive"]]
        count = Counter(node["NodeName"] for node in alive)
        self.nodes: list[Node] = []
        for node in sorted(alive, key=lambda node: (node["NodeName"], node["NodeID"])):
            name, identity, has = str(node["NodeName"]), str(node["NodeID"]), Counter(node["Resources"])
            unique = f"{name} {identity[:4]}" if count[name] > 1 else name
            self.nodes.append(Node(identity, unique, int(has["CPU"]), int(has["GPU"]), int(has["memory"])))

    def _on_each(self, function: Callable[..., Any], *arguments: Any) -> dict[Node, Any]:
        """What a function returns on every machine, but for those that are lost meanwhile."""
        remote = ray.remote(num_cpus=0, max_retries=0)(function)
        promised = {node: remote.options(scheduling_strategy=node.only()).remote(*arguments) for node in self.nodes}
        results = {}
        for node, reference in promised.items():
            try:
                results[node] = ray.get(reference)
            except LOST:
                say(f"{node.name} was lost")
            except exceptions.RayError as error:
                cause = getattr(error, "cause", error)
                if isinstance(error, exceptions.RayTaskError) and not isinstance(cause, ImportError):
                    raise  # a bug
                raise UserError(f"node {node.name}: {_line(cause)}") from error
        return results

    def precision(self, asked: str) -> str:
        """The dtype policy of --precision: 'auto' is what every machine can compute in."""
        found = self._on_each(precision)
        if asked == "auto":
            return found.popitem()[1] if len(set(found.values())) == 1 else "float32"
        if others := [node.name for node, policy in found.items() if asked not in (policy, "float32")]:
            say(f"note: {asked} is not what --precision auto is on {', '.join(others)}: it may be slow there")
        return asked

    def check(self, works: Sequence[FoldRun], jobs: Sequence[Job]) -> None:
        """Compares every machine with this one before anything trains: Python, packages, data and weights.

        The code is not compared: Ray sends this machine's. A UserError has a line for each machine that differs.
        """
        package = keras_backend()
        found = self._on_each(find_fault, [files_of(work) for work in works], state(works, package), package)
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


@dataclass(eq=False)
class _Task:
    """A job on the cluster, and what Ray promised for it."""

    job: Job
    retry: bool  # with less memory
    node: Node | None = None  # None while no node is free for it
    started: float = 0.0
    ended: Any = None  # (exit status, end of what it printed)
    files: Any = None
    status: int | None = None


class RayExecutor(Executor):
    """Jobs as tasks of a Ray cluster. Ray itself retries nothing; a job of a lost node starts again on another one."""

    def __init__(self, durations: Durations, nodes: Sequence[Node], works: Sequence[FoldRun]) -> None:
        super().__init__(durations)
        self.nodes, self.works = list(nodes), {work.model_name: work for work in works}
        self.busy = Counter[Node]()

    def slots_for(self, job: Job) -> int:
        return max(1, sum(node.fits(job) for node in self.nodes))

    def slot_name(self, job: Job, slot: int) -> str:
        names = [node.name for node in self.nodes for _ in range(node.fits(job))]
        return names[slot] if slot < len(names) else "cluster"

    def start(self, job: Job, slot: int, retry: bool) -> _Task:
        task = _Task(job, retry)
        self._place(task)
        return task

    def _place(self, task: _Task) -> None:
        """Submits a task to the node that fits most of its kind beside what runs there, if one is free."""
        job, work = task.job, self.works[task.job.model]
        fitting = [node for node in self.nodes if node.fits(job)]
        if not fitting:
            raise UserError(f"no node that is large enough for {job} is left. The same command resumes.")
        node = max(fitting, key=lambda node: node.fits(job) - self.busy[node])
        if self.busy[node] < node.fits(job):
            environment = {OF_EXECUTOR: "1", "KERAS_BACKEND": keras_backend()} | with_threads(cores_of(job))
            environment |= SMALLER_ENVIRONMENT if task.retry else {}
            own = {"num_cpus": cores_of(job), "num_gpus": min(1, node.gpus), "memory": job.memory}
            remote: Any = ray.remote(max_calls=1, max_retries=0, num_returns=2)(train)
            remote = remote.options(scheduling_strategy=node.only(), **own)
            task.ended, task.files = remote.remote(files_of(work, job.folds), job.folds, environment)
            task.node, task.started = node, time.time()
            self.busy[node] += 1
            say(f"{node.name}: {job} starts")

    def wait(self, handles: Sequence[_Task], seconds: float) -> None:
        ray.wait([task.ended for task in handles if task.node], timeout=max(0.0, min(POLL_SECONDS, seconds)))

    def status(self, handle: _Task) -> int | None:
        if handle.node is None and handle.status is None:
            self._place(handle)
        elif handle.node and ray.wait([handle.ended], timeout=0)[0]:
            self.busy[handle.node] -= 1
            handle.status = self._collect(handle, handle.node)
            handle.node = handle.ended = handle.files = None  # Ray keeps files as long as they are referred to
        return handle.status

    def _collect(self, task: _Task, node: Node) -> int | None:
        """Writes what a task returned into the run folder; returns its exit status, None where its node was lost."""
        job, seconds = task.job, time.time() - task.started
        try:
            status, printed = ray.get(task.ended)
            files = ray.get(task.files)
        except LOST:
            say(f"{node.name} was lost: {job} starts again on another node")
            self.durations.add(job, seconds, "lost")
            self.nodes = [other for other in self.nodes if other != node]
            return None
        except exceptions.RayTaskError:
            raise  # a bug
        except exceptions.RayError as error:  # its worker was killed, perhaps by Ray, since memory was short
            say(f"{node.name}: {job} was lost: {_line(error)}")
            return -signal.SIGKILL
        size = sum(content.nbytes for own in files.values() for content in own.values()) / 2**20
        for folder in job.outputs:
            own = files[str(folder.fold)]
            for name in sorted(own, key=lambda name: name == FINISHED):  # last: it says that all others are there
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with written_whole(folder / name) as temporary:
                    temporary.write_bytes(memoryview(own[name]))
        ended = f"ended with status {status}" if status else "finished"
        say(f"{node.name}: {job} {ended}, {resources.duration(seconds)}, {size:.0f} MiB came back")
        if status:
            say(printed)
        return int(status)

    def stop(self, handles: Collection[_Task]) -> None:
        for task in handles:
            if task.node and self.status(task) is None:
                ray.cancel(task.ended, force=True)  # its process ends with the worker
            task.status = STOPPED if task.status is None else task.status


def cores_of(job: Job) -> int:
    """How many cores a job computes on."""
    asked = os.environ.get(THREADS, "")
    return job.threads or (int(asked) if asked.isdigit() else environment.cores())


def _size(cores: int, memory: int) -> str:
    return f"{cores} core{'s' * (cores > 1)} and {memory / 2**30:.1f} GiB"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def files_of(work: FoldRun, folds: Sequence[int | str] = ()) -> dict[str, bytes]:
    """The files of the run that a job reads, by their path below the folder of runs; the configuration first.

    Of a fold whose predictions are pseudo-labels only some of its outputs: its finished.json lists no others.
    """
    paths, records = [work.save(), *([work.run.folds] if folds else [])], {}
    for fold in folds:
        for table in work.of_fold(fold).pseudo_tables():
            paths += [table.parents[2] / work.run.folds.name, table.with_name(CONFIG), table]
            record = read_json(table.with_name(FINISHED))
            record["sha256"] = {name: record["sha256"][name] for name in (CONFIG, TEST)}
            records[table.with_name(FINISHED)] = json.dumps(record).encode()
    contents = {path: path.read_bytes() for path in paths} | records
    return {str(path.relative_to(work.run.path.parent)): content for path, content in contents.items()}


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
        return (status, log.read_text(encoding="utf-8", errors="replace")[-4000:]), back


def _scratch() -> tempfile.TemporaryDirectory:
    SCRATCH.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=SCRATCH, ignore_cleanup_errors=True)

"""An executor on a Ray cluster: the same jobs, on many machines. Nothing else here imports Ray (requirements/ray.txt).

A task trains one job in a folder of its own on its node and returns the files of the finished folds; only the pipeline
writes to the run folder, so nothing has to be shared but the code, which Ray copies. Nodes have the same Python
packages, the data at the same path or at $STATEFARM_DATA, and the weights at the same path.
"""

import dataclasses
import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.environment import LESS_MEMORY, OF_EXECUTOR, pinned
from common.errors import STOPPED, UserError
from common.files import write_json, written_whole
from common.run_folder import CONFIG, FINISHED, LOG, REPOSITORY, FoldFolder
from models.finetuning import runtime
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights
from pipeline.jobs import Job
from pipeline.local import SMALLER_ENVIRONMENT, Executor, say
from pipeline.resources import duration
from pipeline.schedule import Durations

INSTALL = ".venv/bin/python -m pip install -c requirements/lock.txt -r requirements/ray.txt"
CONNECT_SECONDS = 10.0
STOP_SECONDS = 5.0
POLL_SECONDS = 2.0
MOST_RETRIES = 3  # of a task whose node or worker was lost
NOT_SENT = ["/.git", "/.venv", "/data", "/cache", "/runs", "/submissions", "/docs", "/tests", "/benchmarks"]
OF_RAY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # set by Ray, by the cores of a task; a job has threads of its own


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its name, and how much of it there is."""

    identity: str
    name: str
    cores: int
    gpus: int
    memory: int


def connect(address: str) -> list[Node]:
    """Connects to a running cluster and returns its nodes.

    Args:
        address: 'auto' for the one that this machine belongs to, or HOST:PORT of its head.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--cluster needs Ray, which is not installed. Install it: {INSTALL}")
    import ray

    if not ray.is_initialized():
        expected = "Expected a cluster that this machine is part of (ray start --head; ray start --address on others)"
        host, _, port = address.rpartition(":")
        if address != "auto":
            try:
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            except (OSError, ValueError) as error:
                raise UserError(f"--cluster {address}: no cluster answers there ({error}). {expected}.") from error
        os.environ["RAY_task_oom_retries"] = "0"  # noqa: SIM112  (the executor's own retry takes less memory)
        environment = {"working_dir": str(REPOSITORY), "excludes": NOT_SENT}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
            for number, handler in handlers.items():  # Ray sets its own
                signal.signal(number, handler)
        except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"--cluster {address}: {reason} {expected}.") from error
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            sizes = int(has.get("CPU", 0)), int(has.get("GPU", 0)), int(has.get("memory", 0))
            found.append(Node(node["NodeID"], node.get("NodeName") or node["NodeManagerHostname"], *sizes))
    names = [node.name for node in found]
    return [
        dataclasses.replace(node, name=f"{node.name} {node.identity[:4]}") if names.count(node.name) > 1 else node
        for node in sorted(found, key=lambda node: (node.name, node.identity))
    ]


def resolve_precision(nodes: Sequence[Node], asked: str, here: str) -> str:
    """The dtype policy that every node can compute in.

    Args:
        asked: 'auto', or a policy that a person asked for.
        here: what 'auto' is on this machine.
    """
    found = dict(zip(nodes, _on_each(nodes, _precision_of_node), strict=True))
    wanted = here if asked == "auto" else asked
    others = [node.name for node, policy in found.items() if policy != wanted]
    if wanted == "float32" or not others:
        return wanted
    if asked != "auto":
        say(f"note: {asked} is not what --precision auto is on {', '.join(others)}: it may be slow there")
        return asked
    return "float32"


def check_nodes(nodes: Sequence[Node], work: FoldRun, fingerprint: str, jobs: Sequence[Job]) -> None:
    """Checks every node before anything trains.

    Args:
        work: a model of the run.
        fingerprint: of the data here.

    Raises:
        UserError: a node lacks the data, the weights or package versions, or no node is large enough for a job.
    """
    here = _state(work)
    request = {"work": _content(work), "name": work.model_name}
    for node, (state, found) in zip(nodes, _on_each(nodes, _state_of_node, request), strict=True):
        if isinstance(state, str):
            raise UserError(f"node {node.name}: {state}")
        for what, ours in here.items():
            if state[what] != ours:
                raise UserError(f"node {node.name}: expected {what} {ours}, as here, found {state[what]}.")
        if found != fingerprint:
            raise UserError(f"node {node.name}: its data differ from {work.data} here. Copy the folder there.")
    for job in jobs:
        if not any(_fits(node, job) for node in nodes):
            largest = max(nodes, key=lambda node: node.cores)
            raise UserError(
                f"{job} asks for {_cores(job)} cores and {job.memory / 2**30:.1f} GiB; the largest node, "
                f"{largest.name}, has {largest.cores} and {largest.memory / 2**30:.1f}. Add --jobs {os.cpu_count()}, "
                "or a smaller --image-size."
            )


@dataclass(eq=False)
class _Task:
    job: Job
    node: Node
    started: float
    state: Any  # reference to (exit status, end of the log), small
    files: Any  # reference to the files of the finished folds
    status: int | None = None
    retried: str = ""


class RayExecutor(Executor):
    """Jobs as tasks of a Ray cluster.

    Args:
        nodes: of `connect`.
        works: the models of the run, by their folder's name.
    """

    def __init__(self, durations: Durations, nodes: Sequence[Node], works: dict[str, FoldRun]) -> None:
        super().__init__(durations)
        self.nodes, self.works = list(nodes), works

    def _slots(self, job: Job) -> list[Node]:
        """A node for each slot, in turn, so that all nodes get work before one gets a second job."""
        free = {node: _fits(node, job) for node in self.nodes}
        rounds = range(max(free.values(), default=0))
        return [node for turn in rounds for node in self.nodes if free[node] > turn]

    def slots_for(self, job: Job) -> int:
        return max(1, len(self._slots(job)))

    def slot_name(self, job: Job, slot: int) -> str:
        slots = self._slots(job)
        return slots[slot % len(slots)].name if slots else "cluster"

    def start(self, job: Job, slot: int, retry: bool) -> _Task:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        slots = self._slots(job) or self.nodes
        node = slots[slot % len(slots)]
        work = self.works[job.model]
        request = {
            "work": _content(work),
            "run": work.run.name,
            "model": job.model,
            "script": job.script,
            "folds": list(job.folds),
            "inputs": _inputs(work, job),
            "environment": dict(SMALLER_ENVIRONMENT) if retry else {},
        }
        task = ray.remote(max_calls=1)(_train).options(
            num_cpus=_cores(job),
            num_gpus=1 if node.gpus else 0,
            memory=job.memory,
            num_returns=2,
            max_retries=MOST_RETRIES,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.identity, soft=True),
        )
        references: Any = task.remote(request)
        say(f"{node.name}: {job} starts")
        return _Task(job, node, time.time(), *references)

    def wait(self, handles: Sequence[_Task], seconds: float) -> None:
        import ray

        until = time.monotonic() + seconds
        while not ray.wait([handle.state for handle in handles], timeout=max(0.0, min(POLL_SECONDS, seconds)))[0]:
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            for handle in handles:
                if handle.node.identity not in alive and not handle.retried:
                    handle.retried = f", again, since {handle.node.name} was lost"
                    say(f"{handle.node.name} was lost: {handle.job} starts again on another node")
            self.nodes = [node for node in self.nodes if node.identity in alive] or self.nodes
            if time.monotonic() > until:
                return

    def status(self, handle: _Task) -> int | None:
        import ray

        if handle.status is None and ray.wait([handle.state], timeout=0)[0]:
            handle.status = self._collect(handle)
        return handle.status

    def _collect(self, task: _Task) -> int:
        """Writes what a task returned into the run folder; returns its exit status."""
        import ray

        try:
            status, log = ray.get(task.state)
        except ray.exceptions.TaskCancelledError:
            return STOPPED
        except (ray.exceptions.RaySystemError, ray.exceptions.RayError) as error:
            if isinstance(error, ray.exceptions.RayTaskError):
                raise
            say(f"{task.node.name}: {task.job} was lost: {' '.join(str(error).split())[:200]}")
            return -signal.SIGKILL
        if status == 0:
            files = ray.get(task.files)
            size = sum(content.size for content in files.values())
            for folder in task.job.outputs:
                _write(folder, {name[1]: content for name, content in files.items() if name[0] == str(folder.fold)})
            took = duration(time.time() - task.started)
            say(f"{task.node.name}: {task.job} finished, {took}, {size / 2**20:.0f} MiB came back{task.retried}")
        else:
            say(f"{task.node.name}: {task.job} ended with status {status}{task.retried}\n{log}")
            for folder in task.job.outputs:
                folder.path.mkdir(parents=True, exist_ok=True)
                (folder / LOG).write_text(log, encoding="utf-8")
        return int(status)

    def stop(self, handles: Collection[_Task]) -> None:
        import ray

        left = [handle for handle in handles if self.status(handle) is None]
        for handle in left:
            ray.cancel(handle.state, force=True)
        if left:
            ray.wait([handle.state for handle in left], num_returns=len(left), timeout=STOP_SECONDS)
        for handle in left:
            handle.status = STOPPED if self.status(handle) is None else handle.status


def _cores(job: Job) -> int:
    return job.threads or os.cpu_count() or 1


def _fits(node: Node, job: Job) -> int:
    """How many such jobs fit on a node at a time."""
    counts = [node.cores // _cores(job), node.memory // job.memory if job.memory else 10**6]
    return min([*counts, node.gpus] if node.gpus else counts)


def _content(work: FoldRun) -> dict[str, Any]:
    """The configuration file of a model."""
    return dict(json.loads(work.save().read_bytes()))


def _inputs(work: FoldRun, job: Job) -> dict[str, bytes]:
    """The small files that a job reads, by their path below the folder of runs."""
    runs = work.run.path.parent
    paths = [work.run.folds]
    for fold in job.folds:
        for table in work.of_fold(fold).pseudo_tables():
            paths += [table, table.with_name(CONFIG), table.with_name(FINISHED), table.parents[2] / work.run.folds.name]
    return {str(path.relative_to(runs)): path.read_bytes() for path in dict.fromkeys(paths)}


def _write(folder: FoldFolder, files: dict[str, Any]) -> None:
    """Writes the files of a finished fold; finished.json, which says that all others are there, last."""
    folder.path.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: name == FINISHED):
        with written_whole(folder / name) as temporary:
            temporary.write_bytes(memoryview(files[name]))


def _on_each(nodes: Sequence[Node], function: Any, *arguments: Any) -> list[Any]:
    """The results of a function on every node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    references = [
        ray.remote(function)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.identity, soft=False))
        .remote(*arguments)
        for node in nodes
    ]
    return list(ray.get(references))


# On a node


def _precision_of_node() -> str:
    return "mixed_bfloat16" if runtime.expects_bfloat16("auto") else "float32"


def _state_of_node(request: dict[str, Any]) -> tuple[Any, str]:
    """What `check_nodes` compares, or a message; and the fingerprint of the data."""
    from preprocessing import dataset

    with tempfile.TemporaryDirectory() as folder:
        work = _work_in(Path(folder), request["work"], "check", request["name"])
        try:
            found = dataset.load(dataset.required(work.data), work.cache, work.skip_broken, progress=False)
            return _state(work), found.fingerprint
        except UserError as error:
            return str(error), ""


def _state(work: FoldRun) -> dict[str, Any]:
    return {
        "Python": ".".join(map(str, sys.version_info[:3])),
        "package versions": runtime.versions(),
        "weights": weights.identity(work.architecture, work.weights),
    }


def _work_in(folder: Path, content: dict[str, Any], run: str, model: str) -> FoldRun:
    """The fold run of a configuration in a folder of its own on this node."""
    from models.finetuning import fold_run

    if not Path(content["data"]).is_dir() and os.environ.get("STATEFARM_DATA"):
        content = {**content, "data": os.environ["STATEFARM_DATA"]}
    if not os.access(Path(content["cache"]).parent, os.W_OK):
        content = {**content, "cache": str(Path(tempfile.gettempdir()) / f"statefarm-cache-{os.getuid()}")}
    path = folder / run / model / "training.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return fold_run.load(path)


def _train(request: dict[str, Any]) -> tuple[Any, dict[tuple[str, str], Any]]:
    """Trains the folds of a job in a process; returns (exit status, end of its log) and the files."""
    import numpy as np

    folder = Path(tempfile.mkdtemp(prefix="statefarm-"))
    try:
        for name, content in request["inputs"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        work = _work_in(folder, request["work"], request["run"], request["model"])
        config = work.run.job_file(work.model_name)
        command = [sys.executable, f"models/{request['script']}.py", "--config", str(config)]
        command += ["--fold", *map(str, request["folds"])]
        inherited = {name: value for name, value in os.environ.items() if name not in OF_RAY and name != LESS_MEMORY}
        own = pinned(inherited) | request["environment"] | {OF_EXECUTOR: "1"}
        with (folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=output, stderr=output)
            status = process.wait()  # it ends with this process, which holds the other end of its stdin
        log = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
        files = {}
        for fold in request["folds"] if status == 0 else []:
            for path in sorted(work.of_fold(fold).folder.path.iterdir()):
                if path.is_file():
                    files[str(fold), path.name] = np.frombuffer(path.read_bytes(), np.uint8)
        return (status, log), files
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""An executor on a Ray cluster: the same jobs, on many machines. Nothing else here imports Ray (requirements/ray.txt).

A task trains one job in a folder of its own on its node and returns the files of its folds; only the pipeline writes to
the run folder, so nothing has to be shared but the code, which Ray copies. Nodes have the same Python packages, the
data at the same path or at $STATEFARM_DATA, and the weights at the same path.
"""

import dataclasses
import importlib.util
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from common.environment import OF_EXECUTOR, keras_backend, with_threads
from common.errors import STOPPED, UserError
from common.run_folder import REPOSITORY
from common.terminal import say
from models.finetuning.fold_run import FoldRun
from pipeline import resources
from pipeline.cluster import Cluster, Node, cores_of, files_of, keep, train
from pipeline.executor import Executor
from pipeline.jobs import Job
from pipeline.local import SMALLER_ENVIRONMENT
from pipeline.schedule import Durations

INSTALL = ".venv/bin/python -m pip install -c requirements/lock.txt -r requirements/ray.txt"
EXPECTED = "Expected a cluster that this machine is part of (ray start --head; ray start --address on others)"
CONNECT_SECONDS = 10.0
POLL_SECONDS = 2.0
NOT_SENT = ["/.git", "/.venv", "/data", "/cache", "/runs", "/submissions", "/docs", "/tests", "/benchmarks"]


class RayCluster(Cluster):
    """A running Ray cluster.

    Args:
        address: 'auto' for the one that this machine belongs to, or HOST:PORT of its head.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError(f"--cluster needs Ray, which is not installed. Install it: {INSTALL}")
        import ray

        if not ray.is_initialized():
            os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # the executor reports them
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                if address != "auto":  # Ray would try for longer
                    host, _, port = address.rpartition(":")
                    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
                code = {"working_dir": str(REPOSITORY), "excludes": NOT_SENT}
                ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
                problem = f"--cluster {address}: no cluster answers there ({_line(error)})"
                raise UserError(f"{problem}. {EXPECTED}.") from error
            for number, handler in handlers.items():  # Ray sets its own
                signal.signal(number, handler)
        alive = sorted((str(node["NodeName"]), str(node["NodeID"]), node) for node in ray.nodes() if node["Alive"])
        count = Counter(name for name, _, _ in alive)
        self.nodes = []
        for name, identity, node in alive:
            has = Counter(node["Resources"])
            unique = f"{name} {identity[:4]}" if count[name] > 1 else name
            self.nodes.append(Node(identity, unique, int(has["CPU"]), int(has["GPU"]), int(has["memory"])))

    def executor(self, durations: Durations, works: Sequence[FoldRun]) -> Executor:
        return RayExecutor(durations, self.nodes, works)

    def on_each(self, function: Callable[..., Any], *arguments: Any) -> dict[Node, Any]:
        import ray

        remote = ray.remote(num_cpus=0, max_retries=0)(function)
        promised = {node: remote.options(scheduling_strategy=_only_on(node)).remote(*arguments) for node in self.nodes}
        results = {}
        for node, reference in promised.items():
            try:
                results[node] = ray.get(reference)
            except _lost():
                say(f"{node.name} was lost")
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", error)
                if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(cause, ImportError):
                    raise  # a bug
                raise UserError(f"node {node.name}: {_line(cause)}") from error
        return results


@dataclass(eq=False)
class _Task:
    """A job on the cluster, and what Ray promised for it: (exit status, end of what it printed), and its files.

    Attributes:
        retry: with less memory.
        node: where it runs; None while no node is free for it.
        lost: the nodes that were lost while it ran there.
    """

    job: Job
    retry: bool
    node: Node | None = None
    started: float = 0.0
    ended: Any = None
    files: Any = None
    status: int | None = None
    lost: list[str] = dataclasses.field(default_factory=list)


class RayExecutor(Executor):
    """Jobs as tasks of a Ray cluster. Ray itself retries nothing; a job of a lost node starts again on another one.

    Args:
        nodes: of the cluster.
        works: the models of the run.
    """

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
        import ray

        job, work = task.job, self.works[task.job.model]
        fitting = [node for node in self.nodes if node.fits(job)]
        if not fitting:
            raise UserError(f"no node that is large enough for {job} is left. The same command resumes.")
        node = max(fitting, key=lambda node: node.fits(job) - self.busy[node])
        if self.busy[node] < node.fits(job):
            environment = {OF_EXECUTOR: "1", "KERAS_BACKEND": keras_backend()} | with_threads(cores_of(job))
            environment |= SMALLER_ENVIRONMENT if task.retry else {}
            remote = ray.remote(max_calls=1, max_retries=0, num_returns=2)(train).options(
                num_cpus=cores_of(job),
                num_gpus=min(1, node.gpus),
                memory=job.memory,
                scheduling_strategy=_only_on(node),
            )
            promised: Any = remote.remote(files_of(work, job.folds), job.folds, environment)
            task.ended, task.files = promised
            task.node, task.started = node, time.time()
            self.busy[node] += 1
            say(f"{node.name}: {job} starts")

    def wait(self, handles: Sequence[_Task], seconds: float) -> None:
        import ray

        ray.wait([task.ended for task in handles if task.node], timeout=max(0.0, min(POLL_SECONDS, seconds)))

    def status(self, handle: _Task) -> int | None:
        import ray

        if handle.node is None and handle.status is None:
            self._place(handle)
        elif handle.node and ray.wait([handle.ended], timeout=0)[0]:
            self.busy[handle.node] -= 1
            handle.status = self._collect(handle, handle.node)
            handle.node = handle.ended = handle.files = None  # Ray keeps files as long as they are referred to
        return handle.status

    def _collect(self, task: _Task, node: Node) -> int | None:
        """Writes what a task returned into the run folder; returns its exit status, None where its node was lost."""
        import ray

        job, seconds = task.job, time.time() - task.started
        try:
            status, printed = ray.get(task.ended)
            files = ray.get(task.files)
        except _lost():
            say(f"{node.name} was lost: {job} starts again on another node")
            self.durations.add(job, seconds, "lost")
            self.nodes = [other for other in self.nodes if other != node]
            task.lost.append(node.name)
            return None
        except ray.exceptions.RayTaskError:
            raise  # a bug
        except ray.exceptions.RayError as error:  # its worker was killed, perhaps by Ray, since memory was short
            say(f"{node.name}: {job} was lost: {_line(error)}")
            return -signal.SIGKILL
        size = keep(job.outputs, files) / 2**20
        ended = f"ended with status {status}" if status else "finished"
        again = f", started again since {' and '.join(task.lost)} was lost" if task.lost else ""
        say(f"{node.name}: {job} {ended}, {resources.duration(seconds)}, {size:.0f} MiB came back{again}")
        if status:
            say(printed)
        return int(status)

    def stop(self, handles: Collection[_Task]) -> None:
        import ray

        for task in handles:
            if task.node and self.status(task) is None:
                ray.cancel(task.ended, force=True)  # its process ends with the worker
            task.status = STOPPED if task.status is None else task.status


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _only_on(node: Node) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.identity, soft=False)


def _lost() -> tuple[type[Exception], ...]:
    """What Ray raises for a task whose node is not there any more."""
    from ray import exceptions

    return exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.TaskUnschedulableError

"""A Ray cluster on this machine, in a process of its own, and a small run on it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from common.run_folder import REPOSITORY
from tests.reliability.pipeline import FOLDS, MODEL, RECIPE, trainings

TABLES = [f"{MODEL}/fold_{fold}/{name}.csv" for fold in range(FOLDS) for name in ("out_of_fold", "test")]
# Workers get as much of a busy machine as other processes; Ray would give them less (nice 15).
AS_OTHERS = {"RAY_worker_niceness": "0"}
PROGRAM = """
import json, sys
from ray.cluster_utils import Cluster

sizes = [{"num_cpus": cores, "memory": 6 * 2**30} | json.loads(sys.argv[2]) for cores in json.loads(sys.argv[1])]
cluster = Cluster(initialize_head=True, head_node_args=sizes[0] | {"include_dashboard": False})
nodes = [cluster.head_node, *[cluster.add_node(**size) for size in sizes[1:]]]
print(cluster.address, *[node.all_processes["raylet"][0].process.pid for node in nodes], flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextlib.contextmanager
def cluster(cores: Sequence[int] = (1, 1), store: int = 100 * 2**20) -> Iterator[tuple[str, list[psutil.Process]]]:
    """The address of a cluster of nodes with so many cores, and the process of each node's raylet, the head's first.

    Args:
        store: bytes of each node's object store.
    """
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(cores)), json.dumps({"object_store_memory": store})]
    pipe, environment = subprocess.PIPE, os.environ | AS_OTHERS
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    address, *raylets = process.stdout.readline().split()
    try:
        yield address, [psutil.Process(int(raylet)) for raylet in raylets]
    finally:
        process.communicate("", timeout=60)


def kill_node(raylet: psutil.Process) -> list[psutil.Process]:
    """SIGKILL to a node's raylet and workers; returns the processes that it trained in, which get no signal."""
    jobs = list(trainings(raylet))
    for process in [raylet, *raylet.children(recursive=True)]:
        if process not in jobs:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    return jobs


def start(folder: Path, data: Path, *words: str) -> subprocess.Popen:
    """The pipeline, two folds at a time, in a folder of its own."""
    places = ["--runs", folder / "runs", "--cache", folder / "cache", "--submissions", folder, "--run", "r"]
    command = [sys.executable, "-m", "pipeline", "--data", data, *places, "--models", MODEL, *RECIPE, "--jobs", "2"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*map(str, command), *words], cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def ended(run: subprocess.Popen, status: int = 0, timeout: float = 600) -> str:
    """What a run that ends with this status wrote to standard error: no traceback where it failed."""
    _, errors = run.communicate(timeout=timeout)
    assert run.returncode == status and (status == 0 or "Traceback" not in errors), errors
    return errors


def tables(folder: Path) -> list[bytes]:
    """The prediction tables of a run in such a folder; empty where one is missing."""
    paths = [folder / "runs" / "r" / name for name in TABLES]
    return [path.read_bytes() if path.exists() else b"" for path in paths]

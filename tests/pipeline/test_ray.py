"""A real Ray cluster of two nodes on this machine: the same bytes as without, a lost node, and what cannot work."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.run_folder import REPOSITORY
from tests.trees import make_tree

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs requirements/ray.txt")
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

size = {"num_cpus": 1, "memory": 6 * 2**30, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
node = cluster.add_node(**size)
print(cluster.address, node.all_processes["raylet"][0].process.pid, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
OPTIONS = ["--weights", "none", "--quick", "--models", "mobilenet", "--image-size", "32x32", "--epochs", "2"]
TABLES = [f"runs/r/mobilenet/fold_{fold}/{name}.csv" for fold in (0, 1) for name in ("out_of_fold", "test")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("ray") / "data")


@pytest.fixture
def cluster() -> Iterator[tuple[str, int]]:
    """The address of a cluster of two nodes with a core each, and the process of its second node's raylet."""
    command = [sys.executable, "-c", CLUSTER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address, pid = process.stdout.readline().split()
    yield address, int(pid)
    process.communicate("", timeout=60)


def start(data: Path, folder: Path, *words: object) -> subprocess.Popen:
    places = ["--runs", folder / "runs", "--cache", folder / "cache", "--submissions", folder, "--run", "r"]
    command = [sys.executable, "-m", "pipeline", "--data", data, *places, *OPTIONS, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The tables of the local executor, with two jobs of one thread side by side."""
    folder = tmp_path_factory.mktemp("local")
    _, printed = start(data, folder, "--jobs", 2).communicate(timeout=600)
    assert (folder / "r.csv").exists(), printed
    return tables(folder)


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_machine(
    data: Path, cluster: tuple[str, int], expected: list[bytes], tmp_path: Path
) -> None:
    run = start(data, tmp_path, "--cluster", cluster[0], "--jobs", 2)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert tables(tmp_path) == expected
    assert errors.count("MiB came back") == 2
    assert (tmp_path / "runs/r/mobilenet/fold_1/log.txt").read_text()
    again = start(data, tmp_path, "--cluster", cluster[0], "--jobs", 2)
    assert "2 of 2 folds are finished already" in again.communicate(timeout=120)[1]


@pytest.mark.slow
def test_a_node_that_is_killed_costs_time_and_nothing_else(
    data: Path, cluster: tuple[str, int], expected: list[bytes], tmp_path: Path
) -> None:
    address, raylet = cluster
    run = start(data, tmp_path, "--cluster", address, "--jobs", 2)
    node = psutil.Process(raylet)
    trainings: list[psutil.Process] = []
    until = time.monotonic() + 300
    while not trainings and time.monotonic() < until:
        time.sleep(0.2)
        trainings = [child for child in node.children(recursive=True) if "--config" in child.cmdline()]
    assert trainings, "no fold was trained on the second node"
    lost = [node, *node.children(recursive=True)]
    for process in [one for one in lost if one not in trainings]:
        process.send_signal(signal.SIGKILL)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert "was lost" in errors
    assert tables(tmp_path) == expected
    assert not [one for one in trainings if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_no_cluster_at_the_address_is_one_line_at_once(data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    run = start(data, tmp_path, "--cluster", "127.0.0.1:9")
    _, errors = run.communicate(timeout=60)
    assert (run.returncode, "Traceback" in errors) == (2, False), errors
    assert "no cluster answers there" in errors
    assert time.monotonic() - started < 45  # 15 s on an idle machine


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_nodes_that_cannot_do_the_work_are_reported_before_any_training(
    data: Path, cluster: tuple[str, int], tmp_path: Path
) -> None:
    run = start(data, tmp_path, "--cluster", cluster[0], "--jobs", 1)  # a job on all of this machine's cores
    _, errors = run.communicate(timeout=200)
    assert (run.returncode, "Traceback" in errors) == (2, False), errors
    assert "asks for" in errors
    assert not list(tmp_path.glob("runs/*/*/fold_*"))

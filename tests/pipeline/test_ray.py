"""Real Ray clusters on this machine: the same bytes as without, what is lost or killed, and what cannot work."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest

from common import STOPPED
from common.run_folder import CHECKPOINT, RunFolder
from models.mobilenet import ARCHITECTURE
from tests.cluster import AS_OTHERS, cluster, ended, kill_node, start, tables
from tests.commands import run_python, succeeded
from tests.reliability.pipeline import MODEL, command_line, trainings
from tests.tools.conftest import EXPERIMENTS
from tests.trees import make_tree

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs requirements/ray.txt")
can_hide_files = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The tables of the local executor, with two jobs of one thread side by side."""
    folder = tmp_path_factory.mktemp("local")
    _, printed = start(folder, data).communicate(timeout=600)
    assert (folder / "r.csv").exists(), printed
    return tables(folder)


@pytest.fixture(scope="module")
def one_node() -> Iterator[tuple[str, psutil.Process]]:
    """The address of a cluster of one node with one core, and its raylet."""
    with cluster((1,)) as (address, (raylet,)):
        yield address, raylet


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {seconds:.0f} s")


def checkpoints(raylet: psutil.Process) -> list[Path]:
    """Of the folds that a node trains now: an epoch of each has ended."""
    found: list[Path] = []
    for job in trainings(raylet):
        if words := command_line(job.pid):
            found += Path(words[words.index("--config") + 1]).parent.glob(f"fold_*/{CHECKPOINT}")
    return found


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_machine(
    data: Path, expected: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster((1, 1)) as (address, _):
        errors = ended(start(tmp_path, data, "--cluster", address))
        assert tables(tmp_path) == expected
        assert errors.count("MiB came back") == 2
        assert (tmp_path / f"runs/r/{MODEL}/fold_1/log.txt").read_text()
        monkeypatch.setenv("STATEFARM_THREADS", "2")  # more than a node has
        errors = ended(start(tmp_path, data, "--run", "large", "--jobs", "1", "--cluster", address), status=2)
    assert f"{MODEL}, fold 0 asks for" in errors
    assert not list(tmp_path.glob("runs/large/*/fold_*"))


@pytest.mark.slow
def test_a_second_round_on_a_cluster_gives_the_bytes_of_one_machine(data: Path, tmp_path: Path) -> None:
    ended(start(tmp_path / "local", data, "--preset", "strong"))
    with cluster((1, 1)) as (address, _):
        ended(start(tmp_path / "ray", data, "--preset", "strong", "--cluster", address))
    local = tmp_path / "local"
    found = [*local.glob("**/fold_*/out_of_fold.csv"), *local.glob("**/fold_*/test.csv"), local / "r.csv"]
    assert any(f"{MODEL}_round2" in path.parts for path in found)
    for path in found:
        assert path.read_bytes() == (tmp_path / "ray" / path.relative_to(local)).read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("moment", [trainings, checkpoints], ids=["as it starts", "after an epoch"])
def test_a_node_that_is_killed_costs_time_and_nothing_else(
    moment: Callable[[psutil.Process], Any], data: Path, expected: list[bytes], tmp_path: Path
) -> None:
    with cluster((1, 1)) as (address, (_, raylet)):
        run = start(tmp_path, data, "--cluster", address)
        wait_for(lambda: moment(raylet), "training on the second node")
        jobs = kill_node(raylet)
        assert "starts again on another node" in ended(run)
        assert tables(tmp_path) == expected
        assert jobs
        assert not psutil.wait_procs(jobs, timeout=10)[1]
    rows = json.loads(RunFolder(tmp_path / "runs" / "r").durations.read_text())
    assert sorted(row["ended"] for row in rows) == ["finished", "finished", "lost"]
    assert "was on a machine that was lost after" in (tmp_path / "runs" / "r" / "report.html").read_text()


@pytest.mark.slow
def test_a_killed_or_stopped_pipeline_resumes_with_what_is_finished(
    data: Path, one_node: tuple[str, psutil.Process], expected: list[bytes], tmp_path: Path
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    address, raylet = one_node
    folder = RunFolder(tmp_path / "runs" / "r")
    killed = start(tmp_path, data, "--cluster", address)
    wait_for(lambda: folder.fold(MODEL, 0).is_finished() and trainings(raylet), "first fold")
    killed.kill()
    killed.communicate()
    wait_for(lambda: not trainings(raylet), "end of the second fold", 20.0)

    stopped = start(tmp_path, data, "--cluster", address)
    wait_for(lambda: trainings(raylet), "second fold")
    started = time.monotonic()
    stopped.send_signal(signal.SIGINT)
    assert STOPPED.strip() in ended(stopped, status=130, timeout=60)
    assert time.monotonic() - started < 10.0
    wait_for(lambda: not trainings(raylet), "end of the second fold", 20.0)

    resumed = start(tmp_path, data, "--cluster", address)
    assert "1 of 2 folds are finished already" in ended(resumed)
    assert tables(tmp_path) == expected


@pytest.mark.slow
def test_experiments_and_bottleneck_models_train_on_a_cluster(
    data: Path, one_node: tuple[str, psutil.Process], tmp_path: Path
) -> None:
    (tmp_path / "tried.toml").write_text(EXPERIMENTS)
    found = []
    for name, words in {"here": [], "there": ["--cluster", one_node[0]]}.items():
        places = ["--data", data, "--runs", tmp_path / name, "--cache", tmp_path / name, "--weights", "none"]
        command = ["-m", "tools.experiments", tmp_path / "tried.toml", *places, "--folds", "2", *words]
        done = succeeded(run_python(*command, timeout=600, STATEFARM_THREADS="1"))
        paths = sorted((tmp_path / name).glob("tried/*/fold_*/*.csv"))
        found.append([path.read_bytes() for path in paths if path.name in ("out_of_fold.csv", "test.csv")])
    assert "features, fold 0 1 finished" in done.stderr
    assert len(found[0]) == 8
    assert found[0] == found[1]


NODE = "set -e; {hide}; exec ray start --address {address} --num-cpus 1 --memory 3000000000 --node-name {name} --block"


@pytest.mark.slow
@pytest.mark.skipif(not can_hide_files, reason="needs the right to make mount namespaces")
def test_nodes_that_differ_are_named_before_any_training(
    data: Path, one_node: tuple[str, psutil.Process], tmp_path: Path
) -> None:
    packages, empty, weights = tmp_path / "packages", tmp_path / "empty", tmp_path / "weights"
    for folder in (packages / "numpy-1.0.dist-info", empty, weights):
        folder.mkdir(parents=True)
    (packages / "numpy-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
    (packages / "sitecustomize.py").write_text("import platform\nplatform.python_version = lambda: '3.9.9'\n")
    with h5py.File(weights / "mobilenet.weights.h5", "w") as file:
        file.create_dataset("layers/all", (ARCHITECTURE.parameters,), "float32")
    other = make_tree(tmp_path / "other", seed=1)
    (tmp_path / "cpuinfo").write_text("flags : fpu\n")
    hidden = {
        "other-versions": f"export PYTHONPATH={packages}",
        "no-data": f"mount --bind {empty} {data}",
        "other-data": f"mount --bind {other} {data}",
        "no-weights": f"mount --bind {empty} {weights}; mount --bind {tmp_path / 'cpuinfo'} /proc/cpuinfo",
    }
    environment = os.environ | AS_OTHERS | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    nodes = []
    try:
        for name, hide in hidden.items():
            command = ["unshare", "-m", "sh", "-c", NODE.format(hide=hide, address=one_node[0], name=name)]
            nodes.append(psutil.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
            assert any("Ray runtime started" in line for line in nodes[-1].stdout), name
        words = ["--weights", str(weights), "--precision", "auto", "--cluster", one_node[0]]
        _, errors = start(tmp_path, data, *words).communicate(timeout=300)
    finally:
        for process in [one for node in nodes for one in [*node.children(recursive=True), node]]:
            process.kill()
    found = dict(re.findall(r"^(?:error: )?node ([\w-]+): (.*)$", errors, re.MULTILINE))
    assert set(found) == set(hidden), errors
    assert "Python: expected " in found["other-versions"]
    assert "; numpy: expected " in found["other-versions"]
    assert str(data) in found["no-data"]
    assert "data: expected " in found["other-data"]
    assert "expected mobilenet.weights.h5 in it" in found["no-weights"]
    settings = json.loads(RunFolder(tmp_path / "runs" / "r").job_file(MODEL).read_text())
    assert settings["precision"] == "float32", "of a node without bfloat16"
    assert not list(tmp_path.glob("runs/*/*/fold_*"))


def test_no_cluster_at_the_address_is_one_line_at_once(data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    assert "no cluster answers there" in ended(start(tmp_path, data, "--cluster", "127.0.0.1:9"), status=2, timeout=60)
    assert time.monotonic() - started < 45  # 15 s on an idle machine


def test_without_ray_the_command_that_installs_it_is_named() -> None:
    code = "import sys; sys.modules['ray'] = None; from pipeline.ray import RayCluster; RayCluster('auto')"
    done = run_python("-c", code)
    assert "UserError: --cluster needs Ray, which is not installed. Install it: .venv/bin/python -m pip" in done.stderr

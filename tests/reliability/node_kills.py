"""Kills a node of a Ray cluster at random moments while it trains, and compares what the run made.

    python -m tests.reliability.node_kills --kills 10 --seed 1

Each time: a new cluster of two nodes with a core each, the pipeline with two folds of the network of
tests.reliability.pipeline, and SIGKILL to the raylet and the workers of the second node. The run has to finish with the
tables of a run without a cluster, and no training process may be left. Exit status 1 otherwise.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from common.run_folder import REPOSITORY
from tests.cluster import cluster, kill_node
from tests.reliability.pipeline import FOLDS, MODEL, RECIPE
from tests.trees import make_tree

TABLES = [f"{MODEL}/fold_{fold}/{name}.csv" for fold in range(FOLDS) for name in ("out_of_fold", "test")]


def start(folder: Path, data: Path, *words: str) -> subprocess.Popen:
    """The pipeline, two folds at a time, in a folder of its own."""
    places = ["--runs", folder / "runs", "--cache", folder / "cache", "--submissions", folder, "--run", "r"]
    command = [sys.executable, "-m", "pipeline", "--data", data, *places, "--models", MODEL, *RECIPE, "--jobs", "2"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*map(str, command), *words], cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def tables(folder: Path) -> list[bytes]:
    """The prediction tables of a run in such a folder; empty where one is missing."""
    paths = [folder / "runs" / "r" / name for name in TABLES]
    return [path.read_bytes() if path.exists() else b"" for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator, faults, done = random.Random(arguments.seed), 0, 0
    with tempfile.TemporaryDirectory() as name:
        data = make_tree(Path(name) / "data")
        start(Path(name) / "local", data).communicate()
        expected = tables(Path(name) / "local")
        with cluster() as (address, _):
            begun = time.monotonic()
            start(Path(name) / "0", data, "--cluster", address).communicate()
            whole = time.monotonic() - begun
        print(f"without a kill: {whole:.0f} s, the same bytes: {tables(Path(name) / '0') == expected}", flush=True)
        while done < arguments.kills:
            delay, folder = generator.uniform(0.0, whole), Path(name) / str(done + 1)
            with cluster() as (address, (_, raylet)):
                run = start(folder, data, "--cluster", address)
                time.sleep(delay)
                if run.poll() is not None:
                    continue  # it was faster this time
                jobs = kill_node(raylet)
                _, printed = run.communicate()
                left = psutil.wait_procs(jobs, timeout=10)[1]
            lost = [line for line in printed.splitlines() if "was lost" in line]
            right = run.returncode == 0 and tables(folder) == expected and not left
            faults += not right
            done += 1
            print(
                f"kill {done} after {delay:.0f} s, {'in' if jobs else 'not in'} a training: status "
                f"{run.returncode}, the same bytes: {tables(folder) == expected}, processes left: {len(left)}; "
                f"{'; '.join(lost) or 'nothing was retried'}",
                flush=True,
            )
            if run.returncode:
                print(printed[-2000:])
    sys.exit(f"{faults} of {done} went wrong" if faults else 0)


if __name__ == "__main__":
    main()

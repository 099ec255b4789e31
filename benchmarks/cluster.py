"""What a Ray cluster costs: time beside the local executor, and memory of the pipeline's process.

    python -m benchmarks.cluster                     six folds, here and on two nodes of one core, in turn: the ratios
    python -m benchmarks.cluster --memory            thirty folds of 100 MB each come back: anonymous memory

The nodes are on this machine. Time is of the whole command: with a cluster, connecting to it and checking its nodes is
included, and so is starting the nodes themselves in the second ratio. Aims: at most 1.15, flat memory.
For memory, a stand-in takes the place of the training: it writes a file of random bytes and marks the fold finished.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.common import ROOT, machine, parser, run
from tests.cluster import cluster
from tests.reliability.pipeline import RECIPE
from tests.trees import make_tree

FOLDS, EPOCHS = 6, 50
STAND_IN = """
if __name__ == "__main__" and "--config" in sys.argv:
    import os
    from models.finetuning import fold_run
    folder = fold_run.load(Path(sys.argv[sys.argv.index("--config") + 1])).of_fold(int(sys.argv[-1])).folder
    folder.path.mkdir(parents=True)
    folder.start({"settings": {}})
    (folder / "model.keras").write_bytes(os.urandom(10**8))
    folder.finish({}, ["model.keras"])
    sys.exit()
"""


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--memory", action="store_true", help="measure memory instead of time")
    command.add_argument("--pairs", type=int, default=3, help="of runs for the ratio")
    command.add_argument("--epochs", type=int, default=EPOCHS, help="of a fold: for 20 to 30 seconds of it")
    arguments = command.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            measure_memory(Path(folder))
        else:
            measure_time(Path(folder), arguments.pairs, arguments.epochs)


def measure_time(folder: Path, pairs: int, epochs: int) -> None:
    """Prints the ratio of each pair, and their median."""
    data = make_tree(folder / "data", drivers=FOLDS, images_per_class=4)
    ratios, with_start = [], []
    for number in range(pairs):
        here, fold = timed(folder / f"here{number}", data, epochs)
        begun = time.perf_counter()
        with cluster() as (address, _):
            there, _ = timed(folder / f"there{number}", data, epochs, "--cluster", address)
            whole = time.perf_counter() - begun
        ratios.append(there / here)
        with_start.append(whole / here)
        print(
            f"pair {number + 1}: {here:.0f} s here ({fold:.0f} s a fold), {there:.0f} s on the cluster: "
            f"{ratios[-1]:.2f}; with the start of its nodes {whole:.0f} s: {with_start[-1]:.2f}",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.2f}; with the start of the nodes {statistics.median(with_start):.2f}")


def timed(folder: Path, data: Path, epochs: int, *words: str) -> tuple[float, float]:
    """Seconds of a run of six folds, and of one of its folds."""
    places = ["--data", data, "--runs", folder / "runs", "--cache", folder / "cache", "--run", "r"]
    length = ["--epochs", epochs, "--patience", epochs]
    begun = time.perf_counter()
    run("models/mobilenet.py", *places, *RECIPE, "--jobs", 2, "--folds", FOLDS, *words, *length)
    seconds = time.perf_counter() - begun
    from common.files import read_json

    return seconds, statistics.median(row["seconds"] for row in read_json(folder / "runs" / "r" / "durations.json"))


def measure_memory(folder: Path) -> None:
    """Prints the anonymous memory of the pipeline's process as folds come back."""
    code = folder / "code"
    code.mkdir()
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["cp", "--parents", "-t", code, *listed.stdout.decode().split()], cwd=ROOT, check=True)
    script = code / "models" / "mobilenet.py"
    before, _, start = script.read_text().rpartition("\nif __name__")
    script.write_text(f"{before}{STAND_IN}\nif __name__{start}")
    data = make_tree(folder / "data", drivers=30, images_per_class=1)
    places = ["--data", data, "--runs", folder / "runs", "--cache", folder / "cache", "--run", "r"]
    with cluster((1, 1), store=400 * 2**20) as (address, _):
        words = [script, *places, "--weights", "none", "--folds", 30, "--jobs", 2, "--cluster", address]
        process = psutil.Popen([sys.executable, *map(str, words)], cwd=code)
        samples = list[tuple[int, int]]()
        while process.poll() is None:
            finished = len(list(folder.glob("runs/r/mobilenet/fold_*/finished.json")))
            samples.append((finished, anonymous(process)))
            time.sleep(0.05)
    for finished in range(0, 31, 5):
        sizes = [size for count, size in samples if finished <= count < finished + 5]
        if sizes:
            print(f"{finished:2} to {finished + 4:2} folds are back: {max(sizes) / 2**20:.0f} MiB at most")


def anonymous(process: psutil.Process) -> int:
    """Bytes of anonymous memory; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()

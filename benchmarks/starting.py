"""How long the commands take that have nothing to compute: `--help`, and a finished run started again.

    python -m benchmarks.starting --data DIR                       trains one small network first, about a minute
    python -m benchmarks.starting --again ./run_all.sh --demo      of a command that has finished before: just runs it

Aims: 1 s for any --help, 5 s for a finished run (files are checked by size and time, not read).
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, data_folder, machine, parser, run, seconds

HELP = (
    "-m pipeline",
    "models/inception_v3.py",
    "models/bottleneck.py",
    "-m ensemble.blend",
    "-m tools.predict",
    "-m tools.compare",
)


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=data_folder, help="a folder in Kaggle's layout")
    command.add_argument("--again", nargs=argparse.REMAINDER, default=[], help="a command that has finished before")
    command.add_argument("--times", type=int, default=5, help="that each is run; the median counts")
    arguments = command.parse_args()
    print(machine())
    for name in HELP:
        print(f"{name + ' --help':34}{_median(arguments.times, [*name.split(), '--help']):6.2f} s", flush=True)
    if arguments.again:
        taken = []
        for _ in range(arguments.times):
            begun = time.perf_counter()
            subprocess.run(arguments.again, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - begun)
        print(f"{' '.join(arguments.again)[:33]:34}{statistics.median(taken):6.2f} s, of a finished run")
    elif arguments.data:
        with tempfile.TemporaryDirectory() as temporary:
            words: list[Any] = [
                "models/mobilenet.py",
                "--data",
                arguments.data,
                "--quick",
                "--weights",
                "none",
                "--epochs",
                1,
            ]
            words += ["--runs", Path(temporary) / "runs", "--cache", Path(temporary) / "cache", "--train-images", 100]
            run(*words)
            print(f"{'a finished model, started again':34}{_median(arguments.times, words):6.2f} s")


def _median(times: int, words: list[Any]) -> float:
    return statistics.median(seconds(*words) for _ in range(times))


if __name__ == "__main__":
    main()

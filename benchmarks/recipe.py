"""Wall clock of one fold: this repository's default recipe, to the loss that the tutorials' script ends with.

    python -m benchmarks.recipe --data DIR --weights DIR                     about 30 minutes on 2 cores
    python -m benchmarks.recipe --data DIR --weights DIR --plain-epochs 1    to the loss after its first epoch

Both take InceptionV3 with the same pretrained weights, the same fold, and begin with an empty cache. The script trains
all layers at 224x224 with SGD 1e-3 in batches of 16, BatchNorm along, no augmentation; its seconds count from its start
to the end of the epoch that is compared, with images loaded and epochs evaluated as here. Here they count from the
start of `python models/inception_v3.py --fold K` to the line that says a held-out loss at least as low.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import MARK, ROOT, data_folder, machine, parser, run, smaller


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=data_folder, required=True, help="a folder in Kaggle's layout")
    command.add_argument("--weights", required=True, help="a folder with inception_v3.weights.h5")
    command.add_argument("--fold", type=int, default=0)
    command.add_argument("--plain-epochs", type=int, default=4, help="of the tutorials' script")
    command.add_argument("--train", type=int, default=0, help="labelled images; 0 is all")
    command.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of models/inception_v3.py; the last")
    arguments = command.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = smaller(arguments.data, folder / "data", arguments.train, test=16)
        where = ["--data", data, "--runs", folder / "runs", "--run", "timed"]
        run("-m", "preprocessing.folds", *where, "--cache", folder / "cache")
        plain = plain_fold(arguments, data, folder / "runs" / "timed" / "folds.csv")
        target = plain[-1][1]
        own = ["models/inception_v3.py", *where, "--weights", arguments.weights, "--fold", arguments.fold, "--verbose"]
        reached, seen = fold([*own, "--cache", folder / "cache", *arguments.options], target)
    for number, (seconds, loss) in enumerate(plain, 1):
        print(f"plain script, epoch {number}: held-out loss {loss:.4f} after {seconds:.0f} s")
    for seconds, loss in seen:
        print(f"here: held-out loss {loss:.4f} after {seconds:.0f} s")
    if reached is None:
        print(f"here the loss {target:.4f} was not reached")
    else:
        print(f"to {target:.4f}: {plain[-1][0]:.0f} s against {reached:.0f} s, {plain[-1][0] / reached:.1f}x")


def plain_fold(arguments: argparse.Namespace, data: Path, folds: Path) -> list[tuple[float, float]]:
    """Seconds and loss after each epoch of the script."""
    weights = Path(arguments.weights) / "inception_v3.weights.h5"
    words = ["--data", data, "--folds", folds, "--fold", arguments.fold, "--batch", 16, "--weights", weights.resolve()]
    told = run("-m", "benchmarks.plain_script", *words, "--epochs", arguments.plain_epochs)
    lines = [dict(word.split("=") for word in x.split()[1:]) for x in told.splitlines() if x.startswith(MARK)]
    return [(float(line["seconds"]), float(line["loss"])) for line in lines]


def fold(words: list[Any], target: float) -> tuple[float | None, list[tuple[float, float]]]:
    """Runs a fold; the seconds until it says a loss as low as the target, and each loss with its seconds."""
    begun = time.perf_counter()
    seen: list[tuple[float, float]] = []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        if match := re.search(r"^(?:before training|epoch).*held-out log loss ([0-9.]+)", line):
            seen.append((time.perf_counter() - begun, float(match[1])))
    if process.wait():
        sys.exit("models/inception_v3.py failed; run it by itself to see why")
    return next((seconds for seconds, loss in seen if loss <= target), None), seen


if __name__ == "__main__":
    main()

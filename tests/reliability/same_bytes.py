"""Runs one command twice, with one and with three data workers and caches of their own: the same bytes must come out.

    python -m tests.reliability.same_bytes --data DIR --weights DIR

A fold of inception_v3 in bfloat16, on 100 training images at 75x100, and the blend of it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from common.files import sha256_of
from common.run_folder import REPOSITORY

COMPARED = ("out_of_fold.csv", "test.csv", "out_of_fold_features.npy", "test_features.npy")
SETTINGS = ("--quick", "--train-images", "100", "--image-size", "75x100", "--epochs", "1", "--fold", "0")


def run_once(folder: Path, data: Path, weights: Path, workers: int) -> dict[str, str]:
    """SHA-256 of the predictions, the features and the submission."""
    places = ["--data", str(data), "--run", "same", "--runs", str(folder / "runs")]
    options = ["--weights", str(weights), "--cache", str(folder / "cache"), "--precision", "mixed_bfloat16"]
    train = [sys.executable, "models/inception_v3.py", *places, *options, *SETTINGS, "--workers", str(workers)]
    blend = [sys.executable, "-m", "ensemble.blend", *places, "--allow-missing"]
    blend += ["--submissions", str(folder)]
    for command in (train, blend):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    fold_folder = folder / "runs" / "same" / "inception_v3" / "fold_0"
    return {path.name: sha256_of(path) for path in (*(fold_folder / name for name in COMPARED), folder / "same.csv")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.same_bytes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sums = [run_once(Path(place) / str(n), arguments.data, arguments.weights, n) for n in (1, 3)]
    for name in sums[0]:
        print(f"{name}: {sums[0][name][:16]} and {sums[1][name][:16]}")
    print("the same bytes" if sums[0] == sums[1] else "DIFFERENT BYTES")
    sys.exit(sums[0] != sums[1])


if __name__ == "__main__":
    main()

"""What the benchmarks share: processes of their own, their figures, the machine, a smaller copy of a data folder."""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble.result import Predictions

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = {"vgg16": "VGG16", "inception_v3": "InceptionV3", "resnet50": "ResNet50"}
MARK = "figures"  # begins the line of a process that has them
PEAK_SIDE = 4096  # of the square matrices whose product is the machine's peak


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line whose help is the module's text."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_parser(doc: str | None) -> argparse.ArgumentParser:
    """The same, with the options of `predictions_of`."""
    from common.run_folder import RUNS
    from common.settings import names_in

    command = parser(doc)
    command.add_argument("--run", default="full", metavar="NAME")
    command.add_argument("--runs", type=Path, default=RUNS, metavar="DIR")
    command.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    command.add_argument("--models", type=names_in, default=[], metavar='"A B"', help="these, in this order [all]")
    return command


def predictions_of(arguments: argparse.Namespace) -> "Predictions":
    """The predictions of the models of a run.

    Raises:
        UserError: a table is missing or malformed.
    """
    from common.competition import SAMPLE_SUBMISSION
    from common.run_folder import RunFolder
    from ensemble.members import run_source
    from preprocessing.dataset import required

    run = RunFolder.of(arguments.run, arguments.runs).path
    return run_source(run, required(arguments.data) / SAMPLE_SUBMISSION, arguments.models).read()[0]


def data_folder(text: str) -> Path:
    """The type of --data: a whole data folder, by its absolute path, since processes are started elsewhere."""
    from common.errors import UserError
    from preprocessing.dataset import locate

    try:
        return (locate(Path(text)) or Path(text)).resolve()
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(*words: object, python: str = sys.executable, **environment: str) -> str:
    """Runs `python WORDS...` in the repository; what it prints. A failure ends this process with its message."""
    variables = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    command = [python, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def figures(*words: object, python: str = sys.executable, **environment: str) -> dict[str, float]:
    """What a process of its own measured, by name; it prints them with `tell`."""
    lines = [line for line in run(*words, python=python, **environment).splitlines() if line.startswith(MARK)]
    return {name: float(value) for name, _, value in (word.partition("=") for word in lines[-1].split()[1:])}


def tell(**measured: float) -> None:
    """Prints figures for `figures`."""
    print(MARK, *(f"{name}={value:.6g}" for name, value in measured.items()), flush=True)


def seconds(*words: object, **environment: str) -> float:
    """Wall clock of `python WORDS...`."""
    begun = time.perf_counter()
    run(*words, **environment)
    return time.perf_counter() - begun


def machine() -> str:
    """One line: processor, cores, and how busy they are with other work."""
    from common.environment import cores

    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    busy = os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {cores()} cores, load {busy:.1f} before the start"


def matmul_peak(dtype: str, side: int = PEAK_SIDE, rounds: int = 3) -> float:
    """TFLOP/s of the backend's product of two square matrices: the best of some rounds. For a process of its own."""
    import keras
    import numpy as np

    values = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    one = keras.ops.cast(keras.ops.convert_to_tensor(values), dtype)
    best = float("inf")
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        product = keras.ops.matmul(one, one)
        float(keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32")))
        best = min(best, time.perf_counter() - begun)
    return 2e-12 * side**3 / best


def smaller(data: Path, folder: Path, train: int, test: int) -> Path:
    """A data folder of some photographs of another, evenly spaced, in Kaggle's layout; 0 is all of them."""
    import csv

    from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER
    from common.files import link_or_copy

    for name, most in ((DRIVER_LIST, train), (SAMPLE_SUBMISSION, test)):
        with (data / name).open(newline="") as stream:
            header, *rows = csv.reader(stream)
        kept = _spaced(rows, most)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([header, *kept])
        for row in kept:
            place = f"{TRAIN_FOLDER}/{row[1]}/{row[2]}" if name == DRIVER_LIST else f"{TEST_FOLDER}/{row[0]}"
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(data / place, folder / place)
    return folder


def _spaced(rows: Sequence[list[str]], most: int) -> list[list[str]]:
    count = min(most or len(rows), len(rows))
    return [rows[number * len(rows) // count] for number in range(count)]

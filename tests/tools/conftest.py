"""A run with real small networks, trained once for all tests of the tools."""

import os
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest

from tests.commands import run_python, succeeded
from tests.trees import make_tree

EXPERIMENTS = """
architecture = "mobilenet"
settings = { image_size = "32x32" }
[experiments.reference]
head_start = "logistic"
epochs = 0
[experiments.features]
classifier = "logistic"
calibrate = false
regularisation = 10.0
"""


@dataclass(frozen=True)
class TrainedRun:
    """Where it lies.

    Attributes:
        data: the data folder it was trained on.
        runs: the folder of runs, with the run `tiny` in it: one fold of `mobilenet`, which pools two feature maps.
    """

    data: Path
    runs: Path

    @property
    def folder(self) -> Path:
        return self.runs / "tiny" / "mobilenet" / "fold_0"

    @property
    def choice(self) -> list[str]:
        return ["--run", "tiny", "--runs", str(self.runs)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"  # once for all test processes
    data, runs = folder / "data", folder / "runs"
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            _train(data, runs, folder)
    return TrainedRun(data, runs)


def _train(data: Path, runs: Path, folder: Path) -> None:
    make_tree(data, size=(120, 160))
    options = "--weights none --image-size 32x48 --pooled-layers conv_pw_11_relu,conv_pw_13_relu --epochs 0"
    options += " --head-start logistic --head-regularisation 10 --precision float32 --folds 2 --fold 0 --run tiny"
    where = ["--data", data, "--runs", runs, "--cache", folder / "cache"]
    succeeded(run_python("models/mobilenet.py", *options.split(), *where))

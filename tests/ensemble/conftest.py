"""A small run folder as the training stage leaves it, with the data folder it was made of."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from common.competition import CLASSES
from common.tables import write_predictions
from tests.fold_runs import finish_fold

SEEDS = st.integers(0, 2**32 - 1)
FOLDS = 3
DRIVERS = 9
TEST_IMAGES = 45


def predictions(random: np.random.Generator, members: int, images: int, concentration: float = 0.5) -> np.ndarray:
    """Random predictions, shape (members, images, 10)."""
    return random.dirichlet(np.full(10, concentration), size=(members, images))


def labels_of(random: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Labels drawn from probabilities of shape (images, 10), so that these are calibrated."""
    return (random.random((len(truth), 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(0, 9)


def informed(random: np.random.Generator, labels: np.ndarray, skill: float) -> np.ndarray:
    """Predictions that lean to the true class, shape (images, 10)."""
    logits = random.normal(size=(len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), labels] += skill
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class SmallRun:
    """Paths and truth of a generated run."""

    def __init__(self, root: Path, folds: pd.DataFrame, test_labels: pd.DataFrame) -> None:
        self.root, self.name = root, "trial"
        self.folds, self.test_labels = folds, test_labels
        self.run, self.data = root / "runs" / self.name, root / "data"
        self.sample, self.labels = self.data / "sample_submission.csv", root / "labels.csv"
        self.submission = root / "submissions" / f"{self.name}.csv"

    def moved(self, root: Path) -> "SmallRun":
        """A copy of all its files in another folder."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return SmallRun(root, self.folds, self.test_labels)

    def fold_folder(self, model: str, fold: int) -> Path:
        return self.run / model / f"fold_{fold}"

    def add_model(self, model: str, skill: float, seed: int) -> None:
        for fold in range(FOLDS):
            random = np.random.default_rng([seed, fold])
            known = self.folds[self.folds["fold"] == fold].sample(frac=1, random_state=seed)
            test = self.test_labels.sample(frac=1, random_state=seed + fold)
            for name, part in {"out_of_fold.csv": known, "test.csv": test}.items():
                labels = part["classname"].map(CLASSES.index).to_numpy()
                write_predictions(self.fold_folder(model, fold) / name, part["img"], informed(random, labels, skill))
            finish_fold(self.run, model, fold, {"architecture": model})

    def change(self, path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
        """Rewrites a table through a function of the frame, as if it had been written so."""
        change(pd.read_csv(path)).to_csv(path, index=False)
        if path.parent.name.startswith("fold_"):
            finish_fold(self.run, path.parts[-3], int(path.parent.name.removeprefix("fold_")))
        return path

    @property
    def command(self) -> list[str]:
        return [
            *("--run", self.name, "--runs", str(self.root / "runs"), "--data", str(self.data)),
            *("--submissions", str(self.root / "submissions")),
        ]


@pytest.fixture
def small(tmp_path: Path) -> SmallRun:
    return make_small(tmp_path)


def make_small(root: Path) -> SmallRun:
    """Three models of unequal skill on three folds of nine drivers, and 45 test images in no particular order."""
    rows = [
        (f"img_{driver}_{number}_{copy}.jpg", f"p{driver:03}", classname, driver % FOLDS)
        for driver in range(DRIVERS)
        for number, classname in enumerate(CLASSES)
        for copy in range(2)
    ]
    folds = pd.DataFrame(rows, columns=["img", "subject", "classname", "fold"])
    random = np.random.default_rng(7)
    images = [f"img_{number}.jpg" for number in random.permutation(TEST_IMAGES)]
    classes = random.choice(CLASSES, size=TEST_IMAGES)
    subjects = random.choice(["p901", "p902"], size=TEST_IMAGES)
    small = SmallRun(root, folds, pd.DataFrame({"img": images, "classname": classes, "subject": subjects}))
    for folder in (small.run, small.data / "imgs/train", small.data / "imgs/test"):
        folder.mkdir(parents=True)
    folds.to_csv(small.run / "folds.csv", index=False)
    folds[["subject", "classname", "img"]].to_csv(small.data / "driver_imgs_list.csv", index=False)
    pd.DataFrame(0.1, index=pd.Index(images, name="img"), columns=list(CLASSES)).to_csv(small.sample)
    small.test_labels.to_csv(small.labels, index=False)
    small.add_model("vgg16", 2.0, 1)
    small.add_model("resnet50", 2.5, 2)
    small.add_model("inception_v3", 1.0, 3)
    return small

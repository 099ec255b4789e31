"""Tables from anywhere: blended without a run folder, and every mistake in them is one line."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.metric import log_loss
from common.tables import read_predictions, write_predictions
from tests.commands import here
from tests.ensemble.conftest import informed


@dataclass
class Loose:
    """Two models' tables and features, labels and folds in a folder."""

    root: Path
    truth: pd.DataFrame

    def path(self, name: str) -> Path:
        return self.root / name

    def words(self, *more: object, test: bool = False) -> list[object]:
        words = ["--predictions", self.path("a.csv"), self.path("b.csv"), "--labels", self.path("labels.csv")]
        if test:
            words += ["--test-predictions", self.path("a_test.csv"), self.path("b_test.csv")]
            words += ["--submissions", self.path("submissions")]
        return [*words, "--runs", self.path("runs"), *more]

    def change(self, name: str, change) -> str:
        change(pd.read_csv(self.path(name))).to_csv(self.path(name), index=False)
        return str(self.path(name))


@pytest.fixture
def loose(tmp_path: Path) -> Loose:
    rows = [(f"i{d}_{c}_{n}.jpg", f"p{d}", c, d % 3) for d in range(6) for c in CLASSES for n in range(3)]
    truth = pd.DataFrame(rows, columns=["img", "subject", "classname", "fold"])
    truth[["img", "classname", "subject"]].to_csv(tmp_path / "labels.csv", index=False)
    truth.to_csv(tmp_path / "folds.csv", index=False)
    for number, name in enumerate(("a", "b")):
        for part, labels in (("", truth["classname"]), ("_test", truth["classname"][:60])):
            random = np.random.default_rng([number, len(labels)])
            order = random.permutation(len(labels))
            images = [f"t{place}.jpg" for place in order] if part else truth["img"].iloc[order]
            numbers = labels.map(CLASSES.index).to_numpy()[order]
            write_predictions(tmp_path / f"{name}{part}.csv", list(images), informed(random, numbers, 1.5))
            features = np.eye(10)[numbers] + 0.3 * random.normal(size=(len(order), 10))
            np.save(tmp_path / f"{name}{part}.npy", features.astype(np.float16))
    return Loose(tmp_path, truth)


def test_whole_path(loose: Loose) -> None:
    features = ["--features", loose.path("a.npy"), loose.path("b.npy")]
    features += ["--test-features", loose.path("a_test.npy"), loose.path("b_test.npy")]
    words = loose.words("--folds", loose.path("folds.csv"), *features, test=True)
    done = here("ensemble.blend", *words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.search(r"neighbours: \d+ at most, in the features of [ab]", done.stdout)
    submission = read_predictions(loose.path("submissions/tables.csv"))
    assert list(submission.index) == list(read_predictions(loose.path("a_test.csv")).index)
    labels = [loose.truth["classname"].map(CLASSES.index)[int(name[1:-4])] for name in submission.index]
    single = read_predictions(loose.path("a_test.csv")).to_numpy()
    assert log_loss(submission.to_numpy(), np.array(labels)) < log_loss(single, np.array(labels)) - 0.2
    record = json.loads(loose.path("runs/tables/ensemble/blend.json").read_text())
    assert record["nested_log_loss"] < record["nested_log_loss_without_neighbours"]
    assert set(record["weights"]) == {"a", "b"}
    assert "nothing to do" in here("ensemble.blend", *words).stdout
    off = here("ensemble.blend", *words, "--no-neighbours")
    assert "off, by --no-neighbours" in off.stdout and "nothing to do" not in off.stdout


def test_with_the_data_the_rows_are_those_of_the_sample_submission_in_its_order(loose: Loose) -> None:
    for name in ("train", "test"):
        loose.path(f"data/imgs/{name}").mkdir(parents=True)
    (loose.path("data") / "driver_imgs_list.csv").write_text("subject,classname,img\n")
    sample = pd.DataFrame(0.1, index=range(60), columns=list(CLASSES))
    sample.insert(0, "img", [f"t{number}.jpg" for number in reversed(range(60))])
    path = loose.path("data/sample_submission.csv")
    sample.to_csv(path, index=False)
    words = loose.words("--data", loose.path("data"), test=True)
    submission = loose.path("submissions/tables.csv")
    assert here("ensemble.blend", *loose.words(test=True)).returncode == 0
    as_in_tables = read_predictions(submission)
    assert here("ensemble.blend", *words).returncode == 0
    pd.testing.assert_frame_equal(read_predictions(submission), as_in_tables.loc[list(sample["img"])])
    assert "nothing to do" in here("ensemble.blend", *words).stdout

    sample.iloc[1:].to_csv(path, index=False)
    done = here("ensemble.blend", *words)
    assert done.returncode == 2
    assert "a_test.csv: expected exactly the images of the sample submission (59)" in done.stderr


def test_without_test_tables_drivers_or_folds(loose: Loose) -> None:
    loose.change("labels.csv", lambda table: table.drop(columns="subject"))
    done = here("ensemble.blend", *loose.words("--run", "mine", "--test-drivers", 3))
    assert done.returncode == 0 and done.stderr == ""
    assert "stand in for drivers" in done.stdout and "of 3 new drivers" in done.stdout
    assert not loose.path("submissions").exists()
    assert read_predictions(loose.path("runs/mine/ensemble/out_of_fold.csv")).shape == (180, 10)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("b.csv", lambda t: t.iloc[1:], "1 missing (i"),
        ("b.csv", lambda t: t.assign(img=t["img"].replace({"i0_c0_0.jpg": "x.jpg"})), "do not belong there (x.jpg)"),
        ("b_test.csv", lambda t: t.iloc[:-1], "1 missing (t"),
        ("a.csv", lambda t: t.iloc[:0], "0 rows"),
        ("labels.csv", lambda t: t.iloc[2:], "found none for 2: i0_c0_0.jpg, i0_c0_1.jpg"),
        ("labels.csv", lambda t: t.assign(classname="c0"), "another classname than in"),
        ("folds.csv", lambda t: t[t["img"] != "i0_c0_0.jpg"], "do not belong there (i0_c0_0.jpg)"),
        ("folds.csv", lambda t: t.assign(fold=range(len(t))), "a leak"),
    ],
)
def test_mistakes_are_one_line(loose: Loose, name: str, change, words: str) -> None:
    path = loose.change(name, change)
    done = here("ensemble.blend", *loose.words("--folds", loose.path("folds.csv"), test=True))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert path in done.stderr and words in done.stderr
    assert not loose.path("submissions").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--test-predictions", "a_test.csv"), "--test-predictions: expected a file for each of --predictions"),
        (("--features", "a.npy", "b.csv"), "b.csv: cannot be read as an array of features"),
        (("--features", "a_test.npy", "b.npy"), "a_test.npy: expected floats of shape (180, features)"),
        (("--features", "a.npy", "none.npy"), "none.npy: not found"),
        (("--predictions", "a.csv", "none.csv"), "none.csv: not found"),
        (("--models", "a"), "--models is for a run's models"),
        (("--all-drivers", "beside"), "--all-drivers is for a run's models"),
        (("--allow-missing",), "--allow-missing is for a run's models"),
    ],
)
def test_files_that_do_not_belong_together(loose: Loose, words: tuple[str, ...], expected: str) -> None:
    given = [str(loose.path(word)) if "." in word else word for word in words]
    done = here("ensemble.blend", *loose.words(*given))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and expected in done.stderr
    assert "--folds is for tables" in here("ensemble.blend", "--folds", "folds.csv").stderr
    assert "expected --labels FILE" in here("ensemble.blend", "--predictions", "a.csv").stderr

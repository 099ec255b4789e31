"""Tables from anywhere: blended without a run folder, and every mistake in them is one line."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.metric import log_loss
from common.tables import read_predictions, write_predictions
from tests.commands import here, refusal
from tests.ensemble.conftest import informed

TABLES = "--predictions a.csv b.csv --labels labels.csv --runs runs"
WITH_TEST = f"{TABLES} --test-predictions a_test.csv b_test.csv --submissions submissions"
SUBMISSION = Path("submissions/tables.csv")


def blend(*words: str) -> subprocess.CompletedProcess:
    return here("ensemble.blend", *" ".join(words).split())


def change(name: str, changed: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    changed(pd.read_csv(name)).to_csv(name, index=False)


@pytest.fixture(autouse=True)
def truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Two models' tables and features, labels and folds, in the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = [(f"i{d}_{c}_{n}.jpg", f"p{d}", c, d % 3) for d in range(6) for c in CLASSES for n in range(3)]
    truth = pd.DataFrame(rows, columns=["img", "subject", "classname", "fold"])
    truth[["img", "classname", "subject"]].to_csv("labels.csv", index=False)
    truth.to_csv("folds.csv", index=False)
    for number, name in enumerate(("a", "b")):
        for part, labels in (("", truth["classname"]), ("_test", truth["classname"][:60])):
            random = np.random.default_rng([number, len(labels)])
            order = random.permutation(len(labels))
            images = [f"t{place}.jpg" for place in order] if part else truth["img"].iloc[order]
            numbers = labels.map(CLASSES.index).to_numpy()[order]
            write_predictions(Path(f"{name}{part}.csv"), list(images), informed(random, numbers, 1.5))
            features = np.eye(10)[numbers] + 0.3 * random.normal(size=(len(order), 10))
            np.save(f"{name}{part}.npy", features.astype(np.float16))
    return truth


def test_whole_path(truth: pd.DataFrame) -> None:
    words = f"{WITH_TEST} --folds folds.csv --features a.npy b.npy --test-features a_test.npy b_test.npy"
    done = blend(words)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.search(r"neighbours: \d+ at most, in the features of [ab]", done.stdout)
    submission, single = read_predictions(SUBMISSION), read_predictions(Path("a_test.csv"))
    assert list(submission.index) == list(single.index)
    labels = np.array([truth["classname"].map(CLASSES.index)[int(name[1:-4])] for name in submission.index])
    assert log_loss(submission.to_numpy(), labels) < log_loss(single.to_numpy(), labels) - 0.2
    record = json.loads(Path("runs/tables/ensemble/blend.json").read_text())
    assert record["nested_log_loss"] < record["nested_log_losses"]["prior"]
    assert set(record["weights"]) == {"a", "b"}
    assert "nothing to do" in blend(words).stdout
    off = blend(words, "--no-neighbours")
    assert "off, by --no-neighbours" in off.stdout and "nothing to do" not in off.stdout


def test_with_the_data_the_rows_are_those_of_the_sample_submission_in_its_order() -> None:
    for name in ("train", "test"):
        Path(f"complete/imgs/{name}").mkdir(parents=True)
    Path("complete/driver_imgs_list.csv").write_text("subject,classname,img\n")
    images = pd.Index([f"t{number}.jpg" for number in reversed(range(60))], name="img")
    sample = pd.DataFrame(0.1, index=images, columns=list(CLASSES))
    sample.to_csv("complete/sample_submission.csv")
    assert blend(WITH_TEST).returncode == 0
    as_in_tables = read_predictions(SUBMISSION)
    assert blend(WITH_TEST, "--data complete").returncode == 0
    pd.testing.assert_frame_equal(read_predictions(SUBMISSION), as_in_tables.loc[images])
    assert "nothing to do" in blend(WITH_TEST, "--data complete").stdout

    sample.iloc[1:].to_csv("complete/sample_submission.csv")
    told = refusal(blend(WITH_TEST, "--data complete"))
    assert "a_test.csv: expected exactly the images of the sample submission (59)" in told


def test_without_test_tables_drivers_or_folds() -> None:
    change("labels.csv", lambda table: table.drop(columns="subject"))
    done = blend(TABLES, "--run mine --test-drivers 3")
    assert done.returncode == 0 and done.stderr == ""
    assert "stand in for drivers" in done.stdout and "of 3 new drivers" in done.stdout
    assert not Path("submissions").exists()
    assert read_predictions(Path("runs/mine/ensemble/out_of_fold.csv")).shape == (180, 10)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
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
def test_mistakes_are_one_line(name: str, changed: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    change(name, changed)
    told = refusal(blend(WITH_TEST, "--folds folds.csv"))
    assert name in told and words in told
    assert not Path("submissions").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--test-predictions a_test.csv", "--test-predictions: expected a file for each of --predictions"),
        ("--features a.npy b.csv", "b.csv: cannot be read as an array of features"),
        ("--features a_test.npy b.npy", "a_test.npy: expected floats of shape (180, features)"),
        ("--features a.npy none.npy", "none.npy: No such file"),
        ("--predictions a.csv none.csv", "none.csv: No such file"),
        ("--predictions a.csv .", ".: Is a directory"),
        ("--models a", "--models is for a run's models"),
        ("--all-drivers beside", "--all-drivers is for a run's models"),
        ("--allow-missing", "--allow-missing is for a run's models"),
    ],
)
def test_files_that_do_not_belong_together(words: str, expected: str) -> None:
    assert expected in refusal(blend(TABLES, words))


def test_options_of_tables_need_tables() -> None:
    assert "--folds is for tables" in blend("--folds folds.csv").stderr
    assert "expected --labels FILE" in blend("--predictions a.csv").stderr

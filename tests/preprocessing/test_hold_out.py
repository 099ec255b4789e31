"""A practice competition: the named drivers become the test set, and only the labels beside it know who they are."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from common.errors import UserError
from preprocessing import dataset
from preprocessing.dataset import Dataset
from preprocessing.hold_out import hold_out
from tests.commands import here


@pytest.fixture
def data(tiny_tree: Callable[..., Path], tmp_path: Path) -> Dataset:
    return dataset.load(tiny_tree(drivers=4, images_per_class=2), tmp_path / "cache")


def test_the_held_out_drivers_are_the_test_set_and_nowhere_else(data: Dataset, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    options = ["--data", data.root, "--cache", tmp_path / "cache", "--drivers", "p012", "p014"]
    done = here("preprocessing.hold_out", *options, "--out", tmp_path / "practice")
    assert "40 training images, 40 test images" in done.stdout
    practice = dataset.load(tmp_path / "practice", tmp_path / "cache")
    assert sorted(practice.train["subject"].unique()) == ["p011", "p013"]
    kept = data.train[data.train["subject"].isin(["p011", "p013"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(practice.train, kept)

    truth = pd.read_csv(tmp_path / "practice_test_labels.csv")
    assert list(truth.columns) == ["img", "subject", "classname"]
    assert list(truth["img"]) == practice.test
    held = data.train[data.train["subject"].isin(["p012", "p014"])]
    labelled = []
    for rows, path in (
        (held, lambda row: data.train_path(row.img, row.classname)),
        (truth, lambda row: practice.test_path(row.img)),
    ):
        labelled.append(sorted((row.subject, row.classname, path(row).read_bytes()) for row in rows.itertuples()))
    assert labelled[0] == labelled[1], "every picture kept its label"
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before

    # neither a name nor the order tells the class or the driver
    assert not set(truth["img"]) & set(data.train["img"])
    assert list(truth["img"]) == sorted(truth["img"])
    assert not truth["classname"].is_monotonic_increasing
    assert not truth["subject"].is_monotonic_increasing
    other = pd.read_csv(hold_out(data, ["p012", "p014"], tmp_path / "other", seed=1))
    assert list(other["classname"]) != list(truth["classname"])


def test_the_new_folder_outlives_the_old_one_and_its_links(data: Dataset, tmp_path: Path) -> None:
    first = data.train.iloc[0]
    linked = data.train_path(first["img"], first["classname"])
    linked.rename(tmp_path / "elsewhere.jpg")
    linked.symlink_to(tmp_path / "elsewhere.jpg")
    hold_out(data, ["p014"], tmp_path / "practice")
    assert not [path for path in (tmp_path / "practice").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    ("drivers", "out", "words"),
    [
        (["p011", "p0122"], "practice", r"'p0122' is not in the data\. Did you mean p012\? All drivers: p011 .* p014"),
        (["p011", "p012", "p013", "p014"], "practice", "at least one must be left"),
        (["p011"], "mine", "is there already"),
        (["p011"], "data_1/practice", "never written to"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    data: Dataset, tmp_path: Path, drivers: list[str], out: str, words: str
) -> None:
    (tmp_path / "mine_test_labels.csv").write_text("mine")
    with pytest.raises(UserError, match=words):
        hold_out(data, drivers, tmp_path / out)
    assert (tmp_path / "mine_test_labels.csv").read_text() == "mine"
    assert not (tmp_path / out).exists()

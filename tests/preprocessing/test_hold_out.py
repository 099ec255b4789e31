"""A practice competition: the named drivers become the test set, and only the labels beside it know who they are."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from common.errors import UserError
from preprocessing import dataset
from preprocessing.dataset import Dataset
from preprocessing.hold_out import hold_out
from tests.commands import module


@pytest.fixture
def data(tiny_tree: Callable[..., Path], tmp_path: Path) -> Dataset:
    return dataset.load(tiny_tree(drivers=4, images_per_class=2), tmp_path / "cache")


def test_the_held_out_drivers_are_the_test_set_and_nowhere_else(data: Dataset, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    labels = hold_out(data, ["p012", "p014"], tmp_path / "practice")
    practice = dataset.load(tmp_path / "practice", tmp_path / "cache")
    assert sorted(practice.train["subject"].unique()) == ["p011", "p013"]
    kept = data.train[data.train["subject"].isin(["p011", "p013"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(practice.train, kept)

    assert labels == tmp_path / "practice_test_labels.csv"
    truth = pd.read_csv(labels)
    assert list(truth.columns) == ["img", "subject", "classname"]
    assert list(truth["img"]) == practice.test
    held = data.train[data.train["subject"].isin(["p012", "p014"])]
    originals = sorted(
        (row.subject, row.classname, data.train_path(row.img, row.classname).read_bytes()) for row in held.itertuples()
    )
    renamed = sorted(
        (row.subject, row.classname, practice.test_path(row.img).read_bytes()) for row in truth.itertuples()
    )
    assert renamed == originals, "every picture kept its label"
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before


def test_neither_a_name_nor_the_order_tells_the_class_or_the_driver(data: Dataset, tmp_path: Path) -> None:
    truth = pd.read_csv(hold_out(data, ["p012", "p014"], tmp_path / "practice"))
    assert not set(truth["img"]) & set(data.train["img"])
    assert list(truth["img"]) == sorted(truth["img"])
    assert not truth["classname"].is_monotonic_increasing
    assert not truth["subject"].is_monotonic_increasing
    again = pd.read_csv(hold_out(data, ["p012", "p014"], tmp_path / "again"))
    pd.testing.assert_frame_equal(again, truth)
    other = pd.read_csv(hold_out(data, ["p012", "p014"], tmp_path / "other", seed=1))
    assert list(other["classname"]) != list(truth["classname"])


def test_the_new_folder_outlives_the_old_one_and_its_links(data: Dataset, tmp_path: Path) -> None:
    first = data.train.iloc[0]
    linked = data.train_path(first["img"], first["classname"])
    linked.rename(tmp_path / "elsewhere.jpg")
    linked.symlink_to(tmp_path / "elsewhere.jpg")
    hold_out(data, ["p014"], tmp_path / "practice")
    assert not [path for path in (tmp_path / "practice").rglob("*") if path.is_symlink()]


def test_an_unknown_driver_is_answered_with_the_nearest_and_all(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'p0122' is not in the data\. Did you mean p012\? All drivers: p011 .* p014"):
        hold_out(data, ["p011", "p0122"], tmp_path / "practice")
    assert not (tmp_path / "practice").exists()


def test_somebody_must_be_left_to_train_on(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one must be left"):
        hold_out(data, ["p011", "p012", "p013", "p014"], tmp_path / "practice")


@pytest.mark.parametrize("there", ["practice", "practice_test_labels.csv"])
def test_what_is_there_already_is_never_replaced(data: Dataset, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        hold_out(data, ["p011"], tmp_path / "practice")
    assert (tmp_path / there).read_text() == "mine"


def test_the_data_folder_itself_is_no_place_for_it(data: Dataset) -> None:
    with pytest.raises(UserError, match="never written to"):
        hold_out(data, ["p011"], data.root / "practice")


def test_the_command(data: Dataset, tmp_path: Path) -> None:
    options = ["--data", data.root, "--cache", tmp_path / "cache", "--out", tmp_path / "practice"]
    done = module("preprocessing.hold_out", *options, "--drivers", "p011", "p013")
    assert "40 training images, 40 test images" in done.stdout
    again = module("preprocessing.hold_out", *options, "--drivers", "p011", "p013")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1

"""Folds: a partition of the images in which no driver stands on both sides, the same whatever the order of the rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.competition import CLASSES, DRIVER_LIST
from common.errors import UserError
from preprocessing.folds import ensure_folds, make_folds, number_of_folds, read_folds
from tests.commands import here


def table(counts: np.ndarray) -> pd.DataFrame:
    """Images of `counts[driver, class]`, in the order of drivers and classes."""
    rows = [
        (f"img_{driver}_{column}_{number}.jpg", f"p{driver:03d}", CLASSES[column])
        for driver, column in np.ndindex(*counts.shape)
        for number in range(counts[driver, column])
    ]
    return pd.DataFrame(rows, columns=["img", "subject", "classname"])


# Properties


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.data(), st.integers(0, 2**32))
def test_folds_partition_the_images_by_driver_whatever_the_order(drivers: int, data: st.DataObject, seed: int) -> None:
    generator = np.random.default_rng(seed)
    train = table(generator.integers(1, 7, (drivers, 10)))
    number_of_folds = data.draw(st.integers(2, drivers))
    folds = make_folds(train, number_of_folds)
    assert list(folds.columns) == ["img", "subject", "classname", "fold"]
    ordered = train.sort_values(["subject", "classname", "img"], ignore_index=True)
    pd.testing.assert_frame_equal(folds.drop(columns="fold"), ordered)
    assert set(folds["fold"]) == set(range(number_of_folds)), "every fold has images"
    assert (folds.groupby("subject")["fold"].nunique() == 1).all(), "no driver stands in two folds"
    for fold in range(number_of_folds):
        assert set(folds.loc[folds["fold"] != fold, "classname"]) == set(CLASSES)
    largest_driver = folds["subject"].value_counts().max()
    assert folds["fold"].value_counts().max() <= len(folds) / number_of_folds + largest_driver, "folds are balanced"

    shuffled = train.sample(frac=1, random_state=generator)
    pd.testing.assert_frame_equal(make_folds(shuffled, number_of_folds), folds)


# What cannot be split


@pytest.mark.parametrize(("drivers", "number_of_folds"), [(3, 4), (1, 2), (3, 1), (3, -3)])
def test_too_many_and_too_few_folds_are_refused(drivers: int, number_of_folds: int) -> None:
    with pytest.raises(UserError, match=rf"--folds {number_of_folds}: expected at least 2, .* {drivers}\."):
        make_folds(table(np.ones((drivers, 10), dtype=int)), number_of_folds)


def test_a_class_of_one_driver_would_be_missing_from_a_training_part() -> None:
    counts = np.full((4, 10), 3)
    counts[1:, 6] = 0
    with pytest.raises(UserError, match=r"training part of fold \d has no image of c6 \(drinking\)"):
        make_folds(table(counts), 2)


# Tables that are there already


@pytest.fixture
def train() -> pd.DataFrame:
    return table(np.full((4, 10), 2))


@pytest.fixture
def run(tmp_path: Path, train: pd.DataFrame) -> Path:
    ensure_folds(tmp_path / "folds.csv", train, 2)
    return tmp_path


def test_another_number_of_folds_is_refused_and_nothing_is_changed(run: Path, train: pd.DataFrame) -> None:
    before = (run / "folds.csv").read_bytes()
    with pytest.raises(UserError, match=r"has 2 folds, --folds 3 was asked for\..* --folds 2, or .*--run NAME"):
        ensure_folds(run / "folds.csv", train, 3)
    with pytest.raises(UserError, match=r"has other folds than --folds-file .*own\.csv\. Leave --folds-file out"):
        ensure_folds(run / "folds.csv", train, file=own_file(run, by_driver()))
    assert (run / "folds.csv").read_bytes() == before


def test_folds_of_other_images_say_what_differs(run: Path, train: pd.DataFrame) -> None:
    other = train.copy()
    other.loc[0, "img"] = "img_new.jpg"
    other.loc[5, "subject"] = "p003"
    with pytest.raises(UserError) as caught:
        ensure_folds(run / "folds.csv", other, 2)
    for words in (
        "rows that are not in the data: 2 (img_0_0_0.jpg p000 c0, img_0_2_1.jpg p000 c2)",
        "rows of the data that are not in it: 2 (img_0_2_1.jpg p003 c2, img_new.jpg p000 c0)",
        "another --run NAME",
    ):
        assert words in str(caught.value)


def leak(folds: pd.DataFrame) -> pd.DataFrame:
    first = folds.index[folds["subject"] == "p001"][0]
    folds.loc[first, "fold"] = 1 - folds.loc[first, "fold"]
    return folds


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (leak, "a leak: the drivers p001 are in more than one fold"),
        (lambda folds: folds.drop(columns="fold"), "expected the columns img,subject,classname,fold"),
        (lambda folds: folds.iloc[:0], "no rows"),
        (lambda folds: pd.concat([folds, folds.iloc[:1]]), r"more than once: 1 \(img_0_0_0\.jpg"),
        (lambda folds: folds.replace("c3", "c33"), "expected the classes c0..c9, found c33"),
        (lambda folds: folds.assign(fold=folds["fold"] + 1), "numbered 0, 1, .* found 1, 2"),
        (lambda folds: folds.assign(fold=0), "at least two"),
        (lambda folds: folds.assign(fold="first"), "found first"),
        (lambda folds: folds[(folds["fold"] == 0) | (folds["classname"] != "c4")], "fold 0 has no image of c4"),
    ],
)
def test_what_is_no_fold_table_is_refused(
    run: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    path = run / "folds.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(UserError, match=words) as caught:
        read_folds(path)
    assert str(path) in str(caught.value)
    assert "Correct it, or delete it" in str(caught.value)


def test_a_table_of_the_users_is_used_and_never_replaced(run: Path, train: pd.DataFrame) -> None:
    path = run / "folds.csv"
    automatic, own = path.read_bytes(), pd.read_csv(path)
    own["fold"] = own["subject"].map(OWN)
    own.to_csv(path, index=False)
    content = path.read_bytes()
    pd.testing.assert_frame_equal(ensure_folds(path, train), own, check_dtype=False)
    for change in (b"p003", b"img_3_9_1.jpg", b",c9,", b",1\n"):
        damaged = content.replace(change, b"\x00" * len(change), 1)
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"folds\.csv.* Correct it, or delete it"):
            ensure_folds(path, train)
        assert path.read_bytes() == damaged
    path.unlink()
    ensure_folds(path, train, 2)
    assert path.read_bytes() == automatic


# The user's own folds


OWN = {"p000": 2, "p001": 0, "p002": 1, "p003": 1}


def own_file(tmp_path: Path, content: pd.DataFrame) -> Path:
    path = tmp_path / "own.csv"
    content.to_csv(path, index=False)
    return path


def by_driver() -> pd.DataFrame:
    return pd.DataFrame({"subject": list(OWN), "fold": list(OWN.values())})


def by_image(train: pd.DataFrame) -> pd.DataFrame:
    return train.assign(fold=train["subject"].map(OWN)).sample(frac=1, random_state=0)


def test_a_file_by_image_or_by_driver_gives_the_same_folds(tmp_path: Path, train: pd.DataFrame) -> None:
    contents = [by_driver(), by_image(train), by_image(train)[["fold", "img"]]]
    tables = []
    for number, content in enumerate(contents):
        run = tmp_path / str(number)
        assert number_of_folds(run / "folds.csv", None, own_file(tmp_path, content), 5) == 3
        tables.append(ensure_folds(run / "folds.csv", train, file=tmp_path / "own.csv"))
        assert number_of_folds(run / "folds.csv", None, None, 5) == 3
        ensure_folds(run / "folds.csv", train, file=tmp_path / "own.csv")
        assert (run / "folds.csv").read_bytes() == (tmp_path / "0" / "folds.csv").read_bytes()
    assert dict(zip(tables[0]["subject"], tables[0]["fold"], strict=True)) == OWN
    assert list(tables[0]["img"]) == list(make_folds(train, 2)["img"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, drivers: drivers.iloc[1:], r"drivers of the data that are not in it: 1 \('p000'\)"),
        (lambda _, drivers: drivers.replace("p000", "p009"), r"drivers that are not in the data: 1 \('p009'\)"),
        (lambda _, drivers: pd.concat([drivers, drivers]), "listed more than once: p000"),
        (lambda _, drivers: drivers.assign(fold=drivers["fold"] + 1), "numbered 0, 1, .* found 1, 2, 3"),
        (lambda _, drivers: drivers.assign(fold=drivers["fold"] / 2), r"without a gap, found 0\.0, 0\.5, 1\.0"),
        (lambda _, drivers: drivers.rename(columns={"fold": "part"}), "expected the columns img,fold or subject,fold"),
        (lambda images, _: images.iloc[1:], "images of the data that are not in it: 1"),
        (lambda images, _: images.assign(fold=[0, 1] * 40), "a leak: the drivers p000, p001, p002, p003 are in more"),
    ],
)
def test_a_file_of_folds_with_a_mistake_is_refused(
    tmp_path: Path, train: pd.DataFrame, change: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame], words: str
) -> None:
    path = own_file(tmp_path, change(by_image(train), by_driver()))
    with pytest.raises(UserError, match=words) as caught:
        ensure_folds(tmp_path / "run" / "folds.csv", train, file=path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_images_that_are_left_out_may_be_in_the_file(tmp_path: Path, train: pd.DataFrame) -> None:
    broken = train["img"].isin(train.groupby("classname")["img"].first()) | (train["subject"] == "p002")
    for number, content in enumerate((by_image(train), by_driver(), by_image(train[~broken]))):
        path = tmp_path / f"{number}.csv"
        found = ensure_folds(path, train[~broken], file=own_file(tmp_path, content), left_out=train[broken])
        assert set(found["img"]) == set(train["img"][~broken])
        assert (found["fold"] == found["subject"].map(OWN)).all()
        new = pd.DataFrame({content.columns[0]: ["new"], "fold": [0]})
        with pytest.raises(UserError, match=r"that are not in the data: 1 \('new'\)"):
            own_file(tmp_path, pd.concat([content, new]))
            ensure_folds(path, train[~broken], file=tmp_path / "own.csv", left_out=train[broken])


def test_the_command_takes_the_users_own_folds(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tiny_tree(drivers=3, images_per_class=1, test_images=1)
    drivers = sorted(pd.read_csv(root / DRIVER_LIST)["subject"].unique())
    own = own_file(tmp_path, pd.DataFrame({"subject": drivers, "fold": [1, 0, 1]}))
    options = ["--data", root, "--runs", tmp_path / "runs", "--cache", tmp_path / "cache", "--run", "trial"]
    lines = here("preprocessing.folds", *options, "--folds-file", own).stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        *(["fold", "images", "drivers", "c0"], ["0", "10", "1", "1"], ["1", "20", "2", "2"])
    ]
    found = read_folds(tmp_path / "runs" / "trial" / "folds.csv")
    assert dict(zip(found["subject"], found["fold"], strict=True)) == dict(zip(drivers, [1, 0, 1], strict=True))
    done = here("preprocessing.folds", *options, "--folds-file", own, "--folds", 2)
    assert done.stderr == "error: argument --folds: not allowed with argument --folds-file\n"

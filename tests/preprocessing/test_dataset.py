"""The data folder: found, checked as a whole, and every fault told at once in the user's words."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError
from preprocessing import dataset
from preprocessing.dataset import Dataset, load, locate
from tests.commands import run_python

Factory = Callable[..., Path]


@pytest.fixture
def root(tiny_tree: Factory) -> Path:
    return tiny_tree(drivers=2, images_per_class=1, test_images=4)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def training_image(root: Path, row: int = 0) -> Path:
    """The file of a row of driver_imgs_list.csv."""
    _, classname, img = (root / DRIVER_LIST).read_text().splitlines()[row + 1].split(",")
    return root / TRAIN_FOLDER / classname / img


def first_test_image(root: Path) -> Path:
    return root / TEST_FOLDER / (root / SAMPLE_SUBMISSION).read_text().splitlines()[1].split(",")[0]


def faults_of(root: Path, cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root, cache)
    return str(caught.value)


# Whole paths


def test_a_good_folder_becomes_tables_and_is_never_written_to(root: Path, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    data = load(root, cache)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert list(data.train.columns) == ["img", "subject", "classname"]
    listed = [line.split(",") for line in (root / DRIVER_LIST).read_text().splitlines()[1:]]
    assert data.train[["subject", "classname", "img"]].values.tolist() == listed
    assert data.test == [line.split(",")[0] for line in (root / SAMPLE_SUBMISSION).read_text().splitlines()[1:]]
    assert data.broken_test == frozenset()


def test_the_command_prints_what_it_found(root: Path, cache: Path) -> None:
    good = run_python("-m", "preprocessing.check", "--data", root, "--cache", cache)
    assert "20 training images of 2 drivers" in good.stdout
    assert "4 test images" in good.stdout
    training_image(root).unlink()
    bad = run_python("-m", "preprocessing.check", "--data", root, "--cache", cache)
    assert bad.returncode == 2
    assert "error: " in bad.stderr and "Traceback" not in bad.stderr


# The second start


def test_the_fingerprint_changes_with_any_file_and_with_nothing_else(root: Path, cache: Path, tmp_path: Path) -> None:
    fingerprint = load(root, cache).fingerprint
    assert load(root, tmp_path / "another_cache").fingerprint == fingerprint
    os.utime(first_test_image(root), ns=(1, 1))
    changed = load(root, cache).fingerprint
    assert changed != fingerprint
    sample = root / SAMPLE_SUBMISSION
    sample.write_text(sample.read_text().replace("0.1", "0.2", 1))
    assert load(root, cache).fingerprint not in (fingerprint, changed)


def test_an_image_that_breaks_after_the_first_start_is_noticed(root: Path, cache: Path) -> None:
    load(root, cache)
    training_image(root).write_bytes(b"")
    assert "images that are empty: 1 (" in faults_of(root, cache)
    assert "images that are empty: 1 (" in faults_of(root, cache), "and what is remembered says the same"


def test_damaged_findings_are_replaced(root: Path, cache: Path) -> None:
    load(root, cache)
    (remembered,) = (cache / "checked").iterdir()
    whole = remembered.read_text()
    for damage in ("", "[]", "{}", '{"version": 1}', whole.replace('"broken": {}', '"broken": 3')):
        remembered.write_text(damage)
        load(root, cache)
        assert remembered.read_text() == whole


# Where it is looked for


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any data; the path is where data/ would be."""
    monkeypatch.delenv(dataset.VARIABLE, raising=False)
    monkeypatch.setattr(dataset, "KAGGLE_MOUNTS", (tmp_path / "mount",))
    monkeypatch.setattr(dataset, "DEFAULT_FOLDER", tmp_path / "data")
    return tmp_path / "data"


def test_the_option_comes_before_the_variable_the_mount_and_the_default(
    nowhere: Path, tiny_tree: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, variable, mount, default = (tiny_tree(drivers=1, images_per_class=1, test_images=1) for _ in range(4))
    assert locate(None) is None
    monkeypatch.setattr(dataset, "DEFAULT_FOLDER", default)
    assert locate(None) == default
    monkeypatch.setattr(dataset, "KAGGLE_MOUNTS", (nowhere, mount))
    assert locate(None) == mount
    monkeypatch.setenv(dataset.VARIABLE, str(variable))
    assert locate(None) == variable
    assert locate(named) == named


def test_an_empty_default_folder_is_no_data_but_a_started_one_is_an_error(nowhere: Path, root: Path) -> None:
    nowhere.mkdir()
    assert locate(None) is None
    with pytest.raises(UserError, match=r"preprocessing\.download"):
        dataset.required(None)
    (nowhere / DRIVER_LIST).write_text("subject,classname,img\n")
    (nowhere.parent / "link").symlink_to(nowhere / "disk that is not mounted")
    for folder, words in (
        (None, f"incomplete, it has no {SAMPLE_SUBMISSION}, {TRAIN_FOLDER}/, {TEST_FOLDER}/"),
        (nowhere.parent / "link", "is a link to a folder that is not there"),
        (nowhere.parent / "nothing", "--data .*does not exist"),
        (root.parent, f"The data lies in {root}: use --data {root}$"),
        (root / "imgs", f"The data lies in {root}: use --data {root}$"),
    ):
        with pytest.raises(UserError, match=words):
            locate(folder)


# The tables


CONTENTS = {
    b"": "found an empty file",
    b"subject;classname;img\np1;c0;img_1.jpg\n": "found .*subject;classname",
    b"subject,classname,img,c0,c1,c2,c3,c4,c5,c6,c7,c8,c9\n": "and 0 rows",
    b"img,img,subject,classname,c0,c1,c2,c3,c4,c5,c6,c7,c8,c9\n": "has the column img more than once",
    "subject,classname,img\n".encode("utf-16"): "is not UTF-8",
    b'subject,classname,img,c0,c1,c2,c3,c4,c5,c6,c7,c8,c9\n"p002,c0\n': "is not CSV",
}


@pytest.mark.parametrize("table", [DRIVER_LIST, SAMPLE_SUBMISSION])
def test_windows_files_are_accepted_and_what_is_no_such_table_is_refused(root: Path, cache: Path, table: str) -> None:
    path = root / table
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert (len(load(root, cache).train), len(load(root, cache).test)) == (20, 4)
    for content, words in CONTENTS.items():
        path.write_bytes(content)
        assert re.search(f"{table}: .*{words}", faults_of(root, cache))


ROWS = {
    "p011,c0,img_1.jpg,more": "fields (line 22 has 4)",
    "p011,c10,img_9000.jpg": "rows with a class other than c0..c9: 1 ('c10' of img_9000.jpg)",
    "p011, c0,img_9000.jpg": "1 (' c0' of img_9000.jpg); expected one of these, without spaces",
    ",c0,img_9000.jpg": "rows with a missing or malformed driver ID: 1 ('' of img_9000.jpg)",
    "p011 ,c0,img_9000.jpg": "malformed driver ID: 1 ('p011 ' of img_9000.jpg); expected an ID such as p002",
    "=p011,c0,img_9000.jpg": "malformed driver ID: 1 ('=p011' of img_9000.jpg)",
    "p011,c0, img_9000.jpg": "1 (' img_9000.jpg'); expected the plain name of a JPEG file such as img_1.jpg, ",
    'p011,"c0,img_9000.jpg': "is not CSV (unexpected end of data). Look for a quotation mark too many",
    "p011,c0,../img_9000.jpg": "refused image names: 1 (",
    "p011,c0,-img_9000.jpg": "refused image names: 1 (",
    "p011,c0,img_9000.png": "Only JPEG is read: convert other formats, and change the names in the tables",
}


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_row_is_named_and_cannot_be_skipped(root: Path, cache: Path, row: str) -> None:
    with (root / DRIVER_LIST).open("a") as stream:
        stream.write(row + "\n")
    assert ROWS[row] in faults_of(root, cache)
    with pytest.raises(UserError, match="fix the tables"):
        load(root, cache, skip_broken=True)


def test_an_image_listed_twice_and_one_that_leaves_the_folder_are_refused(root: Path, cache: Path) -> None:
    for table in (DRIVER_LIST, SAMPLE_SUBMISSION):
        header, first, *rows = (root / table).read_text().splitlines()
        (root / table).write_text("\n".join([header, first, first, *rows]) + "\n")
    message = faults_of(root, cache)
    assert f"{DRIVER_LIST}: images listed more than once: 1 (" in message
    assert "each name must be unique, over all classes and drivers" in message
    assert f"{SAMPLE_SUBMISSION}: images listed more than once: 1 (" in message
    (root / SAMPLE_SUBMISSION).write_text((root / SAMPLE_SUBMISSION).read_text().replace("img_", "../img_", 1))
    assert f"{SAMPLE_SUBMISSION}: expected plain names of JPEG files such as img_1.jpg" in faults_of(root, cache)


# The files


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, ["without a file: 1 ("]),
        (lambda path: path.write_bytes(b""), ["that are empty: 2 ("]),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), ["that are truncated: 2 ("]),
        (lambda path: path.write_bytes(b"<html>"), ["that are not a JPEG: 2 (", "IMAGE: its content is a web page"]),
        (
            lambda path: Image.open(path).save(path, format="PNG"),
            ["IMAGE: its content is PNG", "); only JPEG is read: convert other formats"],
        ),
        (lambda path: path.write_text(LFS), ["IMAGE: its content is a Git LFS pointer: git lfs pull"]),
        (
            lambda path: (path.unlink(), path.symlink_to("nowhere.jpg")),
            ["without a file: 1 (", "links to files that are not there: 2 (", "git annex get"],
        ),
    ],
)
def test_a_broken_image_is_a_fault_or_left_out(
    root: Path, cache: Path, capsys: pytest.CaptureFixture, damage: Callable[[Path], object], words: list[str]
) -> None:
    train_image, test_image = training_image(root), first_test_image(root)
    damage(train_image)
    damage(test_image)
    message = faults_of(root, cache)
    for word in words:
        assert word.replace("IMAGE", str(train_image.relative_to(root))) in message
    for word in (train_image.name, test_image.name, "--skip-broken"):
        assert word in message

    data: Dataset = load(root, cache, skip_broken=True)
    assert len(data.train) == 19
    assert train_image.name not in set(data.train["img"])
    assert len(data.test) == 4, "every test image needs a row in the submission"
    assert data.broken_test == {test_image.name}
    assert "training images left out: 1; test images without a picture: 1" in capsys.readouterr().err


def test_a_misplaced_an_extra_and_a_doubled_file_are_faults(root: Path, cache: Path) -> None:
    misplaced, doubled = training_image(root, 0), training_image(root, 1)
    assert (misplaced.parent.name, doubled.parent.name) == ("c0", "c1")
    (root / TRAIN_FOLDER / "c3" / doubled.name).write_bytes(doubled.read_bytes())
    (root / TRAIN_FOLDER / "c5" / "img_9000.jpg").write_bytes(doubled.read_bytes())
    (root / TEST_FOLDER / "img_9001.jpg").write_bytes(doubled.read_bytes())
    (root / TRAIN_FOLDER / "c10").mkdir()
    misplaced.rename(root / TRAIN_FOLDER / "c7" / misplaced.name)
    message = faults_of(root, cache)
    assert f"training images of {DRIVER_LIST} without a file: 1 (c0/{misplaced.name})" in message
    copies = f"{doubled.name} is in c3, its row says c1, {misplaced.name} is in c7, its row says c0"
    assert f"that lie in another class's folder: 2 ({copies}); each name must be unique" in message
    assert f"files under {TRAIN_FOLDER} without a row in {DRIVER_LIST}: 1 (c5/img_9000.jpg)" in message
    assert f"files under {TEST_FOLDER} without a row in {SAMPLE_SUBMISSION}: 1 (img_9001.jpg)" in message
    assert f"that do not belong there: 1 ({TRAIN_FOLDER}/c10)" in message
    assert "has 5 faults" in message

    kept = load(root, cache, skip_broken=True).train
    assert misplaced.name not in set(kept["img"]), "whether its row or its folder is right, nobody knows"
    assert doubled.name in set(kept["img"])


def test_what_file_managers_leave_behind_is_ignored(root: Path, cache: Path) -> None:
    for folder in (TRAIN_FOLDER, f"{TRAIN_FOLDER}/c0", TEST_FOLDER):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._img_1.jpg"):
            (root / folder / name).write_bytes(b"junk")
        (root / folder / "__MACOSX").mkdir()
    assert len(load(root, cache).train) == 20

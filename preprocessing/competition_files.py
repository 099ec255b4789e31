"""What stands in the two CSV files and in the image folders, and whether the two agree.

Nothing here raises for what it finds wrong in them: it gathers `Fault`s, so that all of them can be told at once.
"""

import csv
import io
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.competition import CLASSES, DRIVER_LIST, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError, named
from common.files import QUOTES, listed_again, write_rows

DRIVER_LIST_COLUMNS = ("subject", "classname", "img")
SAMPLE_COLUMNS = ("img", *CLASSES)

# A plain file name, in no other folder, and without what spreadsheets divide cells at.
_IMAGE_NAME = re.compile(r"\w[^/\\:;,\"|\x00-\x1f\x7f-\x9f\u2028\u2029]{0,250}\.jpe?g", re.IGNORECASE)
_DRIVER = re.compile(r"\w[\w .-]{0,63}")  # goes into tables that people open in a spreadsheet: never a formula
_OTHER_IMAGES = (".png", ".webp", ".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff")
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # what file managers leave; names that start with '.' are junk too

STRAY = "files or folders that do not belong there"
OUTSIDE = "images that are a link out of the folder, which is not followed"
DANGLING = "links to files that are not there"
EXPECTED = {
    STRAY: f"expected images in {TRAIN_FOLDER}/c0 to {TRAIN_FOLDER}/c9 and {TEST_FOLDER} alone",
    OUTSIDE: "copy the files themselves: cp -rL DATA COPY, then --data COPY",
    DANGLING: "get the files (git annex get, dvc pull), then copy them: cp -rL DATA COPY, then --data COPY",
}
UNIQUE = "each name must be unique, over all classes and drivers: rename files that share one, or remove the other rows"


class Fault(NamedTuple):
    """One line for the user. `skippable`: --skip-broken may go on in spite of it."""

    text: str
    skippable: bool = False


class ImageRow(NamedTuple):
    """One row of driver_imgs_list.csv."""

    subject: str
    classname: str
    img: str


class FileStat(NamedTuple):
    """What tells that a file has changed: its size in bytes and its modification time in nanoseconds."""

    size: int
    modified: int


def read_driver_list(root: Path, faults: list[Fault]) -> list[ImageRow] | None:
    """The usable rows of driver_imgs_list.csv in its order; None where it cannot be read as such a table at all."""
    rows = _read_csv(root / DRIVER_LIST, DRIVER_LIST_COLUMNS, faults)
    if rows is None:
        return None
    images = [ImageRow(*row) for row in rows]
    names = [row.img for row in images]
    _check_names(DRIVER_LIST, names, faults)
    unknown = [row for row in images if row.classname not in CLASSES]
    if unknown:
        words = named([f"{row.classname!r} of {row.img}" for row in unknown])
        text = f"rows with a class other than c0..c9: {len(unknown):,} ({words}); expected one of these, without spaces"
        faults.append(Fault(f"{DRIVER_LIST}: {text}"))
    nameless = [row for row in images if not _DRIVER.fullmatch(row.subject) or row.subject != row.subject.strip()]
    if nameless:
        words = named([f"{row.subject!r} of {row.img}" for row in nameless])
        expected = "expected an ID such as p002, which begins with a letter or digit, without spaces around it"
        text = f"rows with a missing or malformed driver ID: {len(nameless):,} ({words}); {expected}"
        faults.append(Fault(f"{DRIVER_LIST}: {text}"))
    return [row for row in images if row.classname in CLASSES and _IMAGE_NAME.fullmatch(row.img)]


def write_tables(
    folder: Path, train: Sequence[tuple[str, str, str]], test: Sequence[tuple[str, str, str]], labels: Path
) -> None:
    """Writes the tables of a data folder that is being made, and last, outside of it, the labels of its test images.

    Args:
        train: subject, classname, img.
        test: img, subject, classname; the sample submission says the same of each.
        labels: the file of columns img, subject, classname.

    Raises:
        UserError: one cannot be written.
    """
    uniform = (1 / len(CLASSES),) * len(CLASSES)
    write_rows(folder / DRIVER_LIST, DRIVER_LIST_COLUMNS, train)
    write_rows(folder / SAMPLE_SUBMISSION, SAMPLE_COLUMNS, [(img, *uniform) for img, _, _ in test])
    write_rows(labels, ("img", "subject", "classname"), test)


def read_sample_submission(root: Path, faults: list[Fault]) -> list[str] | None:
    """The usable image names of sample_submission.csv in its order; None where it cannot be read at all."""
    rows = _read_csv(root / SAMPLE_SUBMISSION, SAMPLE_COLUMNS, faults)
    if rows is None:
        return None
    names = [row[0] for row in rows]
    _check_names(SAMPLE_SUBMISSION, names, faults)
    return [name for name in names if _IMAGE_NAME.fullmatch(name)]


def is_image_name(name: str) -> bool:
    """Whether it is a plain file name of a JPEG, which leads out of no folder."""
    return bool(_IMAGE_NAME.fullmatch(name))


def _check_names(table: str, names: Sequence[str], faults: list[Fault]) -> None:
    refused = [repr(name) for name in names if not _IMAGE_NAME.fullmatch(name)]
    if refused:
        expected = "expected the plain name of a JPEG file such as img_1.jpg, without a folder or spaces around it"
        if any(name.lower().endswith(_OTHER_IMAGES) for name in names):
            expected += ". Only JPEG is read: convert other formats, and change the names in the tables"
        faults.append(Fault(f"{table}: refused image names: {len(refused):,} ({named(refused)}); {expected}"))
    twice = listed_again(names)
    if twice:
        text = f"images listed more than once: {len(twice):,} ({named(twice)}); {UNIQUE}"
        faults.append(Fault(f"{table}: {text}"))


def _read_csv(path: Path, columns: Sequence[str], faults: list[Fault]) -> list[list[str]] | None:
    """The values of `columns` of every row, in that order of columns. A byte order mark and CRLF are accepted."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        faults.append(Fault(f"{path.name}: cannot be read ({error.strerror or error})"))
        return None
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1:,}"
        faults.append(Fault(f"{path.name}: is not UTF-8 text ({where}). Save it as 'CSV UTF-8', or get it again"))
        return None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, ragged = [], []
    try:
        header = next(reader, [])
        wanted = f"expected a first line with the columns {','.join(columns)}, separated by commas, without spaces"
        lacking = [column for column in columns if column not in header]
        if lacking:
            found = named([repr(column[:40]) for column in header], 12) or "an empty file"
            text = f"has no column {named(lacking, 12)} ({wanted}, found {found})"
            faults.append(Fault(f"{path.name}: {text}"))
            return None
        twice = [column for column in columns if header.count(column) > 1]
        if twice:
            faults.append(Fault(f"{path.name}: has the column {named(twice)} more than once ({wanted})"))
            return None
        places = [header.index(column) for column in columns]
        for row in reader:
            if len(row) == len(header):
                rows.append([row[place] for place in places])
            elif row:
                ragged.append(f"line {reader.line_num:,} has {len(row)}")
    except csv.Error as error:
        faults.append(Fault(f"{path.name}: line {reader.line_num:,} is not CSV ({error}). {QUOTES}"))
        return None
    if ragged:
        text = f"rows without the header's {len(header)} fields: {len(ragged):,} ({named(ragged)})"
        faults.append(Fault(f"{path.name}: {text}"))
    if not rows:
        faults.append(Fault(f"{path.name}: has no rows ({wanted} and a row for each image)"))
        return None
    return rows


def list_files(root: Path, faults: list[Fault]) -> dict[str, FileStat]:
    """Every file under the ten training folders and the test folder, by its path relative to `root` with '/'."""
    files: dict[str, FileStat] = {}
    wrong: dict[str, list[str]] = {what: [] for what in EXPECTED}
    for name, entry in _entries(root / TRAIN_FOLDER):
        if name in CLASSES and entry.is_dir():
            _list_folder(root, f"{TRAIN_FOLDER}/{name}", files, wrong)
        else:
            wrong[STRAY].append(f"{TRAIN_FOLDER}/{name}")
    _list_folder(root, TEST_FOLDER, files, wrong)
    for what, found in wrong.items():
        if found:
            text = f"{what}: {len(found):,} ({named(sorted(found))}); {EXPECTED[what]}"
            faults.append(Fault(text, skippable=True))
    return files


def _list_folder(root: Path, folder: str, files: dict[str, FileStat], wrong: dict[str, list[str]]) -> None:
    inside = (root.resolve(), (root / folder).resolve())  # the folder itself may be a link to another disk
    for name, entry in _entries(root / folder):
        try:
            status = entry.stat()
        except OSError:
            wrong[DANGLING].append(f"{folder}/{name}")
            continue
        if entry.is_symlink() and not any(Path(entry.path).resolve().is_relative_to(place) for place in inside):
            wrong[OUTSIDE].append(f"{folder}/{name}")
            continue
        if stat.S_ISREG(status.st_mode):
            files[f"{folder}/{name}"] = FileStat(status.st_size, status.st_mtime_ns)
        else:
            wrong[STRAY].append(f"{folder}/{name}")


def _entries(folder: Path) -> list[tuple[str, os.DirEntry[str]]]:
    """The folder's entries without the junk of file managers, sorted by name."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if entry.name[0] != "." and entry.name.lower() not in _JUNK]
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror or error}. Expected a folder of images.") from None
    # A name that is not UTF-8 cannot be printed; no row can have it either, so a replacement does no harm.
    printable = [(os.fsencode(entry.name).decode("utf-8", "replace"), entry) for entry in entries]
    return sorted(printable, key=lambda pair: pair[0])


def compare(
    rows: Sequence[ImageRow] | None, test: Sequence[str] | None, files: dict[str, FileStat], faults: list[Fault]
) -> tuple[set[str], set[str]]:
    """Holds the rows against the files, both ways.

    Returns:
        The names of the training images, and of the test images, that have no file where it belongs.
    """
    lacking_train: set[str] = set()
    lacking_test: set[str] = set()
    if rows is not None:
        belongs = {row.img: row.classname for row in rows}
        stand_in: dict[str, list[str]] = {}
        for path in files:
            if path.startswith(f"{TRAIN_FOLDER}/"):
                classname, name = path.removeprefix(f"{TRAIN_FOLDER}/").split("/", 1)
                stand_in.setdefault(name, []).append(classname)
        misplaced, copies, missing = [], [], []
        for name, classname in belongs.items():
            where = stand_in.pop(name, [])
            others = [f"{name} is in {other}, its row says {classname}" for other in where if other != classname]
            if classname in where:
                copies += others
            else:
                lacking_train.add(name)
                misplaced += others
                missing += [] if others else [f"{classname}/{name}"]
        extra = [f"{folder}/{name}" for name, where in stand_in.items() for folder in where]
        for found, what, expected in (
            (missing, f"training images of {DRIVER_LIST} without a file", ""),
            (misplaced, "training images that lie in another class's folder", ""),
            (copies, "training images that lie in a second class's folder too", f"; {UNIQUE}"),
            (extra, f"files under {TRAIN_FOLDER} without a row in {DRIVER_LIST}", ""),
        ):
            if found:
                faults.append(Fault(f"{what}: {len(found):,} ({named(found)}){expected}", skippable=True))
    if test is not None:
        present = {path.removeprefix(f"{TEST_FOLDER}/") for path in files if path.startswith(f"{TEST_FOLDER}/")}
        absent = [name for name in dict.fromkeys(test) if name not in present]
        unlisted = sorted(present.difference(test))
        lacking_test.update(absent)
        for found, what in (
            (absent, f"test images of {SAMPLE_SUBMISSION} without a file"),
            (unlisted, f"files under {TEST_FOLDER} without a row in {SAMPLE_SUBMISSION}"),
        ):
            if found:
                faults.append(Fault(f"{what}: {len(found):,} ({named(found)})", skippable=True))
    return lacking_train, lacking_test

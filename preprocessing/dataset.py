"""The competition's folder: found, checked completely before anything is trained, and read into tables.

It is read only. What the check of the images' headers found is remembered under the cache folder, so that a second
start only looks at sizes and dates. Faults are gathered, so that all of them can be listed at once.
"""

import hashlib
import os
import re
import stat
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.competition import CLASSES, DRIVER_LIST, SAMPLE_COLUMNS, SAMPLE_SUBMISSION, SLUG, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError, named
from common.files import is_image_name, listed_again, read_json, read_rows, write_json, write_rows
from common.run_folder import CACHE, REPOSITORY
from preprocessing.jpeg import NOT_JPEG, UNREADABLE, broken_images

if TYPE_CHECKING:
    import pandas as pd  # which --help need not load

VARIABLE = "STATEFARM_DATA"
KAGGLE_MOUNTS = (Path("/kaggle/input") / SLUG, Path("/kaggle/input/competitions") / SLUG)
DEFAULT_FOLDER = REPOSITORY / "data"
DRIVER_LIST_COLUMNS = ("subject", "classname", "img")

_CHECK_VERSION = 5  # raised whenever the header check learns or unlearns something, so that old findings are not used
_DRIVER = re.compile(r"\w(?:[\w .-]{0,62}[\w.-])?")  # goes into tables that people open in a spreadsheet: no formula
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
    """One line for the user. `skippable`: --skip-broken may continue in spite of it."""

    text: str
    skippable: bool = False


class ImageRow(NamedTuple):
    """One row of driver_imgs_list.csv."""

    subject: str
    classname: str
    img: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked data folder.

    Attributes:
        root: the folder in Kaggle's layout.
        train: columns img, subject, classname (strings), in the order of driver_imgs_list.csv.
        test: every image name of sample_submission.csv, in its order.
        broken_test: those of `test` that cannot be read (only under `skip_broken`).
        left_out: as `train`, the training images that cannot be read (only under `skip_broken`).
        fingerprint: SHA-256 over path, size and date of every image and over the content of both CSV files.
    """

    root: Path
    train: "pd.DataFrame"
    test: list[str]
    broken_test: frozenset[str]
    left_out: "pd.DataFrame"
    fingerprint: str

    def train_path(self, img: str, classname: str) -> Path:
        """The file of a training image."""
        return self.root / TRAIN_FOLDER / classname / img

    def test_path(self, img: str) -> Path:
        """The file of a test image."""
        return self.root / TEST_FOLDER / img


def locate(data: Path | None) -> Path | None:
    """Finds the data folder: `data`, else $STATEFARM_DATA, else Kaggle's mounts, else data/ in the repository.

    Returns:
        The folder, or None where there is none at all (an empty data/ counts as none).

    Raises:
        UserError: the folder that was named does not exist, or a folder is there but incomplete.
    """
    variable = os.environ.get(VARIABLE, "")
    if data is not None:
        root = _named_folder(Path(data), "--data")
    elif variable:
        root = _named_folder(Path(variable), f"${VARIABLE}")
    else:
        found = next((folder for folder in (*KAGGLE_MOUNTS, DEFAULT_FOLDER) if _has_something(folder)), None)
        if found is None:
            return None
        root = _named_folder(found, "the data folder")
    _require_complete(root)
    return root


def required(data: Path | None) -> Path:
    """`locate`, for commands that cannot do without data.

    Raises:
        UserError: as `locate`, and where there is no data folder at all.
    """
    root = locate(data)
    if root is None:
        places = "--data DIR, $STATEFARM_DATA, /kaggle/input/... and data/"
        raise UserError(f"no competition data found (looked at {places}). Get it: python -m preprocessing.download")
    return root


def _named_folder(folder: Path, option: str) -> Path:
    folder = folder.expanduser()
    if not folder.is_dir():
        link = "is a link to a folder that is not there" if folder.is_symlink() else "does not exist"
        what = "is not a folder" if folder.exists() else link
        raise UserError(f"{option} {folder}: {what}. Expected a folder with {DRIVER_LIST} and imgs/ in it.")
    return folder


def _has_something(folder: Path) -> bool:
    if not folder.is_dir():
        return folder.is_symlink() or folder.exists()  # a link to a disk that is not mounted is no reason for the demo
    return any(not entry.name.startswith(".") for entry in folder.iterdir())


def missing_parts(root: Path) -> list[str]:
    """Which of the two tables and the two image folders `root` does not have, as far as one may look into it."""
    files = [name for name in (DRIVER_LIST, SAMPLE_SUBMISSION) if not os.path.isfile(root / name)]  # noqa: PTH113
    return files + [f"{name}/" for name in (TRAIN_FOLDER, TEST_FOLDER) if not os.path.isdir(root / name)]  # noqa: PTH112


def _require_complete(root: Path) -> None:
    missing = missing_parts(root)
    if not missing:
        return
    # The two usual mistakes: an archive unpacked one folder too deep, and imgs/ named instead of its parent.
    nearby = [root.parent, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    whole = next((folder for folder in nearby if not missing_parts(folder)), None)
    hint = (
        f"The data lies in {whole}: say --data {whole}"
        if whole
        else f"Expected Kaggle's layout: {DRIVER_LIST}, {SAMPLE_SUBMISSION}, {TRAIN_FOLDER}/c0..c9/*.jpg, "
        f"{TEST_FOLDER}/*.jpg. Unpack the rest there, or get all of it: python -m preprocessing.download"
    )
    raise UserError(f"{root} is incomplete, it has no {named(missing, 4)}. {hint}")


def _add(faults: list[Fault], what: str, found: Sequence[str], expected: str = "", skippable: bool = False) -> None:
    """Adds a fault that counts what was found, if anything was."""
    if found:
        expected = f"; {expected}" if expected else ""
        faults.append(Fault(f"{what}: {len(found):,} ({named(found)}){expected}", skippable))


def read_driver_list(root: Path, faults: list[Fault]) -> list[ImageRow] | None:
    """The usable rows of driver_imgs_list.csv in its order; None where it cannot be read as such a table at all."""
    try:
        header, rows = read_rows(root / DRIVER_LIST, "a table of the competition")
    except UserError as error:
        faults.append(Fault(str(error)))
        return None
    if not set(DRIVER_LIST_COLUMNS) <= set(header) or not rows:
        found = named([repr(column[:40]) for column in header], 12) or "an empty file"
        faults.append(
            Fault(
                f"{DRIVER_LIST}: expected a first line with the columns {','.join(DRIVER_LIST_COLUMNS)}, separated by "
                f"commas, without spaces, and a row for each image; found {found}, and {len(rows)} rows"
            )
        )
        return None
    places = [header.index(column) for column in DRIVER_LIST_COLUMNS]
    images = [ImageRow(*(row[place] for place in places)) for row in rows]
    names = [row.img for row in images]
    expected = "expected the plain name of a JPEG file such as img_1.jpg, without a folder or spaces around it"
    if any(name.lower().endswith(_OTHER_IMAGES) for name in names):
        expected += ". Only JPEG is read: convert other formats, and change the names in the tables"
    refused = [repr(name) for name in names if not is_image_name(name)]
    _add(faults, f"{DRIVER_LIST}: refused image names", refused, expected)
    _add(faults, f"{DRIVER_LIST}: images listed more than once", listed_again(names), UNIQUE)
    unknown = [f"{row.classname!r} of {row.img}" for row in images if row.classname not in CLASSES]
    what = f"{DRIVER_LIST}: rows with a class other than c0..c9"
    _add(faults, what, unknown, "expected one of these, without spaces")
    nameless = [f"{row.subject!r} of {row.img}" for row in images if not _DRIVER.fullmatch(row.subject)]
    expected = "expected an ID such as p002, which begins with a letter or digit, without spaces around it"
    _add(faults, f"{DRIVER_LIST}: rows with a missing or malformed driver ID", nameless, expected)
    return [row for row in images if row.classname in CLASSES and is_image_name(row.img)]


def read_test_images(root: Path, faults: list[Fault]) -> list[str] | None:
    """The image names of sample_submission.csv in its order; None where it is not such a table."""
    from common.tables import read_sample_images

    try:
        return list(read_sample_images(root / SAMPLE_SUBMISSION))
    except UserError as error:
        faults.append(Fault(str(error)))
        return None


def write_tables(
    folder: Path, train: Sequence[tuple[str, str, str]], test: Sequence[tuple[str, str, str]], labels: Path
) -> None:
    """Writes the tables of a data folder that is being made, and last, outside of it, the labels of its test images.

    Args:
        train: subject, classname, img.
        test: img, subject, classname; the sample submission gives each class the same probability.
        labels: the file of columns img, subject, classname.

    Raises:
        UserError: one cannot be written.
    """
    uniform = (1 / len(CLASSES),) * len(CLASSES)
    write_rows(folder / DRIVER_LIST, DRIVER_LIST_COLUMNS, train)
    write_rows(folder / SAMPLE_SUBMISSION, SAMPLE_COLUMNS, [(img, *uniform) for img, _, _ in test])
    write_rows(labels, ("img", "subject", "classname"), test)


def list_files(root: Path, faults: list[Fault]) -> dict[str, os.stat_result]:
    """Every file under the ten training folders and the test folder, by its path relative to `root` with '/'."""
    files: dict[str, os.stat_result] = {}
    wrong = defaultdict(list)
    folders = [TEST_FOLDER]
    for name, entry in _entries(root / TRAIN_FOLDER):
        if name in CLASSES and entry.is_dir():
            folders.append(f"{TRAIN_FOLDER}/{name}")
        else:
            wrong[STRAY].append(f"{TRAIN_FOLDER}/{name}")
    for folder in folders:
        inside = (root.resolve(), (root / folder).resolve())  # the folder itself may be a link to another disk
        for name, entry in _entries(root / folder):
            path = f"{folder}/{name}"
            try:
                status = entry.stat()
            except OSError:
                wrong[DANGLING].append(path)
                continue
            if entry.is_symlink() and not any(Path(entry.path).resolve().is_relative_to(place) for place in inside):
                wrong[OUTSIDE].append(path)
            elif stat.S_ISREG(status.st_mode):
                files[path] = status
            else:
                wrong[STRAY].append(path)
    for what, found in wrong.items():
        _add(faults, what, sorted(found), EXPECTED[what], skippable=True)
    return files


def _entries(folder: Path) -> Iterable[tuple[str, os.DirEntry[str]]]:
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
    rows: Sequence[ImageRow], test: Sequence[str], files: Iterable[str], faults: list[Fault]
) -> tuple[set[str], set[str]]:
    """Compares the rows with the files, both ways.

    Returns:
        The names of the training images, and of the test images, that have no file where it belongs.
    """
    class_of = {row.img: row.classname for row in rows}
    train_paths = {f"{TRAIN_FOLDER}/{classname}/{name}": name for name, classname in class_of.items()}
    test_paths = {f"{TEST_FOLDER}/{name}": name for name in test}
    there = set(files)
    elsewhere, extra, extra_test = [], [], []
    for path in sorted(there.difference(train_paths, test_paths)):
        folder, _, name = path.rpartition("/")
        if folder == TEST_FOLDER:
            extra_test.append(name)
        elif name in class_of:
            elsewhere.append(f"{name} is in {Path(folder).name}, its row says {class_of[name]}")
        else:
            extra.append(path.removeprefix(f"{TRAIN_FOLDER}/"))
    lacking_train = {path: name for path, name in train_paths.items() if path not in there}
    lacking_test = {path: name for path, name in test_paths.items() if path not in there}
    missing = [path.removeprefix(f"{TRAIN_FOLDER}/") for path in lacking_train]
    for what, found, expected in (
        (f"training images of {DRIVER_LIST} without a file", missing, ""),
        ("training images that lie in another class's folder", elsewhere, UNIQUE),
        (f"files under {TRAIN_FOLDER} without a row in {DRIVER_LIST}", extra, ""),
        (f"test images of {SAMPLE_SUBMISSION} without a file", list(lacking_test.values()), ""),
        (f"files under {TEST_FOLDER} without a row in {SAMPLE_SUBMISSION}", extra_test, ""),
    ):
        _add(faults, what, found, expected, skippable=True)
    return set(lacking_train.values()), set(lacking_test.values())


def add_data_options(parser: Any) -> None:
    """Adds --data, --cache and --skip-broken to a command that reads the data with `load_chosen`."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="what may be remembered [cache]")
    parser.add_argument("--skip-broken", action="store_true", help="leave out missing and broken images")


def load_chosen(arguments: Any) -> Dataset:
    """`load` with the options of `add_data_options`."""
    return load(required(arguments.data), arguments.cache, arguments.skip_broken)


def load(root: Path, cache: Path = CACHE, skip_broken: bool = False) -> Dataset:
    """Checks the whole folder and reads it.

    Args:
        cache: where the findings about images are remembered, in cache/checked/.
        skip_broken: go on without the training images, and with a list of the test images, that are missing or broken.

    Raises:
        UserError: everything that is wrong, listed at once.
    """
    import pandas as pd

    root = Path(root)
    _require_complete(root)
    faults: list[Fault] = []
    rows = read_driver_list(root, faults)
    test = read_test_images(root, faults)
    if rows is None or test is None:
        raise UserError(_report(root, faults))
    files = list_files(root, faults)
    lacking_train, lacking_test = compare(rows, test, files, faults)

    train_paths = {row.img: f"{TRAIN_FOLDER}/{row.classname}/{row.img}" for row in rows}
    test_paths = {img: f"{TEST_FOLDER}/{img}" for img in test}
    fingerprint = _fingerprint(root, files)
    listed = [path for path in (*train_paths.values(), *test_paths.values()) if path in files]
    broken = _broken_images(root, listed, fingerprint, cache)
    lacking_train |= {img for img, path in train_paths.items() if path in broken}
    lacking_test |= {img for img, path in test_paths.items() if path in broken}
    by_reason = defaultdict(list)
    for path, why in broken.items():
        reason, _, detail = why.partition(": ")
        by_reason[reason].append(f"{path}: {detail}" if detail else path)
    for reason, paths in sorted(by_reason.items()):
        way_out = "only JPEG is read: convert other formats, get damaged files again" if reason == NOT_JPEG else ""
        _add(faults, f"images that are {reason}", paths, way_out, skippable=True)

    if any(not fault.skippable for fault in faults) or (faults and not skip_broken):
        raise UserError(_report(root, faults))
    columns = ["img", "subject", "classname"]
    listed_images = pd.DataFrame([(row.img, row.subject, row.classname) for row in rows], columns=columns)
    lacks = listed_images["img"].isin(lacking_train)
    train, left_out = listed_images[~lacks].reset_index(drop=True), listed_images[lacks]
    if train.empty:
        raise UserError(_report(root, [*faults, Fault("not one training image can be used")]))
    if lacking_test >= set(test):
        raise UserError(_report(root, [*faults, Fault("not one test image can be read")]))
    if faults:
        listing = "".join(f"  - {fault.text}\n" for fault in faults)
        counts = (
            f"training images left out: {len(lacking_train):,}; test images without a picture: {len(lacking_test):,}"
        )
        print(f"--skip-broken: {counts}.\n{listing}", end="", file=sys.stderr)
    return Dataset(root, train, test, frozenset(lacking_test), left_out, fingerprint)


def _report(root: Path, faults: Sequence[Fault]) -> str:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    listing = "\n".join(f"  - {fault.text}" for fault in faults)
    if all(fault.skippable for fault in faults):
        fix = "fix these, or get the data again (python -m preprocessing.download), or go on without: --skip-broken"
    else:
        fix = "fix the tables, or get the data again: python -m preprocessing.download"
    return f"{root} has {count}, and nothing was started:\n{listing}\nWhat to do: {fix}"


def fingerprint_of_copy(root: Path) -> str:
    """As `Dataset.fingerprint` without the dates, which a copy on another machine need not have."""
    return _fingerprint(root, list_files(root, []), dates=False)


def _fingerprint(root: Path, files: dict[str, os.stat_result], dates: bool = True) -> str:
    digest = hashlib.sha256()
    for name in (DRIVER_LIST, SAMPLE_SUBMISSION):
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    lines = [f"{path}\0{status.st_size}\0{status.st_mtime_ns * dates}\n" for path, status in sorted(files.items())]
    digest.update("".join(lines).encode())
    return digest.hexdigest()


def _broken_images(root: Path, paths: Sequence[str], fingerprint: str, cache: Path) -> dict[str, str]:
    """`broken_images`, or what it found last time if not one file has changed since."""
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    remembered = Path(cache) / "checked" / f"{key}.json"
    try:
        found = read_json(remembered)
        if found["version"] == _CHECK_VERSION and found["fingerprint"] == fingerprint:
            return dict(found["broken"])
    except (UserError, KeyError, TypeError, ValueError):
        pass  # not there yet, or damaged: checking again costs seconds and is always right
    broken = broken_images(root, paths)
    if not any(why.startswith(UNREADABLE) for why in broken.values()):  # rights change no file's date
        try:
            write_json(
                remembered,
                {"version": _CHECK_VERSION, "root": str(root), "fingerprint": fingerprint, "broken": broken},
            )
        except UserError as error:  # the check is done all the same; only the next start is slower
            print(f"note: the check of the images is not remembered: {error}", file=sys.stderr)
    return broken

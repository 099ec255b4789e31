"""The competition's folder: found, checked completely before anything is trained, and read into tables.

It is read only. What the check of the images' headers found is remembered under the cache folder, so that a second
start only looks at sizes and dates. Faults are gathered, so that all of them can be listed at once.
"""

import contextlib
import hashlib
import os
import re
import stat
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common.competition import CLASSES, DRIVER_LIST, SAMPLE_COLUMNS, SAMPLE_SUBMISSION, SLUG, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError, named
from common.files import is_image_name, listed_again, read_json, read_rows, write_json, write_rows
from common.run_folder import CACHE, REPOSITORY

if TYPE_CHECKING:
    import pandas as pd  # which --help need not load

VARIABLE = "STATEFARM_DATA"
KAGGLE_MOUNTS = (Path("/kaggle/input") / SLUG, Path("/kaggle/input/competitions") / SLUG)
DEFAULT_FOLDER = REPOSITORY / "data"
DRIVER_LIST_COLUMNS = ["subject", "classname", "img"]

_CHECK_VERSION = 6  # raised whenever the header check learns or unlearns something, so that old findings are not used
_DRIVER = re.compile(r"\w(?:[\w .-]{0,62}[\w.-])?")  # goes into tables that people open in a spreadsheet: no formula
_OTHER_IMAGES = (".png", ".webp", ".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff")
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # what file managers leave; names that start with '.' are junk too
UNIQUE = "each name must be unique, over all classes and drivers: rename files that share one, or remove the other rows"


class Fault(NamedTuple):
    """One line for the user. `skippable`: --skip-broken may continue in spite of it."""

    text: str
    skippable: bool = False


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked data folder."""

    root: Path  # in Kaggle's layout
    train: "pd.DataFrame"  # columns img, subject, classname (strings), in the order of driver_imgs_list.csv
    test: list[str]  # every image name of sample_submission.csv, in its order
    broken_test: frozenset[str]  # those of `test` that cannot be read (only under `skip_broken`)
    left_out: "pd.DataFrame"  # as `train`, the training images that cannot be read (only under `skip_broken`)
    fingerprint: str  # SHA-256 over path, size and date of every image and over the content of both CSV files

    def train_path(self, img: str, classname: str) -> Path:
        return self.root / TRAIN_FOLDER / classname / img

    def test_path(self, img: str) -> Path:
        return self.root / TEST_FOLDER / img


def locate(data: Path | None) -> Path | None:
    """Finds the data folder: `data`, else $STATEFARM_DATA, else Kaggle's mounts, else data/ in the repository.

    None where there is none at all; an empty data/ counts as none. One that is incomplete is a UserError.
    """
    variable = os.environ.get(VARIABLE, "")
    root, option = (data, "--data") if data else (Path(variable), f"${VARIABLE}")
    if not data and not variable:
        found = next((folder for folder in (*KAGGLE_MOUNTS, DEFAULT_FOLDER) if _has_something(folder)), None)
        if found is None:
            return None
        root, option = found, "the data folder"
    root = root.expanduser()
    if not root.is_dir():
        what = "is a link to a folder that is not there" if root.is_symlink() else "does not exist"
        what = "is not a folder" if root.exists() else what
        raise UserError(f"{option} {root}: {what}. Expected a folder with {DRIVER_LIST} and imgs/ in it.")
    _require_complete(root)
    return root


def required(data: Path | None) -> Path:
    """`locate`, for commands that cannot do without data: no data folder at all is a UserError too."""
    if root := locate(data):
        return root
    places = "--data DIR, $STATEFARM_DATA, /kaggle/input/... and data/"
    raise UserError(f"no competition data found (looked at {places}). Get it: python -m preprocessing.download")


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
        f"The data lies in {whole}: use --data {whole}"
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


def read_driver_list(root: Path, faults: list[Fault]) -> "pd.DataFrame | None":
    """The usable rows of driver_imgs_list.csv in its order: img, subject, classname; None where it is no such table."""
    import pandas as pd

    try:
        header, rows = read_rows(root / DRIVER_LIST, "a table of the competition")
    except UserError as error:
        faults.append(Fault(str(error)))
        return None
    if not set(DRIVER_LIST_COLUMNS) <= set(header) or not rows:
        found = named([repr(column[:40]) for column in header], 12) or "an empty file"
        columns = f"{','.join(DRIVER_LIST_COLUMNS)}, separated by commas, without spaces"
        text = f"expected a first line with the columns {columns}, and a row for each image"
        faults.append(Fault(f"{DRIVER_LIST}: {text}; found {found}, and {len(rows)} rows"))
        return None
    table = pd.DataFrame(rows, columns=header)[["img", "subject", "classname"]]
    names = table["img"].tolist()
    expected = "expected the plain name of a JPEG file such as img_1.jpg, without a folder or spaces around it"
    if any(name.lower().endswith(_OTHER_IMAGES) for name in names):
        expected += ". Only JPEG is read: convert other formats, and change the names in the tables"
    refused = [repr(name) for name in names if not is_image_name(name)]
    _add(faults, f"{DRIVER_LIST}: refused image names", refused, expected)
    _add(faults, f"{DRIVER_LIST}: images listed more than once", listed_again(names), UNIQUE)
    unknown = [f"{row.classname!r} of {row.img}" for row in table.itertuples() if row.classname not in CLASSES]
    what = f"{DRIVER_LIST}: rows with a class other than c0..c9"
    _add(faults, what, unknown, "expected one of these, without spaces")
    nameless = [f"{row.subject!r} of {row.img}" for row in table.itertuples() if not _DRIVER.fullmatch(row.subject)]
    expected = "expected an ID such as p002, which begins with a letter or digit, without spaces around it"
    _add(faults, f"{DRIVER_LIST}: rows with a missing or malformed driver ID", nameless, expected)
    return table[table["classname"].isin(CLASSES) & table["img"].map(is_image_name)]


def write_tables(
    folder: Path, train: Sequence[tuple[str, str, str]], test: Sequence[tuple[str, str, str]], labels: Path
) -> None:
    """Writes the tables of a data folder that is being made, and last, outside of it, the labels of its test images.

    `train` has subject, classname, img; `test` has img, subject, classname. The sample submission is uniform.
    """
    uniform = (1 / len(CLASSES),) * len(CLASSES)
    write_rows(folder / DRIVER_LIST, DRIVER_LIST_COLUMNS, train)
    write_rows(folder / SAMPLE_SUBMISSION, SAMPLE_COLUMNS, [(img, *uniform) for img, _, _ in test])
    write_rows(labels, ("img", "subject", "classname"), test)


def _list_files(root: Path, faults: list[Fault]) -> dict[str, os.stat_result]:
    """Every file under the ten training folders and the test folder, by its path relative to `root` with '/'."""
    files: dict[str, os.stat_result] = {}
    strange, dangling = [], []
    training = [f"{TRAIN_FOLDER}/{name}" for name, _ in _entries(root / TRAIN_FOLDER)]
    for folder in [TEST_FOLDER, *training]:
        if folder != TEST_FOLDER and not (Path(folder).name in CLASSES and (root / folder).is_dir()):
            strange.append(folder)
            continue
        for name, entry in _entries(root / folder):
            try:
                status = entry.stat()
            except OSError:
                dangling.append(f"{folder}/{name}")
                continue
            if stat.S_ISREG(status.st_mode):
                files[f"{folder}/{name}"] = status
            else:
                strange.append(f"{folder}/{name}")
    expected = f"expected images in {TRAIN_FOLDER}/c0 to {TRAIN_FOLDER}/c9 and {TEST_FOLDER} alone"
    _add(faults, "files or folders that do not belong there", strange, expected, skippable=True)
    _add(faults, "links to files that are not there", dangling, "git annex get, dvc pull", skippable=True)
    return files


def _entries(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The folder's entries without the junk of file managers, sorted by name."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror or error}. Expected a folder of images.") from None
    for entry in entries:
        if entry.name[0] != "." and entry.name.lower() not in _JUNK:
            # A name that is not UTF-8 cannot be printed; no row can have it either, so a replacement does no harm.
            yield os.fsencode(entry.name).decode("utf-8", "replace"), entry


def _compare(train: "pd.DataFrame", test: Sequence[str], there: set[str], faults: list[Fault]) -> set[str]:
    """Compares the rows with the files, both ways; returns the paths of rows that have no file where it belongs."""
    class_of = dict(zip(train["img"], train["classname"], strict=True))
    train_paths = {f"{TRAIN_FOLDER}/{classname}/{name}" for name, classname in class_of.items()}
    test_paths = {f"{TEST_FOLDER}/{name}" for name in test}
    elsewhere, extra, extra_test = [], [], []
    for path in sorted(there - train_paths - test_paths):
        folder, _, name = path.rpartition("/")
        if folder == TEST_FOLDER:
            extra_test.append(name)
        elif name in class_of:
            elsewhere.append(f"{name} is in {Path(folder).name}, its row says {class_of[name]}")
        else:
            extra.append(path.removeprefix(f"{TRAIN_FOLDER}/"))
    missing = [path.removeprefix(f"{TRAIN_FOLDER}/") for path in sorted(train_paths - there)]
    missing_test = [path.removeprefix(f"{TEST_FOLDER}/") for path in sorted(test_paths - there)]
    for what, found, expected in (
        (f"training images of {DRIVER_LIST} without a file", missing, ""),
        ("training images that lie in another class's folder", elsewhere, UNIQUE),
        (f"files under {TRAIN_FOLDER} without a row in {DRIVER_LIST}", extra, ""),
        (f"test images of {SAMPLE_SUBMISSION} without a file", missing_test, ""),
        (f"files under {TEST_FOLDER} without a row in {SAMPLE_SUBMISSION}", extra_test, ""),
    ):
        _add(faults, what, found, expected, skippable=True)
    return (train_paths | test_paths) - there


def add_data_options(parser: Any) -> None:
    """Adds --data, --cache and --skip-broken to a command that reads the data with `load_chosen`."""
    parser.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="where findings are kept [cache]")
    parser.add_argument("--skip-broken", action="store_true", help="leave out missing and broken images")


def load_chosen(arguments: Any) -> Dataset:
    """`load` with the options of `add_data_options`."""
    return load(required(arguments.data), arguments.cache, arguments.skip_broken)


def load(root: Path, cache: Path = CACHE, skip_broken: bool = False) -> Dataset:
    """Checks the whole folder and reads it; a UserError lists everything that is wrong at once.

    Args:
        cache: where the findings about images are remembered, in cache/checked/.
        skip_broken: go on without the training images, and with a list of the test images, that are missing or broken.
    """
    from common.tables import read_sample_images

    root = Path(root)
    _require_complete(root)
    faults: list[Fault] = []
    rows, test = read_driver_list(root, faults), list[str]()
    try:
        test = list(read_sample_images(root / SAMPLE_SUBMISSION))
    except UserError as error:
        faults.append(Fault(str(error)))
    if rows is None or not test:
        raise _error(root, faults)
    files = _list_files(root, faults)
    lacking = _compare(rows, test, set(files), faults)
    paths = f"{TRAIN_FOLDER}/" + rows["classname"] + "/" + rows["img"]
    fingerprint = _fingerprint(root, files)
    listed = [path for path in (*paths, *(f"{TEST_FOLDER}/{name}" for name in test)) if path in files]
    by_reason = defaultdict(list)
    for path, why in _broken_images(root, listed, fingerprint, cache).items():
        reason, _, detail = why.partition(": ")
        by_reason[reason].append(f"{path}: {detail}" if detail else path)
        lacking.add(path)
    for reason, broken in sorted(by_reason.items()):
        way_out = "only JPEG is read: convert other formats, get damaged files again"
        _add(faults, f"images that are {reason}", broken, way_out, skippable=True)

    broken_test = frozenset(name for name in test if f"{TEST_FOLDER}/{name}" in lacking)
    lacks = paths.isin(lacking)
    if lacks.all() or len(broken_test) == len(test):
        faults.append(Fault(f"not one {'training' if lacks.all() else 'test'} image can be used"))
    if any(not fault.skippable for fault in faults) or (faults and not skip_broken):
        raise _error(root, faults)
    if faults:
        counts = f"training images left out: {lacks.sum():,}; test images without a picture: {len(broken_test):,}"
        print("\n  - ".join([f"--skip-broken: {counts}.", *(fault.text for fault in faults)]), file=sys.stderr)
    return Dataset(root, rows[~lacks].reset_index(drop=True), test, broken_test, rows[lacks], fingerprint)


def _error(root: Path, faults: Sequence[Fault]) -> UserError:
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    listing = "\n".join(f"  - {fault.text}" for fault in faults)
    if all(fault.skippable for fault in faults):
        fix = "fix these, or get the data again (python -m preprocessing.download), or go on without: --skip-broken"
    else:
        fix = "fix the tables, or get the data again: python -m preprocessing.download"
    return UserError(f"{root} has {count}, and nothing was started:\n{listing}\nWhat to do: {fix}")


def fingerprint_of_copy(root: Path) -> str:
    """As `Dataset.fingerprint` without the dates, which a copy on another machine need not have."""
    return _fingerprint(root, _list_files(root, []), dates=False)


def _fingerprint(root: Path, files: dict[str, os.stat_result], dates: bool = True) -> str:
    digest = hashlib.sha256()
    for name in (DRIVER_LIST, SAMPLE_SUBMISSION):
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    lines = [f"{path}\0{status.st_size}\0{status.st_mtime_ns * dates}\n" for path, status in sorted(files.items())]
    digest.update("".join(lines).encode())
    return digest.hexdigest()


def _broken_images(root: Path, paths: Sequence[str], fingerprint: str, cache: Path) -> dict[str, str]:
    """What `images.broken_images` finds, or what it found last time if not one file has changed since."""
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    remembered = Path(cache) / "checked" / f"{key}.json"
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError):  # not there yet, or damaged
        found = read_json(remembered)
        if found["version"] == _CHECK_VERSION and found["fingerprint"] == fingerprint:
            return dict(found["broken"])
    from preprocessing.images import UNREADABLE, broken_images

    broken = broken_images(root, paths)
    if not any(why.startswith(UNREADABLE) for why in broken.values()):  # rights change no file's date
        with contextlib.suppress(UserError):  # a cache that cannot be written to: the next start checks again
            write_json(remembered, {"version": _CHECK_VERSION, "fingerprint": fingerprint, "broken": broken})
    return broken

"""The competition's folder: found, checked as a whole before anything is trained, and read into tables.

It is read only. What the check of the images' headers found is remembered under the cache folder, so that a second
start only looks at sizes and dates.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION, SLUG, TEST_FOLDER, TRAIN_FOLDER
from common.errors import UserError, named
from common.files import read_json, write_json
from common.run_folder import CACHE, REPOSITORY
from preprocessing.competition_files import (
    Fault,
    FileStat,
    compare,
    list_files,
    read_driver_list,
    read_sample_submission,
)
from preprocessing.jpeg import NOT_JPEG, UNREADABLE, broken_images

VARIABLE = "STATEFARM_DATA"
KAGGLE_MOUNTS = (Path("/kaggle/input") / SLUG, Path("/kaggle/input/competitions") / SLUG)
DEFAULT_FOLDER = REPOSITORY / "data"

_CHECK_VERSION = 4  # raised whenever the header check learns or unlearns something, so that old findings are not used


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
    train: pd.DataFrame
    test: list[str]
    broken_test: frozenset[str]
    left_out: pd.DataFrame
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
    """Which of the two tables and the two image folders `root` does not have."""
    files = [name for name in (DRIVER_LIST, SAMPLE_SUBMISSION) if not (root / name).is_file()]
    return files + [f"{name}/" for name in (TRAIN_FOLDER, TEST_FOLDER) if not (root / name).is_dir()]


def _is_complete(folder: Path) -> bool:
    try:
        return not missing_parts(folder)
    except OSError:  # nobody may look into it, such as lost+found
        return False


def _require_complete(root: Path) -> None:
    missing = missing_parts(root)
    if not missing:
        return
    # The two usual mistakes: an archive unpacked one folder too deep, and imgs/ named instead of its parent.
    nearby = [root.parent, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    whole = next((folder for folder in nearby if _is_complete(folder)), None)
    hint = (
        f"The data lies in {whole}: say --data {whole}"
        if whole
        else f"Expected Kaggle's layout: {DRIVER_LIST}, {SAMPLE_SUBMISSION}, {TRAIN_FOLDER}/c0..c9/*.jpg, "
        f"{TEST_FOLDER}/*.jpg. Unpack the rest there, or get all of it: python -m preprocessing.download"
    )
    raise UserError(f"{root} is incomplete, it has no {named(missing, 4)}. {hint}")


def load(root: Path, cache: Path = CACHE, skip_broken: bool = False, progress: bool = True) -> Dataset:
    """Checks the whole folder and reads it.

    Args:
        cache: where the findings about images are remembered, in cache/checked/.
        skip_broken: go on without the training images, and with a list of the test images, that are missing or broken.
        progress: show a bar on stderr while images are checked.

    Raises:
        UserError: everything that is wrong, listed at once.
    """
    root = Path(root)
    _require_complete(root)
    faults: list[Fault] = []
    rows = read_driver_list(root, faults)
    test = read_sample_submission(root, faults)
    files = list_files(root, faults)
    lacking_train, lacking_test = compare(rows, test, files, faults)

    train_paths = {row.img: f"{TRAIN_FOLDER}/{row.classname}/{row.img}" for row in rows or []}
    test_paths = {img: f"{TEST_FOLDER}/{img}" for img in test or []}
    fingerprint = _fingerprint(root, files)
    listed = [path for path in (*train_paths.values(), *test_paths.values()) if path in files]
    broken = _broken_images(root, listed, fingerprint, cache, progress)
    lacking_train |= {img for img, path in train_paths.items() if path in broken}
    lacking_test |= {img for img, path in test_paths.items() if path in broken}
    by_reason: dict[str, list[str]] = {}
    for path, why in broken.items():
        reason, _, detail = why.partition(": ")
        by_reason.setdefault(reason, []).append(f"{path}: {detail}" if detail else path)
    for reason, paths in sorted(by_reason.items()):
        way_out = "; only JPEG is read: convert other formats, get damaged files again" if reason == NOT_JPEG else ""
        faults.append(Fault(f"images that are {reason}: {len(paths):,} ({named(paths)}){way_out}", skippable=True))

    if rows is None or test is None or any(not fault.skippable for fault in faults) or (faults and not skip_broken):
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


def _fingerprint(root: Path, files: dict[str, FileStat]) -> str:
    digest = hashlib.sha256()
    for name in (DRIVER_LIST, SAMPLE_SUBMISSION):
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    lines = [f"{path}\0{status.size}\0{status.modified}\n" for path, status in sorted(files.items())]
    digest.update("".join(lines).encode())
    return digest.hexdigest()


def _broken_images(root: Path, paths: Sequence[str], fingerprint: str, cache: Path, progress: bool) -> dict[str, str]:
    """`broken_images`, or what it found last time if not one file has changed since.

    Those that could not be read are looked at again: rights, or a disk that answers again, change no file's date.
    """
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    remembered = Path(cache) / "checked" / f"{key}.json"
    try:
        found = read_json(remembered)
        if found["version"] == _CHECK_VERSION and found["fingerprint"] == fingerprint:
            broken = dict(found["broken"])
            kept = {path: why for path, why in broken.items() if not why.startswith(UNREADABLE)}
            return kept | broken_images(root, [path for path in broken if path not in kept], False)
    except (UserError, KeyError, TypeError, ValueError):
        pass  # not there yet, or damaged: checking again costs seconds and is always right
    broken = broken_images(root, paths, progress)
    try:
        write_json(
            remembered,
            {"version": _CHECK_VERSION, "root": str(root), "fingerprint": fingerprint, "broken": broken},
        )
    except UserError as error:  # the check is done all the same; only the next start is slower
        print(f"note: the check of the images is not remembered: {error}", file=sys.stderr)
    return broken

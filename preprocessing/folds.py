"""Folds in which no driver stands on both sides, the same for every model of a run.

A random split would let a network recognise the drivers and would promise a score that it cannot keep.
"""

import contextlib
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing import locks
from preprocessing.competition import CLASS_NAMES, CLASSES
from preprocessing.csv_files import check_image_names, is_formula, read_rows
from preprocessing.errors import UserError, named, run_command
from preprocessing.files import read_record, sha256_of, write_json, written_whole
from preprocessing.run_folder import CACHE, RUNS, folds_path, run_folder
from preprocessing.settings import CommandLine

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("img", "subject", "classname", "fold")


def make_folds(train: "pd.DataFrame", number_of_folds: int) -> "pd.DataFrame":
    """Splits images into folds by driver, each fold with as nearly as possible the same share of every class.

    The result depends on the set of images alone, not on the order of the rows, and on no seed.

    Args:
        train: columns img, subject, classname.
        number_of_folds: 2 to the number of drivers.

    Returns:
        Columns img, subject, classname, fold (int, 0..number_of_folds-1), sorted by subject, classname, img.

    Raises:
        UserError: fewer drivers than folds, or a class would be missing from the training part of a fold.
    """
    import warnings

    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    drivers = train["subject"].nunique()
    if number_of_folds < 2:
        raise UserError(f"--folds {number_of_folds}: expected at least 2, so that there is something to validate on.")
    if drivers < number_of_folds:
        advice = f"Say --folds {drivers} or less" if drivers >= 2 else "Get images of at least two drivers"
        raise UserError(f"--folds {number_of_folds} needs as many drivers, the data has {drivers}. {advice}.")
    table = train[["img", "subject", "classname"]].sort_values(["subject", "classname", "img"], ignore_index=True)
    # Not shuffled: the shuffled variant assigns differently from one scikit-learn version to the next.
    splitter = StratifiedGroupKFold(n_splits=number_of_folds, shuffle=False)
    fold = np.full(len(table), -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with few images; judged below, in the user's words
        try:
            for number, (_, held_out) in enumerate(splitter.split(table, table["classname"], table["subject"])):
                fold[held_out] = number
        except ValueError as error:
            largest = table["classname"].value_counts().max()
            text = f"no class has as many images as there are folds (the largest has {largest})"
            raise UserError(f"--folds {number_of_folds}: {text}. Say --folds {largest} or less.") from error
    table["fold"] = fold
    _judge_training_parts(table, "the data")
    return table


def _judge_training_parts(table: "pd.DataFrame", where: str) -> None:
    """Every class must have images outside every fold: a network cannot learn a class that it never sees."""
    there = set(zip(table["fold"], table["classname"], strict=True))
    for fold in sorted({number for number, _ in there}):
        seen = {name for number, name in there if number != fold}
        lacking = [name for name in CLASSES if name not in seen]
        if lacking:
            words = named([f"{name} ({CLASS_NAMES[name]})" for name in lacking], 10)
            raise UserError(
                f"{where}: the training part of fold {fold} has no image of {words}. "
                "Every class needs images of drivers in at least two folds; add images, or choose another --folds."
            )


def read_folds(path: Path, train: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    """Reads a fold table and checks it for leaks.

    Args:
        train: if given, the table must have exactly these images, with the same drivers and classes.

    Returns:
        Columns img, subject, classname, fold (int64), in the file's order.

    Raises:
        UserError: not a fold table, or a driver stands in two folds, or it is of other images.
    """
    path = Path(path)
    if _is_rotten(path):
        raise UserError(f"{path} is damaged: its checksum does not fit. python -m preprocessing.folds makes it again.")
    try:
        header, rows = read_rows(path, "a fold table")
    except FileNotFoundError:
        raise UserError(f"{path}: no such fold table. Make it: python -m preprocessing.folds --run NAME") from None
    if not set(COLUMNS) <= set(header):
        raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}, found {named(header, 12)}.")
    places = [header.index(column) for column in COLUMNS]
    return _judged(path, [tuple(row[place] for place in places) for row in rows], train)


def _judged(path: Path, rows: "list[tuple[str, ...]]", train: "pd.DataFrame | None") -> "pd.DataFrame":
    """The rows img, subject, classname, fold as a table, if they are one."""
    import pandas as pd

    images, drivers, classes, folds = zip(*rows, strict=True) if rows else ((), (), (), ())
    check_image_names(path, images)
    formulas = [repr(text) for text in (*images, *drivers) if not text.strip() or is_formula(text)]
    if formulas:
        raise UserError(f"{path}: images or drivers without a name, or with a formula for one: {named(formulas)}.")
    unknown = sorted(set(classes).difference(CLASSES))
    if unknown:
        raise UserError(f"{path}: expected the classes c0..c9, found {named(unknown)}.")
    wrong = [repr(text) for text in folds if not re.fullmatch(r"[0-9]{1,4}", text)]
    if wrong:
        raise UserError(f"{path}: expected folds numbered from 0, found {named(wrong)}.")
    numbers = sorted(set(map(int, folds)))
    if numbers != list(range(len(numbers))) or len(numbers) < 2:
        found = named([str(number) for number in numbers], 12) or "no rows"
        raise UserError(f"{path}: expected folds numbered 0, 1, ... without a gap and at least two, found {found}.")
    pairs = Counter(driver for driver, _ in set(zip(drivers, map(int, folds), strict=True)))
    leaking = sorted(driver for driver, count in pairs.items() if count > 1)
    if leaking:
        raise UserError(
            f"{path}: a leak: the drivers {named(leaking, 10)} stand in more than one fold, "
            "so scores would be too good. Delete the file and make it again."
        )
    table = pd.DataFrame({"img": images, "subject": drivers, "classname": classes})
    table["fold"] = pd.Series(map(int, folds), dtype="int64")
    _judge_training_parts(table, str(path))
    if train is not None:
        _judge_same_images(path, table, train)
    return table


def _judge_same_images(path: Path, table: "pd.DataFrame", train: "pd.DataFrame") -> None:
    here, there = table.set_index("img"), train.set_index("img")
    gone, new = here.index.difference(there.index), there.index.difference(here.index)
    both = there.index.intersection(here.index)
    labels = ["subject", "classname"]
    other = both[(here.loc[both, labels] != there.loc[both, labels]).any(axis=1)]
    differences = [
        f"{what}: {len(images):,} ({named(sorted(images))})"
        for images, what in (
            (gone, "images that are not in the data"),
            (new, "images of the data that are not in it"),
            (other, "images with another driver or class"),
        )
        if len(images)
    ]
    if differences:
        raise UserError(
            f"{path} was made of other data: {'; '.join(differences)}. "
            "Use the data it was made of, or another --run NAME."
        )


def ensure_folds(run: Path, train: "pd.DataFrame", number_of_folds: int) -> "pd.DataFrame":
    """The run's fold table: read and checked if it is there, else made and written.

    Raises:
        UserError: it is there with another number of folds or of other images; or as `make_folds` and `read_folds`.
    """
    path = folds_path(run)
    if not path.exists():
        table = make_folds(train, number_of_folds)
        with _writing(path):
            if not path.exists():  # else another process was first
                _write(path, table)
                return table
    return _read_for(path, train, number_of_folds)


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    """Within, no other process writes the table."""
    return locks.held(path.parent / ".folds.lock", f"{path} is being written", wait=True)


def _read_for(path: Path, train: "pd.DataFrame", number_of_folds: int) -> "pd.DataFrame":
    _restore_if_rotten(path, train, number_of_folds)
    table = read_folds(path, train)
    found = table["fold"].nunique()
    if found != number_of_folds:
        raise UserError(
            f"{path} has {found} folds, --folds {number_of_folds} was asked for. "
            f"Go on with --folds {found}, or choose another --run NAME."
        )
    return table


def _write(path: Path, table: "pd.DataFrame") -> None:
    """Writes the table, and its checksum beside it."""
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    _write_checksum(path)


def _write_checksum(path: Path) -> None:
    write_json(_checksum_path(path), {"sha256": sha256_of(path), "mtime_ns": path.stat().st_mtime_ns})


def _checksum_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_rotten(path: Path) -> bool:
    """Whether the table has changed though nobody wrote it; one that a person has changed is theirs."""
    try:
        record = read_record(_checksum_path(path))
        rotten = record["mtime_ns"] == path.stat().st_mtime_ns and record["sha256"] != sha256_of(path)
    except (UserError, OSError, KeyError):  # there is none, or it is damaged itself: the table is judged by its rows
        return False
    return rotten


def _restore_if_rotten(path: Path, train: "pd.DataFrame", number_of_folds: int) -> None:
    """Makes a damaged table again, which depends on the images alone."""
    if _is_rotten(path):
        print(f"note: {path} is damaged, as its checksum tells; it is made again", file=sys.stderr)
        with _writing(path):
            _write(path, make_folds(train, number_of_folds))
    elif not _checksum_path(path).exists():  # the process ended between the two
        with contextlib.suppress(UserError):
            _write_checksum(path)


def summary(folds: "pd.DataFrame") -> str:
    """A table for people: images, drivers and images of each class, one line per fold."""
    lines = [
        f"{'fold':>5}{'images':>8}{'drivers':>9}" + "".join(f"{name:>6}" for name in CLASSES) + "  held-out drivers"
    ]
    for fold, part in folds.groupby("fold"):
        counts = part["classname"].value_counts()
        per_class = "".join(f"{counts.get(name, 0):>6}" for name in CLASSES)
        drivers = sorted(part["subject"].unique())
        lines.append(f"{fold:>5}{len(part):>8,}{len(drivers):>9}{per_class}  {' '.join(drivers)}")
    return "\n".join(lines)


def main() -> None:
    """python -m preprocessing.folds"""
    parser = CommandLine(prog="python -m preprocessing.folds", description="Splits the training images by driver.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    parser.add_argument("--run", default="full", metavar="NAME", help="the run it is for [full]")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="the folder of all runs [runs]")
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="how many [5]")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="what may be remembered [cache]")
    parser.add_argument("--skip-broken", action="store_true", help="leave out missing and broken images")
    arguments = parser.parse_args()

    from preprocessing import dataset

    run = run_folder(arguments.run, arguments.runs)
    data = dataset.load(dataset.required(arguments.data), arguments.cache, arguments.skip_broken)
    table = ensure_folds(run, data.train, arguments.folds)
    print(f"{folds_path(run)}\n{summary(table)}")


if __name__ == "__main__":
    run_command(main)

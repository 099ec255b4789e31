"""Folds in which no driver stands on both sides, the same for every model of a run.

A random split would let a network recognise the drivers and would promise a score that it cannot keep.
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import locks
from common.competition import CLASS_NAMES, CLASSES
from common.errors import UserError, named, run_command
from common.files import check_image_names, is_formula, listed_again, read_rows, written_whole
from common.run_folder import CACHE, RUNS, RunFolder
from common.settings import CommandLine, whole_number

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("img", "subject", "classname", "fold")
CORRECT = "Correct the file."
ADVICE = "Correct it, or delete it: automatic folds are then made, the same every time for the same images."


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
        warnings.simplefilter("ignore", UserWarning)  # a class with few images; checked below, in the user's words
        try:
            for number, (_, held_out) in enumerate(splitter.split(table, table["classname"], table["subject"])):
                fold[held_out] = number
        except ValueError as error:
            largest = table["classname"].value_counts().max()
            text = f"no class has as many images as there are folds (the largest has {largest})"
            raise UserError(f"--folds {number_of_folds}: {text}. Say --folds {largest} or less.") from error
    table["fold"] = fold
    _check_training_parts(table, "the data", "Add images, or choose another --folds.")
    return table


def _check_training_parts(table: "pd.DataFrame", where: str, advice: str) -> None:
    """Every class must have images outside every fold: a network cannot learn a class that it never sees."""
    there = set(zip(table["fold"], table["classname"], strict=True))
    for fold in sorted({number for number, _ in there}):
        seen = {name for number, name in there if number != fold}
        lacking = [name for name in CLASSES if name not in seen]
        if lacking:
            words = named([f"{name} ({CLASS_NAMES[name]})" for name in lacking], 10)
            raise UserError(
                f"{where}: the training part of fold {fold} has no image of {words}. "
                f"Every class needs images of drivers in at least two folds. {advice}"
            )


def read_folds(path: Path, train: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    """Reads a fold table and checks it for leaks.

    Args:
        train: if given, the table must have exactly these images, with the same drivers and classes.

    Returns:
        Columns img, subject, classname, fold (int64), in the file's order.

    Raises:
        UserError: not a fold table, or a driver is in two folds, or it is of other images.
    """
    path = Path(path)
    try:
        header, rows = read_rows(path, "a fold table")
    except FileNotFoundError:
        raise UserError(f"{path}: no such fold table. Make it: python -m preprocessing.folds --run NAME") from None
    except UserError as error:
        raise UserError(f"{error} {ADVICE}") from None
    if not set(COLUMNS) <= set(header):
        raise UserError(
            f"{path}: expected the columns {','.join(COLUMNS)}, found {named(header, 12)}. {ADVICE} "
            "(--folds-file FILE accepts img,fold and subject,fold too.)"
        )
    places = [header.index(column) for column in COLUMNS]
    return _checked(path, [tuple(row[place] for place in places) for row in rows], train, ADVICE)


def _checked(path: Path, rows: "list[tuple[str, ...]]", train: "pd.DataFrame | None", advice: str) -> "pd.DataFrame":
    """The rows img, subject, classname, fold as a table, if they are one."""
    import pandas as pd

    images, drivers, classes, folds = zip(*rows, strict=True) if rows else ((), (), (), ())
    try:
        check_image_names(path, images)
    except UserError as error:
        raise UserError(f"{error} {advice}") from None
    formulas = [repr(text) for text in (*images, *drivers) if not text.strip() or is_formula(text)]
    if formulas:
        raise UserError(
            f"{path}: images or drivers without a name, or with a formula for one: {named(formulas)}. {advice}"
        )
    unknown = sorted(set(classes).difference(CLASSES))
    if unknown:
        raise UserError(f"{path}: expected the classes c0..c9, found {named(unknown)}. {advice}")
    _check_numbers(path, folds, advice)
    pairs = Counter(driver for driver, _ in set(zip(drivers, map(int, folds), strict=True)))
    leaking = sorted(driver for driver, count in pairs.items() if count > 1)
    if leaking:
        raise UserError(
            f"{path}: a leak: the drivers {named(leaking, 10)} are in more than one fold, so scores would be too "
            f"good. Expected all images of a driver in one fold. {advice}"
        )
    table = pd.DataFrame({"img": images, "subject": drivers, "classname": classes})
    table["fold"] = pd.Series(map(int, folds), dtype="int64")
    _check_training_parts(table, str(path), advice)
    if train is not None:
        _check_images(path, table, train, advice)
    return table


def _check_numbers(path: Path, folds: Sequence[str], advice: str) -> int:
    """The number of folds, which must be 0, 1, ... without a gap."""
    wrong = sorted({repr(text) for text in folds if not re.fullmatch(r"[0-9]{1,4}", text)})
    if wrong:
        raise UserError(f"{path}: expected folds numbered from 0, found {named(wrong)}. {advice}")
    numbers = sorted(set(map(int, folds)))
    if numbers != list(range(len(numbers))) or len(numbers) < 2:
        found = named([str(number) for number in numbers], 12) or "no rows"
        raise UserError(
            f"{path}: expected folds numbered 0, 1, ... without a gap and at least two, found {found}. {advice}"
        )
    return len(numbers)


def _check_images(path: Path, table: "pd.DataFrame", train: "pd.DataFrame", advice: str) -> None:
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
            f"Use the data it was made of, or another --run NAME. {advice}"
        )


def read_folds_file(path: Path, train: "pd.DataFrame", left_out: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    """Reads the user's own folds and applies them to the training images.

    Args:
        path: a table `img,fold` or `subject,fold`. Of further columns, subject and classname are compared with `train`.
        train: columns img, subject, classname.
        left_out: as `train`, images that the file may hold although they are not used. Their rows are ignored.

    Returns:
        As `make_folds`.

    Raises:
        UserError: not such a table, an image or driver is missing or unknown, or as `read_folds`.
    """
    key, columns = _columns_of_file(path)
    fold_of = dict(zip(columns[key], columns["fold"], strict=True))
    table = train[["img", "subject", "classname"]].sort_values(["subject", "classname", "img"], ignore_index=True)
    known, words = set(table[key]), "images" if key == "img" else "drivers"
    ignored = sorted(set(fold_of).intersection(() if left_out is None else left_out[key]).difference(known))
    if ignored:
        print(
            f"note: {path}: {words} that --skip-broken leaves out: {len(ignored):,} ({named(ignored)})", file=sys.stderr
        )
        fold_of = {name: fold for name, fold in fold_of.items() if name not in ignored}
    for names, what in (
        ([name for name in fold_of if name not in known], f"{words} that are not in the data"),
        (sorted(known.difference(fold_of)), f"{words} of the data that are not in it"),
    ):
        if names:
            raise UserError(f"{path}: {what}: {len(names):,} ({named([repr(name) for name in names])}). {CORRECT}")
    for column in {"subject", "classname"} & set(columns) - {key} if key == "img" else ():
        theirs = dict(zip(columns[key], columns[column], strict=True))
        other = [row.img for row in table.itertuples() if theirs[row.img] != getattr(row, column)]
        if other:
            raise UserError(f"{path}: images with another {column} than in the data: {named(other)}. {CORRECT}")
    rows = zip(*(table[name] for name in COLUMNS[:3]), table[key].map(fold_of), strict=True)
    return _checked(path, list(rows), None, CORRECT)


def _columns_of_file(path: Path) -> tuple[str, dict[str, list[str]]]:
    """'img' or 'subject', which tells the fold, and the columns of a --folds-file by name."""
    try:
        header, rows = read_rows(path, "a fold table")
    except FileNotFoundError:
        raise UserError(f"--folds-file {path}: no such file.") from None
    key = next((name for name in ("img", "subject") if name in header), None)
    if key is None or "fold" not in header:
        raise UserError(f"{path}: expected the columns img,fold or subject,fold, found {named(header, 12)}.")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    twice = listed_again(columns[key])
    if twice:
        raise UserError(f"{path}: listed more than once: {named(twice)}. {CORRECT}")
    _check_numbers(path, columns["fold"], CORRECT)
    return key, columns


def number_of_folds(path: Path, number: int | None, file: Path | None, default: int) -> int:
    """How many folds the table at `path` has or will have: as asked, as in the file, as it is, or the default.

    Raises:
        UserError: the file or the table is malformed.
    """
    if number is not None:
        return number
    if file is not None:
        return len(set(map(int, _columns_of_file(file)[1]["fold"])))
    return int(read_folds(path)["fold"].nunique()) if path.exists() else default


def ensure_folds(
    path: Path,
    train: "pd.DataFrame",
    number: int | None = None,
    file: Path | None = None,
    default: int = 5,
    left_out: "pd.DataFrame | None" = None,
) -> "pd.DataFrame":
    """The run's fold table: read and checked if it is there, else made, or taken from `file`, and written.

    A table that is there is never replaced.

    Args:
        path: runs/NAME/folds.csv
        number: of folds, where it was asked for.
        file: the user's own folds, in place of `number`.
        default: the number of folds of a new table where neither was asked for.
        left_out: as `read_folds_file`.

    Raises:
        UserError: it is there with another number of folds, other folds than in `file`, or of other images; or as
            `make_folds`, `read_folds` and `read_folds_file`.
    """
    wanted = read_folds_file(file, train, left_out) if file else None
    if not path.exists():
        table = make_folds(train, number or default) if wanted is None else wanted
        with locks.held(path.parent / ".folds.lock", f"{path} is being written", wait=True):
            if not path.exists():  # else another process was first
                with written_whole(path) as temporary:
                    table.to_csv(temporary, index=False, lineterminator="\n")
    table = read_folds(path, train)
    found = table["fold"].nunique()
    if number is not None and found != number:
        raise UserError(
            f"{path} has {found} folds, --folds {number} was asked for. "
            f"Go on with --folds {found}, or choose another --run NAME."
        )
    if wanted is not None and not table.set_index("img")["fold"].equals(wanted.set_index("img")["fold"][table["img"]]):
        raise UserError(
            f"{path} has other folds than --folds-file {file}. Leave --folds-file out to go on with the run's folds, "
            "or choose another --run NAME."
        )
    return table


def add_fold_options(parser: Any, default: str) -> None:
    """Adds --folds and --folds-file, of which one can be given.

    Args:
        parser: an ArgumentParser or a group of one.
        default: the number of folds of a new run, in words.
    """
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--folds", type=whole_number(2, 1000), metavar="N", help=f"number of folds [as in the run; {default}]"
    )
    either.add_argument(
        "--folds-file",
        type=Path,
        metavar="FILE",
        help="your own folds: img,fold or subject,fold [automatic, by driver]",
    )


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
    add_fold_options(parser, "5")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="what may be remembered [cache]")
    parser.add_argument("--skip-broken", action="store_true", help="leave out missing and broken images")
    arguments = parser.parse_args()

    from preprocessing import dataset

    path = RunFolder.of(arguments.run, arguments.runs).folds
    data = dataset.load(dataset.required(arguments.data), arguments.cache, arguments.skip_broken)
    table = ensure_folds(path, data.train, arguments.folds, arguments.folds_file, left_out=data.left_out)
    print(f"{path}\n{summary(table)}")


if __name__ == "__main__":
    run_command(main)

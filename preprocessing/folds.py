"""Folds in which no driver stands on both sides, the same for every model of a run.

A random split would let a network recognise the drivers and would promise a score that it cannot keep.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.competition import CLASS_NAMES, CLASSES
from common.errors import UserError, named, run_command
from common.files import listed_again, locked, read_rows, written_whole
from common.run_folder import RUNS, RunFolder
from common.settings import CommandLine, whole_number
from preprocessing.dataset import add_data_options, load_chosen

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["img", "subject", "classname", "fold"]
ADVICE = "Correct it, or delete it: automatic folds are then made, the same every time for the same images."


def make_folds(train: "pd.DataFrame", number_of_folds: int) -> "pd.DataFrame":
    """Splits images into folds by driver, each fold with as nearly as possible the same share of every class.

    The result depends on the set of images alone, not on the order of the rows, and on no seed.

    Returns:
        Columns img, subject, classname, fold (int, 0..number_of_folds-1), sorted by subject, classname, img.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    drivers = train["subject"].nunique()
    if not 2 <= number_of_folds <= drivers:
        raise UserError(
            f"--folds {number_of_folds}: expected at least 2, and at most as many as the data has drivers, {drivers}."
        )
    table = _sorted(train).assign(fold=-1)
    # Not shuffled: the shuffled variant assigns differently from one scikit-learn version to the next.
    splitter = StratifiedGroupKFold(n_splits=number_of_folds, shuffle=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with few images; checked below, in the user's words
        try:
            for number, (_, held_out) in enumerate(splitter.split(table, table["classname"], table["subject"])):
                table.loc[held_out, "fold"] = number
        except ValueError as error:  # every class has fewer images than there are folds
            raise UserError(f"--folds {number_of_folds}: {error} Choose fewer folds.") from error
    _check_training_parts("the data", table)
    return table


def _sorted(train: "pd.DataFrame") -> "pd.DataFrame":
    return train[COLUMNS[:3]].sort_values(["subject", "classname", "img"], ignore_index=True)


def _check_training_parts(where: object, table: "pd.DataFrame") -> None:
    """Every class must have images outside every fold: a network cannot learn a class that it never sees."""
    for fold in range(table["fold"].max() + 1):
        seen = set(table["classname"][table["fold"] != fold])
        lacking = [f"{name} ({words})" for name, words in CLASS_NAMES.items() if name not in seen]
        if lacking:
            raise UserError(
                f"{where}: the training part of fold {fold} has no image of {named(lacking, 10)}. Every class needs "
                "images of drivers in at least two folds: choose other folds, or add images."
            )


def read_folds(path: Path, train: "pd.DataFrame | None" = None, advice: str = ADVICE) -> "pd.DataFrame":
    """Reads a fold table, img, subject, classname, fold (int64), in the file's order, and checks it for leaks.

    Args:
        train: if given, the table must have exactly these images, with the same drivers and classes.
        advice: the end of the message about a malformed one.
    """
    if not path.exists():
        raise UserError(f"{path}: no such fold table. Make it: python -m preprocessing.folds --run NAME")
    try:
        table = _read(path)
        if not set(COLUMNS) <= set(table):
            raise UserError(
                f"{path}: expected the columns {','.join(COLUMNS)}, found {named(list(table), 12)}. (--folds-file FILE "
                "accepts img,fold and subject,fold too.)"
            )
        table = _checked(path, table[COLUMNS])
    except UserError as error:
        raise UserError(f"{error} {advice}".rstrip()) from None
    if train is None:
        return table
    own, other = ({tuple(row) for row in frame[COLUMNS[:3]].to_numpy()} for frame in (table, train))
    different = {
        "rows that are not in the data": sorted(own - other),
        "rows of the data that are not in it": sorted(other - own),
    }
    found = [f"{what}: {len(rows):,} ({named(list(map(' '.join, rows)))})" for what, rows in different.items() if rows]
    if found:
        raise UserError(
            f"{path} was made of other data: {'; '.join(found)}. "
            f"Use the data it was made of, or another --run NAME. {ADVICE}"
        )
    return table


def _read(path: Path) -> "pd.DataFrame":
    """A CSV file as text, with numbers for the folds if it has a column of that name."""
    import pandas as pd

    header, rows = read_rows(path, "a fold table")
    table = pd.DataFrame(rows, columns=header, dtype="str")
    if "fold" not in table:
        return table
    numbers = pd.to_numeric(table["fold"], errors="coerce")
    count = len(set(numbers))
    if count < 2 or set(numbers) != set(range(count)):
        found = named(sorted(set(table["fold"])), 12) or "no rows"
        raise UserError(f"{path}: expected at least two folds, numbered 0, 1, ... without a gap, found {found}.")
    return table.assign(fold=numbers.astype("int64"))


def _checked(path: Path, table: "pd.DataFrame") -> "pd.DataFrame":
    """The table itself, if no image stands in it twice, all classes are known, and no driver is in two folds."""
    if again := listed_again(list(table["img"])):
        raise UserError(f"{path}: images listed more than once: {len(again):,} ({named(again)}).")
    if unknown := sorted(set(table["classname"]).difference(CLASSES)):
        raise UserError(f"{path}: expected the classes c0..c9, found {named(unknown)}.")
    folds_of = table.groupby("subject")["fold"].nunique()
    if leaking := sorted(folds_of.index[folds_of > 1]):
        raise UserError(
            f"{path}: a leak: the drivers {named(leaking, 10)} are in more than one fold, so scores would be too "
            "good. Expected all images of a driver in one fold."
        )
    _check_training_parts(path, table)
    return table


def read_folds_file(path: Path, train: "pd.DataFrame", left_out: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    """The user's own folds of the training images, as `make_folds` returns them.

    The file is a table `img,fold` or `subject,fold`; further columns and rows of images `left_out` are ignored.
    """
    own = _own_folds(path)
    key = str(own.index.name)
    table = _sorted(train)
    unknown = own.index.difference(table[key]).difference([] if left_out is None else left_out[key])
    missing = table.set_index(key).index.unique().difference(own.index)
    for names, where in ((unknown, "that are not in the data"), (missing, "of the data that are not in it")):
        if len(names):
            words = "images" if key == "img" else "drivers"
            raise UserError(f"{path}: {words} {where}: {len(names):,} ({named(list(map(repr, names)))}).")
    return _checked(path, table.assign(fold=own.loc[table[key], "fold"].to_numpy()))


def _own_folds(path: Path) -> "pd.DataFrame":
    """The column fold of a --folds-file, by 'img' or 'subject'."""
    if not path.exists():
        raise UserError(f"--folds-file {path}: no such file.")
    table = _read(path)
    key = next((name for name in ("img", "subject") if name in table), None)
    if key is None or "fold" not in table:
        raise UserError(f"{path}: expected the columns img,fold or subject,fold, found {named(list(table), 12)}.")
    if twice := listed_again(list(table[key])):
        raise UserError(f"{path}: listed more than once: {named(twice)}.")
    return table.set_index(key)


def number_of_folds(path: Path, number: int | None, file: Path | None, default: int) -> int:
    """How many folds the table at `path` has or will have: as asked, as in the file, as it is, or the default."""
    if number is not None:
        return number
    if file is not None:
        return int(_own_folds(file)["fold"].nunique())
    return int(read_folds(path)["fold"].nunique()) if path.exists() else default


def ensure_folds(
    path: Path,
    train: "pd.DataFrame",
    number: int | None = None,
    file: Path | None = None,
    default: int = 5,
    left_out: "pd.DataFrame | None" = None,
    write: bool = True,
) -> "pd.DataFrame":
    """The run's fold table: read and checked if it is there, else made, or taken from `file`, and written.

    A table that is there is never replaced.

    Args:
        number: of folds, where it was asked for; else of a new table `default`.
        file: the user's own folds, in place of `number`.
        left_out: as `read_folds_file`.
        write: a new table.
    """
    wanted = read_folds_file(file, train, left_out) if file else None
    if not path.exists():
        table = make_folds(train, number or default) if wanted is None else wanted
        if not write:
            return table
        with locked(path.parent / ".folds.lock", f"{path} is being written", wait=True):
            if not path.exists():
                with written_whole(path) as temporary:
                    table.to_csv(temporary, index=False, lineterminator="\n")
    table = read_folds(path, train)
    found = table["fold"].nunique()
    if number not in (None, found):
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
    """Adds --folds and --folds-file, of which one can be given; `default` is their number in a new run, in words."""
    add = parser.add_mutually_exclusive_group().add_argument
    add("--folds", type=whole_number(2, 1000), metavar="N", help=f"number of folds [as in the run; {default}]")
    text = "your own folds: img,fold or subject,fold, perhaps more columns [automatic, by driver]"
    add("--folds-file", type=Path, metavar="FILE", help=text)


def summary(folds: "pd.DataFrame") -> str:
    """A table for people: images, drivers and images of each class, one line per fold."""
    import pandas as pd

    by_fold = folds.groupby("fold")["subject"]
    table = pd.crosstab(folds["fold"], folds["classname"]).reindex(columns=list(CLASSES), fill_value=0)
    table.insert(0, "images", by_fold.size())
    table.insert(1, "drivers", by_fold.nunique())
    table["held-out drivers"] = by_fold.unique().map(lambda drivers: " ".join(sorted(drivers)))
    return table.rename_axis(index="fold", columns=None).reset_index().to_string(index=False)


def main() -> None:
    parser = CommandLine(prog="python -m preprocessing.folds", description="Splits the training images by driver.")
    add_data_options(parser)
    parser.add_argument("--run", default="full", metavar="NAME", help="the run it is for [full]")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="the folder of all runs [runs]")
    add_fold_options(parser, "5")
    arguments = parser.parse_args()
    path = RunFolder.of(arguments.run, arguments.runs).folds
    data = load_chosen(arguments)
    table = ensure_folds(path, data.train, arguments.folds, arguments.folds_file, left_out=data.left_out)
    print(f"{path}\n{summary(table)}")


if __name__ == "__main__":
    run_command(main)

"""Compares the models of runs: what differs in their settings, and what came of it on drivers that they never saw.

    python -m tools.compare runs/*
    python -m tools.compare runs/trial-1 runs/trial-2 --html comparison.html

A row for each model of each run and for each blend, the least out-of-fold log loss first. '±' is one standard error
over drivers, since the images of one driver are alike. 'behind' is the loss beyond that of the first row on the images
that both have, with the standard error of that difference: less than twice its error may be chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.competition import CLASSES
from common.errors import UserError, run_command
from common.run_folder import CACHE, OUT_OF_FOLD, RunFolder
from common.settings import CommandLine, word
from tools.predict import finished_folds

if TYPE_CHECKING:
    import pandas as pd

BLEND = "ensemble"
NOT_COMPARED = ("architecture", "fold", "folds_sha256", "test_images_sha256", "test_images_broken")
NAN = math.nan
NUMBERS = ["log_loss", "standard_error", "behind", "behind_error", "accuracy", "folds", "images", "drivers"]
COLUMNS = ["run", "model", *NUMBERS, "seconds_a_fold"]  # others are settings


def main() -> None:
    parser = CommandLine(prog="python -m tools.compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, such as runs/*")
    out = CACHE / "comparison.csv"
    parser.add_argument("--out", type=Path, default=out, metavar="CSV", help="the table [comparison.csv in cache]")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the reports of the runs side by side, as one page")
    parser.add_argument("--no-photographs", dest="photographs", action="store_false", help="file names instead")
    arguments = parser.parse_args()

    from common.tables import write_table

    rows = read_rows(arguments.runs)
    table, notes = make_table(rows), remarks(rows)
    print("\n".join([as_text(table), *notes]))
    write_table(arguments.out, table)
    print(f"\n{arguments.out}")
    if arguments.html:
        from tools import report

        headers, lines = cells(table)
        runs = [RunFolder(path.resolve()) for path in dict.fromkeys(arguments.runs) if path.is_dir()]
        requests = [report.Request(run, photographs=arguments.photographs) for run in runs]
        report.write_comparison(arguments.html, requests, {"headers": headers, "rows": lines, "remarks": notes})
        print(arguments.html)


@dataclass(frozen=True, eq=False)
class Row:
    """One model of a run, or the run's blend.

    `settings` are what its folds have in common; `of` is how many folds there are; `seconds` the mean of a fold.
    """

    run: str
    model: str
    settings: dict[str, Any]
    losses: pd.DataFrame
    folds: int
    of: int
    seconds: float = NAN


def read_rows(runs: Sequence[Path]) -> list[Row]:
    """The models and blends of runs, the least log loss first. Files among `runs` are passed over."""
    rows: list[Row] = []
    for run in dict.fromkeys(runs):
        if not run.exists():
            raise UserError(f"{run}: no such run. Expected folders of runs, such as runs/*.")
        try:
            rows += _rows_of(run) if run.is_dir() else []
        except UserError as error:
            print(f"left out: {error}")
    if not rows:
        raise UserError("none of these holds a model with a finished fold.")
    return sorted(rows, key=lambda row: float(row.losses["log_loss"].mean()))


def _rows_of(path: Path) -> list[Row]:
    import pandas as pd

    from common.tables import read_predictions
    from preprocessing.folds import read_folds

    run, name = RunFolder(path), path.resolve().name
    fold_runs = [one for one in finished_folds(run) if one.exists(OUT_OF_FOLD)]
    folds = read_folds(run.folds)
    rows, of = [], int(folds["fold"].nunique())
    for model in dict.fromkeys(one.model for one in fold_runs):
        own = [one for one in fold_runs if one.model == model]
        table = pd.concat([read_predictions(one.verified(OUT_OF_FOLD)) for one in own])
        first, *others = [one.settings() for one in own]
        common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
        seconds = sum((one.finished() or {}).get("seconds", NAN) for one in own) / len(own)
        rows.append(Row(name, model, common, losses_of(table, folds, own[0].path), len(own), of, seconds))
    blend = run.ensemble / OUT_OF_FOLD
    if blend.is_file():
        losses = losses_of(read_predictions(blend), folds, run.ensemble)
        rows.append(Row(name, BLEND, {}, losses, folds["fold"][folds["img"].isin(losses.index)].nunique(), of))
    return rows


def losses_of(table: pd.DataFrame, folds: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """How good an out-of-fold table is, by img: log_loss (nats), correct (0 or 1), subject."""
    import pandas as pd

    from common.metric import log_loss_per_image
    from common.tables import class_numbers

    truth = folds.set_index("img")
    if not table.index.isin(truth.index).all() or not table.index.is_unique:
        raise UserError(f"{folder}: its out_of_fold.csv has images that the run's folds.csv has not, or has one twice.")
    truth = truth.loc[table.index]
    labels, probabilities = class_numbers(truth["classname"]), table[list(CLASSES)].to_numpy()
    losses, correct = log_loss_per_image(probabilities, labels), (probabilities.argmax(axis=1) == labels).astype(float)
    return pd.DataFrame({"log_loss": losses, "correct": correct, "subject": truth["subject"]}, index=table.index)


def difference(losses: pd.DataFrame, others: pd.DataFrame) -> tuple[float, float]:
    """Mean log loss beyond that of others on the images that both have, and its standard error over drivers, in nats.

    nan without such images; the error is infinite where there is one driver.
    """
    from common.metric import paired_difference

    shared = losses.index.intersection(others.index)
    if not len(shared):
        return NAN, NAN
    ours, theirs = losses.loc[shared], others.loc[shared]
    return paired_difference(*(frame.to_numpy() for frame in (ours["log_loss"], theirs["log_loss"], ours["subject"])))


def make_table(rows: Sequence[Row]) -> pd.DataFrame:
    """A row each: scores, and those settings in which the models differ (blends have none)."""
    import pandas as pd

    records = []
    for row in rows:
        losses, error = row.losses["log_loss"].mean(), difference(row.losses, row.losses.assign(log_loss=0.0))[1]
        behind = (NAN, NAN) if row is rows[0] else difference(row.losses, rows[0].losses)
        counts = (f"{row.folds} of {row.of}", len(row.losses), row.losses["subject"].nunique())
        records.append((row.run, row.model, losses, error, *behind, row.losses["correct"].mean(), *counts, row.seconds))
    words = [{name: _word(value) for name, value in row.settings.items() if name not in NOT_COMPARED} for row in rows]
    settings = pd.DataFrame(words, index=range(len(rows))).fillna("")
    models = settings[[bool(row.settings) for row in rows]]
    return pd.concat([pd.DataFrame(records, columns=COLUMNS), settings[models.columns[models.nunique() > 1]]], axis=1)


def _word(value: Any) -> str:
    return "of a file" if str(value).startswith("sha256:") else word(value)  # of weights: each architecture has others


def cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The table for people: its headers and its rows; the settings that differ as words at the end of each row."""
    headers = ["run/model", "log loss", "±", "behind", "±", "accuracy", "folds", "images", "s a fold"]
    settings = list(table.columns[len(COLUMNS) :])
    lines = []
    for row in table.to_dict("records"):
        error = row["standard_error"]
        numbers = [f"{row['log_loss']:.3f}", f"{error:.3f}" if math.isfinite(error) else ""]
        numbers += ["", ""] if math.isnan(row["behind"]) else [f"{row['behind']:+.3f}", f"{row['behind_error']:.3f}"]
        numbers += [f"{row['accuracy']:.1%}", row["folds"], f"{row['images']:,}"]
        seconds = "" if math.isnan(row["seconds_a_fold"]) else f"{row['seconds_a_fold']:,.0f}"
        words = "  ".join(f"{name} {row[name]}" for name in settings if row[name] != "")
        lines.append([f"{row['run']}/{row['model']}", *numbers, seconds, words])
    return [*headers, "settings that differ" if settings else ""], lines


def as_text(table: pd.DataFrame) -> str:
    """The table for the terminal."""
    from ensemble.report import formatted

    headers, lines = cells(table)
    numbers = formatted(headers[:-1], [line[:-1] for line in lines]).splitlines()
    words = [headers[-1], *(line[-1] for line in lines)]
    width = max(map(len, numbers))
    return "\n".join(f"{line:<{width}}   {last}".rstrip() for line, last in zip(numbers, words, strict=True))


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader must know before believing the order of the rows."""
    found = []
    if len({frozenset(row.losses.index) for row in rows}) > 1:
        found.append("Not all were measured on the same images: trust 'behind' rather than 'log loss'.")
    if len({row.settings.get("folds_sha256") for row in rows if row.settings}) > 1:
        found.append("The runs have other folds, or other data: their networks saw other drivers in training.")
    return found


if __name__ == "__main__":
    run_command(main)

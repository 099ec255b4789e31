"""What `tools.compare` shows: the models of runs as rows with their out-of-fold losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss_per_image, paired_difference
from common.run_folder import OUT_OF_FOLD, RunFolder
from common.settings import word
from common.tables import read_predictions
from ensemble.tables import formatted
from preprocessing.folds import read_folds
from tools.finished import FinishedFold, finished_folds

BLEND = "ensemble"
NOT_COMPARED = ("architecture", "fold", "folds_sha256", "test_images_sha256", "test_images_broken")


@dataclass(frozen=True, eq=False)
class Row:
    """One model of a run, or the run's blend.

    Attributes:
        run, model: names; the model of a blend is 'ensemble'.
        settings: what its folds have in common; of a blend none.
        losses: log loss in nats of each out-of-fold image, indexed by img, with its driver as `subject` and `correct`.
        folds: finished ones, and `of` how many.
        seconds: mean of a fold.
    """

    run: str
    model: str
    settings: dict[str, Any]
    losses: pd.DataFrame
    folds: int
    of: int
    seconds: float = float("nan")

    @property
    def name(self) -> str:
        """run/model"""
        return f"{self.run}/{self.model}"

    @property
    def log_loss(self) -> float:
        """Over all of its images, in nats."""
        return float(self.losses["log_loss"].mean())


def read_rows(runs: Sequence[Path]) -> list[Row]:
    """The models and blends of runs, the least log loss first. Files among `runs` are passed over.

    Raises:
        UserError: a folder does not exist, or none of them has a finished model.
    """
    rows: list[Row] = []
    complaints: list[str] = []
    for run in dict.fromkeys(runs):
        if not run.exists():
            raise UserError(f"{run}: no such run. Expected folders of runs, such as runs/*.")
        if not run.is_dir():
            continue
        try:
            rows += _rows_of(run)
        except UserError as error:
            complaints.append(str(error))
    if not rows:
        raise UserError(complaints[0] if complaints else "none of these holds a model with a fold out of fold.")
    for complaint in complaints:
        print(f"left out: {complaint}")
    return sorted(rows, key=lambda row: row.log_loss)


def _rows_of(path: Path) -> list[Row]:
    run = RunFolder(path)
    fold_runs = [fold_run for fold_run in finished_folds(run) if fold_run.folder.exists(OUT_OF_FOLD)]
    folds = read_folds(run.folds)
    of = int(folds["fold"].nunique())
    name = path.resolve().name
    rows = []
    for model in dict.fromkeys(fold_run.model for fold_run in fold_runs):
        own = [fold_run for fold_run in fold_runs if fold_run.model == model]
        table = pd.concat([read_predictions(fold_run.folder.verified(OUT_OF_FOLD)) for fold_run in own])
        losses = losses_of(table, folds, own[0].folder.path)
        seconds = float(np.mean([fold_run.results.get("seconds", np.nan) for fold_run in own]))
        rows.append(Row(name, model, _common(own), losses, len(own), of, seconds))
    blend = run.ensemble / OUT_OF_FOLD
    if blend.is_file():
        rows.append(Row(name, BLEND, {}, losses_of(read_predictions(blend), folds, run.ensemble), of, of))
    return rows


def losses_of(table: pd.DataFrame, folds: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The log loss in nats of each image of an out-of-fold table, whether it is `correct`, and its driver (`subject`).

    Raises:
        UserError: the fold table lacks one of the images.
    """
    truth = folds.set_index("img")
    unknown = table.index.difference(truth.index)
    if len(unknown) or not table.index.is_unique:
        raise UserError(f"{folder}: its out_of_fold.csv has images that the run's folds.csv has not, or has one twice.")
    truth = truth.loc[table.index]
    labels = truth["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
    probabilities = table[list(CLASSES)].to_numpy()
    values = {
        "log_loss": log_loss_per_image(probabilities, labels),
        "correct": (probabilities.argmax(axis=1) == labels).astype(float),
        "subject": truth["subject"].to_numpy(),
    }
    return pd.DataFrame(values, index=table.index)


def _common(fold_runs: Sequence[FinishedFold]) -> dict[str, Any]:
    first = fold_runs[0].settings
    return {name: value for name, value in first.items() if all(p.settings.get(name) == value for p in fold_runs)}


def make_table(rows: Sequence[Row]) -> pd.DataFrame:
    """A row each: scores, and those settings in which the rows differ (blends have none)."""
    names = dict.fromkeys(name for row in rows for name in row.settings if name not in NOT_COMPARED)
    models = [row for row in rows if row.settings]
    different = [name for name in names if len({_word(row.settings.get(name)) for row in models}) > 1]
    records = []
    for row in rows:
        behind, error = _behind(row, rows[0])
        scores = {
            "run": row.run,
            "model": row.model,
            "log_loss": row.log_loss,
            "standard_error": _mean_and_error(row.losses["log_loss"], row.losses["subject"])[1],
            "behind": behind,
            "behind_error": error,
            "accuracy": float(row.losses["correct"].mean()),
            "folds": f"{row.folds} of {row.of}",
            "images": len(row.losses),
            "drivers": int(row.losses["subject"].nunique()),
            "seconds_a_fold": row.seconds,
        }
        records.append(scores | {name: _word(row.settings.get(name, "")) for name in different})
    return pd.DataFrame(records)


def _behind(row: Row, first: Row) -> tuple[float, float]:
    """The loss beyond the first row's on the images that both have, and its standard error; nan without such images."""
    shared = row.losses.index.intersection(first.losses.index)
    if row is first or not len(shared):
        return float("nan"), float("nan")
    difference = row.losses.loc[shared, "log_loss"] - first.losses.loc[shared, "log_loss"]
    return _mean_and_error(difference, row.losses.loc[shared, "subject"])


def _mean_and_error(losses: pd.Series, subjects: pd.Series) -> tuple[float, float]:
    """The mean over images, and its standard error over drivers; infinite where there is one driver."""
    return paired_difference(losses.to_numpy(), np.zeros(len(losses)), subjects.to_numpy())


def _word(value: Any) -> str:
    if str(value).startswith("sha256:"):  # of weights: each architecture has others
        return "of a file"
    return word(value) if value != "" else ""


def cells(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The table for people: its headers and its rows; the settings that differ as words at the end of each row."""
    settings = list(table.columns[list(table.columns).index("seconds_a_fold") + 1 :])
    lines = []
    for record in table.to_dict("records"):
        behind = "" if np.isnan(record["behind"]) else f"{record['behind']:+.3f}{_plus_minus(record['behind_error'])}"
        seconds = "" if np.isnan(record["seconds_a_fold"]) else f"{record['seconds_a_fold']:,.0f}"
        loss = f"{record['log_loss']:.3f}{_plus_minus(record['standard_error'])}"
        words = "  ".join(f"{name} {record[name]}" for name in settings if record[name] != "")
        lines.append([f"{record['run']}/{record['model']}", loss, behind, f"{record['accuracy']:.1%}"])
        lines[-1] += [record["folds"], f"{record['images']:,}", seconds, words]
    headers = ["run/model", "log loss", "behind", "accuracy", "folds", "images", "s a fold"]
    return [*headers, "settings that differ" if settings else ""], lines


def as_text(table: pd.DataFrame) -> str:
    """The table for the terminal."""
    headers, lines = cells(table)
    numbers = formatted(headers[:-1], [line[:-1] for line in lines]).splitlines()
    words = [headers[-1], *(line[-1] for line in lines)]
    return "\n".join(
        f"{line.ljust(len(numbers[0]))}   {last}".rstrip() for line, last in zip(numbers, words, strict=True)
    )


def _plus_minus(error: float) -> str:
    return f" ± {error:.3f}" if np.isfinite(error) else ""


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a reader must know before believing the order of the rows."""
    found = []
    if len({frozenset(row.losses.index) for row in rows}) > 1:
        found.append("Not all were measured on the same images: trust 'behind' rather than 'log loss'.")
    if len({row.settings.get("folds_sha256") for row in rows if row.settings}) > 1:
        found.append("The runs have other folds, or other data: their networks saw other drivers in training.")
    return found

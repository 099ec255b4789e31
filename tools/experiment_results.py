"""What came of experiments: out-of-fold losses, their paired differences to the reference, who goes on, the table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.errors import UserError
from common.files import read_json, written_whole
from common.finished import FINISHED, require_whole
from common.metric import log_loss_per_image
from common.run_folder import fold_folder
from common.tables import read_predictions
from ensemble.paired import paired_difference
from ensemble.score_tables import formatted

REFERENCE, BETTER, WORSE, SAME = "reference", "better", "worse", "no difference"
FAILED, UNFINISHED, PRUNED = "failed", "not finished", "pruned"


@dataclass(frozen=True, eq=False)
class Judged:
    """An experiment as the held-out drivers of some folds judge it; nothing else is looked at.

    Attributes:
        losses: log loss in nats of each image of these folds, the mean over the seeds.
        accuracy: share of right images, 0 to 1.
        seconds: mean of a fold.
    """

    losses: np.ndarray
    accuracy: float
    seconds: float

    @property
    def log_loss(self) -> float:
        """Mean over the images, in nats."""
        return float(self.losses.mean())


@dataclass(frozen=True)
class Result:
    """A row of the table: one experiment in one round.

    Attributes:
        difference, error: to the reference on the same images, in nats, and its standard error over drivers; nan where
            there is none.
        goes_on: to the next round.
    """

    round: str
    experiment: str
    folds: int
    seeds: int
    images: int
    drivers: int
    log_loss: float = math.nan
    accuracy: float = math.nan
    seconds_a_fold: float = math.nan
    difference: float = math.nan
    difference_error: float = math.nan
    verdict: str = UNFINISHED
    goes_on: bool = False
    settings: str = ""


def judge(run: Path, models: Sequence[str], images: pd.DataFrame) -> Judged | None:
    """Reads the out-of-fold predictions of an experiment.

    Args:
        models: its folder in the run for each seed.
        images: img, subject, classname, fold: the images that judge.

    Returns:
        None where a fold is not finished.

    Raises:
        UserError: a table is damaged, or holds other images.
    """
    losses, right, seconds = np.zeros(len(images)), 0.0, []
    for model in models:
        for fold, part in images.groupby("fold"):
            folder = fold_folder(run, model, int(fold))
            if not (folder / FINISHED).is_file():
                return None
            table = read_predictions(require_whole(folder / "out_of_fold.csv"))
            if set(table.index) != set(part["img"]):
                raise UserError(f"{folder}/out_of_fold.csv: expected the images of fold {fold} in the run's folds.csv.")
            probabilities = table.loc[part["img"], list(CLASSES)].to_numpy()
            labels = part["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
            place = (images["fold"] == fold).to_numpy()
            losses[place] += log_loss_per_image(probabilities, labels) / len(models)
            right += float((probabilities.argmax(axis=1) == labels).sum())
            seconds.append(read_json(folder / FINISHED).get("seconds", math.nan))
    return Judged(losses, right / (len(images) * len(models)), float(np.mean(seconds)))


def results_of(
    round_name: str,
    judged: Mapping[str, Judged | None],
    reference: str,
    images: pd.DataFrame,
    seeds: int,
    settings: Mapping[str, str],
    ended: Mapping[str, str] = MappingProxyType({}),
) -> list[Result]:
    """A row for each experiment of a round, the least log loss first, those without one behind.

    Args:
        judged: by name, what `judge` found.
        settings: by name, in words.
        ended: the verdict on those that will not finish, by name.
    """
    first = judged.get(reference)
    drivers = images["subject"].to_numpy()
    sizes = (int(images["fold"].nunique()), seeds, len(images), int(images["subject"].nunique()))
    rows = []
    for name, found in judged.items():
        if found is None:
            verdict = ended.get(name, UNFINISHED)
            rows.append(Result(round_name, name, *sizes, verdict=verdict, settings=settings[name]))
            continue
        difference, error, verdict = math.nan, math.nan, ""
        if name == reference:
            verdict = REFERENCE
        elif first is not None:
            difference, error = paired_difference(found.losses, first.losses, drivers)
            verdict = BETTER if difference < -error else WORSE if difference > error else SAME
        scores = (found.log_loss, found.accuracy, found.seconds, difference, error)
        rows.append(Result(round_name, name, *sizes, *scores, verdict, settings=settings[name]))
    return sorted(rows, key=lambda row: (math.isnan(row.log_loss), row.log_loss))


def survivors(results: Sequence[Result], keep: float, margin: float) -> list[str]:
    """Who goes on: of those not worse than the reference by more than `margin` standard errors the best, at most the
    share `keep` of all but the reference (rounded up); and the reference.

    With `keep` 0.5 in each round that is successive halving (Jamieson and Talwalkar 2016).
    """
    reference = [row.experiment for row in results if row.verdict == REFERENCE]
    others = [row for row in results if row.verdict != REFERENCE]
    good = [row for row in others if row.verdict and row.difference <= margin * row.difference_error]
    return reference + [row.experiment for row in good[: math.ceil(keep * len(others))]]


def write_table(path: Path, results: Sequence[Result]) -> None:
    """Writes experiments.csv."""
    with written_whole(path) as temporary:
        pd.DataFrame(results, columns=list(Result.__dataclass_fields__)).to_csv(
            temporary, index=False, float_format="%.6g", lineterminator="\n"
        )


def as_text(results: Sequence[Result]) -> str:
    """The ranking of one round for the terminal."""
    lines = []
    for row in results:
        known = not math.isnan(row.log_loss)
        difference = "" if math.isnan(row.difference) else f"{row.difference:+.4f} ± {row.difference_error:.4f}"
        lines.append([row.experiment, f"{row.log_loss:.4f}" if known else "", f"{row.accuracy:.1%}" if known else ""])
        lines[-1] += [f"{row.seconds_a_fold:,.0f}" if known else "", difference, row.verdict]
        lines[-1] += ["goes on" if row.goes_on else ""]
    one = results[0]
    seeds = f", {one.seeds} seeds" if one.seeds > 1 else ""
    title = f"{one.round}: {one.folds} folds{seeds}, {one.images:,} images of {one.drivers} held-out drivers"
    headers = ["experiment", "log loss", "accuracy", "s a fold", "to the reference", "", ""]
    return f"{title}\n{formatted(headers, lines)}"

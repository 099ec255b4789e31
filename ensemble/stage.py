"""The ensemble stage: a run's prediction tables -> weights, tables under runs/NAME/ensemble/ and the submission."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble import members as members_of_run
from ensemble import record, report
from ensemble.members import Member, Predictions
from ensemble.selection import Judged, candidates, chosen, judge
from ensemble.submission import read_sample_images, write_submission
from preprocessing.competition import SAMPLE_SUBMISSION
from preprocessing.errors import UserError
from preprocessing.files import write_json, write_text, written_whole
from preprocessing.folds import read_folds
from preprocessing.metric import accuracy
from preprocessing.run_folder import RUNS, folds_path
from preprocessing.settings import as_json
from preprocessing.tables import write_predictions

RECORD, REPORT = "blend.json", "report.txt"
TABLES = ("scores.csv", "by_driver.csv", "by_class.csv", "out_of_fold.csv", "test.csv")


@dataclass(frozen=True)
class Request:
    """What to blend and where to write it.

    Attributes:
        run: runs/NAME.
        sample: the sample submission, which gives the order of the rows.
        submission: the file to write.
        models: the members; every model of the run where empty.
        allow_missing: blend although folds are missing.
    """

    run: Path
    sample: Path
    submission: Path
    models: tuple[str, ...] = ()
    allow_missing: bool = False


def blend_run(request: Request) -> str:
    """Blends a run and writes its tables and submission, unless an earlier blend of the same inputs stands.

    Returns:
        The report, for the terminal.

    Raises:
        UserError: an input is missing or malformed, or an output cannot be written.
    """
    folds = read_folds(folds_path(request.run))
    all_members = members_of_run.find_members(
        request.run, [int(fold) for fold in folds["fold"].unique()], request.models
    )
    if not request.allow_missing:
        runs = None if request.run.parent == RUNS else request.run.parent
        members_of_run.check_complete(request.run, all_members, runs)
    members = [member for member in all_members if member.folds]
    if not members:
        raise UserError(f"{request.run}: no fold of any model is finished. Train one, then blend.")

    folder = request.run / "ensemble"
    tables = members_of_run.input_paths(request.run, members)
    inputs = {str(path.relative_to(request.run)): path for path in [folds_path(request.run), *tables]}
    inputs[SAMPLE_SUBMISSION] = request.sample
    outputs = {name: folder / name for name in (*TABLES, REPORT)} | {str(request.submission): request.submission}
    asked = {
        "code": record.code_version(),
        "members": [as_json(member) for member in all_members],
    }
    if record.stands(folder / RECORD, asked, inputs, outputs):
        return (folder / REPORT).read_text(encoding="utf-8") + "\nunchanged since the last blend: nothing to do\n"

    missing = [str(path) for path in inputs.values() if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: not found, though the piece is finished. Train it again, or restore the file.")
    stamped = record.stamps(inputs)
    predictions = members_of_run.read_members(request.run, members, folds, read_sample_images(request.sample))
    judged = judge_all(predictions)
    winner = chosen(judged)
    scores = _scores(predictions, winner)
    text = "\n\n".join(_parts(request, all_members, len(folds), predictions, judged, winner, scores)) + "\n"
    _write(folder, request.submission, predictions, winner, scores, text)
    content = asked | summary(predictions, judged, winner) | {"inputs": stamped, "outputs": record.stamps(outputs)}
    write_json(folder / RECORD, content)  # last: it says that all the others are whole
    return text


def judge_all(predictions: Predictions) -> list[Judged]:
    """Every candidate, judged fold by fold; driver by driver where only one fold is there.

    Raises:
        UserError: there is only one driver.
    """
    groups = predictions.images["fold"].to_numpy()
    if len(np.unique(groups)) < 2:
        groups = predictions.images["subject"].to_numpy()
    if len(np.unique(groups)) < 2:
        raise UserError(
            f"only driver {groups[0]} is out of fold: a blend must be judged on other drivers than it was fitted on. "
            "Train another fold."
        )
    return [
        judge(candidate, predictions.out_of_fold, predictions.labels, groups)
        for candidate in candidates(len(predictions.names))
    ]


def summary(predictions: Predictions, judged: Sequence[Judged], winner: Judged) -> dict[str, Any]:
    """The blend as JSON values: the chosen way, its weights and clip, and the losses of every way."""
    return {
        "way": winner.name,
        "pooling": winner.blend.pooling,
        "weights": dict(zip(predictions.names, winner.blend.weights, strict=True)),
        "clip": winner.blend.epsilon,
        "fitted_log_loss": winner.fitted_loss,
        "cross_fitted_log_loss": winner.cross_fitted_loss,
        "cross_fitted_accuracy": accuracy(winner.cross_fitted, predictions.labels),
        "images": len(predictions.images),
        "drivers": int(predictions.images["subject"].nunique()),
        "test_images": len(predictions.test_images),
        "candidates": [
            {
                "way": one.name,
                "weights": dict(zip(predictions.names, one.blend.weights, strict=True)),
                "clip": one.blend.epsilon,
                "fitted_log_loss": one.fitted_loss,
                "cross_fitted_log_loss": one.cross_fitted_loss,
            }
            for one in judged
        ],
    }


def _scores(predictions: Predictions, winner: Judged) -> pd.DataFrame:
    names = [*predictions.names, report.FITTED, report.CROSS_FITTED]
    tables = [*predictions.out_of_fold, winner.fitted, winner.cross_fitted]
    return report.scores(names, tables, predictions.labels, predictions.images["fold"].to_numpy())


def _parts(
    request: Request,
    members: Sequence[Member],
    all_images: int,
    predictions: Predictions,
    judged: Sequence[Judged],
    winner: Judged,
    scores: pd.DataFrame,
) -> list[str]:
    """The paragraphs of the report."""
    labels, images = predictions.labels, predictions.images
    weights = dict(zip(predictions.names, winner.blend.weights, strict=True))
    subjects = images["subject"].to_numpy()
    parts = [
        f"{request.run.name}: {len(predictions.names)} models, {len(images):,} images of {images['subject'].nunique()} "
        f"drivers out of fold, {len(predictions.test_images):,} test images"
    ]
    parts += _remarks(members, all_images, len(images))
    parts.append(report.scores_text(scores, weights))
    parts.append(report.candidates_text(judged, winner, labels))
    parts.append(
        f"blend: {winner.name}, clip {winner.blend.epsilon:g}\n"
        f"log loss out of fold: {winner.fitted_loss:.5f} fitted, {winner.cross_fitted_loss:.5f} "
        "on drivers it was not fitted on: the honest estimate, below too"
    )
    parts.append(report.by_driver_text(subjects, winner.cross_fitted, labels))
    parts.append(report.by_class_text(winner.cross_fitted, labels))
    return parts


def _remarks(members: Sequence[Member], all_images: int, images: int) -> list[str]:
    remarks = []
    missing = [
        f"{member.name} lacks fold {', '.join(map(str, member.missing))}" for member in members if member.missing
    ]
    if missing:
        lines = "\n".join(f"  {line}" for line in missing)
        remarks.append(
            f"INCOMPLETE, as allowed by --allow-missing:\n{lines}\n"
            f"Judged on the {images:,} of {all_images:,} images that every model covers; the test predictions average "
            "the folds\nthat exist; a model without any is left out. Do not compare these scores with complete ones."
        )
    ignored = [member.name for member in members if member.all_drivers]
    if ignored:
        remarks.append(f"fold_all of {', '.join(ignored)} is not used: nothing out of fold tells how to weigh it.")
    return remarks


def _write(
    folder: Path, submission: Path, predictions: Predictions, winner: Judged, scores: pd.DataFrame, text: str
) -> None:
    """Writes every output but the record."""
    subjects = predictions.images["subject"].to_numpy()
    for name, frame in {
        "scores.csv": scores,
        "by_driver.csv": report.by_driver(subjects, winner.cross_fitted, predictions.labels),
        "by_class.csv": report.by_class(winner.cross_fitted, predictions.labels),
    }.items():
        with written_whole(folder / name) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
    write_predictions(folder / "out_of_fold.csv", list(predictions.images["img"]), winner.cross_fitted)
    test = winner.blend.predict(predictions.test)
    write_predictions(folder / "test.csv", list(predictions.test_images), test)
    write_submission(submission, predictions.test_images, test)
    write_text(folder / REPORT, text)

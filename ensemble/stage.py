"""The ensemble stage: prediction tables -> the chosen blend, its tables and figures, the submission."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import locks
from common.competition import SAMPLE_SUBMISSION
from common.csv_files import as_cell
from common.errors import UserError
from common.files import write_json, write_text, written_whole
from common.finished import require_whole
from common.metric import accuracy, log_loss
from common.run_folder import RUNS, folds_path
from common.settings import as_json
from common.tables import write_predictions
from ensemble import members as members_of_run
from ensemble import record
from ensemble.loose_tables import LooseTables, read_loose
from ensemble.members import Predictions
from ensemble.options import Options
from ensemble.outcome import Outcome, outcome_of, tables_of
from ensemble.report import paragraphs, remarks_on
from ensemble.submission import read_sample_images, write_submission
from preprocessing.folds import read_folds

RECORD, REPORT = "blend.json", "report.txt"
FRAMES = (
    *("scores", "ways", "by_driver", "by_class", "confusion"),
    *("correlation", "members", "costliest", "reliability", "reliability_of_models"),
)
OUT_OF_FOLD = ("out_of_fold.csv", "out_of_fold_without_neighbours.csv")
TEST = ("test.csv", "test_without_neighbours.csv")


@dataclass(frozen=True)
class Request:
    """What to blend and where to write it.

    Attributes:
        run: runs/NAME.
        sample: the sample submission, which gives the order of the rows; loose tables have their own.
        submission: the file to write, where there are test predictions.
        models: the members; every model of the run where empty.
        allow_missing: blend although folds (or images of folds.csv) are missing.
        loose: tables from anywhere instead of the models of the run.
    """

    run: Path
    sample: Path
    submission: Path
    models: tuple[str, ...] = ()
    allow_missing: bool = False
    options: Options = field(default_factory=Options)
    loose: LooseTables | None = None


@dataclass(frozen=True)
class Source:
    """Where the predictions come from.

    Attributes:
        asked: what identifies them in the record, beside the content of `inputs`.
        inputs: every file, by a name for the record.
        has_test: whether there are test predictions.
        read: returns the predictions and remarks for the report.
    """

    asked: dict[str, Any]
    inputs: dict[str, Path]
    has_test: bool
    read: Callable[[], tuple[Predictions, list[str]]]


def blend_run(request: Request) -> str:
    """Blends a run, or loose tables, and writes everything, unless an earlier blend of the same inputs stands.

    Returns:
        The report, for the terminal.

    Raises:
        UserError: an input is missing or malformed, or an output cannot be written.
    """
    source = run_source(request) if request.loose is None else _loose_source(request, request.loose)
    folder = request.run / "ensemble"
    outputs = _outputs(request, folder, source.has_test)
    asked = {"code": record.code_version(), "options": as_json(request.options)} | source.asked
    if record.stands(folder / RECORD, asked, source.inputs, outputs):
        return (folder / REPORT).read_text(encoding="utf-8") + "\nunchanged since the last blend: nothing to do\n"
    with locks.held(request.run / ".ensemble.lock", f"{folder} is being written", wait=True):
        return _blend(request, source, asked, outputs)


def _blend(request: Request, source: Source, asked: dict[str, Any], outputs: dict[str, Path]) -> str:
    """Blends and writes everything; returns the report."""
    folder = request.run / "ensemble"
    missing = [str(path) for path in source.inputs.values() if not path.is_file()]
    if missing:
        hint = "" if request.loose else ", though the piece is finished. Train it again, or restore the file"
        raise UserError(f"{missing[0]}: not found{hint}.")
    stamped = record.stamps(source.inputs)
    for name, path in source.inputs.items():
        require_whole(path, stamped[name]["sha256"])
    predictions, remarks = source.read()
    outcome = outcome_of(predictions, request.options)
    tables = tables_of(outcome)
    text = "\n\n".join(paragraphs(request.run.name, request.options, outcome, tables, remarks)) + "\n"
    _write(request, folder, outcome, tables, text)
    content = asked | summary(outcome) | {"inputs": stamped, "outputs": record.stamps(outputs)}
    write_json(folder / RECORD, content)  # last: it says that all the others are whole
    return text


def run_source(request: Request) -> Source:
    """The finished models of the run.

    Raises:
        UserError: there are none, or folds are missing that may not be.
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
    members_of_run.check_folds(request.run, members)
    all_drivers = request.options.all_drivers
    if all_drivers != "no" and not any(member.all_drivers for member in members):
        raise UserError(
            f"--all-drivers {all_drivers}: no model of {request.run} has a finished fold_all. Train one: "
            f"python models/{members[0].name}.py --run {request.run.name} --fold all"
        )
    tables = members_of_run.input_paths(request.run, members, all_drivers)
    inputs = {str(path.relative_to(request.run)): path for path in [folds_path(request.run), *tables]}
    sample = inputs[SAMPLE_SUBMISSION] = request.sample

    def read() -> tuple[Predictions, list[str]]:
        images = read_sample_images(sample)
        predictions = members_of_run.read_members(request.run, members, folds, images, all_drivers)
        return predictions, remarks_on(request.run, all_members, len(folds), len(predictions.images), all_drivers)

    return Source({"members": [as_json(member) for member in all_members]}, inputs, True, read)


def _loose_source(request: Request, loose: LooseTables) -> Source:
    """Tables from anywhere."""
    files: dict[str, Any] = {
        name: [str(path) for path in paths] for name, paths in vars(loose).items() if isinstance(paths, tuple)
    }
    files |= {"labels": str(loose.labels), "folds": str(loose.folds or ""), "sample": str(loose.sample or "")}
    files["allow_missing"] = request.allow_missing
    asked = {"tables": files}
    inputs = {str(path): path for path in loose.paths}
    return Source(asked, inputs, bool(loose.test_predictions), lambda: read_loose(loose, request.allow_missing))


def _outputs(request: Request, folder: Path, has_test: bool) -> dict[str, Path]:
    from ensemble.figures import FIGURES

    names = [f"{name}.csv" for name in FRAMES] + [*OUT_OF_FOLD, REPORT]
    names += TEST if has_test else ()
    names += FIGURES if request.options.figures else ()
    outputs = {name: folder / name for name in names}
    return outputs | ({str(request.submission.resolve()): request.submission} if has_test else {})


def summary(outcome: Outcome) -> dict[str, Any]:
    """The blend as JSON values: all that was chosen, and the losses of every way."""
    predictions, fitted, expectation = outcome.predictions, outcome.fitted, outcome.expectation
    choice = outcome.choice
    weights = dict(zip(predictions.names, map(float, fitted.blend.shares()), strict=True))
    return {
        "way": fitted.name,
        "pooling": fitted.blend.pooling,
        "weights": weights,
        "clip": fitted.clip,
        "blend": fitted.blend.as_json(),
        "prior": dataclasses.asdict(fitted.prior) if fitted.prior else None,
        "neighbours": fitted.transduction.as_json(),
        "fold_means": [as_json(one) for one in predictions.fold_means],
        "fitted_log_loss": choice.winner.fitted_loss,
        "cross_fitted_log_loss": choice.winner.cross_fitted_loss,
        "nested_log_loss_of_blend": log_loss(outcome.nested.blend, predictions.labels),
        "nested_log_loss_without_neighbours": log_loss(outcome.nested.plain, predictions.labels),
        "nested_log_loss": log_loss(outcome.nested.final, predictions.labels),
        "nested_accuracy": accuracy(outcome.nested.final, predictions.labels),
        "nested_ways": list(outcome.nested.ways),
        "expectation": as_json(expectation) if np.isfinite(expectation.highest) else None,
        "images": len(predictions.images),
        "drivers": int(predictions.images["subject"].nunique()),
        "test_images": len(predictions.test_images),
        "candidates": [
            {
                "way": one.name,
                "weights": dict(zip(predictions.names, map(float, one.blend.shares()), strict=True)),
                "clip": one.blend.epsilon,
                "fitted_log_loss": one.fitted_loss,
                "cross_fitted_log_loss": one.cross_fitted_loss,
                "behind": list(one.behind) if np.isfinite(one.behind[1]) else None,
            }
            for one in choice.judged
        ],
    }


def _write(request: Request, folder: Path, outcome: Outcome, tables: dict[str, pd.DataFrame], text: str) -> None:
    """Writes every output but the record."""
    for name in FRAMES:
        with written_whole(folder / f"{name}.csv") as temporary:
            safe = tables[name].map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell)
            safe.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
    predictions = outcome.predictions
    for name, table in zip(OUT_OF_FOLD, (outcome.nested.final, outcome.nested.plain), strict=True):
        write_predictions(folder / name, list(predictions.images["img"]), table)
    if len(predictions.test_images):
        for name, table in zip(TEST, (outcome.test, outcome.test_plain), strict=True):
            write_predictions(folder / name, list(predictions.test_images), table)
        write_submission(request.submission, predictions.test_images, outcome.test)
    if request.options.figures:
        from ensemble.figures import draw_all

        draw_all(folder, tables)
    write_text(folder / REPORT, text)

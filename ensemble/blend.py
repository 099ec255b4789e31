"""Blends the finished models of a run, or prediction tables from anywhere, into a submission.

    python -m ensemble.blend --run full
    python -m ensemble.blend --run full --models "vgg16 inception_v3" --no-neighbours
    python -m ensemble.blend --predictions A.csv B.csv --labels labels.csv --test-predictions A_test.csv B_test.csv

Reads the photographs, by which drivers are recognised, runs/NAME/folds.csv and
runs/NAME/MODEL/fold_K/{out_of_fold,test}{.csv,_features.npy}; or, with --predictions, those tables, whose rows are of
images that the models were not trained on. Compares blending methods (weights, pooling, calibration) on drivers that
they were not fitted on and takes the simplest that is not clearly worse than the best; matches each driver's mix of
classes and smooths over neighbouring frames where that helps; clips. Writes runs/NAME/ensemble/ (report.txt,
blend.json, tables) and submissions/NAME.csv. With unchanged inputs a second start does nothing.

The rows of the submission are in the order of the sample submission. With --predictions and without --data they keep
the order of the first test table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, run_command
from common.run_folder import RUNS, SUBMISSIONS, RunFolder
from common.settings import CommandLine, add_settings, chosen, names_in
from ensemble.options import Options


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m ensemble.blend", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="the run to blend, or to name the outputs by [full; tables]")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the competition's folder: photographs, order of rows [found; --predictions: as in the first table]",
    )
    parser.add_argument("--models", type=names_in, default=[], metavar='"A B"', help="only these of the run [all]")
    parser.add_argument("--submissions", type=Path, metavar="DIR", help="where the submission goes [submissions]")
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="score the submission on these: img,classname[,subject]"
    )
    add_settings(parser, Options(), "blending")
    loose = parser.add_argument_group("tables from anywhere, in one order of models; no run folder is read")
    several: dict[str, Any] = {"type": Path, "nargs": "+", "metavar": "FILE", "default": []}
    loose.add_argument("--predictions", help="img,c0..c9, out of fold, of the images of --labels", **several)
    loose.add_argument("--test-predictions", help="img,c0..c9 of the images to predict", **several)
    loose.add_argument("--features", help=".npy with rows as in --predictions, for neighbours", **several)
    loose.add_argument("--test-features", help=".npy with rows as in --test-predictions", **several)
    loose.add_argument("--folds", type=Path, metavar="FILE", help="img,subject,classname,fold [by --labels' subject]")
    return parser


def check_options(arguments: argparse.Namespace, options: Options) -> None:
    """Raises a UserError where options do not go together."""
    faults: Sequence[tuple[Any, str]]
    if arguments.predictions:
        no_test = not arguments.test_predictions
        faults = (
            (arguments.labels is None, "--predictions: expected --labels FILE with it: img,classname[,subject]."),
            (arguments.models, "--models chooses among those of a run; name the tables to blend in --predictions."),
            (options.all_drivers != "no", "--all-drivers is for a run's models; leave it out with --predictions."),
            (arguments.allow_missing, "--allow-missing is for a run's models; leave it out with --predictions."),
            (arguments.data and no_test, "--data: expected --test-predictions with it: it orders their rows."),
            (arguments.submissions and no_test, "--submissions: expected --test-predictions with it."),
        )
    else:
        own = ("test_predictions", "features", "test_features", "folds")
        faults = [
            (getattr(arguments, option), f"--{option.replace('_', '-')} goes with --predictions; a run has its own.")
            for option in own
        ]
    for fault, message in faults:
        if fault:
            raise UserError(message)


def main() -> None:
    arguments = command_line().parse_args()
    options = Options(**chosen(arguments, Options))
    check_options(arguments, options)
    name = arguments.run or ("tables" if arguments.predictions else "full")
    run = RunFolder.of(name, arguments.runs).path
    submission = (arguments.submissions or SUBMISSIONS) / f"{name}.csv"

    from common.competition import SAMPLE_SUBMISSION
    from ensemble.score import read_labels, score_text
    from preprocessing.dataset import required

    sample = None
    if arguments.data is not None or not arguments.predictions:
        sample = required(arguments.data) / SAMPLE_SUBMISSION
    if arguments.labels is not None:
        read_labels(arguments.labels)  # a mistake there is reported before the work, not after it

    from ensemble.blend_run import Request, blend_run
    from ensemble.loose_tables import LooseTables

    loose = None
    if arguments.predictions:
        files = (arguments.predictions, arguments.test_predictions, arguments.features, arguments.test_features)
        loose = LooseTables(arguments.labels, arguments.folds, *map(tuple, files))
    models = tuple(arguments.models)
    print(blend_run(Request(run, sample, submission, models, arguments.allow_missing, options, loose)))
    if arguments.labels is not None and not loose:
        print(score_text(submission, arguments.labels), end="\n\n")
    print(shown(submission if not loose or loose.test_predictions else run / "ensemble"))


def shown(path: Path) -> str:
    """The path, relative to the current folder where it is in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    run_command(main)

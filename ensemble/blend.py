"""Blends the finished models of a run, or prediction tables from anywhere, into a submission.

    python -m ensemble.blend --run full
    python -m ensemble.blend --run full --models "vgg16 inception_v3" --no-neighbours
    python -m ensemble.blend --predictions A.csv B.csv --labels labels.csv --test-predictions A_test.csv B_test.csv

Reads runs/NAME/folds.csv and runs/NAME/MODEL/fold_K/{out_of_fold,test}{.csv,_features.npy}; or, with --predictions,
those tables, whose rows are of images that the models were not trained on. Compares blending methods (weights,
pooling, calibration) on drivers that they were not fitted on and takes the simplest that is not clearly worse than the
best; matches the classes' shares and smooths over neighbouring frames where that helps; clips. Writes
runs/NAME/ensemble/ (report.txt, blend.json, tables) and submissions/NAME.csv. With unchanged inputs a second
start does nothing.

The rows of the submission are in the order of the sample submission. With --predictions and without --data they keep
the order of the first test table.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

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
        help="the competition's folder, for the order of the rows [found; --predictions: as in the first test table]",
    )
    parser.add_argument("--models", type=names_in, default=[], metavar='"A B"', help="only these of the run [all]")
    parser.add_argument("--submissions", type=Path, metavar="DIR", help="where the submission goes [submissions]")
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="score the submission on these: img,classname[,subject]"
    )
    add_settings(parser, Options(), "blending")
    loose = parser.add_argument_group("tables from anywhere, in one order of models; no run folder is read")
    for option, text in (
        ("--predictions", "img,c0..c9, out of fold, of the images of --labels"),
        ("--test-predictions", "img,c0..c9 of the images to predict"),
        ("--features", ".npy with rows as in --predictions, for neighbours"),
        ("--test-features", ".npy with rows as in --test-predictions"),
    ):
        loose.add_argument(option, type=Path, nargs="+", metavar="FILE", default=[], help=text)
    loose.add_argument("--folds", type=Path, metavar="FILE", help="img,subject,classname,fold [by --labels' subject]")
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    name = arguments.run or ("tables" if arguments.predictions else "full")
    run = RunFolder.of(name, arguments.runs).path
    options = Options(**chosen(arguments, Options))
    submission = (arguments.submissions or SUBMISSIONS) / f"{name}.csv"
    if arguments.predictions:
        blend_tables(arguments, run, options, submission)
        return
    for option in ("test_predictions", "features", "test_features", "folds"):
        if getattr(arguments, option):
            raise UserError(f"--{option.replace('_', '-')} goes with --predictions; a run has its own.")

    from common.competition import SAMPLE_SUBMISSION
    from ensemble.score import read_labels, score_text
    from preprocessing.dataset import required

    sample = required(arguments.data) / SAMPLE_SUBMISSION
    if arguments.labels is not None:
        read_labels(arguments.labels)  # a mistake there is reported before the work, not after it

    from ensemble.blend_run import Request, blend_run

    models = tuple(arguments.models)
    print(blend_run(Request(run, sample, submission, models, arguments.allow_missing, options)))
    if arguments.labels is not None:
        print(score_text(submission, arguments.labels), end="\n\n")
    print(shown(submission))


def blend_tables(arguments: argparse.Namespace, run: Path, options: Options, submission: Path) -> None:
    """Blends the tables of --predictions."""
    if arguments.labels is None:
        raise UserError("--predictions: expected --labels FILE with it: img,classname[,subject] of these images.")
    if arguments.models:
        raise UserError("--models chooses among those of a run; name the tables to blend in --predictions.")
    if options.all_drivers != "no":
        raise UserError(f"--all-drivers {options.all_drivers} is for a run's models; leave it out with --predictions.")
    if arguments.allow_missing and arguments.folds is None:
        raise UserError("--allow-missing with --predictions: expected --folds FILE, whose images may be missing.")
    if not arguments.test_predictions:
        for option in ("data", "submissions"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option}: expected --test-predictions with it, or there is no submission to write.")
    sample = None
    if arguments.data is not None:
        from common.competition import SAMPLE_SUBMISSION
        from preprocessing.dataset import required

        sample = required(arguments.data) / SAMPLE_SUBMISSION

    from ensemble.blend_run import Request, blend_run
    from ensemble.loose_tables import LooseTables

    loose = LooseTables(
        tuple(arguments.predictions),
        arguments.labels,
        tuple(arguments.test_predictions),
        tuple(arguments.features),
        tuple(arguments.test_features),
        arguments.folds,
        sample,
    )
    print(blend_run(Request(run, Path(), submission, (), arguments.allow_missing, options, loose)))
    print(shown(submission) if loose.test_predictions else shown(run / "ensemble"))


def shown(path: Path) -> str:
    """The path, relative to the current folder where it is in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    run_command(main)

"""Blends the finished models of a run into its submission.

    python -m ensemble.blend --run full
    python -m ensemble.blend --run full --models "vgg16 inception_v3"

Reads runs/NAME/folds.csv and runs/NAME/MODEL/fold_K/{out_of_fold,test}.csv. Compares uniform and fitted weights,
arithmetic and geometric pooling, each with a clip, on drivers that they were not fitted on, and takes the best.
Writes runs/NAME/ensemble/ (blend.json, scores.csv, by_driver.csv, by_class.csv, report.txt, out_of_fold.csv with the
cross-fitted predictions, test.csv) and submissions/NAME.csv. With unchanged inputs a second start does nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from preprocessing.errors import run_command
from preprocessing.run_folder import RUNS, SUBMISSIONS, run_folder
from preprocessing.settings import CommandLine


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m ensemble.blend", description=__doc__)
    parser.add_argument("--run", default="full", metavar="NAME", help="the run to blend [full]")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the competition's folder, for the order of the rows [found by itself]"
    )
    parser.add_argument("--models", default="", metavar='"A B"', help="only these models [every one of the run]")
    parser.add_argument(
        "--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help="where the submission goes [submissions]"
    )
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="score the submission on these: img,classname[,subject]"
    )
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    run = run_folder(arguments.run, arguments.runs)
    models = tuple(arguments.models.replace(",", " ").split())

    from preprocessing.competition import SAMPLE_SUBMISSION
    from preprocessing.dataset import required

    data = required(arguments.data)
    if arguments.labels is not None:
        from ensemble.score import read_labels

        read_labels(arguments.labels)  # a mistake there is told before the work, not after it

    from ensemble.stage import Request, blend_run

    submission = arguments.submissions / f"{arguments.run}.csv"
    print(blend_run(Request(run, data / SAMPLE_SUBMISSION, submission, models, arguments.allow_missing)))
    if arguments.labels is not None:
        from ensemble.score import score_text

        print(score_text(submission, arguments.labels), end="\n\n")
    print(os.path.relpath(submission) if submission.is_relative_to(Path.cwd()) else submission)


if __name__ == "__main__":
    run_command(main)

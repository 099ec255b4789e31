"""Runs a list of named settings on the same folds and seeds, and ranks them by drivers that they never saw.

    python -m tools.experiments docs/experiments/inception_v3.toml --data DIR --weights DIR
    python -m tools.experiments FILE.toml --only "A B" --rounds 1  # these and the reference, in the first round alone
    python -m tools.experiments FILE.toml --run NAME --report      # and the same options: the table of what is finished
    python -m tools.experiments FILE.toml --run NAME --search      # a space of settings; needs requirements-search.txt

Each experiment is a model of the run: what is finished is skipped, and any other command works on it. A round judges
all on its folds; those that are clearly worse than the reference, and the worse share of the others, do not go on to
the next. The table is runs/NAME/experiments.csv: out-of-fold log loss, accuracy, seconds, and the paired difference to
the reference with its standard error over drivers; a difference within it is none. What the file may hold: the
docstring of tools/experiment_file.py.
"""

from pathlib import Path

from common.errors import UserError, run_command
from common.settings import CommandLine
from models.finetuning import command
from tools.experiment_file import read_plan


def make_parser() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.experiments", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="the experiments")
    parser.add_argument("--only", default="", metavar='"A B"', help="only these experiments, and the reference [all]")
    parser.add_argument("--rounds", type=int, metavar="N", help="only the first N rounds [all]")
    parser.add_argument("--report", action="store_true", help="only the table of what is finished")
    parser.add_argument("--search", action="store_true", help="search the file's space, with Optuna, instead of rounds")
    command.add_run_options(parser, of_run="the name of FILE")
    command.add_training_options(parser)
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    plan = read_plan(arguments.file)
    arguments.run = arguments.run or arguments.file.stem
    names = arguments.only.replace(",", " ").split()
    for name in names:
        if name not in plan.experiments:
            raise UserError(
                f"--only {name}: {arguments.file} has no such experiment. It has: {', '.join(plan.experiments)}."
            )

    rounds = len(plan.rounds) if arguments.rounds is None else arguments.rounds
    if not 1 <= rounds <= len(plan.rounds):
        raise UserError(f"--rounds {rounds}: {arguments.file} has {len(plan.rounds)}. Give a number from 1 on.")

    from tools import experiment_rounds, experiment_search

    if arguments.search and (names or arguments.rounds):
        raise UserError("--search with --only or --rounds: a search has no experiments and no rounds. Leave them out.")
    if arguments.search:
        experiment_search.search(plan, arguments)
    else:
        experiment_rounds.run_rounds(plan, arguments, names, rounds)


if __name__ == "__main__":
    run_command(main)

"""From the competition's photographs to a submission: the stages in order. Safe to run again: finished work is skipped.

./run_all.sh              on the data it finds, or on a rendered demo set where there is none
./run_all.sh --help       the everyday options
"""

import sys

from common.errors import run_command
from common.files import locked
from pipeline.options import pipeline_parser


def main() -> None:
    arguments = pipeline_parser().parse_args()
    from pipeline import stages
    from pipeline.plan import plan_run

    plan = plan_run(arguments)  # the command line, checked as a whole before any work
    stages.print_plan(plan, arguments)  # disk, memory and time; stops where they cannot suffice
    if arguments.dry_run:
        print("nothing was started (--dry-run)", file=sys.stderr)
        return
    with locked(plan.run.lock, f"the run {plan.run.name} is being worked on"):
        stages.get_data(plan)  # Kaggle's archive -> data/, or a rendered demo set
        dataset = stages.check_data(plan)  # every file against every table
        folds = stages.make_folds(plan, dataset)  # driver_imgs_list.csv -> runs/NAME/folds.csv
        jobs = stages.list_jobs(plan, dataset, folds, arguments)  # what is not finished yet
        if arguments.list_jobs:
            return
        # photographs + folds.csv -> runs/NAME/MODEL/fold_K/ -> runs/NAME/ensemble/ and submissions/NAME.csv
        stages.train_and_blend(plan, dataset, folds, jobs)
        stages.report(plan)  # all of it on one page: runs/NAME/report.html


if __name__ == "__main__":
    run_command(main)

"""The stages of a run, as `pipeline.__main__` calls them in order."""

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.competition import SAMPLE_SUBMISSION
from common.errors import NOTHING_FINISHED, UserError, named, say
from common.run_folder import CorruptedOutputError
from pipeline import resources, train
from pipeline.jobs import Job
from pipeline.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

    from preprocessing.dataset import Dataset

MOST_BLENDS = 3  # a corrupted output is trained again, and the blend tried again


def print_plan(plan: Plan, arguments: argparse.Namespace) -> None:
    """Prints what the run is and what it needs; with a dry run, when each job starts."""
    counts, left = plan.counts(), folds_left(plan)
    say(
        f"run      {plan.run.name}: {' '.join(left)} on {plan.number_of_folds} folds of {plan.work.data} "
        f"({counts[0]:,} + {counts[1]:,} images)"
    )
    # A cluster's nodes are compared with the jobs instead, and listed jobs may run on other machines.
    elsewhere = plan.cluster or (arguments.list_jobs and not arguments.dry_run)
    if any(left.values()) and not elsewhere:
        say(resources.check(plan.needs(left), plan.run.path, plan.work.cache, plan.devices))
    if arguments.dry_run:
        jobs = [job for model in plan.models for job in train.jobs_of(plan, model, left[model.name], *counts)]
        say(train.planned(plan, jobs))


def folds_left(plan: Plan) -> dict[str, list[int | str]]:
    """The folds of each model that are still to be trained, by the model's name."""
    names, folds = [model.name for model in plan.models], range(plan.number_of_folds)
    return {name: [fold for fold in folds if not plan.run.fold(name, fold).is_finished()] for name in names}


def get_data(plan: Plan) -> None:
    """Downloads the competition's archive, or renders the demo set, where the plan says so."""
    if plan.source == "download":
        from preprocessing.download import download

        download(plan.work.data)
    elif plan.source == "demo":
        from preprocessing.demo import ensure_demo

        ensure_demo(plan.work.cache, plan.work.seed)


def check_data(plan: Plan) -> "Dataset":
    """Checks every file of the data folder against every table, and prints how much is in it."""
    import pandas as pd

    from common.tables import read_labels
    from preprocessing import check, dataset

    found = dataset.load(plan.work.data, plan.work.cache, plan.work.skip_broken)
    if plan.labels is not None:  # a mistake there is reported before the work, not after it
        read_labels(plan.labels, pd.Index(found.test), "the test set")
    say(f"data     {check.describe(found).splitlines()[0]}")
    return found


def make_folds(plan: Plan, dataset: "Dataset") -> "pd.DataFrame":
    """The run's fold table, made where there is none."""
    table = train.fold_table(plan, dataset)
    held_out = ", ".join(f"{images:,}" for images in table["fold"].value_counts().sort_index())
    say(f"folds    {plan.run.folds}: split by driver; images held out: {held_out}")
    return table


def list_jobs(plan: Plan, dataset: "Dataset", folds: "pd.DataFrame", arguments: argparse.Namespace) -> list[Job]:
    """The jobs that are left of the first round, or else of the second, all settings checked; printed if asked for."""
    first, second = plan.rounds
    jobs = train.training_jobs(plan, dataset, folds, first) or train.training_jobs(plan, dataset, folds, second)
    if arguments.list_jobs:
        print(train.listed(jobs))
        if second and any(job.model == model.name for job in jobs for model in first):
            say("the second round's jobs can be listed when these are finished: they read their predictions")
    elif jobs:
        train.check_layers(jobs, arguments)
    return jobs


def train_and_blend(plan: Plan, dataset: "Dataset", folds: "pd.DataFrame", jobs: Sequence[Job]) -> None:
    """Trains what is left and blends it. Where the blend finds a corrupted output, that fold is trained again."""
    first, second = plan.rounds
    for attempt in range(MOST_BLENDS):
        if jobs:
            train.run_jobs(plan, jobs)
        if second:
            left = folds_left(plan)
            if any(left[model.name] for model in first):
                say("the second round was not started: it learns from the first, which is not finished")
            elif not any(left[job.model] for job in jobs):  # else they were tried just now
                jobs = train.training_jobs(plan, dataset, folds, second)  # checks those that are finished
                if jobs:
                    train.run_jobs(plan, jobs)
        try:
            blend(plan)
            return
        except CorruptedOutputError as error:
            if attempt == MOST_BLENDS - 1:
                raise
            say(f"note: {error}")
            jobs = train.training_jobs(plan, dataset, folds, first)


def blend(plan: Plan) -> None:
    """Blends the models of the run, writes the submission, and scores it where the test labels are known."""
    from ensemble.blend import Request, blend_run
    from ensemble.report import summary

    there, sample = plan.run.models(), plan.work.data / SAMPLE_SUBMISSION
    names = [model.name for model in plan.models if model.name in there or not model.second_round]  # it may not start
    models = tuple(_blendable(plan, names) if plan.deadline else names)
    blend_run(Request(plan.run.path, sample, plan.submission, models, plan.allow_missing, plan.blending))
    say(f"\n{summary(plan.run.ensemble)}", sys.stdout)
    if plan.labels is not None:
        from ensemble.report import score_text

        print(f"score       {score_text(plan.submission, plan.labels).splitlines()[0]}")


def report(plan: Plan) -> None:
    """Writes runs/NAME/report.html, and prints where it is. Whatever fails there, the submission is written already."""
    from ensemble.blend import REPORT, shown

    path = plan.run.ensemble / REPORT
    try:
        from tools.report import Request, write_report

        path = write_report(Request(plan.run, plan.work.data, plan.labels))
    except Exception as error:
        reason = error if isinstance(error, UserError) else traceback.format_exc()
        say(f"warning: report.html was not written: {reason}")
    print(f"report      {shown(path)}\nsubmission  {shown(plan.submission)}")


def _blendable(plan: Plan, models: Sequence[str]) -> list[str]:
    """Those models that have finished the fold that most of them have: all have to have predicted the same images."""
    folds = {name: {one.fold for one in plan.run.finished([name]) if isinstance(one.fold, int)} for name in models}
    counts = Counter(fold for own in folds.values() for fold in sorted(own))
    if not counts:
        if failed := [f"{one.path}: {why}" for one in plan.run.fold_folders(models) if (why := one.failure())]:
            raise UserError(f"no fold is finished, and not for lack of time: {named(failed)}")
        if any(folder.has_outputs() for folder in plan.run.fold_folders(models)):
            say("nothing is finished yet, and nothing went wrong. The same command resumes.")
            sys.exit(NOTHING_FINISHED)
        raise UserError(
            f"{plan.run.path}: no fold of {', '.join(models)} can be finished in the time that is left. Try a larger "
            "--time-budget, a smaller --image-size, or --quick."
        )
    common = min(counts, key=lambda fold: (-counts[fold], fold))
    found = [name for name in models if common in folds[name]]
    if left_out := [name for name in models if name not in found]:
        say(f"not in the blend yet: {', '.join(left_out)}")
    return found

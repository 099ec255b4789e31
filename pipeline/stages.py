"""The stages of a run, as `pipeline.__main__` calls them in order."""

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from common import machine
from common.competition import SAMPLE_SUBMISSION
from common.errors import NOTHING_FINISHED, UserError
from common.run_folder import CorruptedOutputError
from common.terminal import say
from pipeline import resources, train
from pipeline.jobs import Job, listed
from pipeline.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

    from preprocessing.dataset import Dataset

MOST_BLENDS = 3  # a corrupted output is trained again, and the blend tried again


def print_plan(plan: Plan, dry_run: bool) -> None:
    """Prints what the run is and what it needs; with a dry run, when each job starts.

    Raises:
        UserError: memory or disk cannot suffice.
    """
    names = [model.work.model_name for model in plan.models]
    train_images, test_images = plan.counts()
    say(
        f"run      {plan.run.name}: {' '.join(names)} on {plan.number_of_folds} folds of {plan.data} "
        f"({train_images:,} + {test_images:,} images)"
    )
    left = folds_left(plan)
    if any(left.values()):
        needs = resources.estimate(
            [(model.work.architecture, model.recipe, len(left[model.work.model_name])) for model in plan.models],
            train_images=train_images,
            test_images=test_images,
            folds=plan.number_of_folds,
            rate=plan.rate,
            at_a_time=plan.jobs or max(machine.at_a_time(model.side_by_side, model.memory) for model in plan.models),
        )
        say(resources.check(needs, plan.run.path, plan.cache, plan.devices))
    if dry_run:
        jobs = [job for model in plan.models for job in train.expected_jobs(plan, model, left[model.work.model_name])]
        say(train.planned(plan, jobs))


def folds_left(plan: Plan) -> dict[str, list[int | str]]:
    """The folds of each model that are still to be trained, by the model's name."""
    names = [model.work.model_name for model in plan.models]
    folds = range(plan.number_of_folds)
    return {name: [fold for fold in folds if not plan.run.fold(name, fold).is_finished()] for name in names}


def get_data(plan: Plan) -> None:
    """Downloads the competition's archive, or renders the demo set, where the plan says so."""
    if plan.source == "download":
        from common.kaggle_client import install
        from preprocessing.download import download

        install()
        download(plan.data)
    elif plan.source == "demo":
        from preprocessing.demo import ensure_demo

        ensure_demo(plan.cache, plan.seed)


def check_data(plan: Plan) -> "Dataset":
    """Checks every file of the data folder against every table, and prints how much is in it.

    Raises:
        UserError: something is wrong with it.
    """
    from preprocessing import check, dataset

    found = dataset.load(plan.data, plan.cache, plan.skip_broken)
    say(f"data     {check.describe(found).splitlines()[0]}")
    return found


def make_folds(plan: Plan, dataset: "Dataset") -> "pd.DataFrame":
    """The run's fold table, made where there is none."""
    table = train.fold_table(plan, dataset)
    held_out = ", ".join(f"{images:,}" for images in table["fold"].value_counts().sort_index())
    say(f"folds    {plan.run.folds}: split by driver; images held out: {held_out}")
    return table


def list_jobs(plan: Plan, dataset: "Dataset", folds: "pd.DataFrame", arguments: argparse.Namespace) -> list[Job]:
    """The jobs of the first round that are left, all settings checked; with --list-jobs, printed.

    Where the first round is finished, these are the second round's.
    """
    first, second = plan.rounds
    jobs = train.training_jobs(plan, dataset, folds, first) or train.training_jobs(plan, dataset, folds, second)
    if arguments.list_jobs:
        print(listed(jobs))
        if second and any(job.model == model.work.model_name for job in jobs for model in first):
            say("the second round's jobs can be listed when these are finished: they read their predictions")
    elif jobs:
        train.check_layers(jobs, train.given_settings(arguments))
    return jobs


def train_and_blend(plan: Plan, dataset: "Dataset", folds: "pd.DataFrame", jobs: Sequence[Job]) -> None:
    """Trains what is left and blends it. Where the blend finds a corrupted output, that fold is trained again."""
    first, second = plan.rounds
    for attempt in range(MOST_BLENDS):
        if jobs:
            train.run_jobs(plan, jobs)
        if second:
            left = folds_left(plan)
            if any(left[model.work.model_name] for model in first):
                say("the second round was not started: it learns from the first, which is not finished")
            elif any(left[model.work.model_name] for model in second):
                train.run_jobs(plan, train.training_jobs(plan, dataset, folds, second))
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

    models = [model.work.model_name for model in plan.models]
    if plan.deadline:
        models = blendable(plan, models)
    sample = plan.data / SAMPLE_SUBMISSION
    request = Request(plan.run.path, sample, plan.submission, tuple(models), plan.allow_missing, plan.blending)
    blend_run(request)
    say(f"\n{summary(plan.run.ensemble)}", sys.stdout)
    if plan.labels is not None:
        from ensemble.score import score_text

        print(f"score       {score_text(plan.submission, plan.labels).splitlines()[0]}")


def report(plan: Plan) -> None:
    """Writes runs/NAME/report.html, and prints where it is. Whatever fails there, the submission is written already."""
    from ensemble.blend import REPORT, shown

    path = plan.run.ensemble / REPORT
    try:
        from tools.report import Request, write_report

        path = write_report(Request(plan.run, plan.data, plan.labels))
    except UserError as error:
        say(f"warning: report.html was not written: {error}")
    except Exception:
        say(f"warning: report.html was not written:\n{traceback.format_exc()}")
    print(f"report      {shown(path)}\nsubmission  {shown(plan.submission)}")


def blendable(plan: Plan, models: Sequence[str]) -> list[str]:
    """Those models that have finished the fold that most of them have finished.

    A blend is evaluated on images that all its models predicted out of fold.

    Raises:
        UserError: none has finished any.
    """
    folds = {name: {one.fold for one in plan.run.finished([name]) if isinstance(one.fold, int)} for name in models}
    counts = Counter(fold for own in folds.values() for fold in sorted(own))
    if not counts:
        if plan.deadline and any(folder.has_outputs() for folder in plan.run.fold_folders(models)):
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

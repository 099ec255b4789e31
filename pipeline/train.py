"""The training stage: which folds are left, their jobs, and running them.

Also the command lines of single models: `python models/NAME.py` and `python models/bottleneck.py` call `main` here.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import SOME_FAILED, STOPPED, USER_ERROR, UserError, run_command
from common.files import remove_leftovers
from common.run_folder import ALL_DRIVERS, REPOSITORY
from common.settings import CommandLine, chosen
from common.terminal import say
from models.finetuning import architecture as zoo
from models.finetuning import fold_run, interface, weights
from models.finetuning.architecture import Architecture, Bottleneck, Recipe
from models.finetuning.fold_run import FoldRun
from pipeline import resources, schedule
from pipeline.executor import Executor, Result
from pipeline.jobs import Job, listed, make_job
from pipeline.local import LocalExecutor
from pipeline.options import bottleneck_parser, model_parser, read_fold
from pipeline.plan import Model, Plan, plan_model
from pipeline.schedule import Durations

if TYPE_CHECKING:
    import pandas as pd

    from preprocessing.dataset import Dataset

DEFAULT_ARCHITECTURE = "inception_v3"  # of a bottleneck model
NAMING_LAYERS = {"trainable", "pooled_layers"}  # settings that only the network itself can check


def fold_table(plan: Plan, dataset: "Dataset") -> "pd.DataFrame":
    """The run's fold table; made where there is none.

    Raises:
        UserError: it is of other data, or not what was asked for.
    """
    from preprocessing import folds

    return folds.ensure_folds(
        plan.run.folds, dataset.train, plan.folds, plan.folds_file, plan.number_of_folds, dataset.left_out
    )


def training_jobs(
    plan: Plan, dataset: "Dataset", folds: "pd.DataFrame", models: Sequence[Model] | None = None
) -> list[Job]:
    """The jobs that are left, after every setting of every model has been checked.

    Args:
        models: those of one round; every model where none are given.

    Raises:
        UserError: a fold was trained with other settings, or there is no such fold, or weights are not available.
    """
    count = int(folds["fold"].max()) + 1
    jobs = []
    for model in plan.models if models is None else models:
        wanted = wanted_folds(plan, folds)
        left = unfinished(model.work, wanted, dataset)
        if len(left) < len(wanted):
            say(f"{model.work.model_name}: {len(wanted) - len(left)} of {len(wanted)} folds are finished already")
        if not left:
            continue
        weights.check_available(model.work.architecture, model.work.weights)
        counts = len(folds), len(dataset.test), count
        seconds = resources.job_seconds(model.work.architecture, model.recipe, *counts, plan.rate / model.side_by_side)
        together = [left] if isinstance(model.work.recipe, Bottleneck) else [[fold] for fold in left]
        jobs += [
            make_job(
                model.work,
                some,
                side_by_side=model.side_by_side,
                gpu=bool(plan.devices),
                memory=model.memory,
                seconds=seconds,
            )
            for some in together
        ]
    if plan.cluster and jobs:
        plan.cluster.check([model.work for model in plan.models], jobs)
    with contextlib.suppress(OSError):  # a pipeline that was killed there may have no job left, and write no more
        remove_leftovers(plan.run.durations)
    durations = Durations(plan.run.durations, plan.machine)
    return [durations.resumed(job) for job in jobs]


def make_executor(plan: Plan) -> Executor:
    """What runs the jobs of a plan: this machine, or a cluster."""
    durations = Durations(plan.run.durations, plan.machine)
    if plan.cluster:
        return plan.cluster.executor(durations, [model.work for model in plan.models])
    return LocalExecutor(durations, plan.devices, plan.jobs)


def expected_jobs(plan: Plan, model: Model, folds: Sequence[int | str]) -> list[Job]:
    """The jobs of a dry run, before there is a fold table or a file of theirs."""
    seconds = resources.job_seconds(
        *(model.work.architecture, model.recipe, *plan.counts(), plan.number_of_folds, plan.rate / model.side_by_side)
    )
    durations = Durations(plan.run.durations, plan.machine)
    jobs = [
        Job(
            *(model.work.model_name, (fold,), model.work.script, Path(), (), ()),
            side_by_side=model.side_by_side,
            seconds=seconds,
            resumes=plan.run.fold(model.work.model_name, fold).has_outputs(),
        )
        for fold in folds
    ]
    return [durations.resumed(job) for job in jobs]


def wanted_folds(plan: Plan, folds: "pd.DataFrame") -> list[int | str]:
    """The folds that were asked for; every fold of the table where none was.

    Raises:
        UserError: there is no such fold.
    """
    count = int(folds["fold"].max()) + 1
    wanted = plan.wanted if plan.wanted is not None else tuple(range(count))
    numbers = sorted(fold for fold in set(wanted) if isinstance(fold, int))
    if not set(numbers) <= set(range(count)):
        raise UserError(f"--fold {' '.join(map(str, numbers))}: this run has the folds 0 to {count - 1}.")
    if ALL_DRIVERS in wanted and isinstance(plan.models[0].work.recipe, Bottleneck):
        raise UserError("--fold all: a classifier on features needs held-out drivers. Name folds, or leave --fold out.")
    return [*numbers, *([ALL_DRIVERS] if ALL_DRIVERS in wanted else [])]


def unfinished(work: FoldRun, folds: Sequence[int | str], dataset: "Dataset") -> list[int | str]:
    """Those folds of a model that are still to be trained.

    Raises:
        UserError: one was trained, or has begun, with other settings; or another fold of the model was.
    """
    settings = {fold: work.of_fold(fold).settings(dataset.test, dataset.broken_test) for fold in folds}
    fold_run.require_same_models(settings)
    left = []
    for fold, own in settings.items():
        one = work.of_fold(fold)
        if one.is_finished(own):
            one.folder.remove_checkpoint()  # its process was killed before it could
        else:
            one.require_same_settings(own)
            left.append(fold)
    return left


def check_layers(jobs: Sequence[Job], given: set[str]) -> None:
    """Builds each model but the first without its weights, where the command line names layers: that checks them.

    Args:
        given: the names of the settings on the command line.

    Raises:
        SystemExit: a layer is unknown; the process that found it has said so.
    """
    if not given & NAMING_LAYERS:
        return
    for config in dict.fromkeys(one.config for one in jobs[1:] if one.config != jobs[0].config):
        call = f"run_command(lambda: interface.check_layers({str(config.resolve())!r}))"
        code = f"from common.errors import run_command; from models.finetuning import interface; {call}"
        status = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode
        if status:
            sys.exit(status)


def run_jobs(plan: Plan, jobs: Sequence[Job], executor: Executor | None = None) -> list[Result]:
    """Runs jobs to their end, or to the deadline.

    Raises:
        SystemExit: with status 2 where one met a user's mistake, 130 where one was stopped.
    """
    executor = executor or make_executor(plan)
    if plan.deadline:
        say(planned(plan, jobs, executor))
    results = executor.run(jobs, plan.deadline)
    for status in (STOPPED, USER_ERROR):
        over = plan.deadline is not None and plan.deadline.left <= 0 and status == STOPPED
        if any(result.status == status for result in results) and not over:
            sys.exit(status)
    words = {"failed": "failed", "stopped": "stopped, will resume", "waiting": "no time for"}
    for ended, text in words.items():
        if some := [str(result.job) for result in results if result.ended == ended]:
            say(f"{text}: {'; '.join(some)}. The same command tries again.")
    return results


def planned(plan: Plan, jobs: Sequence[Job], executor: Executor | None = None) -> str:
    """The timetable as lines."""
    executor = executor or make_executor(plan)
    slots = max([executor.slots_for(job) for job in jobs], default=1)
    names = [executor.slot_name(jobs[0], slot) for slot in range(slots)] if jobs else ["CPU"]
    pace, deadline = executor.durations.pace(), plan.deadline
    if deadline is None:
        return schedule.described(*schedule.timetable(jobs, pace, slots, None), names)
    entries, left_out = schedule.timetable(jobs, pace, slots, deadline.left)
    ends = deadline.passed + max([entry.ends for entry in entries], default=0.0)
    return (
        f"{schedule.described(entries, left_out, names, deadline.passed)}\n"
        f"clock    {resources.duration(deadline.budget)}, {resources.duration(deadline.passed)} of them have passed; "
        f"training ends at {schedule.clock_time(ends)}, margins included, and the blend follows"
    )


def main(architecture: Architecture) -> None:
    """`python models/NAME.py`"""
    run_command(lambda: _main(model_parser(architecture), architecture, sys.argv[1:]))


def bottleneck_main(description: str) -> None:
    """`python models/bottleneck.py`"""

    def run() -> None:
        words = sys.argv[1:]
        architecture = zoo.find(_architecture_in(words))
        parser = bottleneck_parser(architecture, description, DEFAULT_ARCHITECTURE)
        _main(parser, architecture, words, bottleneck=True)

    run_command(run)


def _main(parser: CommandLine, architecture: Architecture, words: list[str], bottleneck: bool = False) -> None:
    if any(word.partition("=")[0] == "--config" for word in words):
        _run_job(parser.prog, words)
        return
    arguments = parser.parse_args(words)
    plan = plan_model(architecture, arguments, bottleneck)
    from preprocessing import dataset, folds

    data = dataset.load(plan.data, plan.cache, plan.skip_broken)
    if arguments.dry_run and not plan.run.folds.exists():
        table = (
            folds.read_folds_file(plan.folds_file, data.train, data.left_out)
            if plan.folds_file
            else folds.make_folds(data.train, plan.number_of_folds)
        )
        _describe(plan, data, table, wanted_folds(plan, table))
        return
    table = fold_table(plan, data)
    jobs = training_jobs(plan, data, table)
    if arguments.list_jobs:
        print(listed(jobs))
    elif arguments.dry_run and jobs:
        _describe(plan, data, table, [fold for job in jobs for fold in job.folds])
    elif not arguments.dry_run and len(jobs) == 1 and jobs[0].threads is None and not plan.cluster:
        interface.train(plan.models[0].work, jobs[0].folds, data, table)  # on all cores: nothing runs beside it
    elif not arguments.dry_run:
        finish(run_jobs(plan, jobs))


def finish(results: Sequence[Result]) -> None:
    """Ends a command with the status of its one failed job, or `SOME_FAILED` where several jobs were asked for."""
    failed = [result for result in results if result.ended != "finished"]
    if failed:
        sys.exit(failed[0].status if len(results) == 1 and (failed[0].status or 0) > 0 else SOME_FAILED)


def _run_job(prog: str, words: list[str]) -> None:
    """`--config FILE --fold K`: trains in this process."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="runs/NAME/MODEL/training.json")
    parser.add_argument("--fold", type=read_fold, nargs="+", required=True, metavar="K")
    arguments = parser.parse_args(words)
    interface.run(arguments.config, arguments.fold)


def _describe(plan: Plan, data: "Dataset", table: "pd.DataFrame", folds: Sequence[int | str]) -> None:
    """Prints what --dry-run prints."""
    model: Model = plan.models[0]
    from models.finetuning import runtime

    runtime.load_keras()
    if not isinstance(model.work.recipe, Bottleneck):
        print(interface.describe(model.work, folds, table, len(data.test)))
    needs = resources.estimate(
        [(model.work.architecture, model.recipe, len(folds))],
        train_images=len(table),
        test_images=len(data.test),
        folds=int(table["fold"].nunique()),
        rate=plan.rate,
        at_a_time=min(model.side_by_side, len(folds)),
    )
    print(resources.check(needs, plan.run.path, plan.cache, plan.devices))
    print("nothing was started (--dry-run)")


def _architecture_in(words: Sequence[str]) -> str:
    """What --architecture says: the defaults that --help shows and the parser starts from depend on it."""
    found = DEFAULT_ARCHITECTURE
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--config":
            return str(fold_run.load(Path(following)).architecture.name)
        if word.startswith("--architecture="):
            found = word.partition("=")[2]
        elif word == "--architecture":
            found = following
    if found.startswith("-") or not found:
        raise UserError(f"--architecture: expected a name. There are: {', '.join(zoo.names())}.")
    return found


def given_settings(arguments: argparse.Namespace) -> set[str]:
    """The names of the recipe's settings on the command line."""
    return set(chosen(arguments, Recipe))

"""The training stage: which folds are left, their jobs, and running them.

Also the command lines of single models: `python models/NAME.py` and `python models/bottleneck.py` call `main` here.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import SOME_FAILED, STOPPED, USER_ERROR, UserError, run_command, say
from common.files import remove_leftovers
from common.run_folder import ALL_DRIVERS, REPOSITORY
from common.settings import CommandLine, chosen
from models.finetuning import architecture as zoo
from models.finetuning import fold_run, interface
from models.finetuning.architecture import Architecture, Bottleneck, Recipe
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights
from pipeline import jobs as schedule
from pipeline import resources
from pipeline.executor import Executor, LocalExecutor, Result
from pipeline.jobs import Job
from pipeline.options import DEFAULT_ARCHITECTURE, bottleneck_parser, model_parser, read_fold
from pipeline.plan import Model, Plan, plan_model

if TYPE_CHECKING:
    import pandas as pd

    from preprocessing.dataset import Dataset

NAMING_LAYERS = {"trainable", "pooled_layers"}  # settings that only the network itself can check


def fold_table(plan: Plan, dataset: "Dataset", write: bool = True) -> "pd.DataFrame":
    """The run's fold table; made where there is none, and then written."""
    from preprocessing.folds import ensure_folds

    asked = plan.folds, plan.folds_file, plan.number_of_folds
    return ensure_folds(plan.run.folds, dataset.train, *asked, dataset.left_out, write)


def training_jobs(
    plan: Plan, dataset: "Dataset", folds: "pd.DataFrame", models: Sequence[Model] | None = None
) -> list[Job]:
    """The jobs that are left of all models, or of some; their settings are checked, their configurations written."""
    jobs, wanted = [], wanted_folds(plan, folds)
    for model in plan.models if models is None else models:
        left = unfinished(model.work, wanted, dataset)
        if len(left) < len(wanted):
            say(f"{model.name}: {len(wanted) - len(left)} of {len(wanted)} folds are finished already")
        if left:
            weights.check_available(model.work.architecture, model.work.weights)
            model.work.save()
            jobs += jobs_of(plan, model, left, len(folds), len(dataset.test))
    if plan.cluster and jobs:
        plan.cluster.check([model.work for model in plan.models], jobs)
    with contextlib.suppress(OSError):  # a pipeline that was killed there may have no job left, and write no more
        remove_leftovers(plan.run.durations)
    return jobs


def jobs_of(plan: Plan, model: Model, folds: Sequence[int | str], train_images: int, test_images: int) -> list[Job]:
    """The jobs that train these folds of a model; nothing is written."""
    work, seconds = model.work, plan.seconds(model, train_images, test_images, plan.rate / model.side_by_side)
    config, file = work.run.job_file(model.name), weights.weights_file(work.architecture, work.weights)
    return [
        Job(
            model=model.name,
            folds=tuple(some),
            script=work.script,
            config=config,
            inputs=(config, work.data, work.run.folds, *([file] if file else [])),
            outputs=tuple(work.of_fold(fold).folder for fold in some),
            side_by_side=model.side_by_side,
            threads=work.threads,
            gpu=bool(plan.devices),
            memory=model.memory,
            seconds=seconds,
            resumes=any(work.of_fold(fold).folder.has_outputs() for fold in some),
        )
        for some in ([folds] if isinstance(work.recipe, Bottleneck) else [[fold] for fold in folds])
    ]


def listed(jobs: Sequence[Job]) -> str:
    """A JSON object a line, one for each job."""
    return "\n".join(json.dumps(one.as_json()) for one in jobs)


def make_executor(plan: Plan) -> Executor:
    """What runs the jobs of a plan: this machine, or a cluster."""
    if plan.cluster:
        from pipeline.ray import RayExecutor

        return RayExecutor(plan.durations(), plan.cluster.nodes, [model.work for model in plan.models])
    return LocalExecutor(plan.durations(), plan.devices, plan.jobs)


def wanted_folds(plan: Plan, folds: "pd.DataFrame") -> list[int | str]:
    """The folds that were asked for; every fold of the table where none was."""
    count = int(folds["fold"].max()) + 1
    wanted = plan.wanted if plan.wanted is not None else tuple(range(count))
    numbers = sorted(fold for fold in set(wanted) if isinstance(fold, int))
    if not set(numbers) <= set(range(count)):
        raise UserError(f"--fold {' '.join(map(str, numbers))}: this run has the folds 0 to {count - 1}.")
    if ALL_DRIVERS in wanted and isinstance(plan.work.recipe, Bottleneck):
        raise UserError("--fold all: a classifier on features needs held-out drivers. Name folds, or leave --fold out.")
    return [*numbers, *([ALL_DRIVERS] if ALL_DRIVERS in wanted else [])]


def unfinished(work: FoldRun, folds: Sequence[int | str], dataset: "Dataset") -> list[int | str]:
    """Those folds of a model that are still to be trained; a UserError where one was trained with other settings."""
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


def check_layers(jobs: Sequence[Job], arguments: argparse.Namespace) -> None:
    """Builds each model but the first without its weights, where the command line names layers: that checks them."""
    if not NAMING_LAYERS & set(chosen(arguments, Recipe)):
        return
    for config in dict.fromkeys(one.config for one in jobs[1:] if one.config != jobs[0].config):
        call = f"run_command(lambda: interface.check_layers({str(config.resolve())!r}))"
        code = f"from common.errors import run_command; from models.finetuning import interface; {call}"
        status = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode
        if status:
            sys.exit(status)


def run_jobs(plan: Plan, jobs: Sequence[Job]) -> list[Result]:
    """Runs jobs to their end, or to the deadline; exits where one was stopped or met a user's mistake."""
    executor = make_executor(plan)
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
    deadline, later = plan.deadline, [model.name for model in plan.rounds[1]]
    left = deadline.left if deadline else None
    first, again = [[job for job in jobs if (job.model in later) == second] for second in (False, True)]
    entries, left_out = schedule.timetable(first, executor.durations, slots, left)
    if left_out:
        left_out += again  # a second round is only started when the first is finished
    else:
        begins = max([one.ends for one in entries], default=0.0)
        more, left_out = schedule.timetable(again, executor.durations, slots, None if left is None else left - begins)
        entries += [one._replace(starts=begins + one.starts, ends=begins + one.ends) for one in more]
    if deadline is None:
        return schedule.described(entries, left_out, names)
    ends = deadline.passed + max([entry.ends for entry in entries], default=0.0)
    return (
        f"{schedule.described(entries, left_out, names, deadline.passed)}\n"
        f"clock    {resources.duration(deadline.budget)}, {resources.duration(deadline.passed)} of them have passed; "
        f"training ends at {schedule.clock_time(ends)}, margins included, and the blend follows"
    )


def main(architecture: Architecture) -> None:
    """`python models/NAME.py`"""
    run_command(lambda: _main(model_parser(architecture), architecture))


def bottleneck_main(description: str) -> None:
    """`python models/bottleneck.py`"""

    def run() -> None:
        # The defaults that --help shows depend on the architecture, so it is read first.
        early = CommandLine(add_help=False)
        early.add_argument("--architecture", default=DEFAULT_ARCHITECTURE)
        architecture = zoo.find(early.parse_known_args()[0].architecture)
        _main(bottleneck_parser(architecture, description), architecture, bottleneck=True)

    run_command(run)


def _main(parser: CommandLine, architecture: Architecture, bottleneck: bool = False) -> None:
    if any(word.partition("=")[0] == "--config" for word in sys.argv[1:]):
        _run_job(parser.prog)
        return
    arguments = parser.parse_args()
    plan = plan_model(architecture, arguments, bottleneck)
    from preprocessing import dataset

    data = dataset.load(plan.work.data, plan.work.cache, plan.work.skip_broken)
    table = fold_table(plan, data, write=not arguments.dry_run)
    if arguments.dry_run:
        _describe(plan, data, table)
        return
    jobs = training_jobs(plan, data, table)
    if arguments.list_jobs:
        print(listed(jobs))
    elif len(jobs) == 1 and jobs[0].threads is None and not plan.cluster:
        interface.train(plan.work, jobs[0].folds, data, table)  # on all cores: nothing runs beside it
    else:
        results = run_jobs(plan, jobs)
        failed = [result for result in results if result.ended != "finished"]
        if failed:
            sys.exit(failed[0].status if len(results) == 1 and (failed[0].status or 0) > 0 else SOME_FAILED)


def _run_job(prog: str) -> None:
    """`--config FILE --fold K`: trains in this process."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="runs/NAME/MODEL/training.json")
    parser.add_argument("--fold", type=read_fold, nargs="+", required=True, metavar="K")
    arguments = parser.parse_args()
    interface.run(arguments.config, arguments.fold)


def _describe(plan: Plan, data: "Dataset", table: "pd.DataFrame") -> None:
    """Prints what --dry-run prints."""
    left = wanted_folds(plan, table)
    if plan.run.folds.exists():  # else nothing of the run is trained, and no table is written yet
        left = unfinished(plan.work, left, data)
    if left and not isinstance(plan.work.recipe, Bottleneck):
        print(interface.describe(plan.work, left, table, len(data.test)))
    if left:
        print(resources.check(plan.needs({plan.work.model_name: left}), plan.run.path, plan.work.cache, plan.devices))
    print("nothing was started (--dry-run)")

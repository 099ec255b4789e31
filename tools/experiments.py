"""Trains a list of named settings on the same folds and seeds, and compares them on drivers they have not seen.

    python -m tools.experiments docs/experiments/inception_v3.toml --data DIR --weights DIR
    python -m tools.experiments FILE.toml --only dropout_none dropout_less   # these two and the reference
    python -m tools.experiments FILE.toml --report                           # only the table of what is finished
    python -m tools.experiments FILE.toml --search                           # with Optuna

The docstring of tools/experiment_file.py describes FILE.toml. Each experiment is a model of the run (NAME, with another
seed NAME_seed1): finished folds are skipped, and every other command works on it. runs/RUN/experiments.csv has each
one's log loss and its difference to the reference, with the standard error over drivers; a difference below its error,
or below what another seed makes, is none. A search keeps its trials in runs/RUN/search.db and their table in
search.csv; the same command resumes it.
"""

import argparse
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from common.errors import UserError, run_command
from common.files import written_whole
from common.metric import paired_difference
from common.run_folder import OUT_OF_FOLD, RunFolder
from common.settings import CommandLine, as_options, names_in, word
from common.tables import read_predictions
from ensemble.tables import formatted
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights as pretrained
from models.finetuning.recipe import NoEffectError
from pipeline import options
from pipeline import train as jobs
from pipeline.plan import Plan as RunPlan
from pipeline.plan import bottleneck_of, network_of, plan_model
from preprocessing import dataset
from preprocessing.dataset import Dataset
from tools.comparison import losses_of
from tools.experiment_file import Experiment, Plan, read_plan, require_known


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What all experiments share; `folds` are held out in turn."""

    arguments: argparse.Namespace
    run: Path
    dataset: Dataset
    folds_table: pd.DataFrame
    folds: list[Any]
    seeds: list[int]


def make_parser() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.experiments", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="the experiments")
    parser.add_argument("--only", type=names_in, nargs="+", default=[], metavar="NAME", help="and the reference [all]")
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="held-out folds, from 0 [those of FILE]")
    parser.add_argument("--report", action="store_true", help="train nothing, print the table of what is finished")
    parser.add_argument("--search", action="store_true", help="search the file's space instead of its list")
    options.add_run_options(parser, "the name of FILE")
    options.add_training_options(parser)
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    plan = read_plan(arguments.file)
    only = [name for names in arguments.only for name in names]
    require_known(only, plan.experiments, "experiment in --only:")
    if arguments.search and (only or not plan.search):
        raise UserError(f"--search: expected a [search] with settings in {arguments.file}, and no --only.")
    wanted = {plan.reference, *([] if arguments.search else only or plan.experiments)}
    arguments.run, seeds = arguments.run or arguments.file.stem, plan.seeds or [arguments.seed]
    for experiment in [plan.experiments[name] for name in wanted]:
        try:
            work_of(arguments, experiment, seeds[0])
        except NoEffectError as error:  # with --weights none, say, which changes defaults
            if experiment.name in {plan.reference, *only}:
                raise
            print(f"left out: {error}")
            del plan.experiments[experiment.name]
            wanted.remove(experiment.name)
            continue
        if not arguments.report:
            pretrained.check_available(experiment.architecture, arguments.weights)
    arguments.fold = arguments.fold or plan.folds or None
    shared = plan_of(arguments, plan.experiments[plan.reference], seeds[0])
    data = dataset.load(shared.data, shared.cache, shared.skip_broken)
    images = jobs.fold_table(shared, data)
    folds = jobs.wanted_folds(shared, images)
    setup = Setup(arguments, shared.run.path, data, images, folds, seeds)
    search(setup, plan) if arguments.search else run_list(setup, plan, wanted)


def run_list(setup: Setup, plan: Plan, wanted: Collection[str]) -> None:
    """Trains the wanted experiments, the reference first. The table also has what is finished of the others."""
    path, results = setup.run / "experiments.csv", dict[Experiment, Any]()
    for experiment in sorted(plan.experiments.values(), key=lambda one: one.name != plan.reference):
        try:
            for seed in setup.seeds:  # refuses folds that were trained with other settings
                work = plan_of(setup.arguments, experiment, seed).models[0].work
                jobs.unfinished(work, setup.folds, setup.dataset)
            results[experiment] = result(setup, experiment, setup.folds)
        except UserError:
            if experiment.name in wanted:
                raise
    rows = write_table(path, results)
    for experiment in [one for one in results if one.name in wanted and not setup.arguments.report]:
        train(setup, experiment, setup.folds)
        results[experiment] = result(setup, experiment, setup.folds)
        rows = write_table(path, results)
        print(as_text(rows[rows["experiment"] == experiment.name]), flush=True)
    print(f"\n{as_text(rows)}\n\n{path}")


def search(setup: Setup, plan: Plan) -> None:
    """Lets Optuna change the reference's settings: TPE proposes a trial, a median pruner may end it after any fold.

    A proposal depends on the finished trials alone, so an interrupted search resumes with the same trial.
    """
    try:
        import optuna
        from optuna.trial import TrialState
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        raise UserError(
            "--search needs Optuna. Install it: .venv/bin/python -m pip install -c requirements/lock.txt optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base, database, path = plan.experiments[plan.reference], setup.run / "search.db", setup.run / "search.csv"
    space = {key: distribution(setup, base, key, values) for key, values in plan.search.items()}
    if not setup.arguments.report:
        train(setup, base, setup.folds)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{database.resolve()}",
            study_name=f"{base} on folds {setup.folds} with seeds {setup.seeds} in {plan.search}",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )
        while True:
            results = {base: result(setup, base, setup.folds)}
            for number, done in enumerate(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])):
                experiment = changed(base, f"search_{number:03}", done.params)
                results[experiment] = done.user_attrs["ended"] or result(setup, experiment, setup.folds)
            rows = write_table(path, results)
            if setup.arguments.report or len(results) > plan.trials:
                break
            study.sampler = optuna.samplers.TPESampler(seed=setup.seeds[0] + len(results))
            trial = study.ask(space)
            loss, ended = run_trial(setup, trial, changed(base, f"search_{len(results) - 1:03}", trial.params))
            trial.set_user_attr("ended", ended)
            study.tell(trial, loss, TrialState.PRUNED if ended else TrialState.COMPLETE)
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise UserError(f"{database}: {error.__cause__ or error}. Free some space, or choose another --run.") from error
    print(f"\n{as_text(rows)}\n\nbest: {rows['settings'].iloc[0]}\n{path}")


def distribution(setup: Setup, base: Experiment, key: str, values: Any) -> Any:
    """What trials may take for a setting: one of a list, or a number in a range, whole where both ends are."""
    from optuna import distributions

    try:
        ends = values if isinstance(values, list) else [values["from"], values["to"]]
        for value in ends:
            work_of(setup.arguments, changed(base, f"search_{key}", {key: value}), setup.seeds[0])
        if ends is values:
            return distributions.CategoricalDistribution([word(x) if isinstance(x, list) else x for x in values])
        whole = all(isinstance(end, int) for end in ends)
        kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(ends[0], ends[1], log=values.get("log", False))
    except (KeyError, TypeError, ValueError) as error:
        expected = "a list of values, or { from = ..., to = ... } with a smaller and a larger number"
        raise UserError(f"[search] {key} = {values}: expected {expected}: {error}.") from error


def run_trial(setup: Setup, trial: Any, experiment: Experiment) -> tuple[float | None, str]:
    """Trains a trial fold by fold. Returns its log loss, and why it ended before the last fold if it did."""
    try:
        work_of(setup.arguments, experiment, setup.seeds[0])
    except UserError as error:  # at some points of a space, settings contradict each other
        return None, f"failed: {error}"
    for step, fold in enumerate(setup.folds):
        train(setup, experiment, [fold])
        found = result(setup, experiment, setup.folds[: step + 1])
        if isinstance(found, str):
            return None, found
        loss = float(found["log_loss"].mean())
        print(f"{experiment.name}: log loss {loss:.4f} after fold {fold}", flush=True)
        trial.report(loss, step)
        if fold != setup.folds[-1] and trial.should_prune():
            return None, f"pruned: log loss {loss:.4f} after fold {fold}"
    return loss, ""


def changed(base: Experiment, name: str, settings: dict[str, Any]) -> Experiment:
    """An experiment under another name, with some settings changed."""
    return dataclasses.replace(base, name=name, settings=base.settings | settings)


def model_name(experiment: Experiment, seed: int) -> str:
    """The folder of an experiment in the run."""
    return f"{experiment.name}_seed{seed}" if seed else experiment.name


def work_of(arguments: argparse.Namespace, experiment: Experiment, seed: int) -> FoldRun:
    """What the experiment's script would train, as of fold 0; its data need not be there.

    Raises:
        UserError: a wrong value, or settings that contradict each other; names the experiment.
    """
    parsed = _parsed(arguments, experiment, seed)
    make = bottleneck_of if experiment.is_classifier else network_of
    try:
        return make(experiment.architecture, parsed, RunFolder.of(parsed.run, parsed.runs), Path())
    except UserError as error:
        raise type(error)(f"experiment {experiment.name}: {error}") from None


def plan_of(arguments: argparse.Namespace, experiment: Experiment, seed: int, folds: Sequence[Any] = ()) -> RunPlan:
    """The plan of the experiment's script for these folds; for those of the command line where there are none."""
    return plan_model(experiment.architecture, _parsed(arguments, experiment, seed, folds), experiment.is_classifier)


def train(setup: Setup, experiment: Experiment, folds: list[Any]) -> None:
    """Trains those of these folds that are left, each in its own process. Only this function starts training.

    Raises:
        SystemExit: stopped, or a user's mistake, which the process has printed. A fold that fails raises nothing.
    """
    for seed in setup.seeds:
        plan = plan_of(setup.arguments, experiment, seed, folds)
        jobs.run_jobs(plan, jobs.training_jobs(plan, setup.dataset, setup.folds_table))


def _parsed(arguments: argparse.Namespace, experiment: Experiment, seed: int, folds: Sequence[Any] = ()) -> Any:
    """The experiment's settings, read as its script would read them."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"experiment {experiment.name}: {message}")

    architecture, classifies = experiment.architecture, experiment.is_classifier
    parser = options.bottleneck_parser(architecture, "", "") if classifies else options.model_parser(architecture)
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(_words(arguments, experiment, seed, folds or arguments.fold or ()))


def _words(arguments: argparse.Namespace, experiment: Experiment, seed: int, folds: Sequence[Any]) -> list[str]:
    """The command line of the experiment's script."""
    own = {"seed": seed, "model_name": model_name(experiment, seed)}
    names = ["run", "runs", "cache", "cache_limit", "weights", "precision", "workers", "data", "folds", "folds_file"]
    names += ["cluster"] if experiment.is_classifier else ["cluster", "activations", "log_to", "jobs"]
    shared = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    words = ["--architecture", experiment.architecture.name] if experiment.is_classifier else []
    words += as_options(experiment.settings | own | shared)
    words += ["--fold", *map(str, folds)] if folds else []
    return words + ["--quick"] * arguments.quick + ["--skip-broken"] * arguments.skip_broken


def result(setup: Setup, experiment: Experiment, folds: list[Any]) -> pd.DataFrame | str:
    """What an experiment reached on these held-out folds, or why there is nothing: 'not finished', or 'failed: ...'.

    Returns:
        By img: log_loss in nats and correct, means over the seeds; subject; seconds, the mean of a fold.

    Raises:
        UserError: a table is corrupted, or has other images.
    """
    tables, seconds = [], []
    for model in [model_name(experiment, seed) for seed in setup.seeds]:
        for fold in folds:
            folder = RunFolder(setup.run).fold(model, fold)
            finished = folder.finished()
            if finished is None:
                why = folder.failure().removeprefix("failed: ")
                return f"failed: {why}" if why else "not finished"
            table = read_predictions(folder.verified(OUT_OF_FOLD))
            tables.append(losses_of(table, setup.folds_table, folder.path))
            seconds.append(finished.get("seconds", math.nan))
    means = {"log_loss": "mean", "correct": "mean", "subject": "first"}
    return pd.concat(tables).groupby(level="img").agg(means).assign(seconds=sum(seconds) / len(seconds))


def write_table(path: Path, results: Mapping[Experiment, pd.DataFrame | str]) -> pd.DataFrame:
    """Writes the table of experiments and returns it: a row for each, the least log loss first.

    Args:
        results: what `result` returned for each; the first is the reference.
    """
    reference, rows = next(iter(results.values())), []
    for experiment, found in results.items():
        row: dict[str, object] = {"experiment": experiment.name, "result": found, "settings": str(experiment)}
        if isinstance(found, pd.DataFrame):
            loss, accuracy, seconds = found[["log_loss", "correct", "seconds"]].mean()
            row |= {"log_loss": loss, "accuracy": accuracy, "seconds_a_fold": seconds, "result": ""}
            if found is reference:
                row["result"] = "reference"
            elif isinstance(reference, pd.DataFrame):
                ours, theirs, drivers = found["log_loss"], reference["log_loss"], found["subject"]
                difference, error = paired_difference(ours.to_numpy(), theirs.to_numpy(), drivers.to_numpy())
                verdict = "better" if difference < -error else "worse" if difference > error else "no difference"
                row |= {"difference": difference, "difference_error": error, "result": verdict}
        rows.append(row)
    numbers = ["log_loss", "difference", "difference_error", "accuracy", "seconds_a_fold"]
    table = pd.DataFrame(rows, columns=["experiment", *numbers, "result", "settings"]).astype(
        dict.fromkeys(numbers, float)
    )
    table = table.sort_values("log_loss", kind="stable", ignore_index=True)
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return table


def as_text(table: pd.DataFrame) -> str:
    """The table for the terminal; of a failure only that it is one."""
    shapes = {"log_loss": "{:.4f}", "difference": "{:+.4f}", "difference_error": "± {:.4f}", "accuracy": "{:.1%}"}
    shapes["seconds_a_fold"] = "{:,.0f}"
    columns = [["" if math.isnan(x) else shape.format(x) for x in table[name]] for name, shape in shapes.items()]
    lines = zip(table["experiment"], *columns, table["result"].str.partition(":")[0], strict=True)
    headers = ["experiment", "log loss", "to the reference", "", "accuracy", "s a fold", ""]
    return formatted(headers, [list(line) for line in lines])


if __name__ == "__main__":
    run_command(main)

"""Trains a list of named settings on the same folds and seeds, and compares them on drivers they have not seen.

    python -m tools.experiments docs/experiments/inception_v3.toml --data DIR --weights DIR
    python -m tools.experiments FILE.toml --only dropout_none dropout_less   # these two and the reference
    python -m tools.experiments FILE.toml --report                           # only the table of what is finished
    python -m tools.experiments FILE.toml --search                           # with Optuna

FILE.toml:

    architecture = "inception_v3"      # of every experiment that names no other
    reference = "default"              # the others are compared with it [the first]
    folds = [0, 1]                     # [all]
    seeds = [0]                        # each experiment is trained once with each [--seed]
    settings = { batch_size = 16 }     # of all experiments; an experiment's own settings win
    trials = 20                        # of --search [20]

    [experiments.default]              # a name, and the settings that differ

    [experiments.more_dropout]
    dropout = 0.7

    [experiments.features]
    classifier = "logistic"

    [search]                           # --search changes these settings of the reference
    learning_rate = { from = 1e-5, to = 1e-4, log = true }
    schedule = ["cosine", "constant"]

A setting is an option of `python models/ARCHITECTURE.py` with '_' for '-'. With `classifier` (logistic or svm) an
experiment is one of `python models/bottleneck.py`; of the common settings it takes those that this script has.

Each experiment is a model of the run (NAME, with another seed NAME_seed1): finished folds are skipped, and every other
command works on it. runs/RUN/experiments.csv has each one's log loss and its difference to the reference, with the
standard error over drivers; a difference below its error, or below what another seed makes, is none. A search keeps its
trials in runs/RUN/search.db and their table in search.csv; the same command resumes it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from common.errors import UserError, run_command
from common.run_folder import OUT_OF_FOLD, RunFolder, checked_name
from common.settings import CommandLine, as_options, names_in, nearest, word
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture, Bottleneck, NoEffectError, Recipe
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights as pretrained
from pipeline import options
from pipeline import train as jobs
from pipeline.options import bottleneck_of, network_of
from pipeline.plan import Plan as RunPlan
from pipeline.plan import plan_model
from preprocessing import dataset
from preprocessing.dataset import Dataset
from preprocessing.settings import Augmentation
from tools.compare import difference, losses_of

if TYPE_CHECKING:
    import pandas as pd

CLASSIFIER = [field.name for field in dataclasses.fields(Bottleneck)]
NETWORK = [field.name for part in (Recipe, Augmentation) for field in dataclasses.fields(part)]
KINDS = {str: "text", int: "a whole number", list: "a list", dict: "a table"}


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A name and its settings, with the values that the file has."""

    name: str
    architecture: Architecture
    settings: dict[str, Any]

    @property
    def is_classifier(self) -> bool:
        """Whether it is a classifier on bottleneck features; otherwise a network is fine-tuned."""
        return "classifier" in self.settings

    def __str__(self) -> str:
        changes = [f"{name.replace('_', ' ')} {word(value)}" for name, value in self.settings.items()]
        return ", ".join([self.architecture.name, *changes])

    def model(self, seed: int) -> str:
        """Its folder in the run."""
        return f"{self.name}_seed{seed}" if seed else self.name

    def changed(self, name: str, settings: dict[str, Any]) -> Experiment:
        """It under another name, with some settings changed."""
        return dataclasses.replace(self, name=name, settings=self.settings | settings)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The keys of the file and their defaults; its tables of experiments become `Experiment`s."""

    architecture: str = ""
    reference: str = ""
    folds: list[int] = dataclasses.field(default_factory=list)
    seeds: list[int] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    trials: int = 20
    experiments: dict[str, Any] = dataclasses.field(default_factory=dict)
    search: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What all experiments share; `folds` are held out in turn, `run` is the run's folder."""

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
    if arguments.report:
        RunFolder.existing(arguments.run, arguments.runs)  # none is made
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
    data = dataset.load(shared.work.data, shared.work.cache, shared.work.skip_broken)
    images = jobs.fold_table(shared, data)
    setup = Setup(arguments, shared.run.path, data, images, jobs.wanted_folds(shared, images), seeds)
    search(setup, plan) if arguments.search else run_list(setup, plan, wanted)


def read_plan(path: Path) -> Plan:
    """Reads the file and checks everything but the values of settings, which the scripts' options check."""
    try:
        content, defaults = tomllib.loads(path.read_text(encoding="utf-8")), dataclasses.asdict(Plan())
        require_known(content, defaults, "key")
        for key, value in content.items():
            if type(value) is not type(defaults[key]):
                raise UserError(f"{key} = {value!r}: expected {KINDS[type(defaults[key])]}.")
        plan = Plan(**content)
        require_known(plan.settings, NETWORK + CLASSIFIER, "setting")
        experiments = {name: _experiment(name, own, plan) for name, own in plan.experiments.items()}
        if not experiments:
            raise UserError("it has no [experiments.NAME]. An example: python -m tools.experiments --help")
        reference = plan.reference or next(iter(experiments))
        require_known([reference], experiments, "reference")
        known = CLASSIFIER if experiments[reference].is_classifier else NETWORK
        require_known(plan.search, known, "setting to search:")
        for key, values in plan.search.items():
            if not isinstance(values, list) and not values["from"] < values["to"]:
                raise UserError(f"[search] {key}: expected a smaller and a larger number.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a list of experiments: {error!r}. Expected TOML.") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return dataclasses.replace(plan, experiments=experiments, reference=reference)


def _experiment(name: str, own: dict[str, Any], plan: Plan) -> Experiment:
    settings = {"architecture": plan.architecture} | plan.settings | own
    architecture = zoo.find(str(settings.pop("architecture")))
    known = CLASSIFIER if "classifier" in settings else NETWORK
    require_known(own, ["architecture", *known], f"setting of {name}:")
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items() if key in known}
    return Experiment(checked_name(name, "--model-name"), architecture, found)


def require_known(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuses an unknown name, with the nearest known one."""
    for name in names:
        if name not in known:
            hint = nearest(name, list(known)) or f". There are: {', '.join(known)}."
            raise UserError(f"unknown {what} {name!r}{hint}")


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
    for experiment in [one for one in results if one.name in wanted and not setup.arguments.report]:
        train(setup, experiment, setup.folds)
        results[experiment] = result(setup, experiment, setup.folds)
        rows = write_table(path, results)
        print(as_text(rows[rows["experiment"] == experiment.name]), flush=True)
    print(f"\n{as_text(write_table(path, results))}\n\n{path}")


def search(setup: Setup, plan: Plan) -> None:
    """Lets Optuna change the reference's settings: TPE proposes a trial, a median pruner may end it after any fold."""
    try:
        import optuna
        from optuna.trial import TrialState
    except ModuleNotFoundError:
        raise UserError(
            "--search needs Optuna. Install it: .venv/bin/python -m pip install -c requirements/lock.txt optuna"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base, path = plan.experiments[plan.reference], setup.run / "search.csv"
    if not setup.arguments.report:
        train(setup, base, setup.folds)
    study = optuna.create_study(
        storage=f"sqlite:///{(setup.run / 'search.db').resolve()}",
        study_name=f"{base} on folds {setup.folds} with seeds {setup.seeds} in {plan.search}",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    while True:
        results = {base: result(setup, base, setup.folds)}
        for number, done in enumerate(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])):
            experiment = base.changed(f"search_{number:03}", done.params)
            results[experiment] = done.user_attrs["ended"] or result(setup, experiment, setup.folds)
        rows = write_table(path, results)
        if setup.arguments.report or len(results) > plan.trials:
            break
        # So an interrupted search resumes with the same trial: it depends on the finished trials alone.
        study.sampler = optuna.samplers.TPESampler(seed=setup.seeds[0] + len(results))
        trial = study.ask()
        settings = {key: suggested(trial, key, values) for key, values in plan.search.items()}
        loss, ended = run_trial(setup, trial, base.changed(f"search_{len(results) - 1:03}", settings))
        trial.set_user_attr("ended", ended)
        study.tell(trial, loss, TrialState.PRUNED if ended else TrialState.COMPLETE)
    print(f"\n{as_text(rows)}\n\nbest: {rows['settings'].iloc[0]}\n{path}")


def suggested(trial: Any, key: str, values: Any) -> Any:
    """What a trial takes for a setting: one of a list, or a number in a range, whole where both ends are."""
    if isinstance(values, list):
        return trial.suggest_categorical(key, [word(x) if isinstance(x, list) else x for x in values])
    whole = isinstance(values["from"], int) and isinstance(values["to"], int)
    suggest = trial.suggest_int if whole else trial.suggest_float
    return suggest(key, values["from"], values["to"], log=values.get("log", False))


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


def work_of(arguments: argparse.Namespace, experiment: Experiment, seed: int) -> FoldRun:
    """What the experiment's script would train, as of fold 0; its data need not be there."""
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
    """Trains those of these folds that are left, each in its own process. One that fails raises nothing."""
    for seed in setup.seeds:
        plan = plan_of(setup.arguments, experiment, seed, folds)
        jobs.run_jobs(plan, jobs.training_jobs(plan, setup.dataset, setup.folds_table))


def _parsed(arguments: argparse.Namespace, experiment: Experiment, seed: int, folds: Sequence[Any] = ()) -> Any:
    """The experiment's settings, read as its script would read them."""

    def refuse(message: str) -> NoReturn:
        raise UserError(f"experiment {experiment.name}: {message}")

    architecture, classifies = experiment.architecture, experiment.is_classifier
    own = {"seed": seed, "model_name": experiment.model(seed)}
    names = ["run", "runs", "cache", "cache_limit", "weights", "precision", "deterministic", "workers", "data"]
    names += ["folds", "folds_file", "cluster", *([] if classifies else ["activations", "log_to", "jobs"])]
    shared = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    words = ["--architecture", architecture.name] if classifies else []
    words += as_options(experiment.settings | own | shared)
    if folds := folds or arguments.fold or ():
        words += ["--fold", *map(str, folds)]
    words += [f"--{name.replace('_', '-')}" for name in ("quick", "skip_broken", "verbose") if getattr(arguments, name)]
    parser = options.bottleneck_parser(architecture) if classifies else options.model_parser(architecture)
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(words)


def result(setup: Setup, experiment: Experiment, folds: list[Any]) -> pd.DataFrame | str:
    """What an experiment reached on these held-out folds, or why there is nothing: 'not finished', or 'failed: ...'.

    By img: log_loss in nats and correct, means over the seeds; subject; seconds, the mean of a fold.
    """
    import pandas as pd

    from common.tables import read_predictions

    tables, seconds = [], []
    for folder in [RunFolder(setup.run).fold(experiment.model(seed), fold) for seed in setup.seeds for fold in folds]:
        finished = folder.finished()
        if finished is None:
            why = folder.failure().removeprefix("failed: ")
            return f"failed: {why}" if why else "not finished"
        tables.append(losses_of(read_predictions(folder.verified(OUT_OF_FOLD)), setup.folds_table, folder.path))
        seconds.append(finished.get("seconds", math.nan))
    means = {"log_loss": "mean", "correct": "mean", "subject": "first"}
    return pd.concat(tables).groupby(level="img").agg(means).assign(seconds=sum(seconds) / len(seconds))


def write_table(path: Path, results: Mapping[Experiment, pd.DataFrame | str]) -> pd.DataFrame:
    """Writes the table of results, the first of them the reference's; returns it, the least log loss first."""
    import pandas as pd

    from common import tables

    reference, rows = next(iter(results.values())), []
    for experiment, found in results.items():
        row: dict[str, object] = {"experiment": experiment.name, "result": found, "settings": str(experiment)}
        if isinstance(found, pd.DataFrame):
            loss, accuracy, seconds = found[["log_loss", "correct", "seconds"]].mean()
            row |= {"log_loss": loss, "accuracy": accuracy, "seconds_a_fold": seconds}
            row["result"] = "reference" if found is reference else ""
            if found is not reference and isinstance(reference, pd.DataFrame):
                behind, error = difference(found, reference)
                verdict = "better" if behind < -error else "worse" if behind > error else "no difference"
                row |= {"difference": behind, "difference_error": error, "result": verdict}
        rows.append(row)
    numbers = ["log_loss", "difference", "difference_error", "accuracy", "seconds_a_fold"]
    table = pd.DataFrame(rows, columns=["experiment", *numbers, "result", "settings"])
    table = table.astype(dict.fromkeys(numbers, float)).sort_values("log_loss", kind="stable", ignore_index=True)
    tables.write_table(path, table)
    return table


def as_text(table: pd.DataFrame) -> str:
    """The table for the terminal; of a failure only that it is one."""
    shown = table.drop(columns="settings").assign(result=table["result"].str.partition(":")[0])
    return shown.to_string(index=False, na_rep="", float_format="{:.4f}".format)


if __name__ == "__main__":
    run_command(main)

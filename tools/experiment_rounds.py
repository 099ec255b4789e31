"""The rounds of `tools.experiments`: trains what is left to train, judges, and says who goes on."""

import argparse
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from common.errors import STOPPED, UserError
from common.files import UnreadableError
from common.finished import why_it_failed
from common.run_folder import fold_folder, run_folder
from common.settings import as_options, word
from models.finetuning import architecture as zoo
from models.finetuning import command, needs, runtime
from models.finetuning.bottleneck import command as bottleneck
from models.finetuning.devices import find_devices
from models.finetuning.network import weights as pretrained
from models.finetuning.piece import Piece, leave_out
from models.finetuning.processes import run_folds, side_by_side
from models.finetuning.recipe import Kind, without_effect
from tools.experiment_file import Experiment, Plan, Round
from tools.experiment_results import FAILED, Judged, Result, as_text, judge, results_of, survivors, write_table

if TYPE_CHECKING:
    from preprocessing.dataset import Dataset

TABLE = "experiments.csv"


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """Where and on what experiments run.

    Attributes:
        arguments: of the command line.
        run: the folder.
        folds: img, subject, classname, fold, in the order of `dataset.train`.
    """

    arguments: argparse.Namespace
    run: Path
    dataset: "Dataset"
    folds: pd.DataFrame

    def images(self, folds: Sequence[int]) -> pd.DataFrame:
        """The images of these folds, or of all.

        Raises:
            UserError: the run has no such fold.
        """
        there = sorted(self.folds["fold"].unique())
        for fold in folds:
            if fold not in there:
                raise UserError(f"folds = {list(folds)}: this run has the folds 0 to {there[-1]}.")
        wanted = self.folds["fold"].isin(folds or there)
        return self.folds[wanted].reset_index(drop=True)


def open_bench(arguments: argparse.Namespace) -> Bench:
    """Checks the data and makes the run's folds, or reads them."""
    arguments.fold = None
    run = run_folder(arguments.run, arguments.runs)
    data, folds, _ = command.read_data(arguments, run)
    return Bench(arguments, run, data, folds)


def run_rounds(plan: Plan, arguments: argparse.Namespace, only: Sequence[str], first: int) -> None:
    """Runs the first rounds, printing the ranking of each, and writes the table after each experiment.

    The table has what is finished of other experiments and rounds too: nothing is lost by asking for less.

    Args:
        only: the experiments that are trained besides the reference; all where empty.
        first: so many rounds; of the others only what is finished is judged.
    """
    rounds = [dataclasses.replace(one, seeds=one.seeds or (arguments.seed,)) for one in plan.rounds]
    names = [plan.reference, *(name for name in plan.experiments if name != plan.reference)]
    asked = [name for name in names if name == plan.reference or not only or name in only]
    for experiment in (plan.experiments[name] for name in asked):
        for one in rounds:
            piece_of(experiment.under(one.settings), arguments, experiment.name, 0)
    bench = open_bench(arguments)
    for one in rounds:
        bench.images(one.folds)
    done: list[Result] = []
    for number, one in enumerate(rounds):
        last, wanted = number + 1 == len(rounds), asked if number < first else []
        results = _run_round(
            plan, bench, names, f"round {number + 1}", one, _suffix(rounds, number), done, last, wanted
        )
        done += results
        if wanted:
            print(f"\n{as_text(results)}\n")
        going = [row.experiment for row in results if row.goes_on]
        if wanted and not last and plan.reference not in going:
            print(f"{plan.reference} is not finished: there is nothing to compare with, and nobody goes on.")
        asked = [name for name in asked if name in going]
    print(bench.run / TABLE)


def require_weights(experiments: Sequence[Experiment], arguments: argparse.Namespace) -> None:
    """Looks for the pretrained weights of what is to be trained, before anything is.

    Raises:
        UserError: they are not there.
    """
    for architecture in dict.fromkeys(one.architecture.name for one in experiments):
        pretrained.check_available(zoo.find(architecture), arguments.weights)


def _run_round(
    plan: Plan,
    bench: Bench,
    names: Sequence[str],
    title: str,
    one: Round,
    suffix: str,
    done: Sequence[Result],
    last: bool,
    wanted: Collection[str],
) -> list[Result]:
    """Trains and judges one experiment after another; the table has this round's rows behind those of `done`.

    Args:
        names: of all experiments.
        wanted: who is trained; of the others those that are finished are judged.
    """
    images = bench.images(one.folds)
    folds = [int(fold) for fold in sorted(images["fold"].unique())]
    models = {name: [model_name(name, suffix, seed) for seed in one.seeds] for name in names}
    experiments, left = _taking_part(plan, bench, one, models, folds, wanted)
    training = [] if bench.arguments.report else [name for name in experiments if left[name]]
    if training:  # those who may go on to another round need theirs then: better told now
        require_weights(
            [experiments[name] for name in experiments if name in (training if last else wanted)], bench.arguments
        )
    if wanted and not bench.arguments.report:
        many = f"{len(experiments)} experiments on folds {' '.join(map(str, folds))}"
        print(f"{title}: {many}; {_cost(bench, experiments, left)}")
    judged: dict[str, Judged | None] = {}
    failed: dict[str, str] = {}
    words = {name: ", ".join(as_words(found, bench.arguments)) for name, found in experiments.items()}
    results: list[Result] = []
    # The reference first, since the others are compared with it; then what is finished, so that the table has it early.
    for name in sorted(experiments, key=lambda name: (name != plan.reference, name in training)):
        if name in training:
            trained = [
                train(bench, experiments[name], m, s, folds) for m, s in zip(models[name], one.seeds, strict=True)
            ]
            failed |= {} if all(trained) else {name: FAILED}
        elif left[name] and any(gave_up(bench.run, model, folds) for model in models[name]):
            failed[name] = FAILED
        judged[name] = judge(bench.run, models[name], images)
        if name == plan.reference and name in failed and name in training:
            raise UserError(
                f"{name} did not finish: there is nothing to compare with. No other experiment was started."
            )
        results = results_of(title, judged, plan.reference, images, len(one.seeds), words, failed)
        going = [] if last else survivors(results, one.keep, one.margin)
        results = [dataclasses.replace(row, goes_on=row.experiment in going) for row in results]
        write_table(bench.run / TABLE, [*done, *results])
        if name in training and judged[name] is not None:
            row = next(row for row in results if row.experiment == name)
            print(f"{title}, {name}: log loss {row.log_loss:.4f}, {row.verdict}")
    return results


def _taking_part(
    plan: Plan,
    bench: Bench,
    one: Round,
    models: Mapping[str, Sequence[str]],
    folds: Sequence[int],
    wanted: Collection[str],
) -> tuple[dict[str, Experiment], dict[str, int]]:
    """The experiments of a round, and how many pieces of each are left: the wanted ones, and those that are finished.

    Args:
        models: by experiment, its folder for each seed.

    Raises:
        UserError: a wanted one has pieces of other settings, or a record cannot be read.
    """
    experiments, left = {}, {}
    reference = plan.experiments[plan.reference].under(one.settings)
    for name in models:
        experiment, missing = plan.experiments[name].under(one.settings), 0
        if idle := _idle(experiment, reference, bench.arguments):
            if name in wanted:
                print(f"{name} is left out: in such a run {idle} changes nothing, so it would be {plan.reference}.")
            continue
        try:
            for model, seed in zip(models[name], one.seeds, strict=True):
                missing += len(unfinished(bench, experiment, model, seed, folds))
        except UserError as error:
            if name in wanted or isinstance(error, UnreadableError):
                raise
            continue  # nobody asked for it, and what lies there is not it
        if name in wanted or not missing:
            experiments[name], left[name] = experiment, missing
    return experiments, left


def model_name(experiment: str, suffix: str, seed: int) -> str:
    """The folder of an experiment in the run."""
    return experiment + suffix + (f".seed{seed}" if seed else "")


def _suffix(rounds: Sequence[Round], number: int) -> str:
    """Rounds of the same settings share their pieces; a round without any has the plain names."""
    settings = rounds[number].settings
    first = next(place for place, one in enumerate(rounds) if one.settings == settings)
    return f".round{first + 1}" if settings else ""


def piece_of(experiment: Experiment, arguments: argparse.Namespace, model: str, seed: int) -> Piece:
    """What the experiment's own command would make, as of fold 0.

    Raises:
        UserError: settings that contradict each other, or weights that are not there; names the experiment.
    """
    words = _words(experiment, arguments, model, seed)
    try:
        if experiment.classifier:
            parsed = bottleneck.make_parser(experiment.architecture, "").parse_args(words)
            return bottleneck.template_piece(experiment.architecture, parsed)
        parsed = command.make_parser(experiment.architecture).parse_args(words)
        return command.template_piece(experiment.architecture, parsed)
    except UserError as error:
        raise UserError(f"experiment {experiment.name}: {error}") from None


def unfinished(bench: Bench, experiment: Experiment, model: str, seed: int, folds: Sequence[int]) -> list[int]:
    """The folds of an experiment that are left.

    Raises:
        UserError: one was made with other settings.
    """
    template = piece_of(experiment, bench.arguments, model, seed)
    pieces = [dataclasses.replace(template, fold=fold) for fold in folds]
    return [int(piece.fold) for piece, _ in command.unfinished(pieces, bench.dataset)]


def gave_up(run: Path, model: str, folds: Sequence[int]) -> bool:
    """Whether one of these folds failed for good when it was last trained."""
    return any(why_it_failed(fold_folder(run, model, fold)) for fold in folds)


def train(bench: Bench, experiment: Experiment, model: str, seed: int, folds: Sequence[int]) -> bool:
    """Trains the folds of an experiment that are left, each in a process of its own; whether all went well.

    Raises:
        KeyboardInterrupt: a process was asked to stop.
    """
    arguments = bench.arguments
    script = zoo.ZOO / ("bottleneck.py" if experiment.classifier else f"{experiment.architecture.name}.py")
    words = _words(experiment, arguments, model, seed)
    template = piece_of(experiment, arguments, model, seed)
    left = unfinished(bench, experiment, model, seed, folds)
    jobs = fits = arguments.jobs or 1
    if not arguments.jobs and not experiment.classifier:  # a classifier's folds would compute their features twice
        memory = needs.fold_memory(experiment.architecture, template.recipe)
        jobs, fits = side_by_side(None, arguments.quick, len(folds), memory)

    def give_up(fold: int | str, what: str) -> None:
        leave_out(dataclasses.replace(template, fold=fold), what)

    def why(fold: int | str) -> str:
        return why_it_failed(fold_folder(bench.run, model, fold))

    for some in [[fold] for fold in left] if jobs == 1 else [left]:
        try:
            run_folds(script, words, some, jobs, give_up, fits, why)
        except SystemExit as error:
            if error.code == STOPPED:
                raise KeyboardInterrupt from None
            return False
    return True


def as_words(experiment: Experiment, arguments: argparse.Namespace) -> list[str]:
    """['inception_v3', 'dropout 0.7'], as the table shows it: what is trained with."""
    settings = _effective(experiment, arguments)
    options = [f"{name.replace('_', ' ')} {word(value)}" for name, value in settings.items()]
    return [experiment.architecture.name, *options]


def _cost(bench: Bench, experiments: Mapping[str, Experiment], left: Mapping[str, int]) -> str:
    """How many pieces are left, and about how long they take."""
    pieces = sum(left.values())
    if not pieces:
        return "all finished"
    arguments = bench.arguments
    networks = [
        (one.architecture, piece_of(one, arguments, name, 0).recipe, left[name])
        for name, one in experiments.items()
        if left[name] and not one.classifier
    ]
    estimate = needs.estimate(
        networks,
        train_images=len(bench.folds),
        test_images=len(bench.dataset.test),
        folds=int(bench.folds["fold"].nunique()),
        bfloat16=runtime.expects_bfloat16(arguments.precision),
        devices=find_devices(),
    )
    where = estimate.accelerators or "this CPU"
    return f"{pieces} pieces to train, about {needs.duration(estimate.seconds)} on {where} by a rough estimate"


def _effective(experiment: Experiment, arguments: argparse.Namespace) -> dict[str, Any]:
    """Its settings less those that another makes idle: rounds, searches and ways to run give some to all alike.

    One that its own settings make idle by themselves stays, so that the command refuses it.
    """
    settings, architecture = dict(experiment.settings), experiment.architecture
    if not experiment.classifier:
        kind = Kind(scratch=arguments.weights == "none", quick=arguments.quick)
        own = {name: value for name, value in settings.items() if name in experiment.own}
        refused = without_effect(architecture.resolved(Kind(), own)[0], own)
        for name in without_effect(architecture.resolved(kind, settings)[0], settings):
            if name not in refused:
                del settings[name]
    return settings


def _idle(experiment: Experiment, reference: Experiment, arguments: argparse.Namespace) -> str:
    """Those of its own settings that change nothing in such a run, where nothing else tells it from the reference."""
    if experiment.name == reference.name or experiment.architecture is not reference.architecture:
        return ""
    effective = _effective(experiment, arguments)
    idle = [name.replace("_", " ") for name in experiment.own if name not in effective]
    same = experiment.classifier == reference.classifier and effective == _effective(reference, arguments)
    return " and ".join(idle) if same else ""


def _words(experiment: Experiment, arguments: argparse.Namespace, model: str, seed: int) -> list[str]:
    """The command line of the experiment's script, without the fold."""
    words = ["--architecture", experiment.architecture.name] if experiment.classifier else []
    words += ["--model-name", model, "--seed", str(seed), *as_options(_effective(experiment, arguments))]
    words += ["--run", arguments.run, "--runs", str(arguments.runs), "--cache", str(arguments.cache)]
    words += ["--weights", arguments.weights, "--precision", arguments.precision, "--workers", str(arguments.workers)]
    words += ["--cache-limit", str(arguments.cache_limit)]
    words += ["--data", str(arguments.data)] if arguments.data else []
    words += ["--folds", str(arguments.folds)] if arguments.folds else []
    if not experiment.classifier:
        words += ["--activations", arguments.activations]
        words += ["--log-to", ",".join(arguments.log_to)] if arguments.log_to else []
    return words + ["--quick"] * arguments.quick + ["--skip-broken"] * arguments.skip_broken

"""From the command line and this machine to a plan: which data, which models, with which settings, on what."""

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import competition, environment
from common.errors import VERBOSE, UserError
from common.files import check_writable
from common.run_folder import REPOSITORY, RunFolder
from common.settings import chosen, names_in
from ensemble import Options
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture, Bottleneck, Recipe
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights
from models.finetuning.training import tracking
from pipeline import resources
from pipeline.jobs import Deadline, Durations
from pipeline.options import PRESETS, bottleneck_of, network_of
from pipeline.resources import Device, Needs
from preprocessing.folds import number_of_folds

if TYPE_CHECKING:
    from pipeline.ray import RayCluster

TYPED_IN = "CALLED_FROM"  # the folder that relative paths on the command line are relative to
STARTED = "RUN_STARTED"  # when the clock of --time-budget was started, in seconds since 1970
SECOND_ROUND = "_round2"  # after the architecture's name, in that of the model


@dataclass(frozen=True)
class Model:
    """One model of a plan."""

    work: FoldRun  # its configuration, as of fold 0
    side_by_side: int = 1  # as how many of its folds divide the machine

    @property
    def name(self) -> str:
        """Its folder in the run."""
        return self.work.model_name

    @property
    def second_round(self) -> bool:
        """Whether it learns from the predictions of other models of its run, so that these have to be finished."""
        return self.recipe.pseudo_labels.startswith(f"{self.work.run.name}/")

    @property
    def recipe(self) -> Recipe:
        """Of the network; a bottleneck model's network does not train."""
        recipe = self.work.recipe
        return recipe.network_recipe() if isinstance(recipe, Bottleneck) else recipe

    @property
    def memory(self) -> int:
        """Bytes of the process of one of its folds."""
        return resources.job_memory(self.work.architecture, self.recipe)


@dataclass(frozen=True)
class Plan:
    """What a command line comes to on this machine."""

    models: tuple[Model, ...]
    source: str  # of the data: 'found', 'download' or 'demo'
    folds: int | None  # how many the data is split into, as a person asked
    folds_file: Path | None  # a person's own fold table
    number_of_folds: int  # that the fold table has, or will have
    wanted: Sequence[int | str] | None  # the folds to train; None is every fold
    devices: Sequence[Device]  # accelerators
    jobs: int | None  # folds at a time, as a person asked
    cluster: "RayCluster | None" = None  # that trains; none for this machine
    deadline: Deadline | None = None  # of --time-budget
    submission: Path = Path()
    labels: Path | None = None  # of the test images, to score the submission on
    allow_missing: bool = False
    blending: Options = dataclasses.field(default_factory=Options)

    @property
    def work(self) -> FoldRun:
        """Of the first model: run, data, cache and seed are those of every model."""
        return self.models[0].work

    @property
    def run(self) -> RunFolder:
        return self.work.run

    @functools.cached_property
    def rate(self) -> float:
        """Operations a second of the whole machine."""
        half = self.work.precision == "mixed_bfloat16"
        return sum(one.rate or 0.0 for one in self.devices) or resources.processor_rate(half)

    @property
    def rounds(self) -> tuple[list[Model], list[Model]]:
        """The models that can be trained at once, and those that learn from the predictions of these."""
        later = [model for model in self.models if model.second_round]
        return [model for model in self.models if model not in later], later

    def durations(self) -> Durations:
        """What jobs of the run took so far, on such a machine and on others."""
        slots = max(model.side_by_side for model in self.models)
        kind = (self.devices[0].kind if self.devices else "") or "CPU"
        return Durations(self.run.durations, f"{slots} x {kind}, {environment.cores()} cores")

    def counts(self) -> tuple[int, int]:
        """Numbers of labelled and of test images, by the lines of the tables."""
        if self.source == "download":
            return competition.COMPLETE_TRAIN_IMAGES, competition.COMPLETE_TEST_IMAGES
        if self.source == "demo":
            from preprocessing import demo

            return demo.demo_counts()
        tables = self.work.data / competition.DRIVER_LIST, self.work.data / competition.SAMPLE_SUBMISSION
        labelled, test = (sum(bool(line.strip()) for line in path.read_bytes().splitlines()) for path in tables)
        return max(1, labelled - 1), max(1, test - 1)

    def needs(self, left: Mapping[str, Collection[int | str]]) -> Needs:
        """Estimates for the folds that are left of each model."""
        seconds, disk, memory, (train_images, test_images) = 20.0, 0.0, 0, self.counts()
        for model in self.models:
            architecture, folds = model.work.architecture, len(left[model.name])
            jobs = min(folds, 1) if model.work.script == "bottleneck" else folds  # its folds share one pass
            seconds += jobs * self.seconds(model, train_images, test_images, self.rate)
            disk += folds * resources.job_disk(architecture, test_images + train_images / self.number_of_folds)
            disk += 4 * architecture.weight_bytes
            if folds:
                at_a_time = self.jobs or environment.at_a_time(model.side_by_side, model.memory)
                memory = max(memory, model.memory * min(at_a_time, sum(map(len, left.values()))))
        sizes = {(model.recipe.image_size, model.recipe.crop) for model in self.models}
        cache = sum(3 * size.height * size.width * (train_images + test_images) for size, _ in sizes)
        return Needs(int(disk), cache, memory, seconds)

    def seconds(self, model: Model, train_images: int, test_images: int, rate: float) -> float:
        """That one fold of a model takes, by an estimate."""
        counts = train_images, test_images, self.number_of_folds
        return resources.job_seconds(model.work.architecture, model.recipe, *counts, rate)


def plan_run(arguments: argparse.Namespace) -> Plan:
    """The plan of ./run_all.sh; a UserError where the command line is wrong, or data or weights are not there."""
    _resolve_paths(arguments)
    preset = PRESETS[arguments.preset]
    arguments.quick = arguments.quick or arguments.preset == "quick"
    architectures = zoo.find_all(names_in(preset.models) if arguments.models is None else arguments.models)
    for architecture in architectures:
        weights.weights_file(architecture, arguments.weights)
    data, source = _find_data(arguments)
    demo = source == "demo"
    arguments.quick, arguments.demo = arguments.quick or demo, demo
    arguments.run = arguments.run or ("demo" if demo else "quick" if arguments.quick else preset.run)
    run = RunFolder.of(arguments.run, arguments.runs)
    if demo:
        arguments.weights = _weights_of_demo(architectures, arguments.weights, run)
    tracking.check_installed(arguments.log_to)
    labels, blending = arguments.labels, {}
    if demo:
        from preprocessing.demo import DemoSettings

        labels = labels or competition.held_out_labels_path(data)
        blending = {"test_drivers": DemoSettings().test_drivers}
    for folder in (arguments.runs, arguments.cache, arguments.submissions):
        check_writable(folder)
    budget = arguments.time_budget
    return _plan(
        _members(architectures, arguments, run, data),
        arguments,
        source,
        deadline=Deadline(float(os.environ.get(STARTED) or time.time()), budget) if budget else None,
        submission=arguments.submissions / f"{run.name}.csv",
        labels=labels,
        allow_missing=arguments.allow_missing or bool(budget),
        blending=Options(**(blending | chosen(arguments, Options))),
    )


def plan_model(architecture: Architecture, arguments: argparse.Namespace, bottleneck: bool = False) -> Plan:
    """The plan of `python models/NAME.py` or `python models/bottleneck.py`; a UserError as of `plan_run`."""
    from preprocessing import dataset

    _resolve_paths(arguments)
    run = RunFolder.of(arguments.run or ("quick" if arguments.quick else "full"), arguments.runs)
    weights.weights_file(architecture, arguments.weights)
    make = bottleneck_of if bottleneck else network_of
    if not bottleneck:
        tracking.check_installed(arguments.log_to)
    make(architecture, arguments, run, Path())  # wrong settings are reported before missing data
    work = make(architecture, arguments, run, dataset.required(arguments.data))
    return _plan([work], arguments, "found")


def _plan(works: Sequence[FoldRun], arguments: argparse.Namespace, source: str, **others: Any) -> Plan:
    """Divides the machine among the folds of each model, the same with a time budget and without."""
    if arguments.verbose:
        os.environ[VERBOSE] = "1"
    devices = resources.find_devices()
    folds = number_of_folds(works[0].run.folds, arguments.folds, arguments.folds_file, 2 if arguments.quick else 5)
    asked, wanted = getattr(arguments, "jobs", None), getattr(arguments, "fold", None)  # not all commands have them
    count = folds if wanted is None else len(set(wanted))
    precision, cluster = resources.resolve_precision(arguments.precision, devices), None
    if arguments.cluster:
        from pipeline.ray import RayCluster

        cluster = RayCluster(arguments.cluster)
        precision = cluster.precision(arguments.precision)
    models = []
    for work in works:
        alone = count == 1 or work.script == "bottleneck"
        side = 1 if alone else resources.side_by_side(asked, arguments.quick, count, Model(work).memory, devices)
        threads = None if side == 1 else max(1, environment.cores() // side)
        models.append(Model(dataclasses.replace(work, precision=precision, threads=threads), side))
    return Plan(
        models=tuple(models),
        source=source,
        folds=arguments.folds,
        folds_file=arguments.folds_file,
        number_of_folds=folds,
        wanted=wanted,
        devices=devices,
        jobs=asked,
        cluster=cluster,
        **others,
    )


def _members(
    architectures: Sequence[Architecture], arguments: argparse.Namespace, run: RunFolder, data: Path
) -> list[FoldRun]:
    """The models of the preset, the first round's before the second's."""
    preset = PRESETS[arguments.preset]
    two_rounds = preset.second_round and not getattr(arguments, "pseudo_labels", None)  # else it names other teachers
    later = ("pseudo_ratio", "pseudo_prior", "pseudo_clusters") if two_rounds else ()
    works = [network_of(one, arguments, run, data, without=later) for one in architectures]
    if two_rounds:
        names = ",".join(one.name for one in architectures)
        settings = {"pseudo_labels": f"{run.name}/{names}", "pseudo_clusters": True}
        again = [one for one in architectures if arguments.models or one.name in names_in(preset.second_round)]
        works += [network_of(one, arguments, run, data, settings, SECOND_ROUND) for one in again]
    return works


def _resolve_paths(arguments: argparse.Namespace) -> None:
    """Paths are relative to where they were typed, which ./run_all.sh leaves; those in the current folder stay so."""

    def resolved(path: Path) -> Path:
        path = Path(os.path.abspath(Path(os.environ.get(TYPED_IN, ".")) / path.expanduser()))  # noqa: PTH100  (links)
        return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path

    for name, value in vars(arguments).items():
        if isinstance(value, Path):
            setattr(arguments, name, resolved(value))
    if arguments.weights not in ("none", "imagenet"):
        arguments.weights = str(resolved(Path(arguments.weights)))


def _find_data(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The data folder, and 'found', 'download' or 'demo'."""
    from preprocessing import dataset, demo

    if not arguments.demo:
        if root := dataset.locate(arguments.data):
            return root, "found"
        if arguments.download:
            return REPOSITORY / "data", "download"
        print(
            "There is no competition data (--data, $STATEFARM_DATA, Kaggle's mounts, data/), so this runs on a demo "
            "set that it renders.\nFor the real thing: ./run_all.sh --download (needs a Kaggle account).",
            file=sys.stderr,
        )
    return demo.demo_root(arguments.cache, arguments.seed), "demo"


def _weights_of_demo(architectures: Sequence[Architecture], asked: str, run: RunFolder) -> str:
    """The weights that the demo uses: as asked, but random ones where the published ones are not available."""
    if asked != "imagenet":
        return asked
    for folder in run.fold_folders():
        with contextlib.suppress(UserError):
            started_with = (folder.config() or {"settings": {}})["settings"].get("weights")
            if started_with in ("imagenet", "none"):
                return str(started_with)  # a demo resumes with what it was started with
    try:
        for architecture in architectures:
            weights.check_available(architecture, asked)
    except UserError:
        print("The ImageNet weights are not available here, so the demo starts from random ones.", file=sys.stderr)
        return "none"
    return asked

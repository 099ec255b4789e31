"""From the command line and this machine to a plan: which data, which models, with which settings, on what."""

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import machine
from common.competition import (
    COMPLETE_TEST_IMAGES,
    COMPLETE_TRAIN_IMAGES,
    DRIVER_LIST,
    SAMPLE_SUBMISSION,
    held_out_labels_path,
)
from common.errors import UserError
from common.files import check_writable
from common.run_folder import REPOSITORY, RunFolder, checked_name
from common.settings import chosen, names_in
from common.terminal import VERBOSE
from ensemble.options import Options
from models.finetuning import architecture as zoo
from models.finetuning import tracking, weights
from models.finetuning.architecture import Architecture, Bottleneck, Kind, Recipe
from models.finetuning.fold_run import FoldRun
from pipeline import resources
from pipeline.presets import PRESETS, SECOND_ROUND
from pipeline.resources import GIBIBYTE, Device
from pipeline.schedule import Deadline
from preprocessing.folds import number_of_folds
from preprocessing.settings import Augmentation

if TYPE_CHECKING:
    from pipeline.cluster import Cluster

TYPED_IN = "CALLED_FROM"  # the folder that relative paths on the command line are relative to
STARTED = "RUN_STARTED"  # when the clock of --time-budget was started, in seconds since 1970


@dataclass(frozen=True)
class Model:
    """One model of a plan.

    Attributes:
        work: its configuration, as of fold 0.
        side_by_side: as how many of its folds divide the machine.
        memory: bytes of the process of one of its folds.
    """

    work: FoldRun
    side_by_side: int
    memory: int

    @property
    def second_round(self) -> bool:
        """Whether it learns from the predictions of other models of its run, so that these have to be finished."""
        return self.recipe.pseudo_labels.startswith(f"{self.work.run.name}/")

    @property
    def recipe(self) -> Recipe:
        """Of the network; a bottleneck model's network does not train."""
        recipe = self.work.recipe
        return recipe.network_recipe() if isinstance(recipe, Bottleneck) else recipe


@dataclass(frozen=True)
class Plan:
    """What a command line comes to on this machine.

    Attributes:
        source: of the data: 'found', 'download' or 'demo'.
        folds: how many the data is split into, as a person asked.
        folds_file: a person's own fold table.
        number_of_folds: that the fold table has, or will have.
        wanted: the folds to train; None is every fold.
        devices: accelerators.
        cluster: that trains; none for this machine.
        jobs: folds at a time, as a person asked.
        deadline: of --time-budget.
        labels: of the test images, to score the submission on.
    """

    data: Path
    source: str
    run: RunFolder
    folds: int | None
    folds_file: Path | None
    number_of_folds: int
    models: tuple[Model, ...]
    wanted: tuple[int | str, ...] | None
    quick: bool
    skip_broken: bool
    seed: int
    cache: Path
    devices: tuple[Device, ...]
    jobs: int | None
    cluster: "Cluster | None" = None
    deadline: Deadline | None = None
    submission: Path = Path()
    labels: Path | None = None
    allow_missing: bool = False
    blending: Options = dataclasses.field(default_factory=Options)

    @functools.cached_property
    def rate(self) -> float:
        """Operations a second of the whole machine."""
        return sum(one.rate or 0.0 for one in self.devices) or resources.processor_rate(self.bfloat16)

    @property
    def rounds(self) -> tuple[list[Model], list[Model]]:
        """The models that can be trained at once, and those that learn from the predictions of these."""
        later = [model for model in self.models if model.second_round]
        return [model for model in self.models if model not in later], later

    @property
    def bfloat16(self) -> bool:
        """Whether the networks compute in bfloat16."""
        return self.models[0].work.precision == "mixed_bfloat16"

    @property
    def machine(self) -> str:
        """What measured times are comparable on."""
        slots = max(model.side_by_side for model in self.models)
        kind = (self.devices[0].kind if self.devices else "") or "CPU"
        return f"{slots} x {kind}, {machine.cores()} cores"

    def counts(self) -> tuple[int, int]:
        """Numbers of labelled and of test images, by the lines of the tables."""
        if self.source == "download":
            return COMPLETE_TRAIN_IMAGES, COMPLETE_TEST_IMAGES
        if self.source == "demo":
            from preprocessing import demo

            return demo.demo_counts()
        return _lines(self.data / DRIVER_LIST) - 1, _lines(self.data / SAMPLE_SUBMISSION) - 1


def plan_run(arguments: argparse.Namespace) -> Plan:
    """The plan of ./run_all.sh.

    Raises:
        UserError: something on the command line is wrong, or the data or the weights are not there.
    """
    resolve_paths(arguments)
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

        labels, blending = labels or held_out_labels_path(data), {"test_drivers": DemoSettings().test_drivers}
    if arguments.labels:
        from ensemble.score import read_labels

        read_labels(arguments.labels)
    for folder in (arguments.runs, arguments.cache, arguments.submissions):
        check_writable(folder)
    works = _members(architectures, arguments, run, data)
    budget = arguments.time_budget
    started = float(os.environ.get(STARTED) or time.time())
    plan = _plan(works, arguments, data, source, None)
    return dataclasses.replace(
        plan,
        deadline=Deadline(started, budget) if budget else None,
        submission=arguments.submissions / f"{run.name}.csv",
        labels=labels,
        allow_missing=arguments.allow_missing or bool(budget),
        blending=Options(**(blending | chosen(arguments, Options))),
    )


def plan_model(architecture: Architecture, arguments: argparse.Namespace, bottleneck: bool = False) -> Plan:
    """The plan of `python models/NAME.py` or `python models/bottleneck.py`.

    Raises:
        UserError: something on the command line is wrong, or the data or the weights are not there.
    """
    from preprocessing import dataset

    resolve_paths(arguments)
    run = RunFolder.of(arguments.run or ("quick" if arguments.quick else "full"), arguments.runs)
    weights.weights_file(architecture, arguments.weights)
    make = bottleneck_of if bottleneck else network_of
    if not bottleneck:
        tracking.check_installed(arguments.log_to)
    make(architecture, arguments, run, Path())  # wrong settings are reported before missing data
    work = make(architecture, arguments, run, dataset.required(arguments.data))
    return _plan([work], arguments, work.data, "found", arguments.fold)


def _plan(
    works: Sequence[FoldRun],
    arguments: argparse.Namespace,
    data: Path,
    source: str,
    wanted: Sequence[int | str] | None,
) -> Plan:
    """Divides the machine among the folds of each model, the same with a time budget and without."""
    if arguments.verbose:
        os.environ[VERBOSE] = "1"
    devices = resources.find_devices()
    folds = number_of_folds(works[0].run.folds, arguments.folds, arguments.folds_file, 2 if arguments.quick else 5)
    asked = getattr(arguments, "jobs", None)
    count = folds if wanted is None else len(set(wanted))
    models = [Model(work, 1, memory_of(work)) for work in works]
    sides = [
        1
        if count == 1 or work.script == "bottleneck"
        else resources.side_by_side(asked, arguments.quick, count, model.memory, devices)
        for work, model in zip(works, models, strict=True)
    ]
    precision, cluster = resources.resolve_precision(arguments.precision, devices), None
    if arguments.cluster:
        from pipeline.ray import RayCluster

        cluster = RayCluster(arguments.cluster)
        precision = cluster.precision(arguments.precision)
    cores = machine.cores()
    resolved = tuple(
        dataclasses.replace(
            model,
            side_by_side=side,
            work=dataclasses.replace(
                model.work, precision=precision, threads=None if side == 1 else max(1, cores // side)
            ),
        )
        for model, side in zip(models, sides, strict=True)
    )
    return Plan(
        data=data,
        source=source,
        run=works[0].run,
        folds=arguments.folds,
        folds_file=arguments.folds_file,
        number_of_folds=folds,
        models=resolved,
        wanted=None if wanted is None else tuple(wanted),
        quick=arguments.quick,
        skip_broken=arguments.skip_broken,
        seed=arguments.seed,
        cache=arguments.cache,
        devices=tuple(devices),
        jobs=asked,
        cluster=cluster,
    )


def memory_of(work: FoldRun) -> int:
    """Bytes of the process of one fold."""
    recipe = work.recipe.network_recipe() if isinstance(work.recipe, Bottleneck) else work.recipe
    return resources.job_memory(work.architecture, recipe)


def _members(
    architectures: Sequence[Architecture], arguments: argparse.Namespace, run: RunFolder, data: Path
) -> list[FoldRun]:
    """The models of the preset, the first round's before the second's."""
    preset = PRESETS[arguments.preset]
    two_rounds = preset.second_round and not getattr(arguments, "pseudo_labels", None)  # else it names other teachers
    later = ("pseudo_ratio", "pseudo_prior") if two_rounds else ()
    works = [network_of(one, arguments, run, data, without=later) for one in architectures]
    if two_rounds:
        names = ",".join(one.name for one in architectures)
        settings = {"pseudo_labels": f"{run.name}/{names}"}
        again = [one for one in architectures if arguments.models or one.name in names_in(preset.second_round)]
        works += [network_of(one, arguments, run, data, settings, SECOND_ROUND) for one in again]
    return works


def network_of(
    architecture: Architecture,
    arguments: argparse.Namespace,
    run: RunFolder,
    data: Path,
    settings: Mapping[str, Any] | None = None,
    suffix: str = "",
    without: Sequence[str] = (),
) -> FoldRun:
    """An architecture's training as a command line asks for it.

    Args:
        settings: what a preset changes of the architecture's recipe; the command line wins.
        suffix: of the model's name in the run.
        without: settings of the command line that are for the second round alone.

    Raises:
        UserError: settings that contradict each other.
    """
    kind = Kind(arguments.weights == "none", arguments.quick, getattr(arguments, "demo", False))
    given = {**(settings or {}), **chosen(arguments, Recipe), **chosen(arguments, Augmentation)}
    given = {name: value for name, value in given.items() if name not in without}
    recipe, augmentation = architecture.settings_for(kind, given)
    return _fold_run(
        *(architecture, arguments, run, data, architecture.name + suffix, recipe),
        augmentation=augmentation,
        activations=arguments.activations,
        log_to=arguments.log_to,
    )


def bottleneck_of(architecture: Architecture, arguments: argparse.Namespace, run: RunFolder, data: Path) -> FoldRun:
    """A classifier on an architecture's features as a command line asks for it.

    Raises:
        UserError: settings that contradict each other.
    """
    settings = architecture.bottleneck_settings(arguments.quick, chosen(arguments, Bottleneck))
    default_name = f"bottleneck_{architecture.name}_{settings.classifier}"
    work = _fold_run(architecture, arguments, run, data, default_name, settings, augmentation=None)
    if work.model_name in zoo.names():
        raise UserError(
            f"--model-name {work.model_name}: that is an architecture's own. Take another, such as {default_name}."
        )
    return work


def _fold_run(
    architecture: Architecture,
    arguments: argparse.Namespace,
    run: RunFolder,
    data: Path,
    default_name: str,
    recipe: Recipe | Bottleneck,
    **others: Any,
) -> FoldRun:
    return FoldRun(
        run=run,
        model_name=checked_name(getattr(arguments, "model_name", None) or default_name, "--model-name"),
        architecture=architecture,
        recipe=recipe,
        data=data,
        weights=arguments.weights,
        precision=arguments.precision,
        deterministic=arguments.deterministic,
        seed=arguments.seed,
        skip_broken=arguments.skip_broken,
        cache=arguments.cache,
        cache_limit=int(arguments.cache_limit * GIBIBYTE),
        workers=arguments.workers,
        **others,
    )


def resolve_paths(arguments: argparse.Namespace) -> None:
    """Makes relative paths absolute: ./run_all.sh leaves the folder that they were typed in."""
    typed_in = Path(os.environ.get(TYPED_IN, "."))
    for name, value in vars(arguments).items():
        if isinstance(value, Path):
            setattr(arguments, name, _short(typed_in / value.expanduser()))
    if arguments.weights not in ("none", "imagenet"):
        arguments.weights = str(_short(typed_in / Path(arguments.weights).expanduser()))


def _short(path: Path) -> Path:
    """The path, relative where it lies in the current folder."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  (links stay as they were typed)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _find_data(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The data folder, and 'found', 'download' or 'demo'."""
    from preprocessing import dataset, demo

    if arguments.demo:
        return demo.demo_root(arguments.cache, arguments.seed), "demo"
    root = dataset.locate(arguments.data)
    if root is not None:
        return root, "found"
    if arguments.download:
        return REPOSITORY / "data", "download"
    print(
        "There is no competition data (--data, $STATEFARM_DATA, Kaggle's mounts, data/), so this runs on a demo set "
        "that it renders.\nFor the real thing: ./run_all.sh --download (needs a Kaggle account).",
        file=sys.stderr,
    )
    return demo.demo_root(arguments.cache, arguments.seed), "demo"


def _weights_of_demo(architectures: Sequence[Architecture], asked: str, run: RunFolder) -> str:
    """The weights that the demo uses: as asked, but random ones where the published ones are not available."""
    if asked != "imagenet":
        return asked
    for folder in run.fold_folders():
        with contextlib.suppress(UserError):
            started_with = ((folder.config() or {}).get("settings") or {}).get("weights")
            if started_with in ("imagenet", "none"):
                return str(started_with)  # a demo resumes with what it was started with
    try:
        for architecture in architectures:
            weights.check_available(architecture, asked)
    except UserError:
        print("The ImageNet weights are not available here, so the demo starts from random ones.", file=sys.stderr)
        return "none"
    return asked


def _lines(path: Path) -> int:
    with path.open("rb") as stream:
        return max(1, sum(1 for line in stream if line.strip()))

"""The command lines of ./run_all.sh, `python models/NAME.py` and `python models/bottleneck.py`, and what they train."""

import argparse
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import environment
from common.errors import UserError
from common.run_folder import ALL_DRIVERS, CACHE, RUNS, SUBMISSIONS, RunFolder, checked_name
from common.settings import CommandLine, add_settings, chosen, names_in, number, whole_number
from ensemble import Options
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture, Bottleneck, Recipe
from models.finetuning.fold_run import FoldRun
from models.finetuning.training import tracking
from pipeline.jobs import read_budget
from preprocessing import folds
from preprocessing.settings import Augmentation

DEFAULT_MODELS = "vgg16 inception_v3 resnet50"
DEFAULT_ARCHITECTURE = "inception_v3"  # of a bottleneck model


@dataclass(frozen=True)
class Preset:
    """What a --preset of ./run_all.sh trains, where the command line names no models and no run.

    Those of the second round are trained again, and then also learn from the first round's predictions for the test
    images (fold k from fold k alone). Where the command line names models, all of these are.
    """

    models: str
    run: str
    second_round: str = ""


PRESETS = {
    "quick": Preset(DEFAULT_MODELS, "quick"),  # in miniature
    "default": Preset(DEFAULT_MODELS, "full"),
    "strong": Preset("inception_v3 mobilenet_v2", "strong", "inception_v3"),
}
EVERYDAY = (
    *("help", "help_all", "models", "preset", "demo", "download", "time_budget", "dry_run", "data", "run", "folds"),
    *("weights", "quick", "labels", "seed", "jobs", "verbose"),
)


def pipeline_parser() -> CommandLine:
    """Every option of ./run_all.sh; --help shows the everyday ones."""
    parser = CommandLine(
        prog="./run_all.sh",
        usage="./run_all.sh [options]",
        description="From the competition's photographs to a calibrated, blended submission.\n"
        "Without any data it renders a demo set and runs on that.",
        epilog="--help-all shows every option; python models/NAME.py --help the defaults of one architecture.",
        everyday=EVERYDAY,
    )
    add = parser.add_argument
    add("--models", type=names_in, metavar='"A B"', help=f"architectures [{DEFAULT_MODELS}]")
    add("--preset", choices=tuple(PRESETS), default="default", help="quick is --quick; strong has two rounds [default]")
    add("--demo", action="store_true", help="the rendered demo set, whatever data there is")
    add("--download", action="store_true", help="get the data from Kaggle first, where there is none")
    add("--time-budget", type=read_budget, metavar="T", help="train what can be finished, blend that: 8h30m [none]")
    add("--dry-run", action="store_true", help="print what would run, when and where, and stop")
    add("--list-jobs", action="store_true", help="print the training jobs as JSON lines, and stop")
    add("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    add("--labels", type=Path, metavar="FILE", help="score the submission on these test labels")
    add("--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help="folder of the CSV [submissions]")
    add_run_options(parser, "full; quick or strong by --preset; demo without data")
    add_training_options(parser)
    add_settings(parser, Options(), "blending")
    add_settings(parser, Recipe(), "recipe")
    add_settings(parser, Augmentation(), "augmentation")
    return parser


def model_parser(architecture: Architecture) -> CommandLine:
    """The options of an architecture's script; defaults shown are those of a full run with pretrained weights."""
    parser = CommandLine(
        prog=f"python models/{architecture.name}.py",
        description=(importlib.import_module(f"models.{architecture.name}").__doc__ or "").strip(),
        epilog="Defaults in [ ]: with pretrained weights and without --quick.",
    )
    add_run_options(parser)
    add_training_options(parser)
    add_fold_options(parser, architecture.name)
    add_settings(parser, architecture.recipe, "recipe")
    add_settings(parser, architecture.augmentation, "augmentation")
    return parser


def bottleneck_parser(architecture: Architecture, description: str = "") -> CommandLine:
    """The options of models/bottleneck.py; defaults shown are those of an architecture."""
    parser = CommandLine(
        prog="python models/bottleneck.py",
        description=description.strip(),
        epilog=f"Defaults in [ ]: for {architecture.name}, without --quick; --architecture NAME --help shows others.",
    )
    text = f"network that gives the features: {', '.join(zoo.names())} [{DEFAULT_ARCHITECTURE}]"
    parser.add_argument("--architecture", default=DEFAULT_ARCHITECTURE, metavar="NAME", help=text)
    add_run_options(parser)
    add_fold_options(parser, "bottleneck_ARCHITECTURE_CLASSIFIER")
    add_settings(parser, architecture.bottleneck_settings(False, {}), "features and classifier")
    return parser


def add_fold_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Options about single folds; `name` is the model's where none is given."""
    add = parser.add_argument
    text = "folds to train, from 0; 'all' trains a network on all drivers, for test predictions alone [every fold]"
    add("--fold", type=read_fold, nargs="+", metavar="K", help=text)
    add("--model-name", metavar="NAME", help=f"name in the run, to train it twice [{name}]")
    add("--dry-run", action="store_true", help="print what would train, how long, how large, and stop")
    add("--list-jobs", action="store_true", help="print the training jobs as JSON lines, and stop")


def add_run_options(parser: argparse.ArgumentParser, default_run: str = "full; quick with --quick") -> None:
    """Options that say where and on what a run works."""
    group = parser.add_argument_group("run")
    add = group.add_argument
    add("--data", type=Path, metavar="DIR", help="Kaggle's data folder [$STATEFARM_DATA, Kaggle's mounts, data/]")
    add("--run", metavar="NAME", help=f"name of the run [{default_run}]")
    add("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    folds.add_fold_options(group, "5, or 2 with --quick")
    add("--weights", default="imagenet", metavar="W", help="imagenet, none, or a folder of NAME.weights.h5 [imagenet]")
    add("--precision", default="auto", choices=runtime.PRECISIONS, help="dtype policy [auto, by hardware]")
    text = "the same bits each time, slower on GPUs [auto: yes with TensorFlow]"
    add("--deterministic", default="auto", choices=runtime.DETERMINISM, help=text)
    add("--seed", type=whole_number(0, 2**31 - 1), default=0, metavar="N", help="random seed [0]")
    add("--cluster", metavar="A", help="train on a Ray cluster: auto, or HOST:PORT of its head [this machine alone]")
    add("--quick", action="store_true", help="a miniature: small images, few epochs, two folds")
    add("--verbose", action="store_true", help="print every line of the folds' logs")
    add("--skip-broken", action="store_true", help="leave unreadable images out instead of stopping")
    threads = environment.cores()
    add("--workers", type=whole_number(1, 256), default=threads, metavar="N", help="threads of batches [cores]")
    add("--cache", type=Path, default=CACHE, metavar="DIR", help="decoded images, activations, features [cache]")
    add("--cache-limit", type=number(0, 999_999), default=64.0, metavar="X", help="its largest size, in GiB [64]")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Options of what is trained in epochs, besides those of a run."""
    add = parser.add_argument_group("training").add_argument
    text = "folds at a time [one a GPU; on CPUs 2, with --quick one a core, as far as there is memory]"
    add("--jobs", type=whole_number(1, 1000), metavar="N", help=text)
    text = "keep the activations of frozen layers in the cache, for all epochs and folds [auto: on CPUs]"
    add("--activations", default="auto", choices=("auto", "yes", "no"), help=text)
    text = "curves to tensorboard, wandb, mlflow [none]"
    add("--log-to", type=tracking.read_names, default=(), metavar="X", help=text)


def read_fold(text: str) -> int | str:
    """A fold of the command line: a number or 'all'."""
    return text if text == ALL_DRIVERS else whole_number(0, 999)(text)


def network_of(
    architecture: Architecture,
    arguments: argparse.Namespace,
    run: RunFolder,
    data: Path,
    settings: Mapping[str, Any] | None = None,
    suffix: str = "",
    without: Sequence[str] = (),
) -> FoldRun:
    """An architecture's training as a command line asks for it; what a preset gives are `settings`, which it wins over.

    Settings of the command line that are for the second round alone are left out (`without`).
    """
    kind = arguments.weights == "none", arguments.quick, getattr(arguments, "demo", False)
    given = {**(settings or {}), **chosen(arguments, Recipe), **chosen(arguments, Augmentation)}
    given = {name: value for name, value in given.items() if name not in without}
    recipe, augmentation = architecture.settings_for(given, *kind)
    return _fold_run(architecture, arguments, run, data, architecture.name + suffix, recipe, augmentation)


def bottleneck_of(architecture: Architecture, arguments: argparse.Namespace, run: RunFolder, data: Path) -> FoldRun:
    """A classifier on an architecture's features as a command line asks for it."""
    settings = architecture.bottleneck_settings(arguments.quick, chosen(arguments, Bottleneck))
    default_name = f"bottleneck_{architecture.name}_{settings.classifier}"
    work = _fold_run(architecture, arguments, run, data, default_name, settings, None)
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
    augmentation: Augmentation | None,
) -> FoldRun:
    names = ["weights", "precision", "deterministic", "seed", "skip_broken", "cache", "workers"]
    names += ["activations", "log_to"] if isinstance(recipe, Recipe) else []
    return FoldRun(
        run=run,
        model_name=checked_name(getattr(arguments, "model_name", None) or default_name, "--model-name"),
        architecture=architecture,
        recipe=recipe,
        augmentation=augmentation,
        data=data,
        cache_limit=int(arguments.cache_limit * 2**30),
        **{name: getattr(arguments, name) for name in names},
    )

"""The command lines of ./run_all.sh, `python models/NAME.py` and `python models/bottleneck.py`."""

import argparse
import importlib
import re
from pathlib import Path

from common import machine
from common.run_folder import ALL_DRIVERS, CACHE, RUNS, SUBMISSIONS
from common.settings import CommandLine, add_settings, names_in, whole_number
from ensemble.options import Options
from models.finetuning import architecture as zoo
from models.finetuning import runtime, tracking
from models.finetuning.architecture import Architecture, Recipe
from pipeline.presets import DEFAULT_MODELS, PRESETS
from pipeline.schedule import read_budget
from preprocessing import folds
from preprocessing.settings import Augmentation

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
    parser.add_argument("--models", type=names_in, metavar='"A B"', help=f"architectures [{DEFAULT_MODELS}]")
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="default",
        help="quick is --quick; strong trains in two rounds [default]",
    )
    parser.add_argument("--demo", action="store_true", help="the rendered demo set, whatever data there is")
    parser.add_argument("--download", action="store_true", help="get the data from Kaggle first, where there is none")
    parser.add_argument(
        "--time-budget", type=read_budget, metavar="T", help="train what can be finished, blend that: 8h30m [none]"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run, when and where, and stop")
    parser.add_argument("--list-jobs", action="store_true", help="print the training jobs as JSON lines, and stop")
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="score the submission on these test labels")
    parser.add_argument(
        "--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help="folder of the CSV [submissions]"
    )
    add_run_options(parser, "full; quick with --quick; demo without data")
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


def bottleneck_parser(architecture: Architecture, description: str, default: str) -> CommandLine:
    """The options of models/bottleneck.py; defaults shown are those of an architecture.

    Args:
        default: of --architecture.
    """
    parser = CommandLine(
        prog="python models/bottleneck.py",
        description=description.strip(),
        epilog=f"Defaults in [ ]: for {architecture.name}, without --quick; --architecture NAME --help shows others.",
    )
    known = ", ".join(zoo.names())
    parser.add_argument(
        "--architecture", default=default, metavar="NAME", help=f"network that gives the features: {known} [{default}]"
    )
    add_run_options(parser)
    add_fold_options(parser, "bottleneck_ARCHITECTURE_CLASSIFIER")
    add_settings(parser, architecture.bottleneck_settings(False, {}), "features and classifier")
    return parser


def add_fold_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Options about single folds; `name` is the model's where none is given."""
    parser.add_argument(
        "--fold",
        type=read_fold,
        nargs="+",
        metavar="K",
        help="folds to train, from 0; 'all' trains on all drivers, for test predictions alone [every fold]",
    )
    parser.add_argument("--model-name", metavar="NAME", help=f"name in the run, to train it twice [{name}]")
    parser.add_argument("--dry-run", action="store_true", help="print what would train, how long, how large, and stop")
    parser.add_argument("--list-jobs", action="store_true", help="print the training jobs as JSON lines, and stop")


def add_run_options(parser: argparse.ArgumentParser, default_run: str = "full; quick with --quick") -> None:
    """Options that say where and on what a run works."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="Kaggle's data folder [$STATEFARM_DATA, Kaggle's mounts, data/]"
    )
    group.add_argument("--run", metavar="NAME", help=f"name of the run [{default_run}]")
    group.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    folds.add_fold_options(group, "5, or 2 with --quick")
    group.add_argument(
        "--weights", default="imagenet", metavar="W", help="imagenet, none, or a folder of NAME.weights.h5 [imagenet]"
    )
    group.add_argument(
        "--precision", default="auto", choices=runtime.PRECISIONS, help="dtype policy [auto, by hardware]"
    )
    group.add_argument(
        "--deterministic",
        default="auto",
        choices=runtime.DETERMINISM,
        help="the same bits each time, slower on GPUs [auto: yes with TensorFlow]",
    )
    group.add_argument("--seed", type=whole_number(0, 2**31 - 1), default=0, metavar="N", help="random seed [0]")
    group.add_argument(
        "--cluster", metavar="A", help="train on a Ray cluster: auto, or HOST:PORT of its head [this machine alone]"
    )
    group.add_argument("--quick", action="store_true", help="a miniature: small images, few epochs, two folds")
    group.add_argument("--verbose", action="store_true", help="print every line of the folds' logs")
    group.add_argument("--skip-broken", action="store_true", help="leave unreadable images out instead of stopping")
    group.add_argument(
        "--workers",
        type=whole_number(1, 256),
        default=machine.cores(),
        metavar="N",
        help="threads that make batches [cores]",
    )
    group.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="decoded images, activations, features [cache]"
    )
    group.add_argument(
        "--cache-limit", type=read_gibibytes, default=64.0, metavar="X", help="its largest size, in GiB [64]"
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Options of what is trained in epochs, besides those of a run."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--jobs",
        type=whole_number(1, 1000),
        metavar="N",
        help="folds at a time [one a GPU; on CPUs 2, with --quick one a core, as far as there is memory]",
    )
    group.add_argument(
        "--activations",
        default="auto",
        choices=("auto", "yes", "no"),
        help="keep the activations of frozen layers in the cache, for all epochs and folds [auto: on CPUs]",
    )
    group.add_argument(
        "--log-to",
        type=tracking.read_names,
        default=(),
        metavar="X",
        help="curves to tensorboard, wandb, mlflow [none]",
    )


def read_fold(text: str) -> int | str:
    """A fold of the command line: a number or 'all'."""
    return text if text == ALL_DRIVERS else whole_number(0, 999)(text)


def read_gibibytes(text: str) -> float:
    """A number of GiB, for the command line."""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", text):
        raise argparse.ArgumentTypeError(f"expected a number of GiB such as 64 or 0.5, found {text!r}")
    return float(text)

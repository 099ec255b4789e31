"""The command line of every architecture: `python models/NAME.py [--fold K ...] [any setting of the recipe]`."""

import argparse
import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import machine
from common.errors import UserError, run_command
from common.finished import FAILED, why_it_failed
from common.run_folder import ALL_DRIVERS, CACHE, RUNS, checked_name, folds_path, run_folder
from common.settings import CommandLine, add_settings, chosen, whole_number
from models.finetuning import needs, runtime
from models.finetuning.architecture import Architecture
from models.finetuning.data import pseudo_labels
from models.finetuning.network import weights as pretrained
from models.finetuning.piece import (
    Piece,
    drop_checkpoint,
    is_finished,
    leave_out,
    outputs_of,
    require_made_as_others,
    without_fold,
)
from models.finetuning.processes import run_folds, side_by_side
from models.finetuning.recipe import Kind, Recipe
from models.finetuning.training import tracking as watching
from preprocessing.augmentation_settings import Augmentation
from preprocessing.folds import add_fold_options

if TYPE_CHECKING:
    import pandas as pd

    from preprocessing.dataset import Dataset

GIBIBYTE = 2**30


def main(architecture: Architecture) -> None:
    """Runs the command of one architecture."""
    run_command(lambda: _main(architecture, sys.argv[1:]))


def make_parser(architecture: Architecture) -> CommandLine:
    """The parser of an architecture's command; defaults shown are those of a full run with pretrained weights."""
    parser = CommandLine(
        prog=f"python models/{architecture.name}.py",
        description=(importlib.import_module(f"models.{architecture.name}").__doc__ or "").strip(),
        epilog="Defaults in [ ]: with pretrained weights and without --quick.",
    )
    add_run_options(parser)
    add_training_options(parser)
    add_piece_options(parser, architecture.name)
    parser.add_argument("--dry-run", action="store_true", help="say what would train, how long, how large, and stop")
    add_recipe_options(parser, architecture.recipe, architecture.augmentation)
    return parser


def add_piece_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Options that say which pieces; `name` is the model's where none is given."""
    parser.add_argument(
        "--fold",
        type=_fold,
        nargs="+",
        metavar="K",
        help="folds to train, from 0; 'all' trains on all drivers, for test predictions alone [every fold]",
    )
    parser.add_argument("--model-name", metavar="NAME", help=f"name in the run, to train it twice [{name}]")


def add_run_options(
    parser: argparse.ArgumentParser, of_run: str = "full; quick with --quick; in run_all.sh demo"
) -> None:
    """Options that say where and on what a run works; shared by all stages that train.

    Args:
        of_run: the default of --run, in words.
    """
    group = parser.add_argument_group("run")
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="Kaggle's data folder [$STATEFARM_DATA, Kaggle's mounts, data/]"
    )
    group.add_argument("--run", metavar="NAME", help=f"name of the run [{of_run}]")
    group.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    add_fold_options(group, "5, or 2 with --quick")
    group.add_argument(
        "--weights", default="imagenet", metavar="W", help="imagenet, none, or a folder of NAME.weights.h5 [imagenet]"
    )
    group.add_argument(
        "--precision", default="auto", choices=runtime.PRECISIONS, help="dtype policy [auto, by hardware]"
    )
    group.add_argument("--seed", type=whole_number(0, 2**31 - 1), default=0, metavar="N", help="random seed [0]")
    group.add_argument("--quick", action="store_true", help="a miniature: small images, few epochs, two folds")
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
        "--cache-limit", type=_gibibytes, default=64.0, metavar="X", help="its largest size, in GiB [64]"
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
        help="keep what the frozen layers make of the images, for all epochs and folds [auto: on CPUs]",
    )
    group.add_argument(
        "--log-to",
        type=watching.read_names,
        default=(),
        metavar="X",
        help="curves to tensorboard, wandb, mlflow [none]",
    )


def _fold(text: str) -> int | str:
    return text if text == ALL_DRIVERS else whole_number(0, 999)(text)


def _gibibytes(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", text):
        raise argparse.ArgumentTypeError(f"expected a number of GiB such as 64 or 0.5, found {text!r}")
    return float(text)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options that the scripts of all architectures have, for commands that look at several of them."""
    add_run_options(parser)
    add_training_options(parser)
    add_piece_options(parser, "of the architecture")
    add_recipe_options(parser, Recipe(), Augmentation())


def add_recipe_options(parser: argparse.ArgumentParser, recipe: Recipe, augmentation: Augmentation) -> None:
    """Options for every setting of the recipe and the augmentation."""
    add_settings(parser, recipe, "recipe")
    add_settings(parser, augmentation, "augmentation")


def _main(architecture: Architecture, words: list[str]) -> None:
    arguments = make_parser(architecture).parse_args(words)
    template = template_piece(architecture, arguments)
    begun = folds_path(template.run).exists()
    checked, ordered, asked = read_data(arguments, template.run, write=begun or not arguments.dry_run)
    pieces = [dataclasses.replace(template, fold=fold) for fold in asked]
    if arguments.dry_run and not begun:
        _say_what_would_train(pieces, ordered, len(checked.test), arguments)
        return
    todo = unfinished(pieces, checked)
    if len(todo) < len(pieces):
        print(f"{template.model_name}: {len(pieces) - len(todo)} of {len(pieces)} folds are finished already")
    if not todo:
        return
    if arguments.dry_run:
        _say_what_would_train([piece for piece, _ in todo], ordered, len(checked.test), arguments)
        return
    pretrained.check_available(architecture, arguments.weights)
    if len(pieces) > 1:
        script = Path(__file__).resolve().parent.parent / f"{architecture.name}.py"
        memory = needs.fold_memory(architecture, template.recipe)
        jobs, fits = side_by_side(arguments.jobs, arguments.quick, len(pieces), memory)
        by_fold = {piece.fold: piece for piece, _ in todo}
        folds = list(by_fold)
        run_folds(
            *(script, without_fold(words), folds, jobs, lambda fold, what: leave_out(by_fold[fold], what), fits),
            why=lambda fold: why_it_failed(by_fold[fold].folder),
        )
        return
    for piece, _ in todo:
        (piece.folder / FAILED).unlink(missing_ok=True)  # of an earlier start
    runtime.load_keras()  # now that everything is known to be right
    from models.finetuning.fold import train_fold

    for piece, setting in todo:
        train_fold(piece, checked, ordered, setting, arguments.cache, int(arguments.cache_limit * GIBIBYTE))


def template_piece(architecture: Architecture, arguments: argparse.Namespace) -> Piece:
    """The piece that the command line asks for, as of fold 0.

    Raises:
        UserError: weights that are not there, or settings that contradict each other.
    """
    watching.check_installed(arguments.log_to)
    kind = Kind(scratch=arguments.weights == "none", quick=arguments.quick)
    recipe, augmentation = architecture.settings_for(kind, chosen(arguments, Recipe) | chosen(arguments, Augmentation))
    return make_piece(
        *(architecture, arguments, architecture.name, recipe, outputs_of(recipe)),
        augmentation=augmentation,
        activations=arguments.activations,
        log_to=arguments.log_to,
    )


def make_piece(
    architecture: Architecture,
    arguments: argparse.Namespace,
    default_name: str,
    recipe: Any,
    outputs: tuple[str, ...],
    **others: Any,
) -> Piece:
    """The piece of fold 0 that the options of `add_piece_options` ask for.

    Args:
        default_name: the model's where none was given.
        others: attributes that only some pieces have.

    Raises:
        UserError: no such weights, or a name that cannot be a folder's.
    """
    run = run_folder(arguments.run or ("quick" if arguments.quick else "full"), arguments.runs)
    name = checked_name(arguments.model_name or default_name, "--model-name")
    pretrained.weights_file(architecture, arguments.weights)
    return Piece(
        run=run,
        model_name=name,
        architecture=architecture,
        recipe=recipe,
        fold=0,
        weights=arguments.weights,
        precision=arguments.precision,
        seed=arguments.seed,
        workers=arguments.workers,
        outputs=outputs,
        **others,
    )


def read_data(
    arguments: argparse.Namespace, run: Path, write: bool = True
) -> tuple["Dataset", "pd.DataFrame", list[int | str]]:
    """The checked data, its fold table in the order of `dataset.train`, and the folds that were asked for.

    Args:
        write: folds that the run does not have yet are written to it.

    Raises:
        UserError: something is wrong with the data or the fold table, or the run has no such fold.
    """
    from preprocessing import dataset, folds  # pandas, which --help need not load

    checked = dataset.load(dataset.required(arguments.data), arguments.cache, arguments.skip_broken)
    default = 2 if arguments.quick else 5
    table = folds.ensure_folds(
        run, checked.train, arguments.folds, arguments.folds_file, default, write, checked.left_out
    )
    count = int(table["fold"].max()) + 1
    wanted = arguments.fold if arguments.fold is not None else range(count)
    asked = sorted({fold for fold in wanted if fold != ALL_DRIVERS})
    if not set(asked) <= set(range(count)):
        raise UserError(f"--fold {' '.join(map(str, asked))}: this run has the folds 0 to {count - 1}.")
    every = [*asked, ALL_DRIVERS] if ALL_DRIVERS in wanted else asked
    return checked, table.set_index("img").loc[checked.train["img"]].reset_index(), every


def unfinished(pieces: list[Piece], dataset: "Dataset") -> list[tuple[Piece, dict[str, Any]]]:
    """Those pieces of one model that are still to be made, with their settings.

    Raises:
        UserError: one was made, or begun, with other settings, or another fold of the model was, or would be.
    """
    settings = [piece.settings(dataset.test, dataset.broken_test) for piece in pieces]
    pseudo_labels.require_same_models({piece.fold: own for piece, own in zip(pieces, settings, strict=True)})
    left = []
    for piece, own in zip(pieces, settings, strict=True):
        if is_finished(piece, own):
            drop_checkpoint(piece)  # its process was killed before it could
        else:
            require_made_as_others(piece, own)
            left.append((piece, own))
    return left


def _say_what_would_train(pieces: list[Piece], table: "pd.DataFrame", test_images: int, arguments: Any) -> None:
    """Prints the plan of `--dry-run`."""
    runtime.load_keras()
    from models.finetuning import dry_run

    memory = needs.fold_memory(pieces[0].architecture, pieces[0].recipe)
    _, fits = side_by_side(arguments.jobs, arguments.quick, len(pieces), memory)
    print(dry_run.describe(pieces, table, test_images, arguments.cache, min(fits, len(pieces))))

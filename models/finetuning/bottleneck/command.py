"""The command of models/bottleneck.py: its settings, and the pieces that it is asked for."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from common.errors import UserError, run_command
from common.run_folder import ALL_DRIVERS
from common.settings import CommandLine, ImageSize, add_settings, chosen, setting
from models.finetuning import architecture as zoo
from models.finetuning import command, runtime
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from models.finetuning.piece import OUTPUTS, Piece
from models.finetuning.recipe import QUICK, Recipe
from preprocessing.crops import REGIONS, WHOLE

DEFAULT_ARCHITECTURE = "inception_v3"
BOTTLENECK_OUTPUTS = (*OUTPUTS, "regularisation.csv")


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """Which features of the frozen network, and which classifier on them."""

    classifier: str = setting(
        "logistic",
        "multinomial logistic regression, or linear support vector machines (one class against the others)",
        choices=("logistic", "svm"),
    )
    regularisation: float = setting(
        0.0, "scikit-learn's C, smaller is stronger; 0 is chosen by held-out drivers of the training part", least=0
    )
    calibrate: bool = setting(
        True,
        "pass its scores through a small logistic regression fitted on held-out drivers of the training part; an svm "
        "needs it",
    )
    image_size: ImageSize = setting(ImageSize(224, 224), "size that images are brought to")  # noqa: RUF009
    crop: str = setting(WHOLE, "part of the photographs that is used", choices=tuple(REGIONS))
    pooled_layers: tuple[str, ...] = setting((), "layers whose pooled outputs are the features; none is the last layer")
    pooling: str = setting("avg", "how a feature map becomes features", choices=("avg", "max", "avgmax"))


def network_recipe(settings: Bottleneck) -> Recipe:
    """The recipe of the network that gives these features and whose head holds the classifier."""
    return Recipe(
        image_size=settings.image_size,
        crop=settings.crop,
        pooled_layers=settings.pooled_layers,
        pooling=settings.pooling,
        dropout=0.0,
        trainable="head",
    )


def settings_for(architecture: Architecture, quick: bool, given: Mapping[str, Any]) -> Bottleneck:
    """The settings for an architecture: its own, those of a miniature run, what the user chose; the later wins.

    Raises:
        UserError: the images are smaller than the network accepts, or settings contradict each other.
    """
    values: dict[str, Any] = dict(architecture.bottleneck)
    if quick:
        values["image_size"] = architecture.quick.get("image_size", QUICK["image_size"])
    settings = dataclasses.replace(Bottleneck(), **{**values, **given})
    architecture.check_image_size(settings.image_size)
    if settings.classifier == "svm" and not settings.calibrate:
        raise UserError(
            "--no-calibrate with --classifier svm: its scores are no probabilities. Leave --no-calibrate out, or take "
            "--classifier logistic."
        )
    return settings


def make_parser(architecture: Architecture, description: str) -> CommandLine:
    """The parser; defaults shown are those of the architecture."""
    parser = CommandLine(
        prog="python models/bottleneck.py",
        description=description.strip(),
        epilog=f"Defaults in [ ]: for {architecture.name}, without --quick; --architecture NAME --help shows others.",
    )
    parser.add_argument(
        "--architecture",
        default=DEFAULT_ARCHITECTURE,
        metavar="NAME",
        help=f"whose features: {', '.join(zoo.names())} [{DEFAULT_ARCHITECTURE}]",
    )
    command.add_run_options(parser)
    command.add_piece_options(parser, "bottleneck_ARCHITECTURE_CLASSIFIER")
    add_settings(parser, settings_for(architecture, False, {}), "features and classifier")
    return parser


def main(description: str) -> None:
    """Runs the command."""
    run_command(lambda: _main(description, sys.argv[1:]))


def _main(description: str, words: list[str]) -> None:
    architecture = zoo.find(_architecture_in(words))
    arguments = make_parser(architecture, description).parse_args(words)
    template = template_piece(architecture, arguments)
    name = template.model_name
    checked, ordered, asked = command.read_data(arguments, template.run)
    if ALL_DRIVERS in asked:
        raise UserError("--fold all: a classifier on features needs held-out drivers. Leave --fold out, or name folds.")
    pieces = [dataclasses.replace(template, fold=fold) for fold in asked]
    todo = command.unfinished(pieces, checked)
    if len(todo) < len(pieces):
        print(f"{name}: {len(pieces) - len(todo)} of {len(pieces)} folds are finished already")
    if not todo:
        return
    pretrained.check_available(architecture, arguments.weights)
    runtime.load_keras()  # now that everything is known to be right
    from models.finetuning.bottleneck.folds import make_folds

    make_folds(todo, checked, ordered, arguments.cache, int(arguments.cache_limit * command.GIBIBYTE))


def template_piece(architecture: Architecture, arguments: argparse.Namespace) -> Piece:
    """The piece that the command line asks for, as of fold 0.

    Raises:
        UserError: weights that are not there, or settings that contradict each other.
    """
    settings = settings_for(architecture, arguments.quick, chosen(arguments, Bottleneck))
    default_name = f"bottleneck_{architecture.name}_{settings.classifier}"
    piece = command.make_piece(architecture, arguments, default_name, settings, BOTTLENECK_OUTPUTS)
    if piece.model_name in zoo.names():
        raise UserError(
            f"--model-name {piece.model_name}: that is an architecture's own. Take another, such as {default_name}."
        )
    return piece


def _architecture_in(words: list[str]) -> str:
    """What --architecture says: the defaults that --help shows and the parser starts from depend on it."""
    found = DEFAULT_ARCHITECTURE
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--architecture="):
            found = word.partition("=")[2]
        elif word == "--architecture":
            found = following
    if found.startswith("-") or not found:
        raise UserError(f"--architecture: expected a name. There are: {', '.join(zoo.names())}.")
    return found

"""Checks the settings of every model of a run before the first one trains, and says which have something left to do.

    python -m tools.ready --models "vgg16 resnet50" [options of every architecture's script]

Prints the names of the models that are not finished, for run_all.sh; what is finished already is told to the person.
"""

import dataclasses
import sys
from typing import Any

from common.errors import run_command
from common.settings import CommandLine, chosen, names_in
from models.finetuning import architecture as zoo
from models.finetuning import command
from models.finetuning.piece import Piece
from models.finetuning.recipe import Recipe
from tools.verify import damaged_pieces

NAMING_LAYERS = ("trainable", "pooled_layers")  # settings that only the network itself can check


def make_parser() -> CommandLine:
    """The options that all architectures share."""
    parser = CommandLine(prog="python -m tools.ready", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=names_in, required=True, metavar='"A B"', help="architectures")
    command.add_common_options(parser)
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    templates = [command.template_piece(one, arguments) for one in zoo.find_all(arguments.models)]
    checked, _, asked = command.read_data(arguments, templates[0].run)
    for line in damaged_pieces(templates[0].run, only_for_blend=True):  # before the blend, which could not mend it
        print(f"note: {line}", file=sys.stderr)
    left: list[Piece] = []
    for template in templates:
        pieces = [dataclasses.replace(template, fold=fold) for fold in asked]
        todo = command.unfinished(pieces, checked)
        if len(todo) < len(pieces):
            print(
                f"{template.model_name}: {len(pieces) - len(todo)} of {len(pieces)} folds are finished already",
                file=sys.stderr,
            )
        left += [template] if todo else []
    if set(chosen(arguments, Recipe)) & set(NAMING_LAYERS):
        for template in left[1:]:  # the first one tells by itself, at once
            _build(template)
    print(" ".join(template.architecture.name for template in left))


def _build(template: Piece) -> Any:
    """Builds the network without its weights, which checks the layers that its settings name."""
    from models.finetuning import runtime

    runtime.load_keras()
    from models.finetuning.network.build import build

    return build(template.architecture, template.recipe, "none", "float32", 0)


if __name__ == "__main__":
    run_command(main)

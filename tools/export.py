"""Exports networks of a run as one file that needs neither Keras nor this code, preprocessing included.

    python -m tools.export --run full --model inception_v3 --fold 0 --to onnx
    python -m tools.export --run full --model inception_v3 --to litert --out phone.tflite

Several networks of one image size become one file that gives their mean. It is written only if it predicts what Keras
predicts, on real photographs: those of --images, else of the competition's test set. Needs requirements/export.txt.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, run_command
from common.run_folder import RunFolder
from common.settings import CommandLine
from tools.finished import FinishedFold, add_choice, finished_folds

if TYPE_CHECKING:
    from tools.pictures import Photograph

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}
NEEDED = {"onnx": ("tf2onnx", "onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
CHECKED = 16  # photographs


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.export", description=__doc__)
    add_choice(parser)
    parser.add_argument("--to", required=True, choices=tuple(SUFFIXES), help="the format; litert was TensorFlow Lite")
    parser.add_argument("--out", type=Path, metavar="FILE", help="[runs/NAME/NAME.onnx or .tflite]")
    parser.add_argument("--images", type=Path, nargs="+", metavar="PATH", help="photographs to check on [the test set]")
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    suffix = SUFFIXES[arguments.to]
    run = RunFolder.existing(arguments.run, arguments.runs)
    fold_runs = finished_folds(run, arguments.model, arguments.fold)
    out = arguments.out or run.path / ("-".join([run.name, *arguments.model, *arguments.fold]) + suffix)
    if out.suffix != suffix:
        raise UserError(f"--out {out}: expected a name that ends in {suffix} for --to {arguments.to}.")
    _require_one_size(fold_runs)
    _require_packages(arguments.to)
    photographs = _photographs(arguments.images)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # what the converters start from; the networks are of any backend

    from tools.networks import export

    print(export(fold_runs, arguments.to, out, photographs))


def _require_one_size(fold_runs: list[FinishedFold]) -> None:
    """Raises a UserError where the networks want to see different things."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for fold_run in fold_runs:
        kinds.setdefault((str(fold_run.image_size), fold_run.crop), []).append(fold_run.model)
    if len(kinds) > 1:
        listed = "; ".join(
            f"{', '.join(dict.fromkeys(names))}: {size}, {crop}" for (size, crop), names in kinds.items()
        )
        raise UserError(f"these networks see different images ({listed}), so they cannot be one. Choose with --model.")


def _require_packages(to: str) -> None:
    missing = [name for name in NEEDED[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--to {to} needs {', '.join(name.replace('_', '-') for name in missing)}, which is not installed: "
            ".venv/bin/python -m pip install -r requirements/export.txt"
        )


def _photographs(images: list[Path] | None) -> list[Photograph]:
    """Real photographs to check on."""
    from common.competition import TEST_FOLDER
    from preprocessing import dataset
    from tools import pictures

    if not images:
        root = dataset.locate(None)
        if root is None:
            raise UserError("there is no competition data to check the file on. Name photographs: --images FOLDER")
        images = [root / TEST_FOLDER]
    found = pictures.find(images, videos=False)
    return found.decodable(pictures.evenly_spaced(found.photographs, CHECKED))


if __name__ == "__main__":
    run_command(main)

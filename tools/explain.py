"""Where the networks of a run look, as Grad-CAM heat maps: at hands and telephone, or at the cabin?

    python -m tools.explain --run full photo.jpg other.jpg
    python -m tools.explain --run full --model inception_v3 data/imgs/test --most 8 --out sheet.jpg
    python -m tools.explain --run full photo.jpg --classes c0,c1

A sheet with a row for each photograph: itself, then for each model (the mean of its folds) the places that speak for
its most probable classes. Yellow is most; grey is nothing, or speaks against. Each picture has a scale of its own.
"""

from __future__ import annotations

from pathlib import Path

from common.competition import CLASSES
from common.errors import UserError, run_command
from common.files import written_whole
from common.run_folder import CACHE, RunFolder
from common.settings import CommandLine
from tools.finished import add_choice, finished_folds


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.explain", description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE", help="photographs, or folders of them")
    add_choice(parser)
    parser.add_argument(
        "--top", type=int, choices=range(1, 11), default=2, metavar="N", help="most probable classes [2]"
    )
    parser.add_argument("--classes", type=_classes, default=[], metavar="C,C", help="these classes instead, as c0,c3")
    parser.add_argument("--most", type=int, default=12, metavar="N", help="at most N photographs, evenly spaced [12]")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "explained.jpg", metavar="FILE", help="[explained.jpg in cache]"
    )
    return parser


def _classes(text: str) -> list[int]:
    import argparse

    names = text.replace(",", " ").split()
    wrong = [name for name in names if name not in CLASSES]
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"expected classes from c0 to c9, such as c0,c3, found {text!r}")
    return [CLASSES.index(name) for name in names]


def main() -> None:
    arguments = command_line().parse_args()
    if arguments.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--out {arguments.out}: expected the name of a picture, .jpg or .png.")
    if arguments.most < 1:
        raise UserError(f"--most {arguments.most}: expected at least 1.")
    fold_runs = finished_folds(RunFolder.existing(arguments.run, arguments.runs), arguments.model, arguments.fold)

    from tools import pictures

    found = pictures.find(arguments.pictures, videos=False)
    if len(found.photographs) > arguments.most:
        print(f"{arguments.most} of {len(found.photographs):,} photographs (--most)")
    photographs = found.decodable(pictures.evenly_spaced(found.photographs, arguments.most))

    from tools.drawing import encoded
    from tools.heat import draw_sheet

    sheet = draw_sheet(photographs, fold_runs, arguments.classes, arguments.top)
    with written_whole(arguments.out) as temporary:
        temporary.write_bytes(encoded(sheet, arguments.out.suffix.lower()))
    print(f"{arguments.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    if found.left_out:
        print(found.summary())


if __name__ == "__main__":
    run_command(main)

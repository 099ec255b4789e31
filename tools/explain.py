"""Where the networks of a run look, as Grad-CAM heat maps: at hands and telephone, or at the cabin?

    python -m tools.explain --run full photo.jpg other.jpg
    python -m tools.explain --run full --model inception_v3 data/imgs/test --most 8 --out sheet.jpg
    python -m tools.explain --run full photo.jpg --classes c0,c1

A sheet with a row for each photograph: itself, then for each model (the mean of its folds) the places that speak for
its most probable classes. Yellow is most; grey is nothing, or speaks against. Each picture has a scale of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.competition import CLASSES
from common.errors import UserError, run_command
from common.files import written_whole
from common.run_folder import CACHE, RunFolder
from common.settings import CommandLine
from tools.finished import FinishedFold, add_choice, finished_folds

if TYPE_CHECKING:
    import numpy as np

    from tools.pictures import Photograph

TILE_WIDTH, CAPTION, GAP = 320, 30, 8  # pixels


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
    photographs = found.decodable(_evenly(found.photographs, arguments.most))

    import numpy as np

    from tools.drawing import encoded

    columns = [_photographs(photographs)]
    for model in dict.fromkeys(fold_run.model for fold_run in fold_runs):
        own = [fold_run for fold_run in fold_runs if fold_run.model == model]
        columns += _explained(photographs, own, arguments.classes, arguments.top)
    sheet = np.vstack([np.hstack(tiles) for tiles in zip(*columns, strict=True)])
    with written_whole(arguments.out) as temporary:
        temporary.write_bytes(encoded(sheet, arguments.out.suffix.lower()))
    print(f"{arguments.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    if found.left_out:
        print(found.summary())


def _evenly(photographs: list[Photograph], most: int) -> list[Photograph]:
    import numpy as np

    if len(photographs) <= most:
        return photographs
    print(f"{most} of {len(photographs):,} photographs (--most)")
    return [photographs[number] for number in np.linspace(0, len(photographs) - 1, most).round().astype(int)]


def _photographs(photographs: list[Photograph]) -> list[np.ndarray]:
    """The first column."""
    from tools import drawing

    tiles = []
    for photograph in photographs:
        picture = _tile_sized(photograph.whole())
        tiles.append(drawing.tile(picture, photograph.name, CAPTION, GAP))
    return tiles


def _tile_sized(picture: np.ndarray) -> np.ndarray:
    import cv2

    height = max(1, round(picture.shape[0] * TILE_WIDTH / picture.shape[1]))
    return cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)


def _explained(
    photographs: list[Photograph], fold_runs: list[FinishedFold], classes: list[int], top: int
) -> list[list[np.ndarray]]:
    """The columns of one model: a tile for each photograph in each."""
    import numpy as np

    from tools import drawing
    from tools.heat import HeatMaps, mean_heat
    from tools.networks import MOST_AT_ONCE, in_batches, load
    from tools.words import class_words

    networks = [HeatMaps(load(fold_run)) for fold_run in fold_runs]
    crop = fold_runs[0].crop
    columns: list[list[np.ndarray]] = []
    for batch in in_batches(photographs, MOST_AT_ONCE):
        pairs = zip(networks, fold_runs, strict=True)
        seen = [network.predict(_stacked(batch, fold_run)) for network, fold_run in pairs]
        mean = np.mean([probabilities for _, probabilities in seen], axis=0)
        asked = np.tile(classes, (len(batch), 1)) if classes else np.argsort(-mean, axis=1, kind="stable")[:, :top]
        columns = columns or [[] for _ in range(asked.shape[1])]
        for rank, column in enumerate(columns):
            found = [network.heat(maps, asked[:, rank]) for network, (maps, _) in zip(networks, seen, strict=True)]
            heat = mean_heat(found)
            for number, photograph in enumerate(batch):
                which = int(asked[number, rank])
                words = f"{fold_runs[0].model}: {class_words(which)} {mean[number, which]:.0%}"
                lit = drawing.lit(_tile_sized(photograph.whole()), heat[number], crop)
                column.append(drawing.tile(lit, words, CAPTION, GAP))
    return columns


def _stacked(photographs: list[Photograph], fold_run: FinishedFold) -> np.ndarray:
    import numpy as np

    return np.stack([photograph.seen(fold_run.image_size, fold_run.crop) for photograph in photographs])


if __name__ == "__main__":
    run_command(main)

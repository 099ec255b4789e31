"""Renders the demo set: python -m preprocessing.demo --out data_demo"""

import functools
import time
from pathlib import Path

from common.competition import CLASS_NAMES, held_out_labels_path
from common.errors import UserError, run_command
from common.files import written_whole
from common.settings import CommandLine, add_settings, chosen
from preprocessing.demo.dataset import DemoSettings, demo_root, ensure_demo, render_demo

COLUMNS = 5
TILE_HEIGHT, TILE_WIDTH, CAPTION_HEIGHT = 180, 240, 24  # pixels


def main() -> None:
    """Parses the command line and renders."""
    parser = CommandLine(prog="python -m preprocessing.demo", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the data root to write; must be new or empty")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE.jpg", help="write a picture of the ten behaviours")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="render the standard set there, under its own name, once"
    )
    add_settings(parser, DemoSettings(), "how much")
    arguments = parser.parse_args()
    typed = chosen(arguments, DemoSettings)
    settings = DemoSettings(**typed)
    if arguments.out is None and arguments.contact_sheet is None and arguments.cache is None:
        raise UserError("nothing to do. Expected --out DIR, --cache DIR or --contact-sheet FILE.jpg.")
    if arguments.cache is not None and set(typed) - {"seed"}:
        raise UserError(
            "--cache renders the standard set. Expected no option beside --seed; for other sizes use --out."
        )
    if arguments.contact_sheet is not None:
        write_contact_sheet(arguments.contact_sheet, settings.seed)
        print(f"wrote {arguments.contact_sheet}")
    if arguments.cache is not None:
        start = time.monotonic()
        print(f"synthetic demo set, not photographs: {demo_root(arguments.cache, settings.seed)}", flush=True)
        root = ensure_demo(arguments.cache, settings.seed)
        print(f"ready in {time.monotonic() - start:.0f} s; its test labels: {held_out_labels_path(root)}")
    if arguments.out is not None:
        start = time.monotonic()
        render_demo(arguments.out, settings.seed, settings)
        seconds = time.monotonic() - start
        print(f"rendered {arguments.out} in {seconds:.0f} s; its test labels: {held_out_labels_path(arguments.out)}")


def write_contact_sheet(path: Path, seed: int = 0) -> None:
    """Writes ten labelled frames, each of another driver, as one JPEG of 1200 x 408 pixels.

    Raises:
        UserError: the file cannot be written.
    """
    import cv2
    import numpy as np

    from preprocessing.demo.appearance import draw_driver
    from preprocessing.demo.film import film, studio

    tiles = []
    for number, (behaviour, name) in enumerate(CLASS_NAMES.items()):
        rng = np.random.default_rng([seed, 2, 10 + number])
        room = studio(draw_driver(rng, 10 + number), rng)
        picture = next(film(room, behaviour, 1, np.random.default_rng([seed, 4, number])))
        tile = np.full((TILE_HEIGHT + CAPTION_HEIGHT, TILE_WIDTH, 3), 255, np.uint8)
        tile[CAPTION_HEIGHT:] = cv2.resize(picture, (TILE_WIDTH, TILE_HEIGHT), interpolation=cv2.INTER_AREA)
        font = functools.partial(cv2.putText, tile, fontFace=cv2.FONT_HERSHEY_SIMPLEX, fontScale=0.42)
        font(f"{behaviour}  {name}", org=(6, 16), color=(30, 30, 30), thickness=1, lineType=cv2.LINE_AA)
        tiles.append(tile)
    rows = [np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]
    data = cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    with written_whole(Path(path)) as temporary:
        temporary.write_bytes(data.tobytes())


if __name__ == "__main__":
    run_command(main)

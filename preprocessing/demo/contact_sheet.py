"""One picture of the ten behaviours, with their names, for the README."""

import functools
from pathlib import Path

from common.competition import CLASS_NAMES
from common.files import written_whole

COLUMNS = 5
TILE_HEIGHT, TILE_WIDTH, CAPTION_HEIGHT = 180, 240, 24  # pixels


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

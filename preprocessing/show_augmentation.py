"""A sheet of training images to look at: originals in the first column, then what the network sees of them in training.

python -m preprocessing.show_augmentation --data DIR [--out FILE.jpg] [--rows N] [any setting of the augmentation]
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, run_command
from common.run_folder import CACHE
from common.settings import CommandLine, ImageSize, add_settings, chosen, setting
from preprocessing.dataset import Dataset, add_data_options, load_chosen
from preprocessing.settings import REGIONS, WHOLE, Augmentation

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CAPTION_HEIGHT, GAP = 20, 4  # pixels
PAPER, INK = (255, 255, 255), (30, 30, 30)  # RGB


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What is shown."""

    rows: int = setting(10, "photographs, one behaviour after another", least=1, most=500)
    columns: int = setting(6, "augmented copies of each, as in so many epochs", least=1, most=50)
    image_size: ImageSize = setting(ImageSize(240, 320), "size that images are brought to")  # noqa: RUF009
    crop: str = setting(WHOLE, "part of the photographs that is used", choices=tuple(REGIONS))
    seed: int = setting(0, "of the choice of photographs and of the augmentation", least=0, most=2**31 - 1)


def make_sheet(data: Dataset, sheet: Sheet, augmentation: Augmentation) -> "np.ndarray":
    """Draws the sheet. The augmented images come from the batches that training reads, one batch for each column.

    Returns:
        shape (height, width, 3), uint8, RGB.
    """
    import numpy as np
    import pandas as pd

    from common.competition import CLASSES, NUMBER_OF_CLASSES
    from preprocessing.batches import training_batches
    from preprocessing.images import ImageStore

    table, every = _choose(data, sheet), data.train
    paths = [data.train_path(row.img, row.classname) for row in every.itertuples()]
    store = ImageStore(paths, sheet.image_size, CACHE, data.fingerprint, 0, sheet.crop)
    targets = np.eye(NUMBER_OF_CLASSES, dtype=np.float32)[[CLASSES.index(name) for name in every["classname"]]]
    order = pd.Index(every["img"]).get_indexer(table["img"])[None, :]
    plain = Augmentation(augmentation=0.0)
    columns = [next(training_batches(store, targets, order, plain, sheet.seed, 0, 1))]
    for epoch in range(1, sheet.columns + 1):
        batches = training_batches(store, targets, order, augmentation, sheet.seed, epoch, 1)
        columns.append(next(batches))
    lines = []
    for row, subject in enumerate(table["subject"]):
        captions = [caption(wanted[row]) for _, wanted in columns]
        captions[0] += f" ({subject})"
        lines.append(np.hstack([_tile(images[row], text) for (images, _), text in zip(columns, captions, strict=True)]))
    return np.vstack(lines)


def caption(target: "np.ndarray") -> str:
    """'c3 texting - left', or of a mixture 'c3 texting - left 60 % + c0 safe driving 40 %'.

    Args:
        target: shape (classes,), probabilities.
    """
    from common.competition import CLASS_NAMES, CLASSES

    parts = [(float(target[number]), name) for number, name in enumerate(CLASSES) if target[number] > 0.005]
    parts.sort(reverse=True)
    if len(parts) == 1:
        return f"{parts[0][1]} {CLASS_NAMES[parts[0][1]]}"
    return " + ".join(f"{name} {CLASS_NAMES[name]} {share:.0%}" for share, name in parts)


def _choose(data: Dataset, sheet: Sheet) -> "pd.DataFrame":
    """Rows of `data.train`: a photograph of each behaviour in turn."""
    table = data.train.sample(frac=1, random_state=sheet.seed)
    turn = table.groupby("classname").cumcount()
    order = table.assign(turn=turn).sort_values(["turn", "classname"])
    return order.head(sheet.rows).reset_index(drop=True)


def _tile(image: "np.ndarray", text: str) -> "np.ndarray":
    """An image under its caption, which is set smaller where it would not fit."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    tile = np.full((height + CAPTION_HEIGHT + GAP, width + GAP, 3), PAPER, np.uint8)
    tile[CAPTION_HEIGHT : CAPTION_HEIGHT + height, :width] = image
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    wide = cv2.getTextSize(text, font, scale, 1)[0][0]
    scale *= min(1.0, 0.95 * width / wide)
    cv2.putText(tile, text, (3, CAPTION_HEIGHT - 6), font, scale, INK, 1, cv2.LINE_AA)
    return tile


def main() -> None:
    """python -m preprocessing.show_augmentation"""
    parser = CommandLine(prog="python -m preprocessing.show_augmentation", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.jpg", help="the sheet [augmentation.jpg in the cache]")
    add_settings(parser, Sheet(), "sheet")
    add_settings(parser, Augmentation(), "augmentation")
    arguments = parser.parse_args()
    out = arguments.out or arguments.cache / "augmentation.jpg"
    if out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--out {out}: expected the name of a picture, .jpg or .png.")

    import cv2

    from common.files import written_whole

    data = load_chosen(arguments)
    sheet, augmentation = Sheet(**chosen(arguments, Sheet)), Augmentation(**chosen(arguments, Augmentation))
    picture = make_sheet(data, sheet, augmentation)
    encoded = cv2.imencode(out.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with written_whole(out) as temporary:
        temporary.write_bytes(encoded.tobytes())
    print(f"{out}: {picture.shape[1]} x {picture.shape[0]} pixels, the first column as in the photographs")


if __name__ == "__main__":
    run_command(main)

"""A sheet of training images to look at: originals in the first column, then what the network sees of them in training.

python -m preprocessing.show_augmentation --data DIR [--out FILE.jpg] [--rows N] [any setting of the augmentation]
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from common.competition import CLASS_NAMES, CLASSES, NUMBER_OF_CLASSES
from common.errors import UserError, run_command
from common.files import written_whole
from common.run_folder import CACHE
from common.settings import CommandLine, ImageSize, add_settings, chosen, setting
from preprocessing.dataset import Dataset, add_data_options, load_chosen
from preprocessing.settings import REGIONS, WHOLE, Augmentation

if TYPE_CHECKING:
    import numpy as np

CAPTION_HEIGHT, GAP = 20, 4  # pixels


@dataclasses.dataclass(frozen=True)
class Sheet:
    """What is shown."""

    rows: int = setting(10, "photographs, one behaviour after another", least=1, most=500)
    columns: int = setting(6, "augmented copies of each, as in so many epochs", least=1, most=50)
    image_size: ImageSize = setting(ImageSize(240, 320), "size that images are brought to")  # noqa: RUF009
    crop: str = setting(WHOLE, "part of the photographs that is used", choices=tuple(REGIONS))
    seed: int = setting(0, "of the choice of photographs and of the augmentation", least=0, most=2**31 - 1)


def make_sheet(data: Dataset, sheet: Sheet, augmentation: Augmentation) -> "np.ndarray":
    """Draws the sheet, uint8 RGB, of the batches that training reads, one batch for each column."""
    import numpy as np

    from preprocessing.batches import training_batches
    from preprocessing.images import ImageStore

    shuffled = data.train.sample(frac=1, random_state=sheet.seed)
    turn = shuffled.groupby("classname").cumcount()
    table = shuffled.assign(turn=turn).sort_values(["turn", "classname"]).head(sheet.rows)
    order = table.index.to_numpy()[None, :]
    paths = [data.train_path(row.img, row.classname) for row in data.train.itertuples()]
    store = ImageStore(paths, sheet.image_size, CACHE, data.fingerprint, 0, sheet.crop)
    targets = np.eye(NUMBER_OF_CLASSES, dtype=np.float32)[[CLASSES.index(name) for name in data.train["classname"]]]
    columns = []
    for epoch in range(sheet.columns + 1):
        settings = augmentation if epoch else Augmentation(augmentation=0.0)
        columns.append(next(training_batches(store, targets, order, settings, sheet.seed, epoch, 1)))
    lines = []
    for row, subject in enumerate(table["subject"]):
        captions = [caption(wanted[row]) for _, wanted in columns]
        captions[0] += f" ({subject})"
        lines.append(np.hstack([_tile(images[row], text) for (images, _), text in zip(columns, captions, strict=True)]))
    return np.vstack(lines)


def caption(target: "np.ndarray") -> str:
    """Of a target of shape (classes,): 'c3 texting - left', or 'c3 texting - left 60% + c0 safe driving 40%'."""
    parts = sorted([(float(share), name) for share, name in zip(target, CLASSES, strict=True) if share > 0.005])
    shown = [f"{name} {CLASS_NAMES[name]}" + f" {share:.0%}" * (len(parts) > 1) for share, name in reversed(parts)]
    return " + ".join(shown)


def _tile(image: "np.ndarray", text: str) -> "np.ndarray":
    """An image under its caption, which is set smaller where it would not fit."""
    import cv2

    tile = cv2.copyMakeBorder(image, CAPTION_HEIGHT, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    scale *= min(1.0, 0.95 * image.shape[1] / cv2.getTextSize(text, font, scale, 1)[0][0])
    return cv2.putText(tile, text, (3, CAPTION_HEIGHT - 6), font, scale, (30, 30, 30), 1, cv2.LINE_AA)


def main() -> None:
    parser = CommandLine(prog="python -m preprocessing.show_augmentation", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.jpg", help="the sheet [augmentation.jpg in the cache]")
    add_settings(parser, Sheet(), "sheet")
    add_settings(parser, Augmentation(), "augmentation")
    arguments = parser.parse_args()
    out = arguments.out or arguments.cache / "augmentation.jpg"
    if out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--out {out}: expected the name of a picture, .jpg or .png.")

    from preprocessing.images import encoded

    sheet, augmentation = Sheet(**chosen(arguments, Sheet)), Augmentation(**chosen(arguments, Augmentation))
    picture = make_sheet(load_chosen(arguments), sheet, augmentation)
    with written_whole(out) as temporary:
        temporary.write_bytes(encoded(picture, out.suffix.lower()))
    print(f"{out}: {picture.shape[1]} x {picture.shape[0]} pixels, the first column as in the photographs")


if __name__ == "__main__":
    run_command(main)

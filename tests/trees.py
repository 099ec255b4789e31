"""A tiny real data folder in Kaggle's layout, for tests of whole paths."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from common.competition import CLASSES, DRIVER_LIST, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER


def make_tree(
    root: Path,
    drivers: int = 4,
    images_per_class: int = 2,
    test_images: int = 6,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
) -> Path:
    """Writes `drivers` x 10 classes x `images_per_class` training JPEGs, test JPEGs of other drivers and both tables.

    A class is a bright square at its own place, a driver a background of its own, so a network can learn the classes
    and can be fooled by the drivers.

    Args:
        size: height and width in pixels.

    Returns:
        `root`.
    """
    generator = np.random.default_rng(seed)
    names = [f"img_{number}.jpg" for number in generator.permutation(drivers * 10 * images_per_class) + 1]
    rows = []
    for driver in range(drivers):
        background = scene(generator, size, 140)
        for classname in CLASSES:
            for _ in range(images_per_class):
                rows.append((f"p{driver + 11:03d}", classname, names.pop()))
                write_image(root / TRAIN_FOLDER / classname / rows[-1][2], _picture(generator, background, classname))
    pd.DataFrame(rows, columns=["subject", "classname", "img"]).to_csv(root / DRIVER_LIST, index=False)
    background = scene(generator, size, 140)
    test = [f"img_{number}.jpg" for number in generator.permutation(test_images) + 100_001]
    (root / TEST_FOLDER).mkdir(parents=True)
    for position, name in enumerate(test):
        write_image(root / TEST_FOLDER / name, _picture(generator, background, CLASSES[position % 10]))
    sample = pd.DataFrame(0.1, index=pd.Index(test, name="img"), columns=list(CLASSES))
    sample.to_csv(root / SAMPLE_SUBMISSION)
    return root


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Writes a uint8 BGR or grey image as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert encoded
    path.write_bytes(data.tobytes())


def write_noisy(path: Path, picture: np.ndarray, generator: np.random.Generator) -> None:
    """Writes a uint8 BGR image, a little brighter here and there, as JPEG."""
    write_image(path, cv2.add(picture, generator.integers(0, 20, picture.shape, dtype=np.uint8)))


def scene(generator: np.random.Generator, size: tuple[int, int] = (48, 64), brightest: int = 235) -> np.ndarray:
    """What is behind one driver: coarse patches of colour, uint8 BGR of shape (*size, 3)."""
    coarse = generator.integers(20, brightest, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _picture(generator: np.random.Generator, background: np.ndarray, classname: str) -> np.ndarray:
    """The background with noise and a bright square: five places across, two down, one for each class."""
    height, width = background.shape[:2]
    noise = generator.integers(-8, 9, background.shape)
    picture = np.clip(background.astype(int) + noise, 0, 255).astype(np.uint8)
    across, down = int(classname[1]) % 5, int(classname[1]) // 5
    top, left = height * down // 2 + height // 8, width * across // 5 + width // 40
    picture[top : top + height // 4, left : left + width // 7] = (235, 240, 250)
    return picture

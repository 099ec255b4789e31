"""The sheet of augmented images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from common.settings import ImageSize
from preprocessing import dataset
from preprocessing.images import encoded
from preprocessing.settings import Augmentation
from preprocessing.show_augmentation import CAPTION_HEIGHT, GAP, Sheet, caption, make_sheet
from tests.commands import here

SHEET = Sheet(rows=10, columns=3, image_size=ImageSize(24, 32))
TALL, WIDE = 24 + CAPTION_HEIGHT + GAP, 32 + GAP


def tiles(picture: np.ndarray) -> np.ndarray:
    """The images on a sheet: shape (rows, columns, 24, 32, 3)."""
    rows, columns = picture.shape[0] // TALL, picture.shape[1] // WIDE
    parts = picture.reshape(rows, TALL, columns, WIDE, 3).swapaxes(1, 2)
    return parts[:, :, CAPTION_HEIGHT : CAPTION_HEIGHT + 24, :32]


def test_the_command_writes_the_sheet(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "sheet.jpg"
    words = f"--data {tiny_tree()} --cache {tmp_path / 'cache'} --rows 4 --columns 2 --image-size 24x32 --mixup 0.4"
    words += " --crop upper_body"
    assert str(out) in here("preprocessing.show_augmentation", *words.split(), "--out", out).stdout
    assert cv2.imread(str(out)).shape == (4 * TALL, 3 * WIDE, 3)
    assert ".jpg or .png" in here("preprocessing.show_augmentation", *words.split(), "--out", "sheet.txt").stderr
    with pytest.raises(UserError, match=r"1 x 65,501 pixels.*\.png"):
        encoded(np.zeros((65_501, 1, 3), np.uint8))


def test_the_first_column_is_the_photographs_and_the_others_are_what_the_settings_make(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    data = dataset.load(tiny_tree(drivers=4), tmp_path / "cache")
    still = tiles(make_sheet(data, SHEET, Augmentation(augmentation=0.0)))
    assert still.shape == (10, 4, 24, 32, 3)
    for column in range(1, 4):
        np.testing.assert_array_equal(still[:, column], still[:, 0])
    moving = tiles(make_sheet(data, SHEET, Augmentation()))
    np.testing.assert_array_equal(moving[:, 0], still[:, 0])
    for one, other in ((0, 1), (1, 2), (2, 3)):
        assert not np.array_equal(moving[:, one], moving[:, other])


def test_captions_name_the_class_or_the_mixture() -> None:
    one = np.eye(10, dtype=np.float32)
    assert caption(one[3]) == "c3 texting - left"
    assert caption(0.4 * one[0] + 0.6 * one[3]) == "c3 texting - left 60% + c0 safe driving 40%"

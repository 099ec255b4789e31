"""The sheet of augmented images."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from preprocessing.images import encoded
from preprocessing.show_augmentation import CAPTION_HEIGHT, GAP, caption
from tests.commands import here

TALL, WIDE = 24 + CAPTION_HEIGHT + GAP, 32 + GAP


def tiles(picture: np.ndarray) -> np.ndarray:
    """The images on a sheet: shape (rows, columns, 24, 32, 3)."""
    rows, columns = picture.shape[0] // TALL, picture.shape[1] // WIDE
    parts = picture.reshape(rows, TALL, columns, WIDE, 3).swapaxes(1, 2)
    return parts[:, :, CAPTION_HEIGHT : CAPTION_HEIGHT + 24, :32]


def test_the_first_column_is_the_photographs_and_the_others_are_what_the_settings_make(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    words = f"--data {tiny_tree()} --cache {tmp_path / 'cache'} --rows 4 --columns 2 --image-size 24x32 --mixup 0.4"
    words += " --crop upper_body --out"
    sheets = []
    for name, strength in (("still.png", 0), ("moving.png", 1)):
        done = here("preprocessing.show_augmentation", *words.split(), tmp_path / name, "--augmentation", strength)
        assert str(tmp_path / name) in done.stdout
        sheets.append(tiles(cv2.imread(str(tmp_path / name))))
    still, moving = sheets
    assert still.shape == moving.shape == (4, 3, 24, 32, 3)
    for column in range(3):
        np.testing.assert_array_equal(still[:, column], still[:, 0])
        assert np.array_equal(moving[:, column], still[:, 0]) == (column == 0)
    assert not np.array_equal(moving[:, 1], moving[:, 2])
    assert ".jpg or .png" in here("preprocessing.show_augmentation", *words.split(), "sheet.txt").stderr
    with pytest.raises(UserError, match=r"1 x 65,501 pixels.*\.png"):
        encoded(np.zeros((65_501, 1, 3), np.uint8))


def test_captions_name_the_class_or_the_mixture() -> None:
    one = np.eye(10, dtype=np.float32)
    assert caption(one[3]) == "c3 texting - left"
    assert caption(0.4 * one[0] + 0.6 * one[3]) == "c3 texting - left 60% + c0 safe driving 40%"

"""The submission: the sample's rows in the sample's order, read back from the disk and checked before announced."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.errors import UserError, named
from common.files import check_image_names, read_rows
from common.tables import read_predictions, write_predictions
from preprocessing.dataset import SAMPLE_COLUMNS, is_image_name


def read_sample_images(path: Path) -> pd.Index:
    """The image names of the sample submission, in its order.

    Raises:
        UserError: the file is missing, lacks a column, has no rows, or an image more than once.
    """
    try:
        header, rows = read_rows(path, "the sample submission")
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found. It gives the order of the rows; get it with the competition's data."
        ) from None
    if not set(SAMPLE_COLUMNS) <= set(header):  # in any order, others besides: as the data's check takes it
        raise UserError(f"{path}: expected the columns img,c0,...,c9, found {named(header, 12)}.")
    place = header.index("img")
    images = [row[place] for row in rows]
    if not images:
        raise UserError(f"{path}: expected rows, found none.")
    check_image_names(path, images)
    refused = [repr(name) for name in images if not is_image_name(name)]
    if refused:
        raise UserError(f"{path}: expected plain file names such as img_1.jpg, found {named(refused)}.")
    return pd.Index(images, name="img", dtype="str")


def write_submission(path: Path, images: pd.Index, probabilities: np.ndarray) -> None:
    """Writes img,c0..c9 with the rows as given, then reads the file back and checks it.

    Args:
        images: names in the sample submission's order.
        probabilities: shape (images, 10), rows summing to 1.

    Raises:
        UserError: it cannot be written, or what is read back is not what was meant.
    """
    write_predictions(path, list(images), probabilities)
    check_submission(path, images)


def check_submission(path: Path, images: pd.Index) -> None:
    """Checks a submission as Kaggle would, and its order, which Kaggle would not.

    Raises:
        UserError: other columns, rows, names or order than expected; or as `read_predictions`.
    """
    table = read_predictions(path)
    with path.open(encoding="utf-8-sig", newline="") as stream:  # whose rows were just read, by the columns' names
        header = next(csv.reader(stream))
    if header != ["img", *CLASSES]:
        raise UserError(f"{path}: expected the columns img,c0,...,c9 in this order, found {named(header, 12)}.")
    if len(table) != len(images):
        raise UserError(f"{path}: expected {len(images):,} rows as in the sample submission, found {len(table):,}.")
    missing = images.difference(table.index, sort=False)
    if len(missing):
        raise UserError(
            f"{path}: expected the images of the sample submission, found {len(missing):,} missing "
            f"({named(list(missing))}) and others in their place ({named(list(table.index.difference(images)))})."
        )
    wrong = table.index != images
    if wrong.any():
        raise UserError(
            f"{path}: images not in the sample submission's order, first {table.index[wrong.argmax()]}. Blend again "
            "with --data DIR, the competition's folder, or sort the rows as in its sample_submission.csv."
        )

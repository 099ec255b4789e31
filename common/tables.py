"""Prediction tables: `img,c0,...,c9`, one row per image, rows finite and summing to 1.

They are joined by `img`, never by position. A submission has the sample's rows in the sample's order, and is read back
from the disk and checked.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.competition import CLASSES, SAMPLE_COLUMNS
from common.errors import UserError, named
from common.files import as_cell, check_image_names, is_formula, is_image_name, read_rows, written_whole
from common.metric import SMALLEST_PROBABILITY

LARGEST_SUM_ERROR = 1e-3  # every row is divided by its sum; rows further from 1 than this get a warning


def write_predictions(path: Path, images: Sequence[str], probabilities: np.ndarray) -> None:
    """Writes a prediction table, whole or not at all.

    Args:
        images: the image names, unique, one per row.
        probabilities: shape (images, 10), each row summing to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(images), len(CLASSES)) or not np.isfinite(probabilities).all():
        raise ValueError(f"expected finite probabilities of shape ({len(images)}, 10), found {probabilities.shape}")
    table = pd.DataFrame(probabilities / probabilities.sum(axis=1, keepdims=True), columns=list(CLASSES))
    table.insert(0, "img", [as_cell(name) for name in images])
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_predictions(path: Path) -> pd.DataFrame:
    """Reads a prediction table; class columns may stand in any order, they are found by name.

    Rows are divided by their sum, as the competition's metric does. A warning counts those far from 1.

    Returns:
        A frame indexed by `img` (unique strings) with the columns c0..c9, float64, rows summing to 1.

    Raises:
        UserError: not such a table; the message names the file and the first offenders.
    """
    path = Path(path)
    try:
        header, rows = read_rows(path, "a prediction table")
    except FileNotFoundError:
        raise UserError(f"{path}: no such prediction table.") from None
    if sorted(header) != sorted(("img", *CLASSES)):
        raise UserError(f"{path}: expected the columns img,c0,...,c9, found {named(header, 12)}.")
    table = pd.DataFrame(rows, columns=header, dtype=object)
    images, text = table["img"].tolist(), table[list(CLASSES)]
    check_image_names(path, images)
    formulas = [repr(name) for name in images if is_formula(name)]
    if formulas:  # they go into tables that people open in a spreadsheet
        raise UserError(f"{path}: image names that a spreadsheet would take for formulas: {named(formulas)}.")
    values = text.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"{path}: expected finite numbers of at least 0, found {text.iat[row, column]!r} for {CLASSES[column]} of "
            f"{images[row]} ({wrong.any(axis=1).sum():,} such rows). Correct the table."
        )
    with np.errstate(over="ignore"):
        sums = values.sum(axis=1)
    unusable = ~np.isfinite(sums) | (sums <= 0)
    if unusable.any():
        row = int(unusable.argmax())
        what = "only zeros" if sums[row] == 0 else "values too large to add"
        raise UserError(
            f"{path}: expected probabilities, found {what} for {images[row]} ({unusable.sum():,} such rows). "
            "Correct the table."
        )
    off = np.abs(sums - 1) > LARGEST_SUM_ERROR
    if off.any():
        row = int(off.argmax())
        print(
            f"warning: {path}: {off.sum():,} of {len(off):,} rows do not sum to 1 (the first is {images[row]}: "
            f"{sums[row]:.6g}). Each row is divided by its sum, as the competition does.",
            file=sys.stderr,
        )
    index = pd.Index(images, name="img", dtype="str")
    return pd.DataFrame(values / sums[:, None], index=index, columns=list(CLASSES))


def geometric_mean(tables: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the logarithms of several predictions of the same images, divided by its sum.

    Args:
        tables: at least one, each of shape (images, classes), rows summing to 1; zeros count as 1e-15.

    Returns:
        shape (images, classes), float64, rows summing to 1.
    """
    from scipy.special import softmax

    logarithms = np.mean([np.log(np.maximum(np.asarray(t, np.float64), SMALLEST_PROBABILITY)) for t in tables], axis=0)
    return softmax(logarithms, axis=1)


def read_sample_images(path: Path) -> pd.Index:
    """The image names of the sample submission, in its order.

    Raises:
        UserError: the file is missing, lacks a column, has no rows, an image more than once, or a name that is no
            plain file name of a JPEG.
    """
    try:
        header, rows = read_rows(path, "the sample submission")
    except FileNotFoundError:
        raise UserError(
            f"{path}: not found. It gives the order of the rows; get it with the competition's data."
        ) from None
    if not set(SAMPLE_COLUMNS) <= set(header) or not rows:  # in any order, others besides
        found = named(header, 12) or "an empty file"
        raise UserError(f"{path}: expected the columns img,c0,...,c9 and rows, found {found}, and {len(rows)} rows.")
    place = header.index("img")
    images = [row[place] for row in rows]
    check_image_names(path, images)
    refused = [repr(name) for name in images if not is_image_name(name)]
    if refused:
        raise UserError(
            f"{path}: expected plain names of JPEG files such as img_1.jpg, found {named(refused)}. Convert other "
            "formats, and change the names in the tables."
        )
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
    missing, others = images.difference(table.index, sort=False), table.index.difference(images)
    if len(missing) or len(others):
        raise UserError(
            f"{path}: expected the {len(images):,} images of the sample submission; missing: {len(missing):,} "
            f"({named(list(missing))}), others: {len(others):,} ({named(list(others))})."
        )
    wrong = table.index != images
    if wrong.any():
        raise UserError(
            f"{path}: images not in the sample submission's order, first {table.index[wrong.argmax()]}. Blend again "
            "with --data DIR, the competition's folder, or sort the rows as in its sample_submission.csv."
        )

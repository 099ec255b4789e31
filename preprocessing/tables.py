"""Prediction tables: `img,c0,...,c9`, one row per image, rows finite and summing to 1.

They are joined by `img`, never by position.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from preprocessing.competition import CLASSES
from preprocessing.errors import UserError, named
from preprocessing.files import written_whole

LARGEST_SUM_ERROR = 1e-3  # rows nearer to 1 than this are divided by their sum, others are refused


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
    table.insert(0, "img", list(images))
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_predictions(path: Path, also: Sequence[str] = ()) -> pd.DataFrame:
    """Reads a prediction table; class columns may stand in any order, they are found by name.

    Args:
        also: columns that it may have beside.

    Returns:
        A frame indexed by `img` (unique strings) with the columns c0..c9, float64, rows summing to 1, and those of
        `also` that are there, as they are.

    Raises:
        UserError: not such a table; the message names the file and the first offenders.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype={"img": str}, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such prediction table.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a prediction table: {error}") from error
    beside = [column for column in also if column in table.columns]
    if sorted(table.columns) != sorted(("img", *CLASSES, *beside)):
        found = named([str(column) for column in table.columns], 12)
        raise UserError(f"{path}: expected the columns img,c0,...,c9, found {found}.")
    images = table["img"]
    nameless = images.isna() | (images.str.strip() == "")
    if nameless.any():
        raise UserError(f"{path}: {nameless.sum():,} rows have no image name.")
    if images.duplicated().any():
        raise UserError(
            f"{path}: images that stand there more than once: {named(sorted(images[images.duplicated()]))}."
        )
    values = table[list(CLASSES)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    sums = values.sum(axis=1)
    for wrong, what in (
        (~np.isfinite(values).all(axis=1), "are not numbers"),
        ((values < 0).any(axis=1), "are negative"),
        (np.abs(sums - 1) > LARGEST_SUM_ERROR, "do not sum to 1"),
    ):
        if wrong.any():
            raise UserError(
                f"{path}: {wrong.sum():,} rows hold probabilities that {what}: {named(list(images[wrong]))}."
            )
    read = pd.DataFrame(values / sums[:, None], index=pd.Index(images, name="img"), columns=list(CLASSES))
    return read.assign(**{column: table[column].to_numpy() for column in beside})

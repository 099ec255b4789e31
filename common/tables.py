"""Prediction tables: `img,c0,...,c9`, one row per image, rows finite and summing to 1.

They are joined by `img`, never by position. A submission is in the sample's order, and is read back and checked.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.competition import CLASSES, SAMPLE_COLUMNS
from common.errors import UserError, named
from common.files import check_image_names, is_image_name, read_rows, written_whole
from common.metric import floored

LARGEST_SUM_ERROR = 1e-3  # every row is divided by its sum; rows further from 1 than this get a warning


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a table, completely or not at all, with nine significant digits, and no formula for a spreadsheet."""
    texts = table.select_dtypes(exclude="number")
    table = table.assign(**{name: [as_cell(cell) for cell in texts[name]] for name in texts})
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def write_predictions(path: Path, images: Sequence[str], probabilities: np.ndarray) -> None:
    """Writes a prediction table, completely or not at all.

    Args:
        images: the image names, unique, one per row.
        probabilities: shape (images, 10), each row summing to 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.shape != (len(images), len(CLASSES)) or not np.isfinite(probabilities).all():
        raise ValueError(f"expected finite probabilities of shape ({len(images)}, 10), found {probabilities.shape}")
    table = pd.DataFrame(probabilities / probabilities.sum(axis=1, keepdims=True), columns=list(CLASSES))
    table.insert(0, "img", list(images))
    write_table(path, table)


def read_predictions(path: Path) -> pd.DataFrame:
    """Reads a prediction table; class columns may stand in any order. A UserError names the first offenders.

    Rows are divided by their sum, as the competition's metric does. A warning counts those far from 1.

    Returns:
        A frame indexed by `img` (unique strings) with the columns c0..c9, float64, rows summing to 1; not empty.
    """
    header, rows = read_rows(path, "a prediction table")
    if sorted(header) != sorted(("img", *CLASSES)) or not rows:
        found = f"{named(header, 12) or 'an empty file'} and {len(rows)} rows"
        raise UserError(f"{path}: expected the columns img,c0,...,c9 and rows, found {found}.")
    table = pd.DataFrame(rows, columns=header, dtype=object)
    images, text = table["img"].tolist(), table[list(CLASSES)]
    check_image_names(path, images)
    if formulas := [repr(name) for name in images if as_cell(name) != name]:
        raise UserError(f"{path}: image names that a spreadsheet would take for formulas: {named(formulas)}.")
    values = text.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    with np.errstate(all="ignore"):
        sums = values.sum(axis=1)
    wrong = ~((values >= 0).all(axis=1) & np.isfinite(sums) & (sums > 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}: expected finite numbers of at least 0 that are not all 0, found {','.join(text.iloc[row])} for "
            f"{images[row]} ({wrong.sum():,} such rows). Correct the table."
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


def read_labels(path: Path, images: pd.Index | None = None, whose: str = "") -> pd.DataFrame:
    """Reads img,classname[,subject].

    Args:
        images: that must have a label; the rows are these, in this order. None for all rows of the file.
        whose: the images are, for the message.

    Returns:
        A frame indexed by img (unique) with classname (c0..c9) and, where the file has it, subject (nan where empty).

    Raises:
        UserError: not such a table, or images have no label.
    """
    header, rows = read_rows(path, "labels")
    if not {"img", "classname"} <= set(header):
        raise UserError(f"{path}: expected the columns img,classname and perhaps subject, found {named(header, 12)}.")
    table = pd.DataFrame(rows, columns=header, dtype="str")
    check_image_names(path, table["img"].tolist())
    strange = ~table["classname"].isin(CLASSES)
    if strange.any():
        raise UserError(f"{path}: expected classes c0 to c9, found others for {named(list(table['img'][strange]))}.")
    table = table.set_index("img")[["classname", *(["subject"] if "subject" in header else [])]]
    table = table.where(table != "")
    if images is None:
        return table
    unlabelled = images.difference(table.index)
    if len(unlabelled):
        raise UserError(
            f"{path}: expected a label for each of the {len(images):,} images of {whose}, found none for "
            f"{len(unlabelled):,}: {named(list(unlabelled))}."
        )
    return table.reindex(images)


def as_cell(value: object) -> object:
    """What to write into a cell of a table that people open in a spreadsheet: never a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def check_submission(path: Path, images: pd.Index) -> None:
    """Checks a submission as Kaggle would, and its order, which Kaggle would not; a fault is a UserError.

    Args:
        images: the names in the sample submission, in its order.
    """
    table = read_predictions(path)
    with path.open(encoding="utf-8-sig") as stream:
        header = stream.readline().strip()
    if header.replace('"', "") != ",".join(("img", *CLASSES)):
        raise UserError(f"{path}: expected the columns img,c0,...,c9 in this order, found {header}.")
    require_images(path, table, images, "the images of the sample submission")
    wrong = table.index != images
    if wrong.any():
        raise UserError(
            f"{path}: images not in the sample submission's order, first {table.index[wrong.argmax()]}. Blend again "
            "with --data DIR, the competition's folder, or sort the rows as in its sample_submission.csv."
        )


def require_images(path: Path, table: pd.DataFrame, images: pd.Index, what: str) -> None:
    """Raises a UserError unless the table, read from `path`, holds exactly these images, in any order."""
    missing, extra = images.difference(table.index), table.index.difference(images)
    if len(missing) or len(extra):
        found = [f"{len(missing):,} missing ({named(list(missing))})"] if len(missing) else []
        found += [f"{len(extra):,} that do not belong there ({named(list(extra))})"] if len(extra) else []
        raise UserError(f"{path}: expected exactly {what} ({len(images):,}), found {' and '.join(found)}.")


def class_numbers(classnames: pd.Series) -> np.ndarray:
    """The classes c0..c9 as integers from 0, int64 of the same shape."""
    return classnames.map(CLASSES.index).to_numpy(dtype=np.int64)


def geometric_mean(tables: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the logarithms of several predictions of the same images, divided by its sum.

    Args:
        tables: at least one, each of shape (images, classes), rows summing to 1; zeros count as 1e-15.

    Returns:
        shape (images, classes), float64, rows summing to 1.
    """
    from scipy.special import softmax

    return softmax(np.mean([np.log(floored(table)) for table in tables], axis=0), axis=1)


def read_sample_images(path: Path) -> pd.Index:
    """The image names of the sample submission, in its order: unique, and plain file names of JPEGs."""
    header, rows = read_rows(path, "the sample submission")
    if not set(SAMPLE_COLUMNS) <= set(header) or not rows:  # in any order, others besides
        found = f"{named(header, 12) or 'an empty file'} and {len(rows)} rows"
        raise UserError(f"{path}: expected the columns img,c0,...,c9 and rows, found {found}.")
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

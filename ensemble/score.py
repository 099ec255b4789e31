"""Scores a prediction table on labels: log loss and accuracy, overall, by driver and by class.

    python -m ensemble.score submissions/full.csv --labels labels.csv

The labels are a table img,classname with, if known, subject (the driver). Each image of the prediction table must be
labelled; labels of other images are left out, and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing.errors import UserError, named, run_command
from preprocessing.settings import CommandLine

if TYPE_CHECKING:
    import pandas as pd


def read_labels(path: Path) -> pd.DataFrame:
    """Reads img,classname[,subject].

    Returns:
        A frame indexed by img (unique) with classname (c0..c9) and, where the file has it, subject.

    Raises:
        UserError: not such a table.
    """
    import pandas as pd

    from preprocessing.competition import CLASSES

    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such label file.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as labels: {error}") from error
    if not {"img", "classname"} <= set(table.columns):
        found = named(list(map(str, table.columns)), 12)
        raise UserError(f"{path}: expected the columns img,classname and perhaps subject, found {found}.")
    if table["img"].isna().any():
        raise UserError(f"{path}: {int(table['img'].isna().sum()):,} rows have no image name.")
    twice = table["img"].duplicated()
    if twice.any():
        raise UserError(f"{path}: images that stand there more than once: {named(list(table['img'][twice]))}.")
    strange = ~table["classname"].isin(CLASSES)
    if strange.any():
        raise UserError(f"{path}: expected classes c0 to c9, found others for {named(list(table['img'][strange]))}.")
    columns = ["classname", "subject"] if "subject" in table.columns else ["classname"]
    return table.set_index("img")[columns]


def score_text(predictions: Path, labels: Path) -> str:
    """The scores of a prediction table as text for the terminal.

    Raises:
        UserError: one of the tables is malformed, or images of the prediction table have no label.
    """
    import numpy as np

    from ensemble.report import by_class_text, by_driver_text
    from preprocessing.competition import CLASSES
    from preprocessing.metric import accuracy, log_loss
    from preprocessing.tables import read_predictions

    table, known = read_predictions(predictions), read_labels(labels)
    unlabelled = table.index.difference(known.index)
    if len(unlabelled):
        raise UserError(
            f"{labels}: expected a label for each of the {len(table):,} images of {predictions}, "
            f"found none for {len(unlabelled):,}: {named(list(unlabelled))}."
        )
    if table.empty:
        raise UserError(f"{predictions}: expected rows, found none.")
    unused = len(known) - len(table)
    known = known.reindex(table.index)
    probabilities = table.to_numpy(dtype=np.float64)
    truth = known["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
    lines = [
        f"{predictions} on {labels}: {len(table):,} images, log loss {log_loss(probabilities, truth):.5f}, "
        f"accuracy {accuracy(probabilities, truth):.4f}"
    ]
    if unused:
        lines.append(f"{unused:,} labelled images are not in the table; they are left out.")
    if "subject" in known:
        lines += ["", by_driver_text(known["subject"].fillna("unknown").to_numpy(), probabilities, truth)]
    lines += ["", by_class_text(probabilities, truth)]
    return "\n".join(lines)


def main() -> None:
    parser = CommandLine(prog="python -m ensemble.score", description=__doc__)
    parser.add_argument("predictions", type=Path, help="a prediction table or submission: img,c0..c9")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="img,classname[,subject]")
    arguments = parser.parse_args()
    print(score_text(arguments.predictions, arguments.labels))


if __name__ == "__main__":
    run_command(main)

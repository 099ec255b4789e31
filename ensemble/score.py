"""Scores a prediction table on labels: log loss and accuracy, overall, by driver and by class.

    python -m ensemble.score submissions/full.csv --labels labels.csv

The labels are a table img,classname with, if known, subject (the driver). Each image of the prediction table must be
labelled; labels of other images are left out, and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, named, run_command
from common.settings import CommandLine

if TYPE_CHECKING:
    import pandas as pd


def read_labels(path: Path) -> pd.DataFrame:
    """Reads img,classname[,subject].

    Returns:
        A frame indexed by img (unique) with classname (c0..c9) and, where the file has it, subject (nan where empty).

    Raises:
        UserError: not such a table.
    """
    import pandas as pd

    from common.competition import CLASSES
    from common.csv_files import check_image_names, read_rows

    try:
        header, rows = read_rows(path, "labels")
    except FileNotFoundError:
        raise UserError(f"{path}: no such label file.") from None
    if not {"img", "classname"} <= set(header):
        raise UserError(f"{path}: expected the columns img,classname and perhaps subject, found {named(header, 12)}.")
    table = pd.DataFrame(rows, columns=header, dtype="str")
    check_image_names(path, table["img"].tolist())
    strange = ~table["classname"].isin(CLASSES)
    if strange.any():
        raise UserError(f"{path}: expected classes c0 to c9, found others for {named(list(table['img'][strange]))}.")
    if "subject" not in header:
        return table.set_index("img")[["classname"]]
    table["subject"] = table["subject"].where(table["subject"] != "")
    return table.set_index("img")[["classname", "subject"]]


def score_text(predictions: Path, labels: Path) -> str:
    """The scores of a prediction table as text for the terminal.

    Raises:
        UserError: one of the tables is malformed, or images of the prediction table have no label.
    """
    import numpy as np

    from common.competition import CLASSES
    from common.metric import accuracy, log_loss
    from common.tables import read_predictions
    from ensemble.score_tables import by_class, by_class_text, by_driver, by_driver_text

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
        drivers = known["subject"].fillna("unknown").to_numpy()
        lines += ["", by_driver_text(by_driver(drivers, probabilities, truth))]
    lines += ["", by_class_text(by_class(probabilities, truth))]
    return "\n".join(lines)


def main() -> None:
    parser = CommandLine(prog="python -m ensemble.score", description=__doc__)
    parser.add_argument("predictions", type=Path, help="a prediction table or submission: img,c0..c9")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="img,classname[,subject]")
    arguments = parser.parse_args()
    print(score_text(arguments.predictions, arguments.labels))


if __name__ == "__main__":
    run_command(main)

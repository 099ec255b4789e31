"""Scores predictions on labels: log loss and accuracy.

    python -m ensemble.score submissions/full.csv --labels labels.csv        overall, by driver and by class
    python -m ensemble.score --run practice --labels labels.csv              every blending method of a run

The labels are a table img,classname with, if known, subject (the driver). Each image of the predictions must be
labelled; labels of other images are left out, and counted.

With --run, blends as `ensemble.blend` does, without writing anything, and compares each method's loss out of fold with
its loss on the labelled test set. For reports, not for choosing: what is chosen by this table is no longer measured by
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, named, run_command
from common.run_folder import RUNS, RunFolder
from common.settings import CommandLine, add_settings, chosen, names_in
from ensemble.options import Options

if TYPE_CHECKING:
    import pandas as pd

    from ensemble.result import BlendResult


def read_labels(path: Path) -> pd.DataFrame:
    """Reads img,classname[,subject].

    Returns:
        A frame indexed by img (unique) with classname (c0..c9) and, where the file has it, subject (nan where empty).

    Raises:
        UserError: not such a table.
    """
    import pandas as pd

    from common.competition import CLASSES
    from common.files import check_image_names, read_rows

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
    from ensemble.report import by_class_text, by_driver_text
    from ensemble.tables import by_class, by_driver

    table, known = read_predictions(predictions), read_labels(labels)
    require_labels(labels, known, table.index, str(predictions))
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


def require_labels(path: Path, known: pd.DataFrame, images: pd.Index, whose: str) -> None:
    """Raises a UserError unless the labels, read from `path`, have all these images."""
    unlabelled = images.difference(known.index)
    if len(unlabelled):
        raise UserError(
            f"{path}: expected a label for each of the {len(images):,} images of {whose}, found none for "
            f"{len(unlabelled):,}: {named(list(unlabelled))}."
        )


def comparison(result: BlendResult, truth: pd.DataFrame) -> str:
    """Log loss of the members, of every method, and of the steps after the chosen one, as text.

    Args:
        truth: classname of each test image, in the order of `result.predictions.test_images`.
    """
    import numpy as np

    from common.competition import CLASSES
    from common.metric import accuracy, log_loss
    from ensemble.calibration import Calibration, clip
    from ensemble.tables import formatted

    predictions, final, nested = result.predictions, result.final, result.nested
    labels, known = truth["classname"].map(CLASSES.index).to_numpy(dtype=np.int64), predictions.labels
    scales = [Calibration(1 / mean.scale) for mean in predictions.fold_means]
    raw = [scale.predict(table) for scale, table in zip(scales, predictions.test, strict=True)]
    uniform = np.mean(raw, axis=0)
    rows = [
        (f"{name}, mean of its folds", log_loss(member, known), table)
        for name, member, table in zip(predictions.names, predictions.out_of_fold, raw, strict=True)
    ]
    rows.append(("uniform mean, not sharpened", log_loss(predictions.out_of_fold.mean(axis=0), known), uniform))
    for one in final.candidates:
        rows.append((one.method.name, one.cross_fitted_loss, clip(one.blend.predict(predictions.test), final.clips[0])))
    rows += [
        ("blend, nested", log_loss(nested.blend, known), clip(final.blend.predict(predictions.test), final.clips[0])),
        ("+ prior, nested", log_loss(nested.without_neighbours, known), result.test_without_neighbours),
        ("+ neighbours, nested", log_loss(nested.final, known), result.test),
    ]
    reference, cells = log_loss(uniform, labels), []
    for name, out_of_fold, test in rows:
        loss = log_loss(test, labels)
        numbers = [f"{out_of_fold:.4f}", f"{loss:.4f}", f"{loss / reference:.2f}"]
        cells.append([name, *numbers, f"{accuracy(test, labels):.1%}"])
    return formatted(["predictions", "out of fold", "test", "to the uniform mean", "accuracy"], cells)


def run_text(arguments: argparse.Namespace) -> str:
    """The scores of every blending method of a run.

    Raises:
        UserError: the run is incomplete, or test images have no label.
    """
    from common.competition import SAMPLE_SUBMISSION
    from ensemble.members import run_source
    from ensemble.result import blended
    from preprocessing.dataset import required

    known, options = read_labels(arguments.labels), Options(**chosen(arguments, Options))
    run, sample = RunFolder.of(arguments.run, arguments.runs).path, required(arguments.data) / SAMPLE_SUBMISSION
    source = run_source(run, sample, arguments.models, arguments.allow_missing, options.all_drivers)
    source.verified()
    predictions, _ = source.read()
    require_labels(arguments.labels, known, predictions.test_images, "the test set")
    truth = known.loc[list(predictions.test_images)]
    return comparison(blended(predictions, options), truth)


def main() -> None:
    parser = CommandLine(prog="python -m ensemble.score", description=__doc__)
    parser.add_argument("predictions", type=Path, nargs="?", help="a prediction table or submission: img,c0..c9")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="img,classname[,subject]")
    group = parser.add_argument_group("every blending method of a run")
    group.add_argument("--run", metavar="NAME", help="the run, instead of a prediction table")
    group.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    group.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    group.add_argument("--models", type=names_in, default=[], metavar='"A B"', help="only these of the run [all]")
    group.add_argument("--allow-missing", action="store_true", help="blend although folds are missing")
    add_settings(parser, Options(), "blending")
    arguments = parser.parse_args()
    if (arguments.predictions is None) == (arguments.run is None):
        raise UserError("expected either a prediction table or --run NAME.")
    print(run_text(arguments) if arguments.run else score_text(arguments.predictions, arguments.labels))


if __name__ == "__main__":
    run_command(main)

"""How each way to blend a run does on a test set whose labels are known, beside its loss out of fold.

    python -m ensemble.judge --run practice --labels labels.csv

For reports, not for choosing: what is chosen by this table is no longer measured by it. Blends as `ensemble.blend`
does, without writing anything. "Out of fold" is cross-fitted, or nested where a choice is followed by another. Where
the labels name the drivers, it says too whether each model's single networks do alike on held-out and on test drivers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, named, run_command
from common.run_folder import RUNS, run_folder
from common.settings import CommandLine, add_settings, chosen, names_in
from ensemble.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ensemble.members import Predictions
    from ensemble.outcome import Outcome


def make_parser() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m ensemble.judge", description=__doc__)
    parser.add_argument("--run", default="full", metavar="NAME", help="the run to blend [full]")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    parser.add_argument("--models", type=names_in, default=[], metavar='"A B"', help="only these of the run [all]")
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="img,classname[,subject]")
    add_settings(parser, Options(), "blending", without=("figures",))
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run = run_folder(arguments.run, arguments.runs)
    models = tuple(arguments.models)

    from common.competition import SAMPLE_SUBMISSION
    from common.finished import require_whole
    from ensemble.outcome import outcome_of
    from ensemble.score import read_labels
    from ensemble.stage import Request, run_source
    from preprocessing.dataset import required

    known = read_labels(arguments.labels)
    options = Options(**chosen(arguments, Options))
    sample = required(arguments.data) / SAMPLE_SUBMISSION
    source = run_source(Request(run, sample, Path(), models, arguments.allow_missing, options))
    for path in source.inputs.values():
        require_whole(path)
    predictions, _ = source.read()
    unlabelled = [img for img in predictions.test_images if img not in known.index]
    if unlabelled:
        raise UserError(
            f"{arguments.labels}: expected a label for each of the {len(predictions.test_images):,} test images, found "
            f"none for {len(unlabelled):,}: {named(unlabelled)}."
        )
    outcome, truth = outcome_of(predictions, options), known.loc[list(predictions.test_images)]
    print(as_text(judged(outcome, truth)))
    if "subject" in truth and truth["subject"].nunique(dropna=False) > 1:
        print("\n" + agreement_of_networks(predictions, truth, list(source.inputs.values())))


def judged(outcome: Outcome, truth: pd.DataFrame) -> pd.DataFrame:
    """Log loss of the members, of every way, and of what follows the one that was chosen.

    Args:
        truth: classname of each test image, in the order of `outcome.predictions.test_images`.

    Returns:
        A frame way,out_of_fold,test,accuracy; accuracy is on the test set, 0 to 1.
    """
    import numpy as np
    import pandas as pd

    from common.competition import CLASSES
    from common.metric import accuracy, log_loss
    from ensemble.calibration import Calibration

    predictions, rows = outcome.predictions, []
    labels = truth["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)

    def add(name: str, out_of_fold: float, test: np.ndarray) -> None:
        rows.append((name, out_of_fold, log_loss(test, labels), accuracy(test, labels)))

    raw = np.stack(
        [
            Calibration(1 / mean.scale).predict(table)
            for mean, table in zip(predictions.fold_means, predictions.test, strict=True)
        ]
    )
    for name, member, table in zip(predictions.names, predictions.out_of_fold, raw, strict=True):
        add(f"{name}, mean of its folds", log_loss(member, predictions.labels), table)
    add(
        "uniform mean, means of folds as they come",
        log_loss(predictions.out_of_fold.mean(axis=0), predictions.labels),
        raw.mean(axis=0),
    )
    for one in outcome.choice.judged:
        add(one.name, one.cross_fitted_loss, one.blend.predict(predictions.test))
    winner = outcome.choice.winner
    add(f"chosen: {winner.name}, means of folds as they come", winner.cross_fitted_loss, winner.blend.predict(raw))
    add(f"chosen: {winner.name}", winner.cross_fitted_loss, winner.blend.predict(predictions.test))
    nested = outcome.nested
    add("+ prior, nested", log_loss(nested.plain, predictions.labels), outcome.test_plain)
    add("+ neighbours, nested", log_loss(nested.final, predictions.labels), outcome.test)
    return pd.DataFrame(rows, columns=["way", "out_of_fold", "test", "accuracy"])


def agreement_of_networks(predictions: Predictions, truth: pd.DataFrame, inputs: Sequence[Path]) -> str:
    """What each member's networks of the folds that are judged do alone, out of fold and on the test set, as text.

    Args:
        truth: classname and subject of each test image, in the order of `predictions.test_images`.
        inputs: the files that the predictions were read from, among them runs/NAME/MODEL/fold_K/test.csv.
    """
    import numpy as np

    from common.competition import CLASSES
    from common.metric import log_loss_per_image
    from common.tables import read_predictions
    from ensemble.agreement import agreement, agreement_text
    from ensemble.members import TEST, aligned

    labels = truth["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
    drivers, test_drivers = predictions.images["subject"].to_numpy(), truth["subject"].fillna("unknown").to_numpy()
    judged_folds = {f"fold_{fold}" for fold in predictions.images["fold"].unique()}
    rows = []
    for name, table in zip(predictions.names, predictions.out_of_fold, strict=True):
        folders = [path.parent for path in inputs if path.name == TEST and path.parts[-3] == name]
        tests = [
            log_loss_per_image(aligned(read_predictions(folder / TEST), predictions.test_images), labels)
            for folder in folders
            if folder.name in judged_folds
        ]
        rows.append(agreement(name, log_loss_per_image(table, predictions.labels), drivers, tests, test_drivers))
    return agreement_text(rows, len(np.unique(drivers)), len(np.unique(test_drivers)))


def as_text(table: pd.DataFrame) -> str:
    """The frame of `judged` for the terminal; the ratio is to the uniform mean on the test set."""
    from ensemble.score_tables import formatted

    uniform = float(table.loc[table["way"].str.startswith("uniform mean"), "test"].iloc[0])
    rows = [
        [row.way, f"{row.out_of_fold:.4f}", f"{row.test:.4f}", f"{row.test / uniform:.2f}", f"{row.accuracy:.1%}"]
        for row in table.itertuples(index=False)
    ]
    return formatted(["way to blend", "out of fold", "test", "to the uniform mean", "accuracy"], rows)


if __name__ == "__main__":
    run_command(main)

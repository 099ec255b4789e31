"""Scores predictions on labels: log loss and accuracy.

    python -m ensemble.score submissions/full.csv --labels labels.csv        overall, by driver and by class
    python -m ensemble.score --run practice --labels labels.csv              every blending method of a run

The labels are a table img,classname with, if known, subject (the driver). Each image of the predictions must be
labelled; labels of other images are left out.

With --run, blends as `ensemble.blend` does, without writing anything, and compares each method's loss out of fold with
its loss on the labelled test set. For reports, not for choosing: what is chosen by this table is no longer measured by
it.
"""

from pathlib import Path

from common.errors import UserError, run_command
from common.run_folder import RunFolder
from common.settings import CommandLine, chosen
from ensemble import Options
from ensemble.blend import Request, add_run_options


def comparison(request: Request, labels: Path) -> str:
    """Log loss of the members of a run, of every method, and of the steps after the chosen one, as text."""
    import numpy as np

    from common.metric import accuracy, log_loss
    from common.tables import class_numbers, read_labels
    from ensemble.calibration import Calibration, clip
    from ensemble.report import formatted
    from ensemble.result import blended

    source = request.source()
    source.verified()
    predictions, _ = source.read()
    truth = class_numbers(read_labels(labels, predictions.test_images, "the test set")["classname"])
    result = blended(predictions, request.options)
    final, nested, known = result.final, result.nested, predictions.labels
    smallest = final.clips[0]
    sharp = zip(predictions.scales, predictions.test, strict=True)
    raw = [Calibration(1 / scale).predict(table) for scale, table in sharp]
    uniform = np.mean(raw, axis=0)

    members = zip(predictions.names, predictions.out_of_fold, raw, strict=True)
    rows = [(f"{name}, mean of its folds", log_loss(member, known), table) for name, member, table in members]
    rows.append(("uniform mean, not sharpened", log_loss(predictions.out_of_fold.mean(axis=0), known), uniform))
    rows += [
        (one.method.name, one.cross_fitted_loss, clip(one.blend.predict(predictions.test), smallest))
        for one in final.candidates
    ]
    rows += [
        (f"{'+ ' * (step != 'blend')}{step}, nested", log_loss(table, known), result.test_steps[step])
        for step, table in nested.steps.items()
    ]
    reference, cells = log_loss(uniform, truth), []
    for name, out_of_fold, test in rows:
        loss = log_loss(test, truth)
        numbers = [f"{out_of_fold:.4f}", f"{loss:.4f}", f"{loss / reference:.2f}"]
        cells.append([name, *numbers, f"{accuracy(test, truth):.1%}"])
    return formatted(["predictions", "out of fold", "test", "to the uniform mean", "accuracy"], cells)


def main() -> None:
    parser = CommandLine(prog="python -m ensemble.score", description=__doc__)
    parser.add_argument("predictions", type=Path, nargs="?", help="a prediction table or submission: img,c0..c9")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="img,classname[,subject]")
    parser.add_argument("--run", metavar="NAME", help="every blending method of this run, instead of a table")
    add_run_options(parser)
    arguments = parser.parse_args()
    if (arguments.predictions is None) == (arguments.run is None):
        raise UserError("expected either a prediction table or --run NAME.")
    if not arguments.run:
        from ensemble.report import score_text

        print(score_text(arguments.predictions, arguments.labels))
        return
    from common.competition import SAMPLE_SUBMISSION
    from preprocessing.dataset import required

    run, sample = RunFolder.existing(arguments.run, arguments.runs).path, required(arguments.data) / SAMPLE_SUBMISSION
    models, options = tuple(arguments.models), Options(**chosen(arguments, Options))
    print(comparison(Request(run, sample, Path(), models, arguments.allow_missing, options), arguments.labels))


if __name__ == "__main__":
    run_command(main)

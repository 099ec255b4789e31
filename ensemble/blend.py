"""Blends the finished models of a run, or prediction tables from anywhere, into a submission.

    python -m ensemble.blend --run full
    python -m ensemble.blend --run full --models "vgg16 inception_v3" --no-neighbours
    python -m ensemble.blend --predictions A.csv B.csv --labels labels.csv --test-predictions A_test.csv B_test.csv

Reads the photographs, by which drivers are recognised and their frames compared, runs/NAME/folds.csv and
runs/NAME/MODEL/fold_K/{out_of_fold,test}{.csv,_features.npy}; or, with --predictions, those tables, whose rows are of
images that the models were not trained on. Compares blending methods (weights, pooling, calibration) on drivers that
they were not fitted on and takes the simplest that is not clearly worse than the best. Where it helps, matches each
driver's mix of classes, clusters each driver's frames and smooths over neighbouring ones; clips. Writes
runs/NAME/ensemble/ (report.txt, blend.json, tables) and submissions/NAME.csv. With unchanged inputs a second start does
nothing.

The rows of the submission are in the order of the sample submission. With --predictions and without --data they keep
the order of the first test table.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.errors import UserError, run_command
from common.files import locked, read_record, sha256_of, write_json, write_text
from common.run_folder import RUNS, SUBMISSIONS, RunFolder
from common.settings import CommandLine, add_settings, as_json, chosen, names_in
from ensemble import Options

if TYPE_CHECKING:
    from ensemble.members import LooseTables, Source
    from ensemble.result import BlendResult

RECORD, REPORT = "blend.json", "report.txt"  # the record is written last
OF_TABLES = ("test_predictions", "features", "test_features", "folds")
OF_RUNS = ("models", "allow_missing", "all_drivers")


@dataclass(frozen=True)
class Request:
    """What to blend and where to write it.

    Attributes:
        run: runs/NAME.
        sample: the sample submission, which gives the order of the rows; loose tables may be without.
        submission: the file to write, where there are test predictions.
        models: the members; every model of the run where empty.
        allow_missing: blend although folds are missing.
        loose: tables from anywhere instead of the models of the run.
    """

    run: Path
    sample: Path | None
    submission: Path
    models: tuple[str, ...] = ()
    allow_missing: bool = False
    options: Options = field(default_factory=Options)
    loose: LooseTables | None = None

    def source(self) -> Source:
        """Where the predictions come from; a UserError where there are none, or some are missing."""
        from ensemble.members import run_source

        if self.loose is not None:
            return self.loose.source(self.sample)
        return run_source(self.run, cast(Path, self.sample), self.models, self.allow_missing, self.options.all_drivers)


def blend_run(request: Request) -> str:
    """Blends and writes everything, unless that has been done. Returns the report, for the terminal.

    Raises:
        UserError: an input is missing or malformed, or an output cannot be written.
    """
    from ensemble.members import stamps
    from ensemble.report import report, tables_of
    from ensemble.result import blended

    source, folder = request.source(), request.run / "ensemble"
    target = str(request.submission.resolve()) if source.has_test else None
    identity = {"code": code_version(), "options": as_json(request.options), "submission": target, **source.identity}
    if is_done(folder / RECORD, identity, source.inputs):
        return (folder / REPORT).read_text(encoding="utf-8") + "\nunchanged since the last blend: nothing to do\n"
    with locked(request.run / ".ensemble.lock", f"{folder} is being written", wait=True):
        inputs = source.verified()
        predictions, remarks = source.read()
        result = blended(predictions, request.options)
        tables = tables_of(result)
        text = report(request.run.name, request.options, result, tables, remarks)
        outputs = _write(request, result, tables)
        write_text(folder / REPORT, text)
        outputs[REPORT] = folder / REPORT
        files = {"inputs": inputs, "outputs": stamps(outputs)}
        write_json(folder / RECORD, identity | result.as_json() | {"remarks": remarks} | files)
    return text


def _write(request: Request, result: BlendResult, tables: Mapping[str, Any]) -> dict[str, Path]:
    """Writes the tables and the submission; returns them by their names in the record."""
    from common.tables import check_submission, write_predictions, write_table

    folder, predictions = request.run / "ensemble", result.predictions
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    images, test_images = predictions.images["img"], predictions.test_images
    predicted = {"out_of_fold": (images, result.nested.final)}
    if len(test_images):
        predicted["test"] = (test_images, result.test)
    for name, (rows, probabilities) in predicted.items():
        write_predictions(folder / f"{name}.csv", list(rows), probabilities)
    outputs = {f"{name}.csv": folder / f"{name}.csv" for name in (*tables, *predicted)}
    if len(test_images):
        write_predictions(request.submission, list(test_images), result.test)
        check_submission(request.submission, test_images)
        outputs[str(request.submission.resolve())] = request.submission
    return outputs


def code_version() -> str:
    """SHA-256 of the sources that decide a blend: another version of them blends again."""
    own = Path(__file__).parent
    names = "common/metric.py", "common/tables.py", "preprocessing/same_driver.py", "preprocessing/images.py"
    others = [own.parent / name for name in names]
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*sorted(own.glob("*.py")), *others])).hexdigest()


def is_done(record: Path, identity: Mapping[str, Any], inputs: Mapping[str, Path]) -> bool:
    """Whether the record is of this blend, of inputs with the same size and time of change, and its outputs intact."""
    try:
        earlier = read_record(record)
        stamps, outputs = earlier["inputs"], earlier["outputs"]
        if any(earlier.get(name) != value for name, value in identity.items()) or set(stamps) != set(inputs):
            return False
        for name, path in inputs.items():
            status = path.stat()
            if (status.st_size, status.st_mtime_ns) != (stamps[name]["size"], stamps[name]["mtime_ns"]):
                return False
        intact = all(sha256_of(record.parent / name) == stamp["sha256"] for name, stamp in outputs.items())
        return REPORT in outputs and intact
    except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def add_run_options(parser: CommandLine) -> None:
    """The options that say which models of a run are blended, and how."""
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    data = "the competition's folder: photographs, order of rows [found by itself]"
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    parser.add_argument("--models", type=names_in, default=[], metavar='"A B"', help="only these of the run [all]")
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    add_settings(parser, Options(), "blending")


def main() -> None:
    from common.competition import SAMPLE_SUBMISSION
    from preprocessing.dataset import required

    parser = CommandLine(prog="python -m ensemble.blend", description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="the run to blend, or to name the outputs by [full; tables]")
    parser.add_argument("--submissions", type=Path, metavar="DIR", help="where the submission goes [submissions]")
    labels = "score the submission on these: img,classname[,subject]"
    parser.add_argument("--labels", type=Path, metavar="FILE", help=labels)
    add_run_options(parser)
    group = parser.add_argument_group("tables from anywhere, in one order of models; no run folder is read")
    several: dict[str, Any] = {"type": Path, "nargs": "+", "metavar": "FILE", "default": []}
    group.add_argument("--predictions", help="img,c0..c9, out of fold, of the images of --labels", **several)
    group.add_argument("--test-predictions", help="img,c0..c9 of the images to predict", **several)
    group.add_argument("--features", help=".npy with rows as in --predictions, for neighbours", **several)
    group.add_argument("--test-features", help=".npy with rows as in --test-predictions", **several)
    group.add_argument("--folds", type=Path, metavar="FILE", help="img,subject,classname,fold [by --labels' subject]")
    arguments = parser.parse_args()
    if arguments.predictions and arguments.labels is None:
        raise UserError("--predictions: expected --labels FILE with it: img,classname[,subject].")
    for option in OF_RUNS if arguments.predictions else OF_TABLES:
        if getattr(arguments, option, None):
            what = "a run's models; leave it out with" if arguments.predictions else "tables, which are named by"
            raise UserError(f"--{option.replace('_', '-')} is for {what} --predictions.")
    name = arguments.run or ("tables" if arguments.predictions else "full")
    run = (RunFolder.of if arguments.predictions else RunFolder.existing)(name, arguments.runs).path
    submission = (arguments.submissions or SUBMISSIONS) / f"{name}.csv"
    sample = None
    if arguments.data is not None or not arguments.predictions:
        sample = required(arguments.data) / SAMPLE_SUBMISSION
    if arguments.labels is not None:
        from common.tables import read_labels, read_sample_images

        images = None if arguments.predictions else read_sample_images(cast(Path, sample))
        read_labels(arguments.labels, images, "the test set")  # a mistake is reported before the work

    loose = None
    if arguments.predictions:
        from ensemble.members import LooseTables

        files = (arguments.predictions, arguments.test_predictions, arguments.features, arguments.test_features)
        loose = LooseTables(arguments.labels, arguments.folds, *map(tuple, files))
    options = Options(**chosen(arguments, Options))
    request = Request(run, sample, submission, tuple(arguments.models), arguments.allow_missing, options, loose)
    print(blend_run(request))
    if arguments.labels is not None and not loose:
        from ensemble.report import score_text

        print(score_text(submission, arguments.labels), end="\n\n")
    print(shown(submission if not loose or loose.test_predictions else run / "ensemble"))


def shown(path: Path) -> str:
    """The path, relative to the current folder where it is in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    run_command(main)

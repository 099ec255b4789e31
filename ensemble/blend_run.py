"""Blends a run, or tables from anywhere, and writes everything: the tables, the record, the submission.

The record, blend.json, is written last. With the same code, options and inputs, and intact outputs, a second start does
nothing. An input is the same while its size and time of change are; where only the time differs, its SHA-256 decides.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from common import locks, metric, prior
from common.errors import UserError
from common.files import as_cell, read_json, sha256_of, write_json, write_text, written_whole
from common.settings import as_json
from common.tables import write_predictions, write_submission
from ensemble.loose_tables import LooseTables
from ensemble.members import Source, run_source, stamps
from ensemble.options import Options
from ensemble.report import report
from ensemble.result import BlendResult, blended
from ensemble.tables import tables_of
from preprocessing import same_driver

RECORD, REPORT = "blend.json", "report.txt"
TABLES = (
    *("scores", "methods", "by_driver", "by_class", "confusion"),
    *("correlation", "members", "costliest", "reliability", "reliability_of_models"),
)
OUT_OF_FOLD = ("out_of_fold.csv", "out_of_fold_without_neighbours.csv")
TEST = ("test.csv", "test_without_neighbours.csv")


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

    @property
    def folder(self) -> Path:
        """Where everything but the submission goes."""
        return self.run / "ensemble"

    def source(self) -> Source:
        """Where the predictions come from.

        Raises:
            UserError: there are none, or some are missing.
        """
        if self.loose is not None:
            return self.loose.source(self.sample)
        if self.sample is None:
            raise ValueError("expected the sample submission: only loose tables may be without")
        return run_source(self.run, self.sample, self.models, self.allow_missing, self.options.all_drivers)

    def outputs(self, has_test: bool) -> dict[str, Path]:
        """Every file that is written before the record, by its name there."""
        names = [*(f"{name}.csv" for name in TABLES), *OUT_OF_FOLD, REPORT]
        names += TEST if has_test else ()
        outputs = {name: self.folder / name for name in names}
        return outputs | ({str(self.submission.resolve()): self.submission} if has_test else {})


def blend_run(request: Request) -> str:
    """Blends and writes everything, unless that has been done.

    Returns:
        The report, for the terminal.

    Raises:
        UserError: an input is missing or malformed, or an output cannot be written.
    """
    source, folder = request.source(), request.folder
    outputs = request.outputs(source.has_test)
    identity = {"code": code_version(), "options": as_json(request.options), **source.identity}
    if is_done(folder / RECORD, identity, source.inputs, outputs):
        return (folder / REPORT).read_text(encoding="utf-8") + "\nunchanged since the last blend: nothing to do\n"
    with locks.held(request.run / ".ensemble.lock", f"{folder} is being written", wait=True):
        inputs = source.verified()
        predictions, remarks = source.read()
        result = blended(predictions, request.options)
        tables = tables_of(result)
        text = report(request.run.name, request.options, result, tables, remarks)
        _write(request, result, tables, text)
        files = {"inputs": inputs, "outputs": stamps(outputs)}
        write_json(folder / RECORD, identity | result.as_json() | {"remarks": remarks} | files)
    return text


def _write(request: Request, result: BlendResult, tables: Mapping[str, pd.DataFrame], text: str) -> None:
    """Writes every output but the record."""
    folder, predictions, nested = request.folder, result.predictions, result.nested
    for name in TABLES:
        with written_whole(folder / f"{name}.csv") as temporary:
            safe = tables[name].map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell)
            safe.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")
    for name, table in zip(OUT_OF_FOLD, (nested.final, nested.without_neighbours), strict=True):
        write_predictions(folder / name, list(predictions.images["img"]), table)
    if len(predictions.test_images):
        for name, table in zip(TEST, (result.test, result.test_without_neighbours), strict=True):
            write_predictions(folder / name, list(predictions.test_images), table)
        write_submission(request.submission, predictions.test_images, result.test)
    write_text(folder / REPORT, text)


def code_version() -> str:
    """SHA-256 of the sources that decide a blend: another version of them blends again."""
    digest = hashlib.sha256()
    others = [Path(str(module.__file__)) for module in (metric, prior, same_driver)]
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *others]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_done(record: Path, identity: Mapping[str, Any], inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> bool:
    """Whether the record is of this blend, from these inputs, and its outputs are intact."""
    try:
        earlier = read_json(record)
    except UserError:
        return False
    if not isinstance(earlier, dict) or any(earlier.get(name) != value for name, value in identity.items()):
        return False
    return _unchanged(earlier.get("inputs"), inputs) and _unchanged(earlier.get("outputs"), outputs, read=True)


def _unchanged(recorded: Any, paths: Mapping[str, Path], read: bool = False) -> bool:
    """Whether `recorded`, as `stamps` made it, has exactly these names, and the files are the same.

    Args:
        read: compare the content even where size and time of change are the same.
    """
    if not isinstance(recorded, dict) or set(recorded) != set(paths):
        return False
    for name, path in paths.items():
        stamp = recorded[name]
        if not isinstance(stamp, dict) or not path.is_file() or path.stat().st_size != stamp.get("size"):
            return False
        same_time = path.stat().st_mtime_ns == stamp.get("mtime_ns")
        if (read or not same_time) and sha256_of(path) != stamp.get("sha256"):
            return False
    return True

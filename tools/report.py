"""Writes runs/NAME/report.html: what came of a run, on one page that needs no other file and no network.

    python -m tools.report --run full
    python -m tools.report --run full --no-photographs        to pass on: the photographs are the competition's

Reads the run's folder, and the photographs of the costliest images. An unchanged report is not written again.
"""

import hashlib
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.competition import CLASS_NAMES, CLASSES, COMPLETE_TRAIN_IMAGES
from common.errors import UserError, run_command
from common.files import read_record, sha256_of, write_text
from common.run_folder import RUNS, RunFolder
from common.settings import CommandLine

PAGE, PART = "report.html.jinja", "report_part.html.jinja"
PARTS = {
    **{"headline": "Headline", "sound": "Is it sound?", "models": "Models", "blend": "Blend"},
    **{"fails": "Where it fails", "made": "How it was made"},
}
MOST_RUNS = 6  # side by side
MOST_CORRELATED = 20  # models of the table of correlations
SETS = {"out of fold": "out_of_fold", "test set": "test"}


@dataclass(frozen=True)
class Request:
    """What to report on.

    Attributes:
        run: with a finished blend.
        data: the competition's folder, for the photographs; as the models were trained with where None.
        labels: of the test images: img,classname.
        photographs: whether the costliest images are shown.
    """

    run: RunFolder
    data: Path | None = None
    labels: Path | None = None
    photographs: bool = True

    @property
    def path(self) -> Path:
        """The report."""
        return self.run.path / "report.html"


def write_report(request: Request) -> Path:
    """Writes the report, unless it is there and nothing has changed; returns its path.

    Raises:
        UserError: the run has no blend yet, or a file of it cannot be read.
    """
    path, stamp = request.path, _stamp([request])
    if not (path.is_file() and f'content="{stamp}"' in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        _write(path, [request], stamp)
    return path


def write_comparison(path: Path, requests: Sequence[Request], compared: Mapping[str, Any]) -> None:
    """Writes a page with the reports of several runs side by side.

    Args:
        compared: `headers` and `rows` of a table of all models, and `remarks`.

    Raises:
        UserError: too many runs, a run has no blend yet, or a file of it cannot be read.
    """
    if len(requests) > MOST_RUNS:
        raise UserError(f"--html: expected at most {MOST_RUNS} runs side by side, found {len(requests)}. Name fewer.")
    _write(path, requests, _stamp(requests), compared)


def _write(path: Path, requests: Sequence[Request], stamp: str, compared: Mapping[str, Any] | None = None) -> None:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = _number
    template, runs = environment.get_template(PART), []
    for number, request in enumerate(requests):
        context = _context(request, f"run{number}-" if compared else "")
        html = {part: template.render(context, part=part) for part in PARTS}
        runs.append({"run": context["run"], "size": context["size"], "html": html})
        title = f"{request.run.name}: log loss {_number(context['record']['nested_log_loss'])}"
    title = " against ".join(request.run.name for request in requests) if compared else title
    page = environment.get_template(PAGE)
    write_text(path, page.render(runs=runs, parts=PARTS, title=title, stamp=stamp, compared=compared))


def _stamp(requests: Sequence[Request]) -> str:
    """SHA-256 of what the report is made of.

    Raises:
        UserError: a run has no blend yet.
    """
    from ensemble.blend_run import RECORD

    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("report*.*"))))
    for request in requests:
        run, labels = request.run, request.labels
        if not (run.ensemble / RECORD).is_file():
            raise UserError(
                f"{run.path}: expected a blend, which the report is about, found none. Finish the run, or blend what "
                f"is there: python -m ensemble.blend --run {run.name} --allow-missing"
            )
        finished = [f"{folder} {folder.is_finished()}" for folder in run.fold_folders()]
        sums = [sha256_of(path) for path in (run.ensemble / RECORD, run.durations, labels) if path and path.is_file()]
        digest.update(str([run.name, request.photographs, _data_folder(request), labels, sums, finished]).encode())
    return digest.hexdigest()


def _data_folder(request: Request) -> Path | None:
    if request.data is not None:
        return request.data
    for model in request.run.models():
        if request.run.job_file(model).is_file():
            folder = Path(str(read_record(request.run.job_file(model)).get("data", "")))
            return folder if folder.is_dir() else None
    return None


def _context(request: Request, prefix: str) -> dict[str, Any]:
    """What the templates get of a run.

    Args:
        prefix: of the ids in its parts, where there are several runs.
    """
    from ensemble.blend_run import RECORD
    from ensemble.expectation import place_among_published
    from ensemble.tables import FITTED
    from preprocessing.demo import is_demo
    from preprocessing.folds import read_folds
    from tools import report_parts as parts
    from tools.report_charts import charts_of

    run, data = request.run, _data_folder(request)
    record = read_record(run.ensemble / RECORD)
    tables = {path.stem: _table(path) for path in sorted(run.ensemble.glob("*.csv"))}
    for name in ("by_class", "by_driver"):
        losses = tables[name]["images"] * tables[name]["log_loss"]
        tables[name]["share"] = losses / max(losses.sum(), 1e-300)
    folds = read_folds(run.folds) if run.folds.is_file() else None
    finished = [one for one in run.finished() if one.model in record["weights"] and isinstance(one.fold, int)]
    score = parts.score(request.labels, tables["test"]) if request.labels and "test" in tables else None
    scores = tables["scores"]
    sets = {name: table for name, table in SETS.items() if table in tables}
    count = len(record["weights"])
    size = f"{record['images']:,} images of {record['drivers']} drivers out of fold, {record['test_images']:,} test"
    context: dict[str, Any] = {
        "run": run.name,
        "prefix": prefix,
        "size": f"{count} model{'s' * (count > 1)}, {size} images",
        "record": record,
        "complete_images": COMPLETE_TRAIN_IMAGES,
        "score": score,
        "submission": parts.submission_of(record),
        "classes": CLASS_NAMES,
        "folds": sorted({str(fold) for fold in scores["fold"] if fold != "all"}, key=int),
        "scores": [
            {**row, "by_fold": dict(scores[scores["name"] == row["name"]][["fold", "log_loss"]].to_numpy())}
            for row in scores[scores["fold"] == "all"].to_dict("records")
        ],
        "fold_table": folds,
        "missing": parts.missing(run, record, folds),
        "leak": parts.leak(finished),
        "sets": sets,
        "confidence": [float(tables[table][list(CLASSES)].max(axis=1).mean()) for table in sets.values()],
        **{name: tables[name].to_dict("records") for name in ("members", "methods", "by_class", "by_driver")},
        "correlation": tables["correlation"].iloc[:MOST_CORRELATED, : MOST_CORRELATED + 1].to_dict("records"),
        "confusion": tables["confusion"][list(CLASSES)].to_numpy().tolist(),
        "costliest": parts.costliest_images(tables, data if request.photographs else None),
        "photographs": request.photographs,
        "rendered": data is not None and is_demo(data),
        "place": place_among_published(record["nested_log_loss"]),
        "findings": parts.findings(tables, record),
        "made": parts.training(run, sorted({one.model for one in finished})),
        "started_again": parts.started_again(run),
        "blend_options": shlex.join(parts.blend_options(record)),
        "fitted": FITTED,
    }
    context["charts"] = charts_of(context, tables, finished)
    return context


def _number(value: Any, digits: int = 3) -> str:
    """A number with so many decimals; 'n/a' where it is none."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "n/a"
    return f"{value:.{digits}f}"


def _table(path: Path) -> Any:
    """A table of a blend; only numbers may be missing.

    Raises:
        UserError: it cannot be read.
    """
    import pandas as pd

    text = ("fold", "name", "img", "subject", "method", "taken_for")
    empty = {name: ["", "inf"] for name in ("behind", "standard_error", "without", "adds")}
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(text, "str"), keep_default_na=False, na_values=empty)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected a table of the blend ({error}). Delete it, and blend the run again."
        ) from error


def main() -> None:
    parser = CommandLine(prog="python -m tools.report", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="the run, whose blend is finished")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [as it was trained with]")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the test images' classes: img,classname")
    parser.add_argument(
        "--no-photographs", dest="photographs", action="store_false", help="file names instead of photographs"
    )
    arguments = parser.parse_args()
    run = RunFolder.existing(arguments.run, arguments.runs)
    print(write_report(Request(run, arguments.data, arguments.labels, arguments.photographs)))


if __name__ == "__main__":
    run_command(main)

"""Writes runs/NAME/report.html: what came of a run, on one page that needs no other file and no network.

    python -m tools.report --run full
    python -m tools.report --run full --no-photographs        to pass on: the photographs are the competition's

Reads the run's folder, and the photographs of the costliest images. An unchanged report is not written again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.competition import CLASS_NAMES, CLASSES, COMPLETE_TRAIN_IMAGES, TRAIN_FOLDER
from common.errors import UserError, run_command
from common.files import read_record, sha256_of, write_text
from common.run_folder import OUT_OF_FOLD, OUT_OF_FOLD_FEATURES, RUNS, FoldFolder, RunFolder
from common.settings import CommandLine, as_options

if TYPE_CHECKING:
    import pandas as pd

PAGE, PART = "report.html.jinja", "report_part.html.jinja"
PARTS = {
    **{"headline": "Headline", "sound": "Is it sound?", "models": "Models", "blend": "Blend"},
    **{"fails": "Where it fails", "made": "How it was made"},
}
MOST_RUNS = 6  # side by side
MOST_CORRELATED = 20  # models of the table of correlations
SETS = {"out of fold": "out_of_fold", "test set": "test"}
THUMBNAILS, THUMBNAIL_SIZE = 24, (240, 180)
LEAK_IMAGES, LEAK_COMPONENTS, LEAK_PARTS = 3000, 128, 3  # enough to see the leak in seconds
LOST = {"crashed": "was killed or ran out of memory", "lost": "was on a machine that was lost"}


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
    def data_folder(self) -> Path | None:
        """`data`, or what the models were trained with."""
        files = [self.run.job_file(model) for model in self.run.models()]
        found = [Path(str(read_record(file).get("data", ""))) for file in files if file.is_file()][:1]
        return self.data or next((folder for folder in found if folder.is_dir()), None)


def write_report(request: Request) -> Path:
    """Writes the report, unless it is there and nothing has changed; returns its path."""
    path, stamp = request.run.path / "report.html", _stamp([request])
    if not (path.is_file() and f'content="{stamp}"' in path.read_text(encoding="utf-8", errors="replace")[:2000]):
        _write(path, [request], stamp)
    return path


def write_comparison(path: Path, requests: Sequence[Request], compared: Mapping[str, Any]) -> None:
    """Writes a page with the reports of several runs side by side, and headers, rows and remarks of a table."""
    if len(requests) > MOST_RUNS:
        raise UserError(f"--html: expected at most {MOST_RUNS} runs side by side, found {len(requests)}. Name fewer.")
    _write(path, requests, _stamp(requests), compared)


def _write(path: Path, requests: Sequence[Request], stamp: str, compared: Mapping[str, Any] | None = None) -> None:
    import jinja2

    loader, undefined = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=undefined
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
    """SHA-256 of what the report is made of. Raises a UserError where a run has no blend yet."""
    from ensemble.blend import RECORD

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
        digest.update(str([run.name, request.photographs, request.data_folder, labels, sums, finished]).encode())
    return digest.hexdigest()


def _context(request: Request, prefix: str) -> dict[str, Any]:
    """What the templates get of a run; the ids in its parts begin with `prefix`, where there are several runs."""
    from ensemble import Options
    from ensemble.blend import RECORD
    from ensemble.report import FITTED
    from ensemble.result import place_among_published
    from pipeline.jobs import Durations
    from preprocessing.demo import is_demo
    from preprocessing.folds import read_folds
    from tools.report_charts import charts_of, findings

    run, data = request.run, request.data_folder
    record = read_record(run.ensemble / RECORD)
    if "nested_log_losses" not in record:
        again = f"Blend again: python -m ensemble.blend --run {run.name}"
        raise UserError(f"{run.ensemble / RECORD}: made by another version. {again}")
    written = [(run.ensemble / name, stamp["sha256"]) for name, stamp in record["outputs"].items() if "/" not in name]
    tables = {path.stem: _table(path, sha256) for path, sha256 in written if path.suffix == ".csv"}
    for name in ("by_class", "by_driver"):
        losses = tables[name]["images"] * tables[name]["log_loss"]
        tables[name]["share"] = losses / max(losses.sum(), 1e-300)
    folds = read_folds(run.folds) if run.folds.is_file() else None
    finished = [one for one in run.finished() if one.model in record["weights"] and isinstance(one.fold, int)]
    scores, count = tables["scores"], len(record["weights"])
    sets = {name: table for name, table in SETS.items() if table in tables}
    size = f"{record['images']:,} images of {record['drivers']} drivers out of fold, {record['test_images']:,} test"
    blend_options = {name: value for name, value in record["options"].items() if value != getattr(Options(), name)}
    if "members" in record and {*record["weights"]} != {*run.models()}:
        blend_options["models"] = " ".join(record["weights"])
    if any(remark.startswith("INCOMPLETE") for remark in record["remarks"]):
        blend_options["allow_missing"] = True
    submissions = [stamp | {"path": path} for path, stamp in record["outputs"].items() if Path(path).is_absolute()]
    context: dict[str, Any] = {
        "run": run.name,
        "prefix": prefix,
        "size": f"{count} model{'s' * (count > 1)}, {size} images",
        "record": record,
        "complete_images": COMPLETE_TRAIN_IMAGES,
        "score": _score(request.labels, tables["test"]) if request.labels and "test" in tables else None,
        "submission": submissions[0] if submissions else None,
        "classes": CLASS_NAMES,
        "folds": sorted({str(fold) for fold in scores["fold"] if fold != "all"}, key=int),
        "scores": [
            {**row, "by_fold": dict(scores[scores["name"] == row["name"]][["fold", "log_loss"]].to_numpy())}
            for row in scores[scores["fold"] == "all"].to_dict("records")
        ],
        "fold_table": folds,
        "missing": _missing(run, record, folds),
        "leak": _leak(finished),
        "sets": sets,
        "confidence": [float(tables[table][list(CLASSES)].max(axis=1).mean()) for table in sets.values()],
        **{name: tables[name].to_dict("records") for name in ("members", "methods", "by_class", "by_driver")},
        "correlation": tables["correlation"].iloc[:MOST_CORRELATED, : MOST_CORRELATED + 1].to_dict("records"),
        "confusion": tables["confusion"][list(CLASSES)].to_numpy().tolist(),
        "costliest": _costliest(tables, data if request.photographs else None),
        "photographs": request.photographs,
        "rendered": data is not None and is_demo(data),
        "place": place_among_published(record["nested_log_loss"]),
        "findings": findings(tables, record),
        "made": [_made(run, model) for model in sorted({one.model for one in finished})],
        "started_again": [
            f"{row['model']}, fold {row['fold']}: {LOST[row['ended']]} after {row['seconds']:.0f} s"
            for row in Durations(run.durations, "").rows
            if row["ended"] in LOST
        ],
        "blend_options": shlex.join(as_options(blend_options)),
        "fitted": FITTED,
    }
    # The commands that reproduce it in order: last the models that learn from others' predictions.
    context["made"].sort(key=lambda one: f"--pseudo-labels {run.name}/" in one["command"])
    context["charts"] = charts_of(context, tables, finished)
    return context


def _number(value: Any, digits: int = 3) -> str:
    """A number with so many decimals; 'n/a' where it is none."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) and math.isfinite(value) else "n/a"


def _table(path: Path, sha256: str) -> pd.DataFrame:
    """A table of a blend, as the blend has written it; only numbers may be missing."""
    import pandas as pd

    if not path.is_file() or sha256_of(path) != sha256:
        raise UserError(f"{path} has changed. Blend again: python -m ensemble.blend --run {path.parents[1].name}")
    text = ("fold", "name", "img", "subject", "method", "taken_for")
    empty = {name: ["", "inf"] for name in ("behind", "standard_error", "without", "adds")}
    return pd.read_csv(path, dtype=dict.fromkeys(text, "str"), keep_default_na=False, na_values=empty)


def _score(labels: Path, test: Any) -> dict[str, float]:
    """Log loss in nats and accuracy of the test predictions, which must all have a label."""
    from common.metric import accuracy, log_loss
    from common.tables import class_numbers, read_labels

    table = test.set_index("img")[list(CLASSES)]
    numbers = class_numbers(read_labels(labels, table.index, "the test set")["classname"])
    return {"log_loss": log_loss(table.to_numpy(), numbers), "accuracy": accuracy(table.to_numpy(), numbers)}


def _missing(run: RunFolder, record: Mapping[str, Any], folds: pd.DataFrame | None) -> list[str]:
    """What the run lacks: a line each."""
    if folds is None:
        return ["The blend is of tables from anywhere: nothing is known of how their models were trained."]
    lines, wanted = [], sorted(folds["fold"].unique())
    for model in sorted({*run.models(), *record["weights"]}):
        lacking = [run.fold(model, fold) for fold in wanted if not run.fold(model, fold).is_finished()]
        if lacking:
            numbers, reasons = ", ".join(str(one.fold) for one in lacking), sorted({one.failure() for one in lacking})
            lines.append(" ".join([f"{model}: fold {numbers} not finished.", *filter(None, reasons)]))
        elif model not in record["weights"]:
            lines.append(f"{model}: finished, but not in the blend.")
    return lines


def _leak(finished: Sequence[FoldFolder]) -> dict[str, Any] | None:
    """How much better the same features look when images of one driver are on both sides of a split.

    They are of the held-out images of the largest fold, which their network was not trained on. None without features;
    else model, images, drivers, and (log loss, accuracy) of the `driver` and the `random` split.
    """
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    from common.metric import accuracy, log_loss
    from common.tables import read_predictions
    from ensemble.neighbours import load_features
    from preprocessing.folds import read_folds

    with_features = [one for one in finished if one.exists(OUT_OF_FOLD_FEATURES)]
    if not with_features:
        return None
    truth = read_folds(RunFolder(with_features[0].run).folds).set_index("img")
    sizes = truth["fold"].value_counts()
    fold = max(with_features, key=lambda one: sizes.get(one.fold, 0))
    try:
        known = truth.loc[read_predictions(fold / OUT_OF_FOLD).index]
        features = load_features(fold / OUT_OF_FOLD_FEATURES, len(known))
    except (UserError, KeyError):
        return None  # the blend has reported it, or does not use them
    rows = np.sort(np.random.default_rng(0).permutation(len(known))[:LEAK_IMAGES])
    known, features = known.iloc[rows], features[rows].astype(np.float32)
    labels, drivers = known["classname"].map(CLASSES.index).to_numpy(), known["subject"].to_numpy()
    count = len(np.unique(drivers))
    if count < 2 or not np.ptp(features, axis=0).any():
        return None
    components = min(LEAK_COMPONENTS, features.shape[1], len(features) // 2)
    splits = {"driver": GroupKFold(min(LEAK_PARTS, count)), "random": KFold(LEAK_PARTS, shuffle=True, random_state=0)}
    found: dict[str, Any] = {"model": fold.model, "images": len(labels), "drivers": count}
    with threadpool_limits(1):
        reduced = make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit_transform(features)
        for name, split in splits.items():
            probabilities = np.full((len(labels), len(CLASSES)), 1e-6)
            for train, test in split.split(reduced, groups=drivers if name == "driver" else None):
                if len(np.unique(labels[train])) < 2:
                    return None
                classifier = LogisticRegression(C=0.01, max_iter=500).fit(reduced[train], labels[train])
                probabilities[np.ix_(test, classifier.classes_)] = classifier.predict_proba(reduced[test])
            found[name] = (log_loss(probabilities, labels), accuracy(probabilities, labels))
    return found


def _costliest(tables: Mapping[str, Any], data: Path | None) -> list[dict[str, Any]]:
    """The images with the largest loss, each with its three most probable classes and its thumbnail, if it has one."""
    probabilities = tables["out_of_fold"].set_index("img")[list(CLASSES)]
    rows = tables["costliest"].head(THUMBNAILS).to_dict("records")
    for row in rows:
        own = probabilities.loc[row["img"]].sort_values(ascending=False, kind="stable")
        shown = dict.fromkeys([*own.index[:3], row["classname"]])
        row["bars"] = [(name, float(own[name])) for name in shown]
        row["thumbnail"] = _thumbnail(data / TRAIN_FOLDER / row["classname"], row["img"]) if data else None
    return rows


def _thumbnail(folder: Path, name: str) -> str | None:
    """A data URI; None where there is no such photograph."""
    from PIL import Image

    stream = io.BytesIO()
    try:
        with Image.open(folder / Path(name).name) as image:
            image.thumbnail(THUMBNAIL_SIZE)
            image.convert("RGB").save(stream, "JPEG", quality=72)
    except (OSError, ValueError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _made(run: RunFolder, model: str) -> dict[str, Any]:
    """How a model was trained: settings, command, versions, hardware, seconds."""
    folders = run.finished([model])
    config = folders[0].config() or {}
    settings, machine = config.get("settings", {}), config.get("machine", {})
    words = [f"{name} {version}" for name, version in config.get("versions", {}).items()]
    words += [f"revision {str(config.get('git_revision', 'unknown'))[:12]}"]
    words += [f"{machine.get('cores', '?')} cores", str(machine.get("system", "unknown system"))]
    options, command = _command(run, model)
    return {
        "name": model,
        "architecture": settings.get("architecture", "unknown"),
        "image_size": settings.get("image_size", "unknown"),
        "options": options,
        "command": command,
        "folds": len(folders),
        "seconds": sum(float((one.finished() or {}).get("seconds", "nan")) for one in folders) / len(folders),
        "environment": ", ".join(words),
    }


def _command(run: RunFolder, model: str) -> tuple[list[str], str]:
    """The options that its weights do not imply, and the command that trains the model; none where no record is."""
    from models.finetuning.fold_run import load
    from preprocessing.folds import read_folds

    if not run.job_file(model).is_file():
        return [], ""
    work = load(run.job_file(model))
    network, own = work.augmentation is not None, work.architecture
    defaults = own.settings_for({}, work.weights == "none") if network else (own.bottleneck_settings(False, {}),)
    differing: dict[str, Any] = {}
    for ours, theirs in zip((work.recipe, work.augmentation), defaults, strict=False):
        names = [field.name for field in fields(ours) if "help" in field.metadata]
        differing |= {name: getattr(ours, name) for name in names if getattr(ours, name) != getattr(theirs, name)}
    options, count = as_options(differing), read_folds(run.folds)["fold"].nunique()
    words = ["python", f"models/{work.script}.py", "--run", run.name, "--data", "DIR", "--folds", str(count)]
    words += ["--architecture", work.architecture.name] if work.script == "bottleneck" else []
    words += ["--model-name", model] if model != work.architecture.name else []
    words += ["--weights", "DIR" if "/" in work.weights else work.weights, "--seed", str(work.seed)]
    return options, shlex.join([*words, "--precision", work.precision, *options])


def main() -> None:
    parser = CommandLine(prog="python -m tools.report", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="the run, whose blend is finished")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [as it was trained with]")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the test images' classes: img,classname")
    parser.add_argument("--no-photographs", dest="photographs", action="store_false", help="file names instead")
    arguments = parser.parse_args()
    run = RunFolder.existing(arguments.run, arguments.runs)
    print(write_report(Request(run, arguments.data, arguments.labels, arguments.photographs)))


if __name__ == "__main__":
    run_command(main)

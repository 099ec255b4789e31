"""What a run's report says beside the tables of its blend: findings, the leak, what is missing, how it was trained."""

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASS_NAMES, CLASSES, TRAIN_FOLDER
from common.errors import UserError
from common.metric import accuracy, log_loss
from common.run_folder import OUT_OF_FOLD, OUT_OF_FOLD_FEATURES, FoldFolder, RunFolder
from common.settings import as_options
from common.tables import read_predictions
from ensemble.neighbours import load_features
from ensemble.options import Options
from ensemble.score import read_labels, require_labels
from pipeline.schedule import Durations
from preprocessing.folds import read_folds

THUMBNAILS, THUMBNAIL_SIZE = 24, (240, 180)
LEAK_IMAGES, LEAK_COMPONENTS, LEAK_PARTS = 3000, 128, 3  # enough to see the leak in seconds


def findings(tables: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    """What the charts show, as their titles."""
    found = {}
    for name, column in (("by_class", "classname"), ("by_driver", "subject")):
        costly = tables[name].nlargest(2, "share")
        verb = "make" if len(costly) > 1 else "makes"
        found[name] = f"{' and '.join(costly[column])} {verb} up {100 * costly['share'].sum():.0f} % of the loss"
    counts = tables["confusion"][list(CLASSES)].to_numpy().copy()
    np.fill_diagonal(counts, 0)
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    found["confusion"] = "Every image out of fold is recognised"
    if times := int(counts[row, column]):
        true, taken = (f"{CLASSES[number]} {CLASS_NAMES[CLASSES[number]]}" for number in (row, column))
        found["confusion"] = f"The most frequent mistake: {true}, taken for {taken}, {times:,} time{'s' * (times > 1)}"
    scores = tables["scores"]
    last = scores[scores["name"] == scores["name"].iloc[-1]]  # the last step of the blend
    folds = last.loc[last["fold"] != "all", "log_loss"]
    found["folds"] = f"The blend's log loss is {folds.min():.2f} in the easiest fold, {folds.max():.2f} in the hardest"
    best = tables["members"].sort_values("adds").iloc[-1]
    found["members"] = "No model adds to the blend"
    if best["adds"] > 0:
        found["members"] = f"{best['name']} adds most: without it the log loss is {best['adds']:.3f} higher"
    found["methods"] = f"{record['method']} is chosen among {len(tables['methods'])} methods"
    part = tables["reliability"]
    part = part[part["name"] == part["name"].iloc[-1]]
    error = np.average((part["confidence"] - part["frequency"]).abs(), weights=part["predictions"])
    found["reliability"] = f"Probabilities of the blend are off by {100 * error:.1f} points on average"
    return found


def submission_of(record: Mapping[str, Any]) -> dict[str, str] | None:
    """Path and SHA-256 of the submission; None where the blend has no test predictions."""
    for name, stamp in record["outputs"].items():
        if Path(name).is_absolute():
            return {"path": name, "sha256": stamp["sha256"]}
    return None


def score(labels: Path, test: Any) -> dict[str, float]:
    """Log loss in nats and accuracy of the test predictions.

    Raises:
        UserError: a test image has no label.
    """
    known = read_labels(labels)
    require_labels(labels, known, pd.Index(test["img"]), "the test set")
    numbers = known["classname"].reindex(test["img"]).map(CLASSES.index).to_numpy(dtype="int64")
    probabilities = test[list(CLASSES)].to_numpy()
    return {"log_loss": log_loss(probabilities, numbers), "accuracy": accuracy(probabilities, numbers)}


def missing(run: RunFolder, record: Mapping[str, Any], folds: Any) -> list[str]:
    """What the run lacks: a line each."""
    if folds is None:
        return ["The blend is of tables from anywhere: nothing is known of how their models were trained."]
    lines, wanted = [], sorted(folds["fold"].unique())
    for model in sorted({*run.models(), *record["weights"]}):
        lacking = [fold for fold in wanted if not run.fold(model, fold).is_finished()]
        if lacking:
            reasons = {reason for fold in lacking if (reason := run.fold(model, fold).failure())}
            numbers = ", ".join(map(str, lacking))
            lines.append(" ".join([f"{model}: fold {numbers} not finished.", *sorted(reasons)]))
        elif model not in record["weights"]:
            lines.append(f"{model}: finished, but not in the blend.")
    return lines


def leak(finished: Sequence[FoldFolder]) -> dict[str, Any] | None:
    """How much better the same features look when images of one driver are on both sides of a split.

    The features are of images that their network was not trained on: of all folds where the network is the same for all
    of them (a bottleneck model), else of the fold with the most drivers.

    Returns:
        model, images, drivers, and (log loss, accuracy) of the `driver` and the `random` split; None without features.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    with_features = [one for one in finished if one.exists(OUT_OF_FOLD_FEATURES)]
    if not with_features:
        return None
    truth = read_folds(RunFolder(with_features[0].run).folds).set_index("img")
    frozen = [one for one in with_features if "classifier" in (one.config() or {}).get("settings", {})]
    largest = max(with_features, key=lambda one: truth[truth["fold"] == one.fold]["subject"].nunique())
    parts = [one for one in frozen if one.model == frozen[0].model] or [largest]
    try:
        images = [read_predictions(one / OUT_OF_FOLD).index for one in parts]
        files = [(one / OUT_OF_FOLD_FEATURES, len(names)) for one, names in zip(parts, images, strict=True)]
        features = np.concatenate([load_features(*file) for file in files]).astype(np.float32)
        known = truth.loc[np.concatenate(images)]
    except (UserError, ValueError, KeyError):
        return None  # the blend has reported it, or does not use them
    labels = known["classname"].map(CLASSES.index).to_numpy(dtype=np.int64)
    drivers = known["subject"].to_numpy()
    count = len(np.unique(drivers))
    if count < 2 or not np.ptp(features, axis=0).any():
        return None
    rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:LEAK_IMAGES])
    features, labels, drivers = features[rows], labels[rows], drivers[rows]
    components = min(LEAK_COMPONENTS, features.shape[1], len(features) // 2)
    splits = {"driver": GroupKFold(min(LEAK_PARTS, count)), "random": KFold(LEAK_PARTS, shuffle=True, random_state=0)}
    found: dict[str, Any] = {"model": parts[0].model, "images": len(labels), "drivers": len(np.unique(drivers))}
    with threadpool_limits(1):
        reduced = make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit_transform(features)
        for name, split in splits.items():
            probabilities = np.full((len(labels), len(CLASSES)), 1e-6)
            for train, test in split.split(reduced, labels, drivers if name == "driver" else None):
                if len(np.unique(labels[train])) < 2:
                    return None
                classifier = LogisticRegression(C=0.01, max_iter=500).fit(reduced[train], labels[train])
                probabilities[np.ix_(test, classifier.classes_)] = classifier.predict_proba(reduced[test])
            found[name] = (log_loss(probabilities, labels), accuracy(probabilities, labels))
    return found


def costliest_images(tables: Mapping[str, Any], data: Path | None) -> list[dict[str, Any]]:
    """The images with the largest loss, each with its three most probable classes and its thumbnail, if it has one."""
    probabilities = tables["out_of_fold"].set_index("img")[list(CLASSES)]
    rows = tables["costliest"].head(THUMBNAILS).to_dict("records")
    for row in rows:
        own = probabilities.loc[row["img"]]
        shown = [*own.sort_values(ascending=False, kind="stable").index[:3]]
        shown += [row["classname"]] if row["classname"] not in shown else []
        row["bars"] = [(name, float(own[name])) for name in shown]
        row["thumbnail"] = _thumbnail(data / TRAIN_FOLDER / row["classname"], row["img"]) if data else None
    return rows


def _thumbnail(folder: Path, name: str) -> str | None:
    """A data URI; None where there is no such photograph."""
    from PIL import Image

    try:
        with Image.open(folder / Path(name).name) as image:
            image.draft("RGB", THUMBNAIL_SIZE)
            small = image.convert("RGB")
        small.thumbnail(THUMBNAIL_SIZE)
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=72)
    except (OSError, ValueError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def training(run: RunFolder, models: Sequence[str]) -> list[dict[str, Any]]:
    """How each model was trained: settings, command, versions, hardware, seconds."""
    found = []
    for model in models:
        folders = run.finished([model])
        config = folders[0].config() or {}
        settings, machine = config.get("settings", {}), config.get("machine", {})
        seconds = [float((one.finished() or {}).get("seconds", "nan")) for one in folders]
        words = [f"{name} {version}" for name, version in config.get("versions", {}).items()]
        words += [f"revision {str(config.get('git_revision', 'unknown'))[:12]}"]
        words += [f"{machine.get('cores', '?')} cores", str(machine.get("system", "unknown system"))]
        options, command = _command(run, model)
        found.append(
            {
                "name": model,
                "architecture": settings.get("architecture", "unknown"),
                "image_size": settings.get("image_size", "unknown"),
                "options": options,
                "command": command,
                "folds": len(folders),
                "seconds": sum(seconds) / len(seconds),
                "environment": ", ".join(words),
            }
        )
    own = f"--pseudo-labels {run.name}/"
    return sorted(found, key=lambda one: own in one["command"])  # after those whose predictions they learn from


def started_again(run: RunFolder) -> list[str]:
    """Which folds were started again, and why: their process or their node was lost."""
    reasons = {"crashed": "was killed or ran out of memory", "lost": "was on a machine that was lost"}
    return [
        f"{row['model']}, fold {row['fold']}: {reasons[row['ended']]} after {row['seconds']:.0f} s"
        for row in Durations(run.durations, "").rows
        if row["ended"] in reasons
    ]


def _command(run: RunFolder, model: str) -> tuple[list[str], str]:
    """The options that differ from the defaults, and the command that trains the model; none where no record is."""
    from models.finetuning.architecture import bottleneck_settings
    from models.finetuning.fold_run import load

    if not run.job_file(model).is_file():
        return [], ""
    work = load(run.job_file(model))
    count = read_folds(run.folds)["fold"].nunique()
    default = work.architecture.recipe if work.augmentation else bottleneck_settings(work.architecture, False, {})
    options = _differing(work.recipe, default) + _differing(work.augmentation, work.architecture.augmentation)
    words = ["python", f"models/{work.script}.py", "--run", run.name, "--data", "DIR", "--folds", str(count)]
    words += ["--architecture", work.architecture.name] if work.script == "bottleneck" else []
    words += ["--model-name", model] if model != work.architecture.name and work.augmentation else []
    words += ["--weights", "DIR" if "/" in work.weights else work.weights, "--seed", str(work.seed)]
    return options, shlex.join([*words, "--precision", work.precision, *options])


def _differing(ours: Any, default: Any) -> list[str]:
    """The options that make `ours` of a configuration with these defaults."""
    if ours is None:
        return []
    names = [field.name for field in fields(ours) if "help" in field.metadata]
    return as_options({n: getattr(ours, n) for n in names if getattr(ours, n) != getattr(default, n)})


def blend_options(record: Mapping[str, Any]) -> list[str]:
    """The options of the blend that differ from the defaults."""
    return as_options({n: v for n, v in record["options"].items() if v != getattr(Options(), n, v)})

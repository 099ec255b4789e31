"""What is said of a blend: the tables runs/NAME/ensemble/NAME.csv, and report.txt, which is also printed.

The tables are scores, methods, and where the blend errs. The text is at most 100 columns wide.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from common.competition import CLASS_NAMES, CLASSES, COMPLETE_TRAIN_IMAGES
from common.files import read_json
from common.metric import FEWEST_CLUSTERED, accuracy, log_loss, log_loss_per_image, paired_difference
from common.tables import class_numbers, read_labels, read_predictions
from ensemble import Options
from ensemble.calibration import clip, clipped_losses
from ensemble.result import PUBLISHED, TEAMS, BlendResult, place_among_published
from preprocessing.same_driver import MOST_CLUSTERED

FITTED, NESTED, FINAL = "blend, fitted", "blend, nested", "blend, with all steps"
COSTLIEST = 30
BINS = 15  # of a reliability curve
MOST_MODELS_SHOWN = 12  # in the summary
MOST_FOLDS_SHOWN = 5  # more do not fit beside each other; scores.csv has them all
LONGEST_NAME = 32
SHOWN_COSTLIEST = 10  # costliest.csv has more


def tables_of(result: BlendResult) -> dict[str, pd.DataFrame]:
    """Every table, by the name of its file without '.csv'; losses are in nats, accuracies and shares from 0 to 1."""
    predictions, final, nested = result.predictions, result.final, result.nested
    labels, images, names, members = predictions.labels, predictions.images, predictions.names, predictions.out_of_fold
    blends = {FITTED: clip(final.blend.predict(members), final.clips[0]), NESTED: nested.steps["prior"]}
    if final.smoothing or final.clustering:
        blends[FINAL] = nested.final
    plain = {"uniform mean" if len(names) > 1 else "the model alone": members.mean(axis=0)}
    return {
        "scores": scores(dict(zip(names, members, strict=True)) | blends, labels, images["fold"].to_numpy()),
        "methods": methods_table(result),
        "by_driver": by_driver(images["subject"].to_numpy(), nested.final, labels),
        "by_class": by_class(nested.final, labels),
        "confusion": confusion(nested.final, labels),
        "correlation": error_correlation(names, members, labels),
        "members": leave_one_out(result),
        "costliest": costliest(images, nested.final, labels),
        "reliability": reliabilities(plain | {name: blends[name] for name in blends if name != FITTED}, labels),
    }


def scores(predictions: dict[str, np.ndarray], labels: np.ndarray, folds: np.ndarray) -> pd.DataFrame:
    """Columns name,fold,images,log_loss,accuracy: each predictor in each fold (number as text) and overall ('all')."""
    parts = [("all", np.ones(len(labels), dtype=bool)), *((str(fold), folds == fold) for fold in np.unique(folds))]
    rows = [
        (name, fold, int(part.sum()), log_loss(table[part], labels[part]), accuracy(table[part], labels[part]))
        for name, table in predictions.items()
        for fold, part in parts
    ]
    return pd.DataFrame(rows, columns=["name", "fold", "images", "log_loss", "accuracy"])


def methods_table(result: BlendResult) -> pd.DataFrame:
    """Every blending method, the simplest first."""
    columns = ["method", "fitted", "cross_fitted", "behind", "standard_error", "accuracy"]
    rows = [
        (one.method.name, one.fitted_loss, one.cross_fitted_loss, *one.behind, one.cross_fitted_accuracy)
        for one in result.final.candidates
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(chosen=table["method"] == result.final.method.name)


def _grouped(by: Mapping[str, np.ndarray], probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    losses, right = log_loss_per_image(probabilities, labels), probabilities.argmax(axis=1) == labels
    groups = pd.DataFrame({**by, "log_loss": losses, "right": right}).groupby(list(by), sort=True)
    table = groups.agg(images=("log_loss", "size"), log_loss=("log_loss", "mean"), accuracy=("right", "mean"))
    return table.reset_index()


def by_driver(subjects: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns subject,images,log_loss,accuracy; the costliest driver first."""
    table = _grouped({"subject": subjects}, probabilities, labels)
    return table.sort_values("log_loss", ascending=False, kind="stable", ignore_index=True)


def by_class(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns classname,behaviour,images,log_loss,accuracy,taken_for (the most frequent wrong class, or empty)."""
    names, wrong = np.array(CLASSES)[labels], confusion(probabilities, labels).set_index("true")
    table = _grouped({"classname": names}, probabilities, labels)
    table.insert(1, "behaviour", table["classname"].map(CLASS_NAMES))
    np.fill_diagonal(values := wrong.to_numpy().copy(), 0)
    taken_for = {name: CLASSES[row.argmax()] if row.any() else "" for name, row in zip(CLASSES, values, strict=True)}
    return table.assign(taken_for=table["classname"].map(taken_for))


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Images by true class (rows, column `true`) and most probable class (columns c0..c9)."""
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(CLASSES)))
    table = pd.DataFrame(counts, columns=list(CLASSES))
    table.insert(0, "true", list(CLASSES))
    return table


def costliest(images: pd.DataFrame, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """The `COSTLIEST` images with the largest log loss, the costliest first.

    Columns img,subject,classname,fold,predicted,probability (of the predicted), of_true (of the true class), log_loss,
    share (of the total loss).
    """
    losses = log_loss_per_image(probabilities, labels)
    rows = np.argsort(-losses, kind="stable")[:COSTLIEST]
    top = probabilities[rows].argmax(axis=1)
    return images.iloc[rows][["img", "subject", "classname", "fold"]].assign(
        predicted=[CLASSES[number] for number in top],
        probability=probabilities[rows, top],
        of_true=probabilities[rows, labels[rows]],
        log_loss=losses[rows],
        share=losses[rows] / max(losses.sum(), 1e-300),
    )


def error_correlation(names: Sequence[str], members: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Pearson's correlation of the errors (predicted minus true probabilities of all classes and images) of each two
    members, -1 to 1; a member without errors has 0 with the others. Columns: name, then one for each member.
    """
    errors = members.reshape(len(members), -1).astype(np.float64)
    errors[:, np.arange(len(labels)) * len(CLASSES) + labels] -= 1
    with np.errstate(invalid="ignore"):
        values = np.nan_to_num(np.corrcoef(errors)).reshape(len(names), len(names))
    np.fill_diagonal(values, 1)
    table = pd.DataFrame(values, columns=list(names))
    table.insert(0, "name", list(names))
    return table


def leave_one_out(result: BlendResult) -> pd.DataFrame:
    """What each member adds to the blend, cross-fitted.

    Columns name,weight,log_loss (alone), without (loss of the blend that lacks it), adds (that minus the loss of the
    complete blend), standard_error (over drivers).
    """
    predictions = result.predictions
    labels, drivers = predictions.labels, predictions.images["subject"].to_numpy()
    complete = clipped_losses(result.final.cross_fitted, labels)
    rows = []
    for place, (name, weight) in enumerate(result.weights.items()):
        without, adds, error = np.nan, np.nan, np.nan
        if result.without_members:
            losses = clipped_losses(result.without_members[place], labels)
            without, (adds, error) = losses.mean(), paired_difference(losses, complete, drivers)
        rows.append((name, weight, log_loss(predictions.out_of_fold[place], labels), without, adds, error))
    return pd.DataFrame(rows, columns=["name", "weight", "log_loss", "without", "adds", "standard_error"])


def reliabilities(predictions: dict[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """How often a class with a predicted probability is the true one: all classes, in bins of equal width.

    Columns name, lowest, highest, predictions (their number), confidence (mean probability), frequency (share that is
    the true class); without empty bins.
    """
    frames, edges = [], np.arange(BINS + 1) / BINS
    for name, probabilities in predictions.items():
        true = np.eye(len(CLASSES))[labels]
        place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1).ravel()
        counts = np.bincount(place, minlength=BINS)
        frame = pd.DataFrame({"name": name, "lowest": edges[:-1], "highest": edges[1:], "predictions": counts})
        for column, values in (("confidence", probabilities), ("frequency", true)):
            frame[column] = np.bincount(place, values.ravel(), minlength=BINS) / np.maximum(counts, 1)
        frames.append(frame[counts > 0])
    return pd.concat(frames, ignore_index=True)


def report(
    name: str, options: Options, result: BlendResult, tables: Mapping[str, pd.DataFrame], remarks: Sequence[str]
) -> str:
    """The complete report of the run `name`; `remarks` are what the reader has to know before the scores."""
    predictions, weights = result.predictions, result.weights
    images, drivers = predictions.images, predictions.images["subject"].nunique()
    scores, methods, costly = tables["scores"], tables["methods"], tables["costliest"][:SHOWN_COSTLIEST]
    overall = scores[scores["fold"] == "all"].drop(columns=["fold", "images"])
    folds = scores[scores["fold"] != "all"].pivot(index="name", columns="fold", values="log_loss").add_prefix("fold ")
    overall.insert(1, "weight", [f"{weights[name]:.4f}" if name in weights else "" for name in overall["name"]])
    parts = [
        f"{name}: {len(predictions.names)} models, {len(images):,} images of {drivers} drivers out of fold, "
        f"{len(predictions.test_images):,} test images",
        *remarks,
        table_text(overall if len(folds.columns) > MOST_FOLDS_SHOWN else overall.merge(folds, on="name")),
        table_text(methods.assign(chosen=methods["chosen"].map({True: "<- chosen", False: ""})))
        + "\nchosen: the simplest (the first) within one standard error (over drivers) of the best",
        steps_text(options, result),
    ]
    means = zip(predictions.names, predictions.scales, strict=False)  # loose tables have no folds
    if scales := [f"{name} {scale:.3f}" for name, scale in means if scale != 1]:
        text = "averaging folds lowers confidence; test predictions are sharpened to match (log-probabilities times):"
        parts.append(textwrap.fill(f"{text} {', '.join(scales)}", 100))
    parts.append(expectation_text(options, result))
    several = ["members"] if len(predictions.names) > 1 else []
    parts += [table_text(tables[table]) for table in (*several, "by_driver", "by_class")]
    text = table_text(costly.drop(columns=["fold", "share"]))
    parts.append(f"{text}\nthese {len(costly)} are {costly['share'].sum():.1%} of the loss")
    return "\n\n".join(parts) + "\n"


def summary(folder: Path) -> str:
    """The outcome of a blend in a few lines, from the files in its folder: models, blend, expected loss, remarks."""
    record = read_json(folder / "blend.json")
    scores = pd.read_csv(folder / "scores.csv", dtype={"fold": str})
    losses = scores[scores["fold"] == "all"].set_index("name")["log_loss"]
    weights = sorted(record["weights"].items(), key=lambda item: losses[item[0]])
    rows = [
        [shortened(name), f"{losses[name]:.3f} out of fold", f"weight {weight:.2f}"]
        for name, weight in weights[:MOST_MODELS_SHOWN]
    ]
    if more := len(weights) - len(rows):
        rows.append([f"and {more:,} more", "", ""])
    words = {"prior": "prior matched", "clusters": "clustered", "neighbours": "neighbours smoothed"}
    steps = [record["method"], *(text for step, text in words.items() if record[step])]
    expected, loss = record["expectation"], record["nested_log_loss"]
    bounds = f"{expected['lowest']:.3f} to {expected['highest']:.3f}"
    interval = f"{expected['level']:.0%} interval {bounds} for {expected['test_drivers']} new drivers"
    lines = [*record["remarks"], formatted(["models", "", ""], rows), f"blend       {', '.join(steps)}"]
    lines.append(f"expected    log loss {loss:.3f}; {interval}; accuracy {record['nested_accuracy']:.1%}")
    return "\n".join(lines)


def steps_text(options: Options, result: BlendResult) -> str:
    """What was chosen in each step, and the nested loss after each."""
    final, nested, labels = result.final, result.nested, result.predictions.labels
    prior = "not matched, it does not clearly help"
    if final.prior:
        drivers = f"each of {result.recognised} drivers" if result.recognised else "all drivers together"
        prior = f"matched for {drivers} in the test set, strength {final.prior.strength:g}"
    elif options.match_prior == "no":
        prior = "off, by --match-prior no"
    elif result.recognised is None:
        prior = "not matched, without readable photographs no driver is recognised"
    neighbours, one = "none, they do not clearly help out of fold", final.smoothing
    if one:
        neighbours = (
            f"{one.k} at most, in the features of {one.feature}, reach {one.reach:.3f}, strength {one.strength:g}, "
            f"{one.rounds} rounds"
        )
    elif not options.neighbours:
        neighbours = "off, by --no-neighbours"
    elif not result.predictions.spaces:
        neighbours = "none, no model has features of all images"
    sizes = f"{FEWEST_CLUSTERED} to {MOST_CLUSTERED:,} images"
    clusters = f"none, they do not clearly help out of fold, or no driver has {sizes}"
    if final.clustering:
        clusters = f"of each driver ({sizes}) and class, by their outlines, unless the predictions contradict them"
    elif options.driver_clusters == "no":
        clusters = "off, by --driver-clusters no"
    elif result.recognised is None:
        clusters = "none, without readable photographs no driver is recognised"
    rows = [[step, f"{log_loss(table, labels):.5f}"] for step, table in nested.steps.items()]
    counts = [f"{name} {nested.methods.count(name)} times" for name in dict.fromkeys(nested.methods)]
    return (
        f"blend: {final.method.name}\nprior: {prior}\nclusters: {clusters}\nneighbours: {neighbours}\n"
        f"clip: {final.clips[-1]:g}, applied last\n\n{formatted(['nested out of fold', 'log loss'], rows)}\n"
        f"chosen without each group of drivers: {'; '.join(counts)}"
    )


def expectation_text(options: Options, result: BlendResult) -> str:
    """What to expect on new drivers, beside the published scores."""
    one, images = result.expectation, len(result.predictions.images)
    how = "" if options.test_drivers else " (guessed: --test-drivers)"
    published = ", ".join(f"place {place} {score:.3g}" for place, score in PUBLISHED)
    lines = [
        f"expected on new drivers: {one.loss:.4f}, nested out of fold",
        f"{one.level:.0%} prediction interval: {one.lowest:.3f} to {one.highest:.3f}, "
        f"for a test set of {one.test_drivers:,} new drivers{how}",
        f"published private scores of {TEAMS:,}: {published}",
        *(f"{loss:.3f} would have been {place_among_published(loss)}" for loss in (one.lowest, one.loss, one.highest)),
        "these scores need the full data: 22,424 images to train on, and the 79,726 to predict",
    ]
    if images < COMPLETE_TRAIN_IMAGES:
        lines.append(f"here are {images:,} images: this is no claim to a place")
    return "\n".join(lines)


def table_text(table: pd.DataFrame) -> str:
    """A table as text: names shortened, losses and shares with four digits."""

    def cell(value: object) -> str:
        if isinstance(value, str):
            return shortened(value)
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

    return formatted(
        [str(name).replace("_", " ") for name in table], [[*map(cell, row)] for row in table.values.tolist()]
    )


def shortened(name: str) -> str:
    """A name of at most `LONGEST_NAME` characters."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."


def formatted(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns with two spaces between: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = []
    for first, *others in [headers, *rows]:
        right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def score_text(predictions: Path, labels: Path) -> str:
    """The scores of a prediction table as text for the terminal.

    Raises:
        UserError: one of the tables is malformed, or images of the prediction table have no label.
    """
    table = read_predictions(predictions)
    known = read_labels(labels, table.index, str(predictions))
    probabilities, truth = table.to_numpy(), class_numbers(known["classname"])
    parts = [
        f"{predictions} on {labels}: {len(table):,} images, log loss {log_loss(probabilities, truth):.5f}, "
        f"accuracy {accuracy(probabilities, truth):.4f}"
    ]
    if "subject" in known:
        drivers = known["subject"].fillna("unknown").to_numpy()
        parts.append(table_text(by_driver(drivers, probabilities, truth)))
    parts.append(table_text(by_class(probabilities, truth)))
    return "\n\n".join(parts)

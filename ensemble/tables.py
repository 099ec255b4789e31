"""The tables of a blend, which go to runs/NAME/ensemble/NAME.csv: scores, methods, and where the blend errs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from common.competition import CLASS_NAMES, CLASSES
from common.metric import accuracy, log_loss, log_loss_per_image, paired_difference
from ensemble.calibration import clip, clipped_losses

if TYPE_CHECKING:
    from ensemble.nested import Candidate
    from ensemble.result import BlendResult

FITTED, NESTED, WITH_NEIGHBOURS = "blend, fitted", "blend, nested", "blend with neighbours"
COSTLIEST = 30
BINS = 15  # of a reliability curve


def tables_of(result: "BlendResult") -> dict[str, pd.DataFrame]:
    """Every table, by the name of its file without '.csv'."""
    predictions, final, nested = result.predictions, result.final, result.nested
    labels, images, names, members = predictions.labels, predictions.images, predictions.names, predictions.out_of_fold
    fitted = clip(final.blend.predict(members), final.clips[0])
    blends = {FITTED: fitted, NESTED: nested.without_neighbours}
    if final.smoothing:
        blends[WITH_NEIGHBOURS] = nested.final
    before = {"uniform mean" if len(names) > 1 else "the model alone": members.mean(axis=0)}
    after = {name: table for name, table in blends.items() if name != FITTED}
    return {
        "scores": scores(dict(zip(names, members, strict=True)) | blends, labels, images["fold"].to_numpy()),
        "methods": methods_table(final.candidates, final.method.name),
        "by_driver": by_driver(images["subject"].to_numpy(), nested.final, labels),
        "by_class": by_class(nested.final, labels),
        "confusion": confusion(nested.final, labels),
        "correlation": error_correlation(names, members, labels),
        "members": leave_one_out(result),
        "costliest": costliest(images, nested.final, labels),
        "reliability": reliabilities(before | after, labels),
        "reliability_of_models": reliabilities(dict(zip(names, members, strict=True)), labels),
    }


def scores(predictions: dict[str, np.ndarray], labels: np.ndarray, folds: np.ndarray) -> pd.DataFrame:
    """Log loss (nats) and accuracy (0 to 1) of each predictor in each fold and overall.

    Args:
        predictions: by name, each of shape (images, 10).
        labels: shape (images,), integers from 0.
        folds: shape (images,).

    Returns:
        Columns name,fold,images,log_loss,accuracy; fold is a number as text, or 'all'.
    """
    parts = [("all", np.ones(len(labels), dtype=bool)), *((str(fold), folds == fold) for fold in np.unique(folds))]
    rows = [
        (name, fold, int(part.sum()), log_loss(table[part], labels[part]), accuracy(table[part], labels[part]))
        for name, table in predictions.items()
        for fold, part in parts
    ]
    return pd.DataFrame(rows, columns=["name", "fold", "images", "log_loss", "accuracy"])


def methods_table(candidates: Sequence["Candidate"], chosen: str) -> pd.DataFrame:
    """Every blending method, the simplest first; losses in nats, accuracy 0 to 1."""
    columns = ["method", "fitted", "cross_fitted", "behind", "standard_error", "accuracy", "chosen"]
    rows = [
        (
            one.method.name,
            one.fitted_loss,
            one.cross_fitted_loss,
            *one.behind,
            one.cross_fitted_accuracy,
            one.method.name == chosen,
        )
        for one in candidates
    ]
    return pd.DataFrame(rows, columns=columns)


def by_driver(subjects: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns subject,images,log_loss,accuracy; the costliest driver first."""
    losses, right = log_loss_per_image(probabilities, labels), probabilities.argmax(axis=1) == labels
    frame = pd.DataFrame({"subject": subjects, "log_loss": losses, "right": right})
    grouped = frame.groupby("subject", sort=True)
    table = grouped.agg(images=("log_loss", "size"), log_loss=("log_loss", "mean"), accuracy=("right", "mean"))
    return table.sort_values("log_loss", ascending=False, kind="stable").reset_index()


def by_class(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns classname,behaviour,images,log_loss,accuracy,taken_for (the most frequent wrong class, or empty)."""
    losses, predicted = log_loss_per_image(probabilities, labels), probabilities.argmax(axis=1)
    rows = []
    for number in np.unique(labels):
        part, name = labels == number, CLASSES[number]
        wrong = np.bincount(predicted[part & (predicted != number)], minlength=len(CLASSES))
        taken_for = CLASSES[int(wrong.argmax())] if wrong.any() else ""
        right = float((predicted[part] == number).mean())
        rows.append((name, CLASS_NAMES[name], int(part.sum()), losses[part].mean(), right, taken_for))
    return pd.DataFrame(rows, columns=["classname", "behaviour", "images", "log_loss", "accuracy", "taken_for"])


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Images by true class (rows, column `true`) and most probable class (columns c0..c9)."""
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(len(CLASSES)))
    table = pd.DataFrame(counts, columns=list(CLASSES))
    table.insert(0, "true", list(CLASSES))
    return table


def costliest(images: pd.DataFrame, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """The `COSTLIEST` images with the largest log loss, the costliest first.

    Args:
        images: frame img,subject,classname,fold.

    Returns:
        Columns img,subject,classname,fold,predicted,probability (of the predicted), of_true (of the true class),
        log_loss, share (of the total loss, 0 to 1).
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
    members, -1 to 1; a member without errors has 0 with the others.

    Returns:
        Column name, then one for each member.
    """
    errors = members.reshape(len(members), -1).astype(np.float64)
    errors[:, np.arange(len(labels)) * len(CLASSES) + labels] -= 1
    with np.errstate(invalid="ignore"):
        values = np.nan_to_num(np.corrcoef(errors)).reshape(len(names), len(names))
    np.fill_diagonal(values, 1)
    table = pd.DataFrame(values, columns=list(names))
    table.insert(0, "name", list(names))
    return table


def leave_one_out(result: "BlendResult") -> pd.DataFrame:
    """What each member adds to the blend, cross-fitted.

    Returns:
        Columns name,weight,log_loss (alone), without (loss of the blend that lacks it), adds (that minus the loss of
        the complete blend), standard_error (over drivers), calibration_error (ECE alone).
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
        member = predictions.out_of_fold[place]
        rows.append((name, weight, log_loss(member, labels), without, adds, error, calibration_error(member, labels)))
    columns = ["name", "weight", "log_loss", "without", "adds", "standard_error", "calibration_error"]
    return pd.DataFrame(rows, columns=columns)


def reliabilities(predictions: dict[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """How often a class with a predicted probability is the true one: all classes, in bins of equal width.

    Args:
        predictions: by name, each of shape (images, 10).

    Returns:
        For each bin that is not empty: name, lowest, highest, predictions (their number), confidence (mean
        probability), frequency (share that is the true class).
    """
    frames, edges = [], np.arange(BINS + 1) / BINS
    for name, probabilities in predictions.items():
        true = np.zeros(probabilities.shape)
        true[np.arange(len(labels)), labels] = 1
        place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1).ravel()
        counts = np.bincount(place, minlength=BINS)
        frame = pd.DataFrame({"name": name, "lowest": edges[:-1], "highest": edges[1:], "predictions": counts})
        for column, values in (("confidence", probabilities), ("frequency", true)):
            frame[column] = np.bincount(place, values.ravel(), minlength=BINS) / np.maximum(counts, 1)
        frames.append(frame[counts > 0])
    return pd.concat(frames, ignore_index=True)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of confidence and accuracy of the top class over bins of equal width (ECE), 0 to 1."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, confidence - right, minlength=BINS)).sum() / len(labels))


def formatted(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns with two spaces between: the first to the left, the others to the right."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )

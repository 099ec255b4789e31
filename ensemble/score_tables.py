"""Tables of scores: frames for the run folder, text of at most 100 columns for the terminal."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd

from common.competition import CLASS_NAMES, CLASSES
from common.metric import accuracy, log_loss, log_loss_per_image
from ensemble.fold_means import FoldMean
from ensemble.selection import Choice

WIDTH = 100  # columns of the terminal
MOST_FOLDS_SHOWN = 6  # more do not fit beside each other; scores.csv has them all
LONGEST_NAME = 24

FITTED, CROSS_FITTED, WITH_NEIGHBOURS = "blend, fitted", "blend, nested", "blend with neighbours"


def scores(
    names: Sequence[str], predictions: Sequence[np.ndarray], labels: np.ndarray, folds: np.ndarray
) -> pd.DataFrame:
    """Log loss (nats) and accuracy (0 to 1) of each predictor in each fold and overall.

    Args:
        names: one for each of `predictions`.
        predictions: each of shape (images, 10).
        labels: shape (images,), integers from 0.
        folds: shape (images,).

    Returns:
        Columns name,fold,images,log_loss,accuracy; fold is a number as text, or 'all'.
    """
    parts = [("all", np.ones(len(labels), dtype=bool)), *((str(fold), folds == fold) for fold in np.unique(folds))]
    rows = [
        (name, fold, int(part.sum()), log_loss(table[part], labels[part]), accuracy(table[part], labels[part]))
        for name, table in zip(names, predictions, strict=True)
        for fold, part in parts
    ]
    return pd.DataFrame(rows, columns=["name", "fold", "images", "log_loss", "accuracy"])


def by_driver(subjects: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns subject,images,log_loss,accuracy; the costliest driver first."""
    frame = pd.DataFrame({"subject": subjects, **_per_image(probabilities, labels)})
    grouped = frame.groupby("subject", sort=True)
    table = grouped.agg(images=("log_loss", "size"), log_loss=("log_loss", "mean"), accuracy=("correct", "mean"))
    return table.sort_values("log_loss", ascending=False, kind="stable").reset_index()


def by_class(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns classname,behaviour,images,log_loss,accuracy,taken_for (the most frequent wrong class, or empty)."""
    per_image = _per_image(probabilities, labels)
    predicted = probabilities.argmax(axis=1)
    rows = []
    for number, classname in enumerate(CLASSES):
        part = labels == number
        if not part.any():
            continue
        wrong = np.bincount(predicted[part & (predicted != number)], minlength=len(CLASSES))
        taken_for = CLASSES[int(wrong.argmax())] if wrong.any() else ""
        loss, right = per_image["log_loss"][part].mean(), per_image["correct"][part].mean()
        rows.append((classname, CLASS_NAMES[classname], int(part.sum()), loss, right, taken_for))
    return pd.DataFrame(rows, columns=["classname", "behaviour", "images", "log_loss", "accuracy", "taken_for"])


def _per_image(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "log_loss": log_loss_per_image(probabilities, labels),
        "correct": (probabilities.argmax(axis=1) == labels).astype(np.float64),
    }


def scores_text(table: pd.DataFrame, weights: dict[str, float]) -> str:
    """The frame of `scores` with a row a predictor, overall and by fold; members in order of their loss, blend last."""
    losses = table.pivot(index="name", columns="fold", values="log_loss")
    overall = table[table["fold"] == "all"].set_index("name")
    folds = sorted((fold for fold in losses.columns if fold != "all"), key=int)
    shown = folds if 2 <= len(folds) <= MOST_FOLDS_SHOWN else []
    members = sorted(weights, key=lambda name: overall.loc[name, "log_loss"])
    rows = []
    for name in [*members, *(name for name in overall.index if name not in weights)]:
        weight = f"{weights[name]:.4f}" if name in weights else ""
        values = [f"{overall.loc[name, 'log_loss']:.5f}", f"{overall.loc[name, 'accuracy']:.2%}"]
        rows.append([_shortened(name), weight, *values, *(f"{losses.loc[name, fold]:.4f}" for fold in shown)])
    return formatted(["out of fold", "weight", "log loss", "accuracy", *(f"fold {fold}" for fold in shown)], rows)


def ways_table(choice: Choice) -> pd.DataFrame:
    """Every way to blend, the simplest first.

    Columns way,fitted,cross_fitted,behind,standard_error (all nats),accuracy (0 to 1),clip,penalty,chosen.
    """
    rows = [
        {
            "way": one.name,
            "fitted": one.fitted_loss,
            "cross_fitted": one.cross_fitted_loss,
            "behind": one.behind[0],
            "standard_error": one.behind[1],
            "accuracy": one.cross_fitted_accuracy,
            "clip": one.blend.epsilon,
            "penalty": one.blend.penalty,
            "chosen": one is choice.winner,
        }
        for one in choice.judged
    ]
    return pd.DataFrame(rows)


def ways_text(table: pd.DataFrame) -> str:
    """The frame of `ways_table` as text."""
    rows = [
        [
            str(row.way),
            f"{row.fitted:.4f}",
            f"{row.cross_fitted:.4f}",
            f"{row.behind:.4f} +- {row.standard_error:.4f}",
            f"{row.accuracy:.1%}",
            f"{row.clip:g}",
            "<- chosen" if row.chosen else "",
        ]
        for row in table.itertuples(index=False)
    ]
    text = formatted(["way to blend", "fitted", "cross-fitted", "behind the best", "accuracy", "clip", ""], rows)
    return text + "\nthe first, so the simplest, that is within one standard error (over drivers) of the best"


def fold_means_text(names: Sequence[str], fold_means: Sequence[FoldMean]) -> str:
    """How much surer single fold networks are than their mean on the test set, and the correction."""
    rows = [
        [
            _shortened(name),
            str(one.networks),
            f"{one.entropy_of_singles:.4f}",
            f"{one.entropy_of_mean:.4f}",
            f"{one.scale:.3f}",
        ]
        for name, one in zip(names, fold_means, strict=True)
    ]
    headers = ["test set", "fold networks", "their entropy", "of their mean", "sharpened by"]
    return formatted(headers, rows) + "\nthe mean is less sure than what was calibrated out of fold: made as sure again"


def members_text(table: pd.DataFrame) -> str:
    """The frame of `diagnosis.leave_one_out` as text."""
    rows = [
        [
            _shortened(str(row.name)),
            f"{row.weight:.4f}",
            f"{row.log_loss:.5f}",
            f"{row.without:.5f}",
            f"{row.adds:.4f} +- {row.standard_error:.4f}",
            f"{row.calibration_error:.3f}",
        ]
        for row in table.itertuples(index=False)
    ]
    return formatted(["model", "weight", "alone", "blend without it", "it adds", "calibration error"], rows)


def costliest_text(table: pd.DataFrame) -> str:
    """The frame of `diagnosis.costliest` as text."""
    rows = [
        [row.img, str(row.subject), row.classname, row.predicted, f"{row.of_true:.2g}", f"{row.log_loss:.2f}"]
        for row in table.itertuples(index=False)
    ]
    text = formatted(["costliest images", "driver", "true", "taken for", "probability of true", "log loss"], rows)
    return f"{text}\nthese {len(table)} are {table['share'].sum():.1%} of the loss"


def by_driver_text(table: pd.DataFrame) -> str:
    """The frame of `by_driver` as text, in as many blocks side by side as fit."""
    rows = [
        [str(row.subject), f"{row.images:,}", f"{row.log_loss:.4f}", f"{row.accuracy:.1%}"]
        for row in table.itertuples(index=False)
    ]
    headers = ["driver", "images", "log loss", "accuracy"]
    blocks = 1 if len(rows) <= 8 else 2
    height = -(-len(rows) // blocks)
    columns = [formatted(headers, rows[place : place + height]).splitlines() for place in range(0, len(rows), height)]
    width = max(len(line) for line in columns[0])
    return "\n".join(
        "     ".join(part.ljust(width) for part in line).rstrip() for line in zip_longest(*columns, fillvalue="")
    )


def by_class_text(table: pd.DataFrame) -> str:
    """The frame of `by_class` as text."""
    rows = [
        [
            f"{row.classname} {row.behaviour}",
            f"{row.images:,}",
            f"{row.log_loss:.4f}",
            f"{row.accuracy:.1%}",
            row.taken_for,
        ]
        for row in table.itertuples(index=False)
    ]
    return formatted(["class", "images", "log loss", "accuracy", "taken for"], rows)


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


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."

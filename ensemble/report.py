"""Tables of scores: frames for the run folder, text of at most 100 columns for the terminal."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import pandas as pd

from ensemble.selection import Judged
from preprocessing.competition import CLASS_NAMES, CLASSES
from preprocessing.metric import accuracy, log_loss, log_loss_per_image

WIDTH = 100  # columns of the terminal
MOST_FOLDS_SHOWN = 6  # more do not fit beside each other; scores.csv has them all
LONGEST_NAME = 24

FITTED, CROSS_FITTED = "blend, fitted", "blend, cross-fitted"


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


def candidates_text(judged: Sequence[Judged], winner: Judged, labels: np.ndarray) -> str:
    """Every way to blend with its losses, fitted and cross-fitted, and its clip; the chosen one is marked."""
    rows = [
        [
            one.name,
            f"{one.fitted_loss:.5f}",
            f"{one.cross_fitted_loss:.5f}",
            f"{accuracy(one.cross_fitted, labels):.2%}",
            f"{one.blend.epsilon:g}",
            "<- chosen" if one is winner else "",
        ]
        for one in judged
    ]
    return formatted(["way to blend", "fitted", "cross-fitted", "accuracy", "clip", ""], rows)


def by_driver_text(subjects: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> str:
    """The frame of `by_driver` as text, in as many blocks side by side as fit."""
    table = by_driver(subjects, probabilities, labels)
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


def by_class_text(probabilities: np.ndarray, labels: np.ndarray) -> str:
    """The frame of `by_class` as text."""
    rows = [
        [
            f"{row.classname} {row.behaviour}",
            f"{row.images:,}",
            f"{row.log_loss:.4f}",
            f"{row.accuracy:.1%}",
            row.taken_for,
        ]
        for row in by_class(probabilities, labels).itertuples(index=False)
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

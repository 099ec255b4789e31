"""Where a blend errs: frames of confusions, costliest images, correlated errors, and what each member adds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.metric import log_loss, log_loss_per_image
from ensemble.calibration import calibration_error, reliability
from ensemble.paired import paired_difference

COSTLIEST = 30


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Images by true class (rows, column `true`) and most probable class (columns c0..c9)."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
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


def error_correlation(names: Sequence[str], predictions: Sequence[np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """Pearson's correlation of the errors of each two members, -1 to 1: of predicted less true probabilities of all
    classes and images (a member without errors: 0 with the others).

    Returns:
        Column name, then one for each member.
    """
    errors = np.stack([np.asarray(prediction, dtype=np.float64).ravel() for prediction in predictions])
    places = np.arange(len(labels)) * len(CLASSES) + labels
    errors[:, places] -= 1
    errors -= errors.mean(axis=1, keepdims=True)
    lengths = np.sqrt((errors**2).sum(axis=1))
    scaled = errors / np.where(lengths > 0, lengths, 1)[:, None]
    values = scaled @ scaled.T
    np.fill_diagonal(values, 1)
    table = pd.DataFrame(values, columns=list(names))
    table.insert(0, "name", list(names))
    return table


def leave_one_out(
    names: Sequence[str],
    weights: Sequence[float],
    whole: np.ndarray,
    without: Sequence[np.ndarray],
    members: Sequence[np.ndarray],
    labels: np.ndarray,
    drivers: np.ndarray,
) -> pd.DataFrame:
    """What each member adds to the blend.

    Args:
        whole: cross-fitted predictions of the blend; `without`: of blends that lack each member; empty for one member.

    Returns:
        Columns name,weight,log_loss (alone), without (loss of the blend that lacks it), adds (that less the loss of the
        whole), standard_error (over drivers), calibration_error (ECE alone).
    """
    losses = log_loss_per_image(whole, labels)
    rows = []
    for place, (name, weight, member) in enumerate(zip(names, weights, members, strict=True)):
        alone = log_loss(member, labels), calibration_error(member, labels)
        other = log_loss_per_image(without[place], labels) if without else np.full(len(labels), np.nan)
        adds, error = paired_difference(other, losses, drivers) if without else (np.nan, np.nan)
        rows.append((name, weight, alone[0], float(other.mean()), adds, error, alone[1]))
    columns = ["name", "weight", "log_loss", "without", "adds", "standard_error", "calibration_error"]
    return pd.DataFrame(rows, columns=columns)


def reliabilities(named_predictions: Sequence[tuple[str, np.ndarray]], labels: np.ndarray) -> pd.DataFrame:
    """The bins of `calibration.reliability` of several predictors: column name, then the bins'."""
    return pd.DataFrame(
        [{"name": name} | row for name, table in named_predictions for row in reliability(table, labels)]
    )

"""What a blend says of itself: the paragraphs of report.txt, which is also what is printed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from common.competition import COMPLETE_TRAIN_IMAGES
from common.metric import log_loss
from ensemble import members as members_of_run
from ensemble import score_tables
from ensemble.expectation import expectation_text
from ensemble.members import Member
from ensemble.options import Options
from ensemble.outcome import Outcome

SHOWN_COSTLIEST = 10  # costliest.csv has more


def paragraphs(
    name: str, options: Options, outcome: Outcome, tables: Mapping[str, pd.DataFrame], remarks: Sequence[str]
) -> list[str]:
    """The paragraphs of the report.

    Args:
        name: of the run.
        options: what was asked for.
        tables: as `tables_of` makes them.
        remarks: what the reader has to know before the scores.
    """
    predictions, fitted = outcome.predictions, outcome.fitted
    images = predictions.images
    weights = dict(zip(predictions.names, map(float, fitted.blend.shares()), strict=True))
    parts = [
        f"{name}: {len(predictions.names)} models, {len(images):,} images of {images['subject'].nunique()} "
        f"drivers out of fold, {len(predictions.test_images):,} test images"
    ]
    parts += remarks
    parts.append(score_tables.scores_text(tables["scores"], weights))
    parts.append(score_tables.ways_text(tables["ways"]))
    parts.append(_neighbours_text(options, outcome))
    if any(one.networks > 1 for one in predictions.fold_means):
        parts.append(score_tables.fold_means_text(predictions.names, predictions.fold_means))
    parts.append(expectation_text(outcome.expectation, len(images), COMPLETE_TRAIN_IMAGES, outcome.guessed_drivers))
    if len(predictions.names) > 1:
        parts.append(score_tables.members_text(tables["members"]))
    parts.append(score_tables.by_driver_text(tables["by_driver"]))
    parts.append(score_tables.by_class_text(tables["by_class"]))
    parts.append(score_tables.costliest_text(tables["costliest"][:SHOWN_COSTLIEST]))
    return parts


def _neighbours_text(options: Options, outcome: Outcome) -> str:
    """The blend in a line, what follows it, and the nested losses after each step."""
    predictions, fitted, labels = outcome.predictions, outcome.fitted, outcome.predictions.labels
    lines = [f"blend: {fitted.name}"]
    prior, smoothing = fitted.prior, fitted.transduction.smoothing
    if prior:
        lines.append(f"prior: the test set's mean is moved towards training's, strength {prior.strength:g}")
    else:
        why = "off, by --match-prior no" if options.match_prior == "no" else "it does not clearly help"
        lines.append(f"prior: not matched, {why}")
    if smoothing:
        segmentation = fitted.transduction.segmentation
        lines.append(
            f"neighbours: {smoothing.k} at most, in the features of {smoothing.feature}, reach {smoothing.reach:.3f}, "
            f"strength {smoothing.strength:g}, {smoothing.rounds} rounds"
        )
        lines.append(
            f"segments: links up to {segmentation.reach:.3f}, votes from {segmentation.confidence:g}"
            if segmentation
            else "segments: none, they do not clearly help"
        )
    elif not options.neighbours:
        lines.append("neighbours: off, by --no-neighbours")
    elif not predictions.spaces:
        lines.append("neighbours: none, no model has features of all images")
    else:
        lines.append("neighbours: none, they do not clearly help out of fold")
    lines.append(f"clip: {fitted.clip:g}, applied last")
    losses = [log_loss(table, labels) for table in (outcome.nested.blend, outcome.nested.plain, outcome.nested.final)]
    rows = [[name, f"{loss:.5f}"] for name, loss in zip(("blend", "+ prior", "+ neighbours"), losses, strict=True)]
    lines += ["", score_tables.formatted(["nested out of fold", "log loss"], rows)]
    ways = "; ".join(f"{name} {outcome.nested.ways.count(name)} times" for name in dict.fromkeys(outcome.nested.ways))
    lines.append(f"each group of drivers by what the others chose: {ways}")
    return "\n".join(lines)


def remarks_on(run: Path, members: Sequence[Member], all_images: int, images: int, all_drivers: str) -> list[str]:
    """What is missing, and what `--fold all` left.

    Args:
        all_images: in folds.csv.
        images: that every model covers.
        all_drivers: 'no', 'beside' or 'instead'.
    """
    remarks = []
    missing = [members_of_run.lacks(run, member) for member in members if member.missing]
    if missing:
        lines = "\n".join(f"  {line}" for line in missing)
        remarks.append(
            f"INCOMPLETE, as allowed by --allow-missing:\n{lines}\n"
            f"Judged on the {images:,} of {all_images:,} images that every model covers; the test predictions average "
            "the folds\nthat exist; a model without any is left out. Do not compare these scores with complete ones."
        )
    there = ", ".join(member.name for member in members if member.all_drivers)
    if there and all_drivers == "no":
        remarks.append(f"fold_all of {there} is not used: nothing out of fold tells how to weigh it (--all-drivers).")
    elif there:
        place = "instead of" if all_drivers == "instead" else "beside"
        remarks.append(f"fold_all of {there} is used {place} its folds on the test set: no score here knows of that.")
    return remarks

"""The report of a blend: the paragraphs of report.txt, which are also printed. At most 100 columns wide."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from common.competition import COMPLETE_TRAIN_IMAGES
from common.files import read_json
from common.metric import log_loss
from ensemble.expectation import expectation_text
from ensemble.options import Options
from ensemble.result import BlendResult
from ensemble.tables import formatted

MOST_FOLDS_SHOWN = 6  # more do not fit beside each other; scores.csv has them all
MOST_MODELS_SHOWN = 12  # in the summary
LONGEST_NAME = 24
SHOWN_COSTLIEST = 10  # costliest.csv has more


def report(
    name: str, options: Options, result: BlendResult, tables: Mapping[str, pd.DataFrame], remarks: Sequence[str]
) -> str:
    """The complete report.

    Args:
        name: of the run.
        tables: as `tables_of` makes them.
        remarks: what the reader has to know before the scores.
    """
    predictions, several = result.predictions, len(result.predictions.names) > 1
    images, drivers = predictions.images, predictions.images["subject"].nunique()
    parts = [
        f"{name}: {len(predictions.names)} models, {len(images):,} images of {drivers} drivers out of fold, "
        f"{len(predictions.test_images):,} test images",
        *remarks,
        scores_text(tables["scores"], result.weights),
        methods_text(tables["methods"]),
        steps_text(options, result),
    ]
    means = zip(predictions.names, predictions.fold_means, strict=False)  # loose tables have no folds
    if scales := [f"{name} {one.scale:.3f}" for name, one in means if one.networks > 1]:
        text = "averaging folds lowers confidence; test predictions are sharpened to match (log-probabilities times):"
        parts.append(textwrap.fill(f"{text} {', '.join(scales)}", 100))
    parts.append(expectation_text(result.expectation, len(images), COMPLETE_TRAIN_IMAGES, result.guessed_drivers))
    if several:
        parts.append(members_text(tables["members"]))
    parts += [by_driver_text(tables["by_driver"]), by_class_text(tables["by_class"])]
    parts.append(costliest_text(tables["costliest"][:SHOWN_COSTLIEST]))
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
    models = formatted(["models", "", ""], rows)
    if len(weights) > MOST_MODELS_SHOWN:
        models += f"\n... and {len(weights) - MOST_MODELS_SHOWN} more"
    steps = [record["method"]]
    steps += ["prior matched"] if record["prior"] else []
    steps += ["neighbours smoothed"] if record["neighbours"] else []
    expected, interval = record["expectation"], ""
    if expected:
        interval = (
            f"; {expected['level']:.0%} interval {expected['lowest']:.3f} to {expected['highest']:.3f} "
            f"for {expected['test_drivers']} new drivers"
        )
    return "\n".join(
        [
            *record["remarks"],
            models,
            f"blend       {', '.join(steps)}",
            f"expected    log loss {record['nested_log_loss']:.3f}{interval}; accuracy {record['nested_accuracy']:.1%}",
        ]
    )


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
    neighbours = "none, they do not clearly help out of fold"
    if final.smoothing:
        neighbours = (
            f"{final.smoothing.k} at most, in the features of {final.smoothing.feature}, reach "
            f"{final.smoothing.reach:.3f}, strength {final.smoothing.strength:g}, {final.smoothing.rounds} rounds"
        )
    elif not options.neighbours:
        neighbours = "off, by --no-neighbours"
    elif not result.predictions.spaces:
        neighbours = "none, no model has features of all images"
    steps = {"blend": nested.blend, "+ prior": nested.without_neighbours, "+ neighbours": nested.final}
    rows = [[step, f"{log_loss(table, labels):.5f}"] for step, table in steps.items()]
    counts = {name: nested.methods.count(name) for name in nested.methods}
    return (
        f"blend: {final.method.name}\nprior: {prior}\nneighbours: {neighbours}\nclip: {final.clip:g}, applied last\n\n"
        + formatted(["nested out of fold", "log loss"], rows)
        + "\nchosen without each group of drivers: "
        + "; ".join(f"{name} {count} times" for name, count in counts.items())
    )


def scores_text(table: pd.DataFrame, weights: Mapping[str, float]) -> str:
    """A row for each predictor, overall and by fold; members in order of their loss, then the blend."""
    losses = table.pivot(index="name", columns="fold", values="log_loss")
    overall = table[table["fold"] == "all"].set_index("name")
    folds = sorted((fold for fold in losses.columns if fold != "all"), key=int)
    shown = folds if 2 <= len(folds) <= MOST_FOLDS_SHOWN else []
    members = sorted(weights, key=lambda name: overall.loc[name, "log_loss"])
    rows = []
    for name in [*members, *(name for name in overall.index if name not in weights)]:
        weight = f"{weights[name]:.4f}" if name in weights else ""
        values = [f"{overall.loc[name, 'log_loss']:.5f}", f"{overall.loc[name, 'accuracy']:.2%}"]
        rows.append([shortened(name), weight, *values, *(f"{losses.loc[name, fold]:.4f}" for fold in shown)])
    return formatted(["out of fold", "weight", "log loss", "accuracy", *(f"fold {fold}" for fold in shown)], rows)


def methods_text(table: pd.DataFrame) -> str:
    """The table of the blending methods."""
    columns = {
        "blending method": "{method}",
        "fitted": "{fitted:.4f}",
        "cross-fitted": "{cross_fitted:.4f}",
        "behind the best": "{behind:.4f} +- {standard_error:.4f}",
        "accuracy": "{accuracy:.1%}",
        "": "{chosen}",
    }
    text = _filled(table.assign(chosen=table["chosen"].map({True: "<- chosen", False: ""})), columns)
    return text + "\nchosen: the simplest (the first) within one standard error (over drivers) of the best"


def members_text(table: pd.DataFrame) -> str:
    """What each member adds."""
    columns = {
        "model": "{name}",
        "weight": "{weight:.4f}",
        "alone": "{log_loss:.5f}",
        "blend without it": "{without:.5f}",
        "it adds": "{adds:.4f} +- {standard_error:.4f}",
        "calibration error": "{calibration_error:.3f}",
    }
    return _filled(table, columns)


def costliest_text(table: pd.DataFrame) -> str:
    """The images with the largest loss."""
    columns = {
        "costliest images": "{img}",
        "driver": "{subject}",
        "true": "{classname}",
        "taken for": "{predicted}",
        "probability of true": "{of_true:.2g}",
        "log loss": "{log_loss:.2f}",
    }
    return f"{_filled(table, columns)}\nthese {len(table)} are {table['share'].sum():.1%} of the loss"


def by_driver_text(table: pd.DataFrame) -> str:
    """The scores of each driver."""
    columns = {
        "driver": "{subject}",
        "images": "{images:,}",
        "log loss": "{log_loss:.4f}",
        "accuracy": "{accuracy:.1%}",
    }
    return _filled(table, columns)


def by_class_text(table: pd.DataFrame) -> str:
    """The scores of each class."""
    columns = {
        "class": "{classname} {behaviour}",
        "images": "{images:,}",
        "log loss": "{log_loss:.4f}",
        "accuracy": "{accuracy:.1%}",
        "taken for": "{taken_for}",
    }
    return _filled(table, columns)


def _filled(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    """The rows of a table as text: for each header a template of the row's values."""
    rows = table.to_dict("records")
    for row in rows:
        row.update({"name": shortened(str(row["name"]))} if "name" in row else {})
    return formatted(list(columns), [[template.format_map(row) for template in columns.values()] for row in rows])


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= most else name[: most - 3] + "..."

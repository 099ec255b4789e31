"""The results of experiments: out-of-fold log losses, their paired differences to the reference, and the table."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from common.files import written_whole
from common.metric import paired_difference
from common.run_folder import OUT_OF_FOLD, RunFolder
from common.tables import read_predictions
from ensemble.tables import formatted
from tools.comparison import losses_of
from tools.experiment_file import Experiment


def result(run: Path, models: Sequence[str], images: pd.DataFrame) -> pd.DataFrame | str:
    """What an experiment reached on held-out drivers, or why there is nothing: 'not finished', or 'failed: ...'.

    Args:
        models: its folders in the run, one for each seed.
        images: img, subject, classname, fold of the held-out images.

    Returns:
        By img: log_loss in nats and correct, means over the seeds; subject; seconds, the mean of a fold.

    Raises:
        UserError: a table is corrupted, or has other images.
    """
    tables, seconds = [], []
    for model in models:
        for fold in sorted(images["fold"].unique()):
            folder = RunFolder(run).fold(model, int(fold))
            finished = folder.finished()
            if finished is None:
                why = folder.failure().removeprefix("failed: ")
                return f"failed: {why}" if why else "not finished"
            tables.append(losses_of(read_predictions(folder.verified(OUT_OF_FOLD)), images, folder.path))
            seconds.append(finished.get("seconds", math.nan))
    means = {"log_loss": "mean", "correct": "mean", "subject": "first"}
    return pd.concat(tables).groupby(level="img").agg(means).assign(seconds=sum(seconds) / len(seconds))


def write(path: Path, results: Mapping[Experiment, pd.DataFrame | str]) -> pd.DataFrame:
    """Writes the table of experiments and returns it: a row for each, the least log loss first.

    Args:
        results: what `result` returned for each; the first is the reference.
    """
    reference, rows = next(iter(results.values())), []
    for experiment, found in results.items():
        row: dict[str, object] = {"experiment": experiment.name, "result": found, "settings": str(experiment)}
        if isinstance(found, pd.DataFrame):
            loss, accuracy, seconds = found[["log_loss", "correct", "seconds"]].mean()
            row |= {"log_loss": loss, "accuracy": accuracy, "seconds_a_fold": seconds, "result": ""}
            if found is reference:
                row["result"] = "reference"
            elif isinstance(reference, pd.DataFrame):
                ours, theirs, drivers = found["log_loss"], reference["log_loss"], found["subject"]
                difference, error = paired_difference(ours.to_numpy(), theirs.to_numpy(), drivers.to_numpy())
                verdict = "better" if difference < -error else "worse" if difference > error else "no difference"
                row |= {"difference": difference, "difference_error": error, "result": verdict}
        rows.append(row)
    numbers = ["log_loss", "difference", "difference_error", "accuracy", "seconds_a_fold"]
    table = pd.DataFrame(rows, columns=["experiment", *numbers, "result", "settings"]).astype(
        dict.fromkeys(numbers, float)
    )
    table = table.sort_values("log_loss", kind="stable", ignore_index=True)
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return table


def as_text(table: pd.DataFrame) -> str:
    """The table for the terminal; of a failure only that it is one."""
    shapes = {"log_loss": "{:.4f}", "difference": "{:+.4f}", "difference_error": "± {:.4f}", "accuracy": "{:.1%}"}
    shapes["seconds_a_fold"] = "{:,.0f}"
    columns = [["" if math.isnan(x) else shape.format(x) for x in table[name]] for name, shape in shapes.items()]
    lines = zip(table["experiment"], *columns, table["result"].str.partition(":")[0], strict=True)
    headers = ["experiment", "log loss", "to the reference", "", "accuracy", "s a fold", ""]
    return formatted(headers, [list(line) for line in lines])

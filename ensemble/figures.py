"""The figures of a blend, as PNG. Nothing else in this package draws."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASS_NAMES, CLASSES
from common.environment import load_matplotlib
from common.files import written_whole

FIGURES = (
    "reliability.png",
    "reliability_of_models.png",
    "confusion.png",
    "by_driver.png",
    "by_class.png",
    "correlation.png",
    "members.png",
)
MOST_MEMBERS = 30  # shown of many
_DOTS_PER_INCH = 100


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yields axes of a figure of so many inches, which is written to `path`."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.add_subplot()
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_all(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Draws `FIGURES` from the frames of the run folder, by the names of their files without '.csv'."""
    draw_reliability(folder / "reliability.png", tables["reliability"])
    draw_reliability(folder / "reliability_of_models.png", tables["reliability_of_models"])
    draw_confusion(folder / "confusion.png", tables["confusion"])
    draw_bars(folder / "by_driver.png", tables["by_driver"], "subject", "log loss by driver, out of fold")
    classes = tables["by_class"].assign(label=[f"{c} {CLASS_NAMES[c]}" for c in tables["by_class"]["classname"]])
    draw_bars(folder / "by_class.png", classes, "label", "log loss by class, out of fold")
    draw_correlation(folder / "correlation.png", tables["correlation"])
    draw_members(folder / "members.png", tables["members"])


def draw_reliability(path: Path, table: pd.DataFrame) -> None:
    """Predicted against observed frequency, one line for each name of the frame of `tables.reliabilities`."""
    with _figure(path, 6.5, 6) as axes:
        axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfect calibration")
        for name, part in table.groupby("name", sort=False):
            axes.plot(part["confidence"], part["frequency"], marker="o", markersize=4, label=name)
        axes.set(xlabel="predicted probability", ylabel="how often it was true", xlim=(0, 1), ylim=(0, 1))
        axes.set_title("reliability out of fold, all classes")
        axes.legend(fontsize=8)


def draw_confusion(path: Path, table: pd.DataFrame) -> None:
    """True classes down, most probable classes across, with counts."""
    counts = table[list(CLASSES)].to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _figure(path, 8, 6) as axes:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(CLASSES)), list(CLASSES))
        axes.set_yticks(range(len(CLASSES)), [f"{name} {CLASS_NAMES[name]}" for name in CLASSES])
        axes.set(xlabel="most probable class", ylabel="true class", title="confusions out of fold, images")


def draw_bars(path: Path, table: pd.DataFrame, names: str, title: str) -> None:
    """Log loss of each row of a frame with the columns `names` and log_loss."""
    with _figure(path, 7, 1 + 0.28 * len(table)) as axes:
        axes.barh(table[names].astype(str), table["log_loss"], color="tab:blue")
        axes.invert_yaxis()
        axes.set(xlabel="log loss, nats", title=title)


def draw_correlation(path: Path, table: pd.DataFrame) -> None:
    """The frame of `tables.error_correlation`."""
    names = list(table["name"])[:MOST_MEMBERS]
    values = table[names].to_numpy()[: len(names)]
    size = 3 + 0.5 * len(names)
    with _figure(path, size + 1.5, size) as axes:
        axes.imshow(values, cmap="Reds", vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            colour = "white" if values[row, column] > 0.6 else "black"
            axes.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title("correlation of the models' errors")


def draw_members(path: Path, table: pd.DataFrame) -> None:
    """What each member adds, with its standard error: the frame of `tables.leave_one_out`."""
    shown = table[:MOST_MEMBERS]
    adds, errors = shown["adds"].fillna(0), shown["standard_error"].replace(np.inf, np.nan).fillna(0)
    with _figure(path, 7, 1.5 + 0.3 * len(shown)) as axes:
        axes.barh(shown["name"], adds, xerr=errors, color="tab:green")
        axes.axvline(0, color="0.5", linewidth=1)
        axes.invert_yaxis()
        axes.set(xlabel="log loss that the blend has more without it, nats", title="what each model adds")

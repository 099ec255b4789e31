"""Learning curves of several models in one figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common.environment import load_matplotlib
from common.files import written_whole
from tools.comparison import Row

MOST_CURVES = 10  # colours that can be told apart
SIZE = (10.0, 5.0)  # inches


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Draws held-out log loss and training loss by epoch, the mean over folds; each fold as a thin line.

    Args:
        rows: the best first; of more than `MOST_CURVES` with a history only these are drawn.
        path: ends in .png, .svg or .pdf.

    Returns:
        False, and no file, where no row has trained an epoch.
    """
    load_matplotlib()
    from matplotlib.figure import Figure

    trained = [row for row in rows if any(len(history) for history in row.histories)][:MOST_CURVES]
    if not trained:
        return False
    figure = Figure(figsize=SIZE, layout="constrained")
    held_out, training = figure.subplots(1, 2, sharex=True)
    for number, row in enumerate(trained):
        colour = f"C{number}"
        for axes, column in ((held_out, "held_out_log_loss"), (training, "training_loss")):
            curves = pd.concat([history.set_index("epoch")[column] for history in row.histories], axis=1)
            if curves.shape[1] > 1:
                axes.plot(curves.index, curves.to_numpy(), ".-", color=colour, linewidth=0.7, markersize=4, alpha=0.35)
            mean = curves.dropna().mean(axis=1)  # as far as every fold has come: patience ends them apart
            axes.plot(mean.index, mean.to_numpy(), color=colour, linewidth=2, marker="o", markersize=4, label=row.name)
    longest = max(int(history["epoch"].max()) for row in trained for history in row.histories if len(history))
    for axes, title in ((held_out, "held-out drivers: log loss"), (training, "training images: loss")):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_xlim(0.8, longest + 0.2)
        axes.set_xticks(_ticks(longest))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    held_out.set_ylabel("nats")
    figure.legend(*held_out.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return True


def _ticks(longest: int) -> list[int]:
    """At most eleven whole numbers from 1."""
    return list(np.unique(np.linspace(1, longest, min(longest, 11)).round().astype(int)))

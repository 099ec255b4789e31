"""The charts of a run's report: SVG to stand within HTML, whose colours the page's CSS decides."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASSES
from common.environment import load_matplotlib
from common.run_folder import HISTORY, FoldFolder
from ensemble.expectation import PUBLISHED
from ensemble.report import shortened

WIDTH = 4.6  # inches; a phone shows it at about its size
MOST_CURVES = 30  # models that get learning curves
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # of a logarithmic axis, nats
LABELLED = {12: "right", 50: "center", 182: "left"}  # published places, and on which side of their marks
MOST_ROWS = 30  # of a dot plot; the tables beside it have all
LONGEST_NAME = 32
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's: for colour-blind people
INK, FAINT = "#111111", "#bbbbbb"
_CSS = {INK: "currentColor", FAINT: "var(--faint)"} | {colour: f"var(--c{n})" for n, colour in enumerate(SERIES)}
_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **{"font.size": 9.5, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9},
    **{"axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.5, "axes.axisbelow": True, "axes.linewidth": 0.7},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none"},
    **{"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False, "legend.frameon": False},
}
# Draws on matplotlib's axes, in `INK`, `FAINT` and `SERIES` alone; and the height in inches.
Drawing = tuple[Callable[[Any], object], float]
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def chart(drawing: Drawing, title: str, name: str) -> str:
    """An <svg> element.

    Args:
        title: what it shows, for those who do not see it.
        name: of the chart on the page, which its ids begin with.
    """
    draw, height = drawing
    load_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata=_METADATA)
    text = stream.getvalue()
    root, text = text[text.index("<svg") :].split(">", 1)
    root = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", root)
    text = f"{root}>" + re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, css in _CSS.items():
        text = text.replace(colour, css)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def dots(
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    label: str,
    *,
    errors: Sequence[float] | None = None,
    chosen: Sequence[int] = (),
    zero: bool = False,
) -> Drawing:
    """A row of dots for each name, the first on top; and the height of the chart.

    Args:
        values: of each row; several get a line at their mean.
        label: of the axis, with its unit.
        errors: standard error of each row's value.
        chosen: rows in another colour.
        zero: whether a line marks zero.
    """
    names, values = names[:MOST_ROWS], values[:MOST_ROWS]

    def draw(axes: Any) -> None:
        for row, own in enumerate(values):
            colour = SERIES[1] if row in chosen else SERIES[0]
            own = [value for value in own if np.isfinite(value)]
            if not own:
                continue
            if errors is not None and np.isfinite(errors[row]) and len(own) == 1:
                axes.plot([own[0] - errors[row], own[0] + errors[row]], [row, row], color=colour, linewidth=1.5)
            axes.plot(own, [row] * len(own), "D" if row in chosen else "o", color=colour, markersize=5, linestyle="")
            if len(own) > 1:
                axes.plot([np.mean(own)] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.5)
        if zero:
            axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), [shortened(name, LONGEST_NAME) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)

    return draw, 0.75 + 0.25 * len(names)


def curves(histories: Mapping[Any, pd.DataFrame]) -> Drawing:
    """Held-out and training loss by epoch: of each fold, as history.csv."""

    def draw(axes: Any) -> None:
        for number, (fold, history) in enumerate(histories.items()):
            epochs = np.arange(1, len(history) + 1)  # the epochs of stages follow each other
            colour, held_out = SERIES[number % len(SERIES)], history["held_out_log_loss"].notna().to_numpy()
            axes.plot(epochs, history["training_loss"], ":", color=colour, linewidth=1.2)
            losses = history["held_out_log_loss"].to_numpy()[held_out]
            axes.plot(epochs[held_out], losses, "o-", color=colour, markersize=3.5, linewidth=1.5, label=f"fold {fold}")
        axes.plot([], [], ":", color=INK, linewidth=1.2, label="training")
        axes.set(xlabel="epoch", ylabel="log loss, nats")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(ncols=3, fontsize=8)

    return draw, 2.8


def reliability(table: pd.DataFrame) -> Drawing:
    """Predicted against observed frequency, a line for each name of reliability.csv."""

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.8, label="perfect calibration")
        for number, (name, part) in enumerate(table.groupby("name", sort=False)):
            colour, marker = SERIES[number % len(SERIES)], "os^Dvx"[number % 6]
            line = {
                "color": colour,
                "marker": marker,
                "markersize": 4,
                "linewidth": 1.3,
                "label": shortened(str(name), LONGEST_NAME),
            }
            axes.plot(part["confidence"], part["frequency"], **line)
        axes.set(xlabel="predicted probability", ylabel="share that is the true class", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=8, loc="upper left")

    return draw, 3.6


def confidences(parts: Mapping[str, np.ndarray]) -> Drawing:
    """Histograms of the largest probability of each image, by the name of the set."""

    def draw(axes: Any) -> None:
        edges = np.linspace(0, 1, 21)
        for number, (name, values) in enumerate(parts.items()):
            shares = np.histogram(values, edges)[0] / max(len(values), 1) * 100
            style = {"color": SERIES[number], "linestyle": "-" if number == 0 else "--", "linewidth": 1.8}
            axes.stairs(shares, edges, label=name, **style)
        axes.set(xlabel="probability of the most probable class", ylabel="images, %", xlim=(0, 1), ylim=(0, None))
        axes.legend(loc="upper left")

    return draw, 2.8


def expectation(expected: Mapping[str, float], score: float | None) -> Drawing:
    """The expected log loss with its interval, as in blend.json, among published scores."""
    loss, lowest, highest = (expected[name] for name in ("loss", "lowest", "highest"))

    def draw(axes: Any) -> None:
        axes.plot([lowest, highest], [0, 0], color=SERIES[0], linewidth=5, alpha=0.5, solid_capstyle="butt")
        axes.plot([loss], [0], "o", color=SERIES[0], markersize=8)
        axes.annotate("expected", (loss, 0), (0, 9), textcoords="offset points", ha="center")
        if score is not None:
            axes.plot([score], [0], "D", color=SERIES[1], markersize=7)
            axes.annotate("test set", (score, 0), (0, -17), textcoords="offset points", ha="center", color=SERIES[1])
        for place, value in PUBLISHED:
            axes.plot([value] * 2, [-1.0, -0.75], color=INK, linewidth=1)
            if place in LABELLED:
                axes.annotate(f"#{place}", (value, -0.72), ha=LABELLED[place], va="bottom", fontsize=8)
        axes.set(xscale="log", ylim=(-1, 0.8), yticks=[], xlabel="log loss on new drivers, nats (log scale); #: places")
        ticks = [tick for tick in TICKS if min(lowest, 0.12) * 0.8 <= tick <= max(highest, 0.4) * 1.2]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.spines["left"].set_visible(False)

    return draw, 1.5


def charts_of(
    context: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], folders: Sequence[FoldFolder]
) -> dict[str, Any]:
    """The SVG of each chart of the report, by name; 'curves' is a list of pairs: title and SVG.

    Args:
        context: what the template gets.
        tables: of the blend, by name.
        folders: the finished fold runs.
    """
    record, drawings = context["record"], dict[str, tuple[Drawing, str]]()
    if record["expectation"]:
        score = context["score"]["log_loss"] if context["score"] else None
        drawings["expectation"] = expectation(record["expectation"], score), "Expected log loss among published scores"
    rows = [row for row in context["scores"] if row["name"] != context["fitted"]]
    rows.sort(key=lambda row: (row["name"] in record["weights"], row["log_loss"]))
    by_fold = [[value for fold, value in row["by_fold"].items() if fold != "all"] for row in rows]
    blends = [number for number, row in enumerate(rows) if row["name"] not in record["weights"]]
    names = [row["name"] for row in rows]
    drawings["folds"] = dots(names, by_fold, "log loss of each fold, nats", chosen=blends), "Log loss by model and fold"
    if len(context["members"]) > 1:
        label = "log loss without it, minus with it, nats"
        drawings["members"] = _dots_of(context["members"], "name", "adds", label, zero=True), "What each model adds"
    chosen = [number for number, row in enumerate(context["methods"]) if row["method"] == record["method"]]
    methods = _dots_of(context["methods"], "method", "cross_fitted", "cross-fitted log loss, nats", chosen=chosen)
    drawings["methods"] = methods, "Log loss of the blending methods"
    for name, label in (("by_class", "label"), ("by_driver", "subject")):
        rows = [{**row, "label": f"{row.get('classname')} {row.get('behaviour')}"} for row in context[name]]
        rows.sort(key=lambda row: -row["log_loss"])
        drawings[name] = _dots_of(rows, label, "log_loss", "log loss, nats"), f"Log loss {name.replace('_', ' ')}"
    drawings["reliability"] = reliability(tables["reliability"]), "Predicted against observed frequency"
    sets = {name: tables[table] for name, table in context["sets"].items()}
    sure = {name: table[list(CLASSES)].max(axis=1).to_numpy() for name, table in sets.items()}
    drawings["confidence"] = confidences(sure), "Confidence out of fold and on the test set"
    charts: dict[str, Any] = {
        name: chart(drawing, title, f"{context['prefix']}{name}") for name, (drawing, title) in drawings.items()
    }
    charts["curves"] = []
    for model in sorted({folder.model for folder in folders})[:MOST_CURVES]:
        own = [folder for folder in folders if folder.model == model and folder.exists(HISTORY)]
        histories = {folder.fold: pd.read_csv(folder.verified(HISTORY)) for folder in own}
        histories = {fold: history for fold, history in histories.items() if history["held_out_log_loss"].notna().any()}
        if histories:
            lowest = np.mean([history["held_out_log_loss"].min() for history in histories.values()])
            epochs = max(len(history) for history in histories.values())
            title = f"{model}: held-out log loss {lowest:.3f} at best, in {epochs} epochs"
            name = f"{context['prefix']}curves{len(charts['curves'])}"
            svg = chart(curves(histories), f"Learning curves of {model}", name)
            charts["curves"].append((title, svg))
    return charts


def _dots_of(rows: Sequence[Mapping[str, Any]], name: str, value: str, label: str, **options: Any) -> Drawing:
    errors = [row.get("standard_error", np.nan) for row in rows]
    return dots([row[name] for row in rows], [[row[value]] for row in rows], label, errors=errors, **options)

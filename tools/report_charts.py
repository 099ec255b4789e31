"""The charts of a run's report, and what they show: SVG within HTML, whose colours the page's CSS decides."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

from common.competition import CLASS_NAMES, CLASSES
from common.environment import load_matplotlib
from common.run_folder import HISTORY, FoldFolder
from ensemble.report import shortened
from ensemble.result import PUBLISHED

WIDTH = 4.6  # inches; a phone shows it at about its size
MOST_CURVES = 30  # models that get learning curves
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # of a logarithmic axis, nats
LABELLED = {12: "right", 50: "center", 182: "left"}  # published places, and on which side of their marks
MOST_ROWS = 30  # of a dot plot; the tables beside it have all
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
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def findings(tables: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    """What the charts show, as their titles."""
    found = {"confusion": "Every image out of fold is recognised", "members": "No model adds to the blend"}
    for name, column in (("by_class", "classname"), ("by_driver", "subject")):
        costly = tables[name].nlargest(2, "share")
        verb = "make" if len(costly) > 1 else "makes"
        found[name] = f"{' and '.join(costly[column])} {verb} up {100 * costly['share'].sum():.0f} % of the loss"
    counts = tables["confusion"][list(CLASSES)].to_numpy() * (1 - np.eye(len(CLASSES), dtype=int))
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    if times := int(counts[row, column]):
        true, taken = (f"{CLASSES[number]} {CLASS_NAMES[CLASSES[number]]}" for number in (row, column))
        found["confusion"] = f"The most frequent mistake: {true}, taken for {taken}, {times:,} time{'s' * (times > 1)}"
    last = [tables[name] for name in ("scores", "reliability")]
    scores, reliability = (table[table["name"] == table["name"].iloc[-1]] for table in last)  # of the last step
    folds = scores.loc[scores["fold"] != "all", "log_loss"]
    found["folds"] = f"The blend's log loss is {folds.min():.2f} in the easiest fold, {folds.max():.2f} in the hardest"
    best = tables["members"].sort_values("adds").iloc[-1]
    if best["adds"] > 0:
        found["members"] = f"{best['name']} adds most: without it the log loss is {best['adds']:.3f} higher"
    found["methods"] = f"{record['method']} is chosen among {len(tables['methods'])} methods"
    distance = (reliability["confidence"] - reliability["frequency"]).abs()
    error = np.average(distance, weights=reliability["predictions"])
    found["reliability"] = f"Probabilities of the blend are off by {100 * error:.1f} points on average"
    return found


def chart(draw: Callable[[Any], object], height: float, title: str, name: str) -> str:
    """An <svg> element: drawn on matplotlib's axes in `INK`, `FAINT` and `SERIES` alone, `height` inches high.

    The title is for those who do not see it; the ids begin with the chart's name.
    """
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
    axes: Any, names: Sequence[str], values: Sequence[Sequence[float]], errors: Sequence[float], chosen: Collection[str]
) -> None:
    """A row of dots for each name, the first on top; several get a line at their mean, one alone its standard error."""
    for row, (name, own, error) in enumerate(zip(names, values, errors, strict=True)):
        colour, marker = (SERIES[1], "D") if name in chosen else (SERIES[0], "o")
        own = [value for value in own if np.isfinite(value)]
        axes.plot(own, [row] * len(own), marker, color=colour, markersize=5, linestyle="")
        if len(own) > 1:
            axes.plot([np.mean(own)] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.5)
        elif own and np.isfinite(error):
            axes.plot([own[0] - error, own[0] + error], [row, row], color=colour, linewidth=1.5)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def curves(axes: Any, histories: Mapping[Any, pd.DataFrame]) -> None:
    """Held-out and training loss by epoch: of each fold, as history.csv."""
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


def reliability(axes: Any, table: pd.DataFrame) -> None:
    """Predicted against observed frequency, a line for each name of reliability.csv."""
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=0.8, label="perfect calibration")
    for number, (name, part) in enumerate(table.groupby("name", sort=False)):
        colour, marker = SERIES[number % len(SERIES)], "os^Dvx"[number % 6]
        label = shortened(str(name))
        axes.plot(part["confidence"], part["frequency"], color=colour, marker=marker, markersize=4, label=label)
    axes.set(xlabel="predicted probability", ylabel="share that is the true class", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8, loc="upper left")


def confidences(axes: Any, parts: Mapping[str, np.ndarray]) -> None:
    """Histograms of the largest probability of each image, by the name of the set."""
    edges = np.linspace(0, 1, 21)
    for number, (name, values) in enumerate(parts.items()):
        shares = np.histogram(values, edges)[0] / max(len(values), 1) * 100
        axes.stairs(shares, edges, label=name, color=SERIES[number], linestyle=("-", "--")[number], linewidth=1.8)
    axes.set(xlabel="probability of the most probable class", ylabel="images, %", xlim=(0, 1), ylim=(0, None))
    axes.legend(loc="upper left")


def expectation(axes: Any, expected: Mapping[str, float], score: float | None) -> None:
    """The expected log loss with its interval, as in blend.json, among published scores."""
    loss, lowest, highest = (expected[name] for name in ("loss", "lowest", "highest"))
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


def charts_of(
    context: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], folders: Sequence[FoldFolder]
) -> dict[str, Any]:
    """The SVG of each chart by name, of what the template gets; 'curves' is a list of pairs: title and SVG."""
    record, charts = context["record"], dict[str, Any]()

    def add(name: str, title: str, height: float, draw: Callable[..., None], *values: Any) -> None:
        charts[name] = chart(lambda axes: draw(axes, *values), height, title, f"{context['prefix']}{name}")

    def add_dots(name: str, title: str, label: str, rows: list[dict], key: str, value: str, chosen: Any = ()) -> None:
        shown = rows[:MOST_ROWS]
        values = [row[value] if isinstance(row[value], list) else [row[value]] for row in shown]
        errors = [row.get("standard_error", np.nan) for row in shown]

        def draw(axes: Any) -> None:
            dots(axes, [row[key] for row in shown], values, errors, chosen)
            axes.set_xlabel(label)
            if name == "members":
                axes.axvline(0, color=INK, linewidth=0.8)

        add(name, title, 0.75 + 0.25 * len(shown), draw)

    score = context["score"]["log_loss"] if context["score"] else None
    add("expectation", "Expected log loss among published scores", 1.5, expectation, record["expectation"], score)
    rows = [row for row in context["scores"] if row["name"] != context["fitted"]]
    rows = [row | {"losses": [row["by_fold"][fold] for fold in row["by_fold"] if fold != "all"]} for row in rows]
    rows.sort(key=lambda row: (row["name"] in record["weights"], row["log_loss"]))
    blends = {row["name"] for row in rows} - set(record["weights"])
    add_dots("folds", "Log loss by model and fold", "log loss of each fold, nats", rows, "name", "losses", blends)
    members, methods = context["members"], context["methods"]
    if len(members) > 1:
        add_dots("members", "What each model adds", "log loss without it, minus with it, nats", members, "name", "adds")
    label, chosen = "cross-fitted log loss, nats", {record["method"]}
    add_dots("methods", "Log loss of the blending methods", label, methods, "method", "cross_fitted", chosen)
    for name, key in (("by_class", "label"), ("by_driver", "subject")):
        rows = [{**row, "label": f"{row.get('classname')} {row.get('behaviour')}"} for row in context[name]]
        rows.sort(key=lambda row: -row["log_loss"])
        add_dots(name, f"Log loss {name.replace('_', ' ')}", "log loss, nats", rows, key, "log_loss")
    add("reliability", "Predicted against observed frequency", 3.6, reliability, tables["reliability"])
    sure = {name: tables[table][list(CLASSES)].max(axis=1) for name, table in context["sets"].items()}
    add("confidence", "Confidence out of fold and on the test set", 2.8, confidences, sure)
    charts["curves"] = []
    for model in sorted({folder.model for folder in folders})[:MOST_CURVES]:
        own = [folder for folder in folders if folder.model == model and folder.exists(HISTORY)]
        histories = {folder.fold: pd.read_csv(folder.verified(HISTORY)) for folder in own}
        histories = {fold: history for fold, history in histories.items() if history["held_out_log_loss"].notna().any()}
        if histories:
            lowest = np.mean([history["held_out_log_loss"].min() for history in histories.values()])
            epochs = max(len(history) for history in histories.values())
            title = f"{model}: held-out log loss {lowest:.3f} at best, in {epochs} epochs"
            name = f"curves{len(charts['curves'])}"
            add(name, f"Learning curves of {model}", 2.8, curves, histories)
            charts["curves"].append((title, charts.pop(name)))
    return charts

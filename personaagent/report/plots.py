"""Plots as SVG text for inclusion in a page. They carry no font, no script and no colour scheme of their own.

Ink and grid are written as CSS variables (`--ink`, `--soft`), so one drawing fits a light and a dark page. Text stays text,
so any script can be shown and searched.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["MAX_ROWS", "bars", "dumbbell", "histogram", "label", "line"]

WIDTH = 8.0  # inches
MAX_ROWS = 60  # users of a dumbbell plot; more cannot be read
INK, SOFT = "#0b0c0d", "#a1b2c3"  # stand-ins for CSS variables
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#d55e00",
    "#56b4e9",
    "#7f7f7f",
    "#9a8c00",
)  # told apart by all eyes
BETTER, WORSE, EQUAL = COLOURS[0], COLOURS[4], COLOURS[6]
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")


def label(text: str, size: int = 28) -> str:
    """A name that fits beside an axis: one line, no control characters, shortened."""
    text = _UNPRINTABLE.sub(" ", text).strip() or "(blank)"
    return text if len(text) <= size else text[: size - 1].rstrip() + "…"


def dumbbell(
    names: Sequence[str], before: Sequence[float], after: Sequence[float], xlabel: str, higher_is_better: bool
) -> str:
    """One row per name with its value before and after; what got better stands out from what got worse."""
    figure, axes = _axes(0.6 + 0.24 * max(3, len(names)))
    rows = np.arange(len(names))[::-1]
    for row, old, new in zip(rows, before, after, strict=True):
        gain = (new - old) if higher_is_better else (old - new)
        colour = EQUAL if gain == 0 else BETTER if gain > 0 else WORSE
        axes.plot([old, new], [row, row], color=colour, linewidth=2, zorder=2)
        axes.plot([new], [row], "o", color=colour, markersize=7, zorder=3)
    axes.plot(
        before, rows, "o", color=INK, markerfacecolor=SOFT, markersize=5, linestyle="none", label="before", zorder=3
    )
    for colour, text in ((BETTER, "after, better"), (WORSE, "after, worse"), (EQUAL, "unchanged")):
        axes.plot([], [], "o", color=colour, label=text)
    axes.set_yticks(rows)
    axes.set_yticklabels([label(n) for n in names], parse_math=False)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel(label(xlabel, 80), parse_math=False)
    axes.grid(axis="x", color=SOFT, alpha=0.4, linewidth=0.6)
    _legend(axes, 4)
    return _svg(figure)


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    ylabel: str,
) -> str:
    """Groups of bars, one bar per series; `intervals` are (low, high) ends of error bars for some series."""
    figure, axes = _axes(3.2)
    width = 0.8 / max(1, len(series))
    at = np.arange(len(groups))
    for number, (name, values) in enumerate(series.items()):
        heights = np.asarray([_finite(v) for v in values])
        where = at + (number - (len(series) - 1) / 2) * width
        axes.bar(where, heights, width * 0.92, color=COLOURS[number % len(COLOURS)], label=_key(name), zorder=2)
        if ends := intervals.get(name):
            low = [max(0.0, h - _finite(e[0], h)) for h, e in zip(heights, ends, strict=True)]
            high = [max(0.0, _finite(e[1], h) - h) for h, e in zip(heights, ends, strict=True)]
            axes.errorbar(where, heights, [low, high], fmt="none", ecolor=INK, elinewidth=1, capsize=2.5, zorder=3)
    axes.set_xticks(at)
    axes.set_xticklabels([label(g, 18) for g in groups], parse_math=False)
    axes.set_ylabel(label(ylabel, 60), parse_math=False)
    axes.grid(axis="y", color=SOFT, alpha=0.4, linewidth=0.6)
    if len(series) > 1:
        _legend(axes, 4)
    return _svg(figure)


def line(x: Sequence[float], series: Mapping[str, Sequence[float]], xlabel: str, ylabel: str) -> str:
    """One line per series over common x values."""
    figure, axes = _axes(3.2)
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, values, "o-", color=colour, linewidth=2, markersize=4, label=_key(name), zorder=2)
    axes.set_xlabel(label(xlabel, 80), parse_math=False)
    axes.set_ylabel(label(ylabel, 60), parse_math=False)
    axes.grid(color=SOFT, alpha=0.4, linewidth=0.6)
    if len(series) > 1:
        _legend(axes, 4)
    return _svg(figure)


def histogram(values: Sequence[float], bins: int, xlabel: str) -> str:
    """How often values occur."""
    figure, axes = _axes(2.8)
    axes.hist([v for v in values if math.isfinite(v)], bins=bins, color=COLOURS[0], rwidth=0.92, zorder=2)
    axes.set_xlabel(label(xlabel, 80), parse_math=False)
    axes.grid(axis="y", color=SOFT, alpha=0.4, linewidth=0.6)
    return _svg(figure)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(SOFT)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def _legend(axes: Axes, columns: int) -> None:
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9, labelcolor=INK, borderpad=0.2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _key(name: str) -> str:
    """A legend entry; matplotlib leaves out names that begin with an underscore."""
    return label(name).lstrip("_") or "(blank)"


def _finite(value: float, otherwise: float = 0.0) -> float:
    return value if math.isfinite(value) else otherwise


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    # Text as text needs a global parameter; ids come from the content, so the same plot gives the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "personaagent"}), warnings.catch_warnings():
        # A glyph that matplotlib's own font lacks is drawn by the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", re.sub(r' height="[^"]*pt"', "", svg, count=1), count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and several plots would repeat their ids
    return svg.replace(INK, "var(--ink)").replace(SOFT, "var(--soft)").strip()

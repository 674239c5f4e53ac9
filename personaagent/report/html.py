"""Reports: one HTML file with texts, tables, plots, and personas side by side, that needs nothing else to be shown.

A report is a title and sections. Everything in a section is plain text and is escaped; there is no way to pass markup in.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import singledispatch
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from personaagent.errors import InvalidInput
from personaagent.report import plots
from personaagent.types import utc_now
from personaagent.whole_file import write_whole

__all__ = [
    "Bars",
    "Cell",
    "Chat",
    "Diff",
    "Dumbbell",
    "Histogram",
    "Line",
    "Section",
    "SideBySide",
    "Table",
    "Text",
    "write_atomically",
    "write_report",
]

Cell = str | int | float | date | None
NOTHING = "–"  # in a cell without a value
MAX_WORDS = 4_000  # of a text whose changes are shown word by word; comparing takes time in the square of them
_WORD = re.compile(r"\s+|[^\s\w]|\w+")


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by blank lines."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under headers. Numbers are set to the right, dates stay on one line, None is a dash."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Dumbbell:
    """A score of each user before and after. Users without one of the two are left out, and counted."""

    users: Sequence[str]
    before: Sequence[float | None]
    after: Sequence[float | None]
    title: str = ""
    xlabel: str = "score"
    higher_is_better: bool = True


@dataclass(frozen=True)
class Bars:
    """Grouped bars: one group per label, one bar per series, with the ends of error bars where there are any."""

    groups: Sequence[str]
    series: Mapping[str, Sequence[float]]
    intervals: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    title: str = ""
    ylabel: str = ""


@dataclass(frozen=True)
class Line:
    """Lines over common x values."""

    x: Sequence[float]
    series: Mapping[str, Sequence[float]]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""


@dataclass(frozen=True)
class Histogram:
    """How values are spread."""

    values: Sequence[float]
    title: str = ""
    xlabel: str = ""
    bins: int = 20


@dataclass(frozen=True)
class SideBySide:
    """Texts beside each other, as (heading, text): personas of several users, or versions of one."""

    texts: Sequence[tuple[str, str]]
    title: str = ""


@dataclass(frozen=True)
class Diff:
    """What changed from one text to another."""

    old: str
    new: str
    title: str = ""


@dataclass(frozen=True)
class Chat:
    """The same request answered for several users, as (user, answer)."""

    request: str
    answers: Sequence[tuple[str, str]]
    title: str = ""
    choices: Sequence[str] = ()


Section = Text | Table | Dumbbell | Bars | Line | Histogram | SideBySide | Diff | Chat


def write_report(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write the report, whole or not at all.

    Raises:
        InvalidInput: the file cannot be written there.
    """
    # Loading templates and plotting happens before anything is written.
    environment = Environment(
        loader=PackageLoader("personaagent"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [{**_view(section), "title": section.title} for section in sections]
    html = environment.get_template("report.html").render(title=title, sections=views, time=utc_now())
    return write_atomically(path, html)


def write_atomically(path: str | Path, text: str) -> Path:
    """Write a file so that readers see the old content or all of the new. Returns its absolute path.

    Raises:
        InvalidInput: the folder does not exist or cannot be written to.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        raise InvalidInput(f"cannot write {path}: it is a folder; name a file in it")
    try:
        write_whole(path, text.encode("utf-8", errors="replace"), private=False, durable=True)
    except OSError as e:
        raise InvalidInput(f"cannot write {path}: {e.strerror}") from e
    return path


@singledispatch
def _view(section: Any) -> dict[str, Any]:
    """What the template needs of a section."""
    raise TypeError(f"{type(section).__name__} is no section of a report")


@_view.register
def _(section: Text) -> dict[str, Any]:
    return {"kind": "text", "paragraphs": [p for p in re.split(r"\n\s*\n", section.text) if p.strip()]}


@_view.register
def _(section: Table) -> dict[str, Any]:
    return {"kind": "table", "caption": section.caption, **_data(section.headers, section.rows)}


@_view.register
def _(section: Dumbbell) -> dict[str, Any]:
    triples = [
        (user, old, new)
        for user, old, new in zip(section.users, section.before, section.after, strict=True)
        if old is not None and new is not None and math.isfinite(old) and math.isfinite(new)
    ]
    shown = triples
    notes = []
    if left_out := len(section.users) - len(triples):
        notes.append(f"{left_out} of {len(section.users)} users have no score and are not shown.")
    if len(triples) > plots.MAX_ROWS:
        shown = sorted(triples, key=lambda t: abs(t[2] - t[1]), reverse=True)[: plots.MAX_ROWS]
        notes.append(f"The {plots.MAX_ROWS} largest changes of {len(triples)} users.")
    shown = sorted(shown, key=lambda t: (t[2] - t[1], t[2]), reverse=section.higher_is_better)
    svg = ""
    if shown:
        users, before, after = [t[0] for t in shown], [t[1] for t in shown], [t[2] for t in shown]
        svg = plots.dumbbell(users, before, after, section.xlabel, section.higher_is_better)
    data = _data(("user", "before", "after"), shown)
    return _plot(svg, f"{section.xlabel} before and after, per user", data, " ".join(notes))


@_view.register
def _(section: Bars) -> dict[str, Any]:
    for name, values in section.series.items():
        if len(values) != len(section.groups):
            raise ValueError(f"series {name!r} has {len(values)} values for {len(section.groups)} groups")
    svg = plots.bars(section.groups, section.series, section.intervals, section.ylabel)
    rows = []
    for at, group in enumerate(section.groups):
        for name, values in section.series.items():
            ends = section.intervals.get(name)
            low, high = ends[at] if ends else (None, None)
            rows.append((group, name, values[at], low, high))
    return _plot(svg, f"{section.ylabel} by group", _data(("group", "series", "value", "low", "high"), rows))


@_view.register
def _(section: Line) -> dict[str, Any]:
    svg = plots.line(section.x, section.series, section.xlabel, section.ylabel)
    rows = [(x, *(values[at] for values in section.series.values())) for at, x in enumerate(section.x)]
    return _plot(svg, f"{section.ylabel} over {section.xlabel}", _data((section.xlabel or "x", *section.series), rows))


@_view.register
def _(section: Histogram) -> dict[str, Any]:
    svg = plots.histogram(section.values, section.bins, section.xlabel)
    finite = sorted(v for v in section.values if math.isfinite(v))
    rows = [(len(finite), finite[0], finite[len(finite) // 2], finite[-1])] if finite else []
    return _plot(svg, f"distribution of {section.xlabel}", _data(("count", "least", "median", "greatest"), rows))


@_view.register
def _(section: SideBySide) -> dict[str, Any]:
    return {"kind": "side", "texts": section.texts}


@_view.register
def _(section: Diff) -> dict[str, Any]:
    return {"kind": "diff", "lines": _diff_lines(section.old, section.new)}


@_view.register
def _(section: Chat) -> dict[str, Any]:
    return {"kind": "chat", "request": section.request, "answers": section.answers, "choices": section.choices}


def _plot(svg: str, alt: str, data: dict[str, Any], note: str = "") -> dict[str, Any]:
    # The drawing is ours and its texts were escaped as XML, so it may stay markup.
    return {"kind": "plot", "svg": Markup(svg), "alt": alt, "note": note, **data}


def _data(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dict[str, Any]:
    cells = [[_cell(c) for c in row] for row in rows]
    # A header stands above what it names: to the right over a column of numbers.
    kinds = [{row[at][1] for row in cells if at < len(row) and row[at][0] != NOTHING} for at in range(len(headers))]
    return {
        "headers": [(h, "number" if k == {"number"} else "") for h, k in zip(headers, kinds, strict=True)],
        "rows": cells,
    }


def _cell(value: Cell) -> tuple[str, str]:
    """The text of a cell, and its class: a number, a date or neither."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING, ""
    if isinstance(value, float):
        return f"{value:.3f}", "number"
    if isinstance(value, date):
        return f"{value:%Y-%m-%d}", "date"
    return str(value), "number" if isinstance(value, int) and not isinstance(value, bool) else ""


def _diff_lines(old: str, new: str) -> list[tuple[str, list[tuple[bool, str]]]]:
    """("same" | "old" | "new", [(changed, text)]) per line."""
    before, after = old.splitlines(), new.splitlines()
    by_word = max(len(_WORD.findall(old)), len(_WORD.findall(new))) <= MAX_WORDS
    lines: list[tuple[str, list[tuple[bool, str]]]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            lines += [("same", [(False, text)]) for text in before[a:b]]
        elif tag == "replace" and by_word and b - a == d - c:
            pairs = [_words(x, y) for x, y in zip(before[a:b], after[c:d], strict=True)]
            lines += [("old", left) for left, _ in pairs] + [("new", right) for _, right in pairs]
        else:
            lines += [("old", [(True, text)]) for text in before[a:b]]
            lines += [("new", [(True, text)]) for text in after[c:d]]
    return lines


def _words(old: str, new: str) -> tuple[list[tuple[bool, str]], list[tuple[bool, str]]]:
    before, after = _WORD.findall(old), _WORD.findall(new)
    left: list[tuple[bool, str]] = []
    right: list[tuple[bool, str]] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if a < b:
            left.append((tag != "equal", "".join(before[a:b])))
        if c < d:
            right.append((tag != "equal", "".join(after[c:d])))
    return left, right

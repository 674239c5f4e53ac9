"""An evaluation's result for people: Markdown tables, one HTML file, a plot. It computes nothing anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personaagent.report import plots
from personaagent.report.html import Bars, Cell, Line, Section, Table, Text, write_atomically, write_report

__all__ = ["eval_tables", "markdown", "write_eval_report"]

METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mae": "MAE (lower is better)",
    "rmse": "RMSE (lower is better)",
    "similarity": "similarity",
    "score": "score",
}
Scores = Mapping[str, Any]


def write_eval_report(result: Mapping[str, Any], path: Path | str) -> tuple[Path, Path, Path]:
    """Write the HTML report, and beside it, under the same name, a Markdown and an SVG file.

    Args:
        result: what `run_evaluation` returned.
        path: of the HTML file.

    Returns:
        The three files: HTML, Markdown, SVG.

    Raises:
        InvalidInput: they cannot be written there.
    """
    page = Path(path)
    html = write_report(page, f"Evaluation on {result['dataset']}", _sections(result))
    text = write_atomically(page.with_suffix(".md"), markdown(result))
    chart = _bars(result)
    drawn = plots.bars(chart.groups, chart.series, chart.intervals, chart.ylabel)
    return html, text, write_atomically(page.with_suffix(".svg"), drawn)


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of a result in Markdown."""
    parts = [f"# Evaluation on {result['dataset']}", _about(result)]
    for table in eval_tables(result):
        rule = ["---", *["---:"] * (len(table.headers) - 1)]
        lines = [table.headers, rule, *table.rows]
        body = "\n".join("| " + " | ".join(_text(c) for c in line) + " |" for line in lines)
        parts += [f"## {table.title}", body, *([table.caption] if table.caption else [])]
    return "\n\n".join(parts) + "\n"


def eval_tables(result: Mapping[str, Any]) -> list[Table]:
    """All numbers of a result: scores by phase, differences, controls, segments, cold start, alignment, cost."""
    tables = [_scores(result, phase) for phase in result["results"]]
    tables += [_segments(phase, cells) for phase, cells in result["segments"].items()]
    if cold := result.get("cold_start"):
        tables.append(_cold(cold))
    if result["alignment"]:
        tables.append(_alignment(result["alignment"]))
    return [*tables, _cost(result["cost"])]


def _sections(result: Mapping[str, Any]) -> list[Section]:
    sections: list[Section] = [Text(_about(result)), _bars(result), *eval_tables(result)]
    if cold := result.get("cold_start"):
        sections.append(_cold_line(cold))
    return sections


def _about(result: Mapping[str, Any]) -> str:
    mode = "the paper's loop, without a gate" if result["paper"] else "gated"
    noise = f" {result['noise']:.0%} of the learned truths of every other user are random." if result["noise"] else ""
    model = f"model {result['model']}, alignment: {mode}" if result["model"] else "no model"
    lost = sum(result["missing"].values())
    missing = f" {lost} {'answers are' if lost > 1 else 'answer is'} missing and counted as wrong." if lost else ""
    return (
        f"{result['users']} users, {model}, seed {result['seed']}. All methods use the same model, tools and token limits. "
        f"Intervals are 95 % bootstrap intervals over users.{noise}{missing}"
    )


def _scores(result: Mapping[str, Any], phase: str) -> Table:
    groups: list[tuple[str, Mapping[str, Scores]]] = [
        ("", result["results"][phase]),
        ("floor: ", result["floors"].get(phase, {})),
        ("control: ", result["control"].get(phase, {})),
    ]
    rows = {f"{prefix}{name}": scores for prefix, group in groups for name, scores in group.items()}
    metrics = _metrics(rows.values())
    differences = result["differences"].get(phase, {})
    lines = [
        [
            name,
            *(_interval(s.get(m)) for m in metrics),
            _interval(differences.get(name), signed=True),
            s["n"],
            s["failed"],
        ]
        for name, s in rows.items()
    ]
    return Table(
        headers=["method", *(METRICS[m] for m in metrics), "personaagent gains", "items", "failed"],
        rows=lines,
        title=f"Scores, phase {phase}",
        caption="Gains are paired by item, in the first measure; positive means that personaagent is better.",
    )


def _segments(phase: str, groupings: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for grouping, cells in groupings.items():
        for name, cell in cells.items():
            metrics = _metrics([cell.get("aligned", {}), cell.get("not_aligned", {})])
            first = metrics[0] if metrics else ""
            values = [_interval(cell.get(side, {}).get(first)) for side in ("not_aligned", "aligned")]
            rows.append([f"{grouping}: {name}", cell["users"], *values, _interval(cell.get("gain"), signed=True)])
    return Table(["segment", "users", "not aligned", "aligned", "gain"], rows, f"User segments, phase {phase}")


def _cold(cold: Mapping[str, Mapping[str, Scores]]) -> Table:
    rows = []
    for learned, methods in cold.items():
        for name, scores in methods.items():
            metrics = _metrics([scores])
            rows.append([f"{learned} learned: {name}", *(_interval(scores.get(m)) for m in metrics[:2]), scores["n"]])
    metrics = _metrics(s for methods in cold.values() for s in methods.values())[:2]
    return Table(["interactions", *(METRICS[m] for m in metrics), "items"], rows, "Cold start")


def _alignment(alignment: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [
            f"{name}, {phase}",
            cell["users"],
            f"{cell['accepted_share']:.0%}",
            cell["gate_score_before"],
            cell["gate_score_after"],
            cell["calls"],
            cell["tokens"],
        ]
        for name, phases in alignment.items()
        for phase, cell in phases.items()
    ]
    headers = ["method, phase", "users", "accepted", "gate before", "gate after", "calls", "tokens"]
    return Table(headers, rows, "Alignment", "Gate scores are means over interactions that rewriting never saw.")


def _cost(cost: Mapping[str, Any]) -> Table:
    rows = []
    for name, spent in cost.items():
        each = spent["per_user"]
        learning = {key: each["profile"][key] + each["align"][key] for key in each["answer"]}
        for part, cell in (("answering", each["answer"]), ("learning", learning)):
            if cell["calls"]:
                tokens = cell["prompt_tokens"] + cell["completion_tokens"]
                rows.append([f"{name}, {part}", cell["calls"], tokens, cell["cached_tokens"], cell["seconds"]])
    caption = (
        "Calls that several methods share are counted for each. Seconds are shares of the time in which the engine was busy. "
        "Learning is building profiles and alignment."
    )
    headers = ["method", "calls per user", "tokens per user", "of these cached", "engine seconds per user"]
    return Table(headers, rows, "Cost", caption)


def _bars(result: Mapping[str, Any]) -> Bars:
    """The main measure of every method, phase by phase."""
    results = result["results"]
    metric = _metrics(s for methods in results.values() for s in methods.values())[0]
    names = list(next(iter(results.values())))
    series = {phase: [methods[n][metric]["value"] for n in names] for phase, methods in results.items()}
    ends = {
        phase: [(methods[n][metric]["low"], methods[n][metric]["high"]) for n in names]
        for phase, methods in results.items()
    }
    return Bars(names, series, ends, f"{METRICS[metric]} by method", METRICS[metric])


def _cold_line(cold: Mapping[str, Mapping[str, Scores]]) -> Line:
    metric = _metrics(s for methods in cold.values() for s in methods.values())[0]
    names = list(next(iter(cold.values())))
    series = {name: [methods[name][metric]["value"] for methods in cold.values()] for name in names}
    return Line([float(n) for n in cold], series, "Cold start", "learned interactions", METRICS[metric])


def _metrics(scores: Any) -> list[str]:
    """Measures that occur, in the usual order; the mixed score leads where kinds are mixed."""
    present = {name for s in scores for name in s}
    found = [m for m in METRICS if m in present]
    return ["score", *(m for m in found if m != "score")] if "score" in found else found


def _interval(value: Mapping[str, Any] | None, signed: bool = False) -> str | None:
    if not value or "value" not in value:
        return None
    sign = "+" if signed else ""
    return f"{value['value']:{sign}.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    text = f"{cell:.3f}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")

"""The result of an evaluation of actions as tables, for the terminal and for one HTML file. It computes nothing anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.evaluation.action_measures import COSTS, SHARES
from alignment.evaluation.action_result import ACTION_ARMS
from personaagent.report.html import Bars, Cell, Section, Table, Text, write_report

__all__ = ["action_tables", "write_action_report"]

ARM_NAMES = {
    "own": "own persona",
    "other": "another user's",
    "none": "tools, no persona",
    "no_evidence": "own, evidence off",
    "no_tools": "own, no tools",
    "neither": "neither",
}
MEASURE_NAMES = {
    "right_tool": "right tool",
    "right_arguments": "right arguments",
    "chosen_arguments": "arguments chosen from a list",
    "free_arguments": "arguments in free text",
    "right_use": "right use",
    "steps": "steps",
    "calls": "calls",
    "tokens": "tokens",
}
CAPTION = (
    "Mean and 95 % interval, clustered by user. Arguments and use are measured where a tool is right; of a request where "
    "another tool was called, no argument is right."
)


def write_action_report(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the HTML report.

    Args:
        result: what `ActionEvaluation.run` returned.
        path: of the file.

    Raises:
        InvalidInput: it cannot be written there.
    """
    sections: list[Section] = [Text(_about(result)), _bars(result), *action_tables(result)]
    return write_report(Path(path), "Actions", sections)


def action_tables(result: Mapping[str, Any]) -> list[Table]:
    """All numbers of a result: measures by arm, differences, kinds of requests, alignment."""
    return [_shares(result), _differences(result), _kinds(result), _alignment(result)]


def _about(result: Mapping[str, Any]) -> str:
    requests, world = result["requests"], result["world"]
    tuned = " Defaults may be tuned on this world." if world == "develop" else ""
    return (
        f"A task set made up for this project, world {world}: {result['users']} users, {len(result['tools'])} tools, "
        f"{requests['learned']} requests to learn from and {requests['held_out']} held out, model {result['model']}, seed "
        f"{result['seed']}. Ideal answers are known, and measured by rule.{tuned}"
    )


def _shares(result: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for measure in (*SHARES, *COSTS):
        digits = 2 if measure in COSTS else 3
        rows.append([MEASURE_NAMES[measure], *(_interval(result[measure].get(arm), digits) for arm in ACTION_ARMS)])
    rows.append(["valid calls", *(_interval(result["calls_by_arm"].get(arm), 3) for arm in ACTION_ARMS)])
    return Table(["measure", *(ARM_NAMES[arm] for arm in ACTION_ARMS)], rows, "Held-out requests", CAPTION)


def _differences(result: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for pair, by_measure in result["differences"].items():
        one, other = pair.split("-")
        for measure, found in by_measure.items():
            ends = None if found["low"] is None else f"[{found['low']:+.3f}, {found['high']:+.3f}]"
            said = f"{MEASURE_NAMES[measure]}: {ARM_NAMES[one]} over {ARM_NAMES[other]}"
            rows.append([said, f"{found['value']:+.4f}", found["se"], ends, found["n"]])
    headers = ["difference", "mean", "se", "95 % interval", "requests"]
    return Table(headers, rows, "Differences", "Paired by request; standard errors are clustered by user.")


def _kinds(result: Mapping[str, Any]) -> Table:
    arms = [arm for arm in ACTION_ARMS if arm in ("own", "other", "none")]
    rows: list[list[Cell]] = []
    for kind, by_measure in result["by_kind"].items():
        for measure, cells in by_measure.items():
            if cells:
                told = (_interval(cells.get(arm), 3) for arm in arms)
                rows.append([f"{kind}: {MEASURE_NAMES[measure]}", *told, next(iter(cells.values()))["n"]])
    headers = ["kind of request: measure", *(ARM_NAMES[arm] for arm in arms), "requests"]
    return Table(headers, rows, "Kinds of requests")


def _alignment(result: Mapping[str, Any]) -> Table:
    told = result["alignment"]
    rows: list[list[Cell]] = [["users", told["users"]]]
    rows += [[f"outcome: {outcome}", count] for outcome, count in told["outcomes"].items()]
    rows += [["calls per user", told["calls_per_user"]], ["tokens per user", told["tokens_per_user"]]]
    return Table(["", "value"], rows, "Alignment")


def _bars(result: Mapping[str, Any]) -> Bars:
    """The three measures that stand for the others, under the arms with tools."""
    shown, arms = SHARES[:3], [arm for arm in ACTION_ARMS if arm in result["right_tool"]]
    series, ends = {}, {}
    for arm in arms:
        cells = [result[measure].get(arm) or {"value": 0.0, "low": None, "high": None} for measure in shown]
        series[ARM_NAMES[arm]] = [float(cell["value"]) for cell in cells]
        ends[ARM_NAMES[arm]] = [
            (
                cell["value"] if cell["low"] is None else cell["low"],
                cell["value"] if cell["high"] is None else cell["high"],
            )
            for cell in cells
        ]
    return Bars([MEASURE_NAMES[m] for m in shown], series, ends, "What was right", "share of the held-out requests")


def _interval(found: Mapping[str, Any] | None, digits: int) -> Cell:
    if not found:
        return None
    if found["low"] is None:
        return f"{found['value']:.{digits}f}"
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"

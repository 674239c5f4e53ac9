"""The result of an evaluation of personas as tables, for the terminal and for one HTML file. It computes nothing anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personaagent.report.html import Table, Text, write_report

__all__ = ["persona_tables", "write_persona_report"]

MODES = {"alone": "nothing recalled", "served": "with recall", "evidence": "with recall and evidence"}
NAMES = {
    "nats": "nats per token",
    "accuracy": "accuracy",
    "log_score": "log score",
    "error": "absolute error (less is better)",
}
Cell = str | int | float | None


def write_persona_report(result: Mapping[str, Any], path: Path | str) -> Path:
    """Write the HTML report.

    Args:
        result: what `PersonaEvaluation.run` returned.
        path: of the file.

    Raises:
        InvalidInput: it cannot be written there.
    """
    page = Path(path)
    return write_report(page, f"Personas on {result['dataset']}", [Text(_about(result)), *persona_tables(result)])


def persona_tables(result: Mapping[str, Any]) -> list[Table]:
    """All numbers of a result: per phase and kind, then alignment, general requests, controls, and what was left out."""
    tables: list[Table] = []
    for name, phase in result["phases"].items():
        for kind, cell in phase["kinds"].items():
            tables += [_means(name, kind, cell), _differences(name, kind, cell)]
        tables += [_alignment(name, phase), _refused(name, phase["alignment"])]
        if phase.get("groups"):
            tables.append(_groups(name, phase["groups"]))
    if result["left_out"]:
        tables.append(_left_out(result["left_out"]))
    return tables


def _about(result: Mapping[str, Any]) -> str:
    changed = [f"truths shuffled between {result['shuffle']}"] if result["shuffle"] != "none" else []
    changed += [f"{result['noise']:.0%} of the learned truths random"] if result["noise"] else []
    said = "" if result["likelihoods"] else " The model's server tells no likelihoods, so free text was not measured."
    return (
        f"{result['users']} users, model {result['model']}, words by {result['search']}, seed {result['seed']}"
        f"{''.join(f', {c}' for c in changed)}. Measured on {result['measured_on']}. Standard errors are clustered by user; "
        f"intervals are 95 % ones.{said}"
    )


def _means(phase: str, kind: str, cell: Mapping[str, Any]) -> Table:
    modes = [mode for mode in MODES if any(mode in arm for arm in cell["means"].values())]
    rows: list[list[Cell]] = []
    for arm, by_mode in cell["means"].items():
        for measure in dict.fromkeys(m for told in by_mode.values() for m in told):
            values = (by_mode.get(mode, {}).get(measure) for mode in modes)
            rows.append([f"{arm}, {NAMES[measure]}", *(_number(v) for v in values)])
    title = f"{phase}, {kind}: {cell['items']} test items"
    return Table(["persona, measure", *(MODES[m] for m in modes)], rows, title)


def _differences(phase: str, kind: str, cell: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for pair, by_mode in cell["differences"].items():
        for mode, measures in by_mode.items():
            rows += [[f"{pair}, {MODES[mode]}, {NAMES[m]}", *_told(found)] for m, found in measures.items()]
    caption = "Paired by item. Persona of one's own after alignment, against the next user's, one's first, and none."
    return Table(["difference", "mean", "se", "95 % interval", "items"], rows, f"{phase}, {kind}: differences", caption)


def _alignment(phase: str, cell: Mapping[str, Any]) -> Table:
    told, each, general = cell["alignment"], cell["alignment"]["per_user"], cell["general"]
    rows: list[list[Cell]] = [
        ["users", told["users"]],
        ["accepted", told["accepted"]],
        ["accepted with new words", told["new_words"]],
        ["calls per user", each["calls"]],
        ["prompt tokens per user", each["prompt_tokens"]],
        ["of them not cached", each["prefilled_tokens"]],
        ["seconds per user", each["seconds"]],
        ["general answers under new words, nats per token", _signed(general["aligned-first"])],
        ["general answers under words refused for harm, as the gate saw them", _signed(general["refused"])],
    ]
    if luck := cell.get("by_luck"):
        rows.append(
            [
                "users with new words: share, and promised by luck",
                f"{luck['new_words']:.3f} [{luck['low']:.3f}, {luck['high']:.3f}], {luck['promised']:.3f}",
            ]
        )
    return Table(["", "value"], rows, f"{phase}: alignment")


def _refused(phase: str, told: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = [[reason or "no reason given", count] for reason, count in told["refused"].items()]
    rows += [[f"claim: {reason}", count] for reason, count in told["claims_refused"].items()]
    return Table(["why words stayed, and claims that may not stand", "count"], rows, f"{phase}: refused")


def _groups(phase: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for grouping, members in groups.items():
        for name, cell in members.items():
            for kind in (k for k in cell if k != "users"):
                for mode, measures in cell[kind].items():
                    rows += [
                        [f"{grouping} {name} ({cell['users']}): {kind}, {MODES[mode]}, {NAMES[m]}", *_told(found)]
                        for m, found in measures.items()
                    ]
    headers = ["group (users): kind", "aligned - first", "se", "95 % interval", "items"]
    return Table(headers, rows, f"{phase}: groups of users")


def _left_out(cell: Mapping[str, Any]) -> Table:
    names = {
        "own_minus_other": "own over another user's, alone, kinds not learned",
        "text_gain": "aligned over first, as served",
    }
    rows: list[list[Cell]] = [[said, cell[key]["mean"], cell[key]["se"], cell[key]["n"]] for key, said in names.items()]
    return Table(["nats per token", "mean", "se", "texts"], rows, "All free texts, each left out in turn")


def _told(found: Mapping[str, Any]) -> list[Cell]:
    ends = None if found["low"] is None else f"[{found['low']:+.3f}, {found['high']:+.3f}]"
    return [f"{found['mean']:+.4f}", found["se"], ends, found["n"]]


def _number(found: Mapping[str, Any] | None) -> Cell:
    return None if found is None else found["mean"]


def _signed(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return None
    return f"{found['mean']:+.3f} (se {'?' if found['se'] is None else format(found['se'], '.3f')}, {found['n']} users)"

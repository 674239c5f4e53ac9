"""Shares and paired differences of what agents did at the requests of the action task set. It asks no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alignment.evaluation.action_measures import COSTS, SHARES, ActionMeasure
from alignment.evaluation.action_texts import KINDS
from alignment.evaluation.persona_result import Estimate, clustered

__all__ = ["ACTING", "ACTION_ARMS", "ACTION_PAIRS", "ActionArm", "ActionRow", "action_result"]

ActionArm = Literal["own", "other", "none", "no_evidence", "no_tools", "neither"]
ACTION_ARMS: tuple[ActionArm, ...] = ("own", "other", "none", "no_evidence", "no_tools", "neither")
ACTING: tuple[ActionArm, ...] = ("own", "other", "none", "no_evidence")  # arms with tools
ACTION_PAIRS: tuple[tuple[ActionArm, ActionArm], ...] = (
    ("own", "other"),
    ("own", "none"),
    ("own", "no_evidence"),
    ("own", "no_tools"),
    ("own", "neither"),
)


@dataclass(frozen=True)
class ActionRow:
    """A held-out request under each arm that answered it. `valid` has one entry for every call of an arm."""

    user: str
    request: str
    kind: str
    values: Mapping[ActionArm, Mapping[ActionMeasure, float]]
    valid: Mapping[ActionArm, tuple[bool, ...]] = field(default_factory=dict)


def action_result(rows: Sequence[ActionRow]) -> dict[str, Any]:
    """All numbers of an evaluation.

    Returns:
        `valid_calls`: the share of all calls that were valid; None if there were none. `calls_by_arm[arm]` is the same with
        its interval. For every measure `result[measure][arm]`, and `by_kind[kind][measure][arm]`; `differences["one-other"]
        [measure]`, paired by request. Each is a mean as `value`, with `se` clustered by user, `low` and `high` of the 95 %
        interval, `n` and `users`; of a single user `se`, `low` and `high` are None.
    """
    every = [ok for row in rows for told in row.valid.values() for ok in told]
    result: dict[str, Any] = {
        "valid_calls": sum(every) / len(every) if every else None,
        "calls_by_arm": _by_arm(
            {arm: [(r.user, float(ok)) for r in rows for ok in r.valid.get(arm, ())] for arm in ACTING}, share=True
        ),
        **_means(rows),
    }
    result["differences"] = _differences(rows)
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    result["by_kind"] = {kind: _means([row for row in rows if row.kind == kind], SHARES[:3]) for kind in kinds}
    return result


def _means(rows: Sequence[ActionRow], wanted: Sequence[ActionMeasure] = (*SHARES, *COSTS)) -> dict[str, Any]:
    return {
        measure: _by_arm({arm: _values(rows, arm, measure) for arm in ACTION_ARMS}, share=measure in SHARES)
        for measure in wanted
    }


def _by_arm(values: Mapping[ActionArm, Iterable[tuple[str, float]]], share: bool) -> dict[str, Any]:
    found = {arm: clustered(told) for arm, told in values.items()}
    return {arm: _told(estimate, share) for arm, estimate in found.items() if estimate is not None}


def _values(rows: Sequence[ActionRow], arm: ActionArm, measure: ActionMeasure) -> list[tuple[str, float]]:
    return [(row.user, row.values[arm][measure]) for row in rows if measure in row.values.get(arm, {})]


def _differences(rows: Sequence[ActionRow]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for one, other in ACTION_PAIRS:
        for measure in (*SHARES, *COSTS):
            found = clustered(
                (row.user, row.values[one][measure] - row.values[other][measure])
                for row in rows
                if all(measure in row.values.get(arm, {}) for arm in (one, other))
            )
            if found is not None:
                result.setdefault(f"{one}-{other}", {})[measure] = _told(found, share=False)
    return result


def _told(found: Estimate, share: bool) -> dict[str, Any]:
    told: dict[str, Any] = found.as_dict()
    if share and told["low"] is not None:  # the interval of a mean knows nothing of the ends of a share
        told |= {"low": max(0.0, told["low"]), "high": min(1.0, told["high"])}
    return {"value": told.pop("mean"), **told}

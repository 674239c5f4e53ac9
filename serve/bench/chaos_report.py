"""The result of `bench chaos`, for programs and for the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve.bench.chaos_history import Broken, Fault, Operation, Status, Violation, acknowledged, recoveries

__all__ = ["result", "said"]

SHOWN = 50  # violations in the result
AROUND_S = 30.0  # what was done to the user within so much time of a violation is told, too


def result(
    operations: Sequence[Operation], faults: Sequence[Fault], found: Sequence[Violation], settled: bool
) -> dict[str, Any]:
    """What a run came to, JSON-able. `settled`: everything answered again after it."""
    broken = Counter(v.what for v in found)
    recovered = recoveries(operations, faults)
    waited: dict[str, list[float]] = {}
    for recovery in recovered:
        if recovery.seconds is not None:
            waited.setdefault(recovery.fault.kind, []).append(recovery.seconds)
    never = Counter(r.fault.kind for r in recovered if r.seconds is None)
    status = Counter(o.status.value for o in operations)
    return {
        "verdict": "kept" if settled and not found and not never else "broken",
        "settled": settled,
        "kills": dict(sorted(Counter(f.kind for f in faults).items())),
        "operations": {s.value: status[s.value] for s in Status},
        "acknowledged": len(acknowledged(operations)),
        **{what.value: broken[what] for what in Broken},
        "recovery_s": {
            kind: {"p50": round(float(np.percentile(s, 50)), 2), "p99": round(float(np.percentile(s, 99)), 2)}
            for kind, s in sorted(waited.items())
        },
        "never_recovered": dict(never),
        "violations": [_shown(v, operations) for v in found[:SHOWN]],
    }


def _shown(violation: Violation, operations: Sequence[Operation]) -> dict[str, Any]:
    """A violation by the operations that show it; a mark is made up, and no text."""
    by_number = {o.number: o for o in operations}
    first = operations[0].began

    def told(number: int) -> dict[str, Any]:
        o = by_number[number]
        seconds = {"began_s": round(o.began - first, 2), "ended_s": round(o.ended - first, 2)}
        return {"operation": number, "kind": o.kind, "status": o.status.value, **seconds}

    return {
        "what": violation.what.value,
        "user": violation.user,
        "mark": violation.mark,
        "look": told(violation.look),
        "writers": [told(n) for n in violation.writers],
        "forget": None if violation.forget is None else told(violation.forget),
        "beside": [told(o.number) for o in _beside(violation, by_number, operations)],
    }


def _beside(v: Violation, by_number: Mapping[int, Operation], operations: Sequence[Operation]) -> list[Operation]:
    """What else was done to the user from shortly before the operations that show a violation until after them."""
    shown = [by_number[n] for n in (v.look, *v.writers, *(() if v.forget is None else (v.forget,)))]
    began, ended = min(o.began for o in shown) - AROUND_S, max(o.ended for o in shown) + AROUND_S
    return [o for o in operations if o.user == v.user and o not in shown and o.ended > began and o.began < ended]


def said(violation: Violation, operations: Sequence[Operation]) -> str:
    """A violation in a line of the log."""
    shown = _shown(violation, operations)

    def told(o: dict[str, Any]) -> str:
        return f"{o['kind']} {o['operation']} ({o['status']}, {o['began_s']} to {o['ended_s']} s)"

    parts = [f"{violation.what}: seen by {told(shown['look'])}"]
    parts += [f"written by {told(w)}" for w in shown["writers"]]
    if shown["forget"] is not None:
        parts.append(f"forgotten by {told(shown['forget'])}")
    return "; ".join(parts)

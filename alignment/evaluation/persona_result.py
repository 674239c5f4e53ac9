"""Means and paired differences of what personas do, from the rows of `alignment.evaluation.persona_arms`. It asks no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv, stdtrit  # scipy.stats, which wraps them, takes a second to import

from alignment.evaluation.clustered import clustered_mean
from alignment.evaluation.persona_arms import ARMS, MODES, Arm, ArmRow, Mode
from alignment.rewording import HARMFUL, Reworded
from personaagent.types import AlignmentResult, Kind, Outcome, Persona, Usage

__all__ = ["PAIRS", "Estimate", "Stage", "alignment_of", "by_luck", "clustered", "general_of", "measured", "user_gains"]

PAIRS: tuple[tuple[Arm, Arm], ...] = (
    ("aligned", "other"),
    ("aligned", "first"),
    ("aligned", "none"),
    ("ungated", "first"),
)
MAIN = {Kind.TEXT: "nats", Kind.CHOICE: "accuracy", Kind.RATING: "error"}  # what stands for a kind


@dataclass(frozen=True)
class Estimate:
    """A mean over n values of users, its standard error clustered by user, and its 95 % interval (Student's t, users - 1).

    Of a single user's values neither can be told: they are None.
    """

    mean: float
    se: float | None
    n: int
    users: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        half = None if self.se is None else float(stdtrit(self.users - 1, 0.975)) * self.se
        return {
            "mean": round(self.mean, 4),
            "se": None if self.se is None else round(self.se, 4),
            "low": None if half is None else round(self.mean - half, 4),
            "high": None if half is None else round(self.mean + half, 4),
            "n": self.n,
            "users": self.users,
        }


@dataclass(frozen=True)
class Stage:
    """What alignment did in one phase: results, how words ended, what those cost, and personas before and after.

    `seconds` is the wall-clock time of the whole phase.
    """

    results: Sequence[AlignmentResult]
    words: Mapping[str, Reworded]
    spent: Mapping[str, Usage]
    before: Mapping[str, Persona]
    after: Mapping[str, Persona]
    seconds: float

    @property
    def renewed(self) -> tuple[str, ...]:
        """Who got new words."""
        return tuple(u for u, now in self.after.items() if _words(now) != _words(self.before[u]))


def clustered(values: Iterable[tuple[str, float]]) -> Estimate | None:
    """The mean of values of users, which go together; None if there are none."""
    by_user: dict[str, list[float]] = {}
    for user, value in values:
        by_user.setdefault(user, []).append(value)
    found = clustered_mean(list(by_user.values()))
    return None if found is None else Estimate(*found)


def measured(rows: Sequence[ArmRow]) -> dict[str, Any]:
    """Rows by kind of request: `{kind: {"items", "means", "differences"}}`.

    `means[arm][mode][measure]` and `differences["one-other"][mode][measure]` are estimates as `Estimate.as_dict` gives
    them. Differences are paired by item, and there are none for what was measured under one of the two alone.
    """
    result: dict[str, Any] = {}
    for kind in Kind:
        own = [row for row in rows if row.kind is kind]
        if own:
            result[kind.value] = {"items": len(own), "means": _means(own), "differences": _differences(own)}
    return result


def user_gains(rows: Sequence[ArmRow]) -> dict[str, dict[str, float]]:
    """What each user gained by alignment, aligned - first, by kind: free text in nats, the others with memory's evidence.

    Of ratings it is how much smaller the error is, so that more is better in all of them.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        mode: Mode = "served" if row.kind is Kind.TEXT else "evidence"
        gain = _difference(row, "aligned", "first", mode, MAIN[row.kind])
        if gain is not None:
            sign = -1.0 if row.kind is Kind.RATING else 1.0
            found.setdefault(row.user, {}).setdefault(row.kind.value, []).append(sign * gain)
    return {u: {kind: round(float(np.mean(v)), 4) for kind, v in kinds.items()} for u, kinds in found.items()}


def alignment_of(stage: Stage) -> dict[str, Any]:
    """What alignment came to: who got what, why the others did not, and the cost per user."""
    users, reasons, claims = max(1, len(stage.results)), Counter[str](), Counter[str]()
    for user, said in stage.words.items():
        if user not in stage.renewed:
            reasons[said.refusal.format("") or said.reason] += 1
    for result in stage.results:
        if result.outcome in (Outcome.SKIPPED, Outcome.FAILED, Outcome.CONFLICT):
            reasons[result.reason] += 1
        claims.update(result.refused)
    spent = stage.spent.values()
    return {
        "users": len(stage.results),
        "accepted": sum(r.outcome is Outcome.ACCEPTED for r in stage.results),
        "new_words": len(stage.renewed),
        "failed": sum(r.outcome is Outcome.FAILED for r in stage.results),
        "refused": dict(reasons.most_common()),
        "claims_refused": dict(claims.most_common()),
        "per_user": {
            "calls": round(sum(r.calls for r in stage.results) / users, 1),
            "prompt_tokens": round(sum(r.prompt_tokens for r in stage.results) / users),
            "prefilled_tokens": round(sum(r.prompt_tokens - r.cached_tokens for r in stage.results) / users),
            "completion_tokens": round(sum(r.completion_tokens for r in stage.results) / users),
            "seconds": round(stage.seconds / users, 2),
            "calls_for_words": round(sum(u.calls for u in spent) / users, 1),
            "tokens_for_words": round(sum(u.prompt_tokens + u.completion_tokens for u in spent) / users),
        },
    }


def by_luck(stage: Stage, luck: float) -> dict[str, float]:
    """The share of users with new words, and the most that the gate promises where feedback says nothing of its users.

    `low` and `high` are the exact 95 % interval of the share, for users who get new words independently of each other.
    """
    users, renewed = max(1, len(stage.results)), len(stage.renewed)
    low = betaincinv(renewed, users - renewed + 1, 0.025) if renewed else 0.0  # Clopper and Pearson, 1934
    high = betaincinv(renewed + 1, users - renewed, 0.975) if renewed < users else 1.0
    found = {"new_words": renewed / users, "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in (found | {"promised": luck}).items()}


def general_of(stage: Stage, gains: Mapping[str, float]) -> dict[str, Any]:
    """What personas do to general requests, in nats per token; below zero is harm.

    `aligned-first`: measured after alignment, over users with new words. `refused`: what the gate saw of words that it
    refused for harm, on the few requests it asks.
    """
    refused = [(u, w.harm.mean) for u, w in stage.words.items() if w.harm is not None and w.refusal == HARMFUL]
    return {
        "aligned-first": _as_dict(clustered((u, g) for u, g in gains.items() if u in stage.renewed)),
        "refused": _as_dict(clustered(refused)),
    }


def _means(rows: Sequence[ArmRow]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for arm in ARMS:
        for mode in MODES:
            cells = [(row.user, row.values[arm, mode]) for row in rows if (arm, mode) in row.values]
            for measure in dict.fromkeys(name for _, cell in cells for name in cell):
                found = clustered((user, cell[measure]) for user, cell in cells if measure in cell)
                result.setdefault(arm, {}).setdefault(mode, {})[measure] = _as_dict(found)
    return result


def _differences(rows: Sequence[ArmRow]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for one, other in PAIRS:
        for mode in MODES:
            measures = dict.fromkeys(name for row in rows for name in row.values.get((one, mode), {}))
            for measure in measures:
                pairs = [(row.user, _difference(row, one, other, mode, measure)) for row in rows]
                found = clustered((user, value) for user, value in pairs if value is not None)
                if found is not None:
                    result.setdefault(f"{one}-{other}", {}).setdefault(mode, {})[measure] = found.as_dict()
    return result


def _difference(row: ArmRow, one: Arm, other: Arm, mode: Mode, measure: str) -> float | None:
    a, b = row.values.get((one, mode), {}).get(measure), row.values.get((other, mode), {}).get(measure)
    return None if a is None or b is None else a - b


def _words(persona: Persona) -> tuple[object, object]:
    return persona.text, persona.exemplars


def _as_dict(estimate: Estimate | None) -> dict[str, float | int | None] | None:
    return None if estimate is None else estimate.as_dict()

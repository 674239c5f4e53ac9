"""Scores of answered test items, with bootstrap intervals over users.

Plain numbers in, JSON-able dictionaries out; it knows nothing of models, memories or methods.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignment.evaluation.intervals import bootstrap, mean_interval
from personaagent.features import normalised
from personaagent.scoring import same
from personaagent.types import AlignmentResult, Kind, Outcome

__all__ = ["Scored", "gain", "outcomes", "primary", "summary"]

Array = npt.NDArray[np.float64]

LEAST = 1e-6  # a probability below counts as this much: one certainty that was wrong must not outweigh all else
BINS = 10


@dataclass(frozen=True)
class Scored:
    """One answered item. `score` is in [0, 1], higher is better; `error` is absolute, for ratings;
    `deviation` is what their squared error is made of: of the expected value, which it is smallest for, where there is one.

    `probability` was given to the truth and `top` to the answer, where a method says so; `regret` is how much better the
    best option would have been, as a share of the range of utilities, where these are known.
    """

    user: str
    item: str
    kind: Kind
    answer: str
    truth: str
    choices: tuple[str, ...] = ()
    score: float = 0.0
    error: float | None = None
    deviation: float | None = None
    failed: bool = False
    probability: float | None = None
    top: float | None = None
    regret: float | None = None


def summary(items: Sequence[Scored], seed: int = 0, f1: bool = True) -> dict[str, Any]:
    """The scores that the kinds among the items have, each with its interval.

    Args:
        items: of any kinds and users.
        seed: of the resampling.
        f1: whether to report macro-F1 of closed choices (a floor that names no answers has none).

    Returns:
        `accuracy` and `macro_f1` for closed choices, `mae` and `rmse` for ratings, `similarity` for free text, each
        `{"value", "low", "high"}`; `score`, the mean score of all items, where kinds are mixed; `n` items, `users`, `failed`
        items. Where items have what it takes: `log_score`, the mean log-probability of the truth, and `regret`, both with
        intervals; `calibration`, ten bins `{"expected", "observed", "n"}` of equal width by the probability of the answer,
        and `ece`, how far expected and observed are apart on average.
    """
    result: dict[str, Any] = {}
    by_kind = {kind: [i for i in items if i.kind is kind] for kind in Kind}
    if closed := by_kind[Kind.CHOICE]:
        result["accuracy"] = _mean([i.score for i in closed], closed, seed)
        if f1:
            result["macro_f1"] = _macro_f1(closed, seed)
    if rated := by_kind[Kind.RATING]:
        errors = [i.error or 0.0 for i in rated]
        result["mae"] = _mean(errors, rated, seed)
        squares = _mean([(i.error or 0.0 if i.deviation is None else i.deviation) ** 2 for i in rated], rated, seed)
        result["rmse"] = {name: value**0.5 for name, value in squares.items()}
    if free := by_kind[Kind.TEXT]:
        result["similarity"] = _mean([i.score for i in free], free, seed)
    if len({i.kind for i in items}) > 1:
        result["score"] = _mean([i.score for i in items], items, seed)
    if told := [i for i in items if i.probability is not None]:
        logs = [math.log(max(i.probability or 0.0, LEAST)) for i in told]
        result["log_score"] = _mean(logs, told, seed)
    if known := [i for i in items if i.regret is not None]:
        result["regret"] = _mean([i.regret or 0.0 for i in known], known, seed)
    if sure := [i for i in items if i.top is not None]:
        result["calibration"] = bins = _calibration(sure)
        gaps = [b["n"] * abs(b["expected"] - b["observed"]) for b in bins if b["n"]]
        result["ece"] = math.fsum(gaps) / len(sure)
    result["n"] = len(items)
    result["users"] = len({i.user for i in items})
    result["failed"] = sum(i.failed for i in items)
    return result


def primary(items: Sequence[Scored]) -> str:
    """The name in a summary that stands for these items: of their kind, or `score` where kinds are mixed."""
    kinds = {i.kind for i in items}
    names = {Kind.CHOICE: "accuracy", Kind.RATING: "mae", Kind.TEXT: "similarity"}
    return names[kinds.pop()] if len(kinds) == 1 else "score"


def gain(items: Sequence[Scored], over: Sequence[Scored], seed: int = 0) -> dict[str, Any]:
    """How much better `items` were answered than the same items in `over`, by the primary metric; positive is better.

    Users are resampled in pairs, so what is hard for both does not widen the interval.
    """
    name = primary(items)
    other = {(i.user, i.item): i for i in over}
    both = [(i, other[i.user, i.item]) for i in items if (i.user, i.item) in other]
    if name == "mae":
        differences = [(b.error or 0.0) - (a.error or 0.0) for a, b in both]
    else:
        differences = [a.score - b.score for a, b in both]
    return {"metric": name, **_mean(differences, [a for a, _ in both], seed)} if both else {"metric": name}


def outcomes(results: Sequence[AlignmentResult]) -> dict[str, Any]:
    """How alignment ended for some users, with mean scores on the gate's held-out interactions."""
    ended = Counter(r.outcome.value for r in results)
    judged = [
        (r.score_before, r.score_after) for r in results if r.score_before is not None and r.score_after is not None
    ]
    return {
        "users": len(results),
        "accepted_share": ended[Outcome.ACCEPTED.value] / len(results) if results else 0.0,
        "outcomes": dict(sorted(ended.items())),
        "gate_score_before": float(np.mean([before for before, _ in judged])) if judged else None,
        "gate_score_after": float(np.mean([after for _, after in judged])) if judged else None,
        "calls": sum(r.calls for r in results),
        "tokens": sum(r.prompt_tokens + r.completion_tokens for r in results),
    }


def _mean(values: Sequence[float], items: Sequence[Scored], seed: int) -> dict[str, float]:
    return asdict(mean_interval(values, [i.user for i in items], seed=seed))


def _calibration(items: Sequence[Scored]) -> list[dict[str, Any]]:
    """How often answers were right, beside how sure of them the method was; an empty bin has neither number."""
    bins: list[list[Scored]] = [[] for _ in range(BINS)]
    for item in items:
        bins[min(BINS - 1, int((item.top or 0.0) * BINS))].append(item)
    return [
        {
            "expected": float(np.mean([i.top or 0.0 for i in held])) if held else None,
            "observed": float(np.mean([same(i.answer, i.truth) for i in held])) if held else None,
            "n": len(held),
        }
        for held in bins
    ]


def _macro_f1(items: Sequence[Scored], seed: int) -> dict[str, float]:
    """Mean F1 over the labels: the fixed list if all items share one, otherwise what users wanted at least once."""
    lists = {i.choices for i in items}
    fixed = len(lists) == 1
    labels = list(dict.fromkeys(normalised(c) for c in (next(iter(lists)) if fixed else [i.truth for i in items])))
    column = {label: at for at, label in enumerate(labels)}
    users = {user: at for at, user in enumerate(dict.fromkeys(i.user for i in items))}
    counts = np.zeros((len(users), 3, len(labels)))  # hits, answered, wanted
    for item in items:
        row = counts[users[item.user]]
        answer, truth = column.get(normalised(item.answer)), column.get(normalised(item.truth))
        if answer is not None:
            row[1, answer] += 1
        if truth is not None:
            row[2, truth] += 1
            row[0, truth] += answer == truth

    def of(weights: Array) -> Array:
        hits, answered, wanted = np.moveaxis(np.tensordot(weights, counts, axes=1), 1, 0)
        total = answered + wanted
        scores = 2 * hits / np.maximum(total, 1.0)
        # A label of a fixed list that never comes counts 0, as in LaMP; one that only undrawn users have is not there.
        size = len(labels) if fixed else np.maximum((total > 0).sum(axis=1), 1)
        return np.asarray(scores.sum(axis=1) / size, dtype=np.float64)

    return asdict(bootstrap(of, len(users), seed=seed))

"""Groups of users, formed from what was learned only, and the scores of each group with and without alignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignment.evaluation.metrics import Scored, gain, summary
from personaagent.agent.decision import decide
from personaagent.protocols import Memory
from personaagent.scoring import score
from personaagent.types import Decision, Interaction, RecallQuery

__all__ = ["Groups", "group_users", "segment_scores"]

Groups = dict[str, dict[str, tuple[str, ...]]]  # grouping -> group -> users

PROBED = 20  # newest learned interactions that tell how predictable a user is
LEVELS = ("low", "middle", "high")


async def group_users(
    memory: Memory, users: Sequence[str], decision: Decision, noisy: frozenset[str] = frozenset()
) -> Groups:
    """Group users by what memory knows now.

    - `history_length`: thirds by the number of learned interactions, named by their range.
    - `predictability`: thirds by how well evidence alone foretells each learned interaction from those before it.
    - `segment`: what the interactions' metadata calls `segment`, where it does.
    - `noise`: whose truths were spoilt, where some were.
    """
    lengths: dict[str, float] = {}
    foretold: dict[str, float] = {}
    named: dict[str, list[str]] = {}
    for user in users:
        known = await memory.latest(user, 1_000_000, with_truth=True)
        lengths[user] = len(known)
        closed = [i for i in known if i.choices]
        if len(closed) > 1:
            foretold[user] = float(np.mean([await _foretold(memory, i, decision) for i in closed[1:][-PROBED:]]))
        said = Counter(s for i in known if isinstance(s := i.metadata.get("segment"), str) and s)
        if said:
            named.setdefault(said.most_common(1)[0][0], []).append(user)
    groups: Groups = {"history_length": {_range(lengths, g): tuple(g) for g in _thirds(lengths)}}
    if foretold:
        thirds = _thirds(foretold)
        names = LEVELS if len(thirds) == 3 else ("low", "high") if len(thirds) == 2 else ("all",)
        groups["predictability"] = {name: tuple(g) for name, g in zip(names, thirds, strict=True)}
    if named:
        groups["segment"] = {name: tuple(g) for name, g in sorted(named.items())}
    if noisy:
        groups["noise"] = {
            "spoilt": tuple(u for u in users if u in noisy),
            "clean": tuple(u for u in users if u not in noisy),
        }
    return groups


def segment_scores(groups: Groups, answers: Mapping[str, Sequence[Scored]], seed: int = 0) -> dict[str, Any]:
    """`{grouping: {group: {"users", "aligned", "not_aligned", "gain"}}}`, as far as the methods ran.

    `aligned` is the method `personaagent`, `not_aligned` is `persona`; `gain` is positive where alignment is better.
    """
    aligned = answers.get("personaagent")
    plain = answers.get("persona") or answers.get("without_alignment")
    result: dict[str, Any] = {}
    for grouping, members in groups.items():
        cells = result[grouping] = {}
        for name, users in members.items():
            chosen = frozenset(users)
            ours = [i for i in aligned or () if i.user in chosen]
            others = [i for i in plain or () if i.user in chosen]
            cell: dict[str, Any] = {"users": len(users)}
            if ours:
                cell["aligned"] = summary(ours, seed, f1=False)
            if others:
                cell["not_aligned"] = summary(others, seed, f1=False)
            if ours and others:
                cell["gain"] = gain(ours, others, seed)
            cells[name] = cell
    return result


async def _foretold(memory: Memory, item: Interaction, decision: Decision) -> float:
    asked = RecallQuery(
        text=item.query, k=0, choices=item.choices, decisions=(decision,), before=item.id, with_truth=True
    )
    found = await memory.recall(item.user, asked)
    choices = item.choices or ()
    made = decide(choices, None, found.evidence[0], 0.0)
    return score(item.kind, made.answer, item.truth or "", choices=choices)


def _thirds(values: Mapping[str, float]) -> list[list[str]]:
    """Users in up to three groups of rising value; users of equal value are never parted."""
    if not values:
        return []
    low, high = np.quantile(list(values.values()), [1 / 3, 2 / 3])
    groups: list[list[str]] = [[], [], []]
    for user, value in values.items():
        groups[int(value > low) + int(value > high)].append(user)
    return [g for g in groups if g]


def _range(values: Mapping[str, float], users: Sequence[str]) -> str:
    numbers = [int(values[u]) for u in users]
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)}-{max(numbers)}"

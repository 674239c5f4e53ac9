"""Claims about a user that are counted: no model is asked, and every claim names what it rests on.

A pure function of the interactions; it knows nothing of stores, models or prompts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime

from personaagent.claims import Claim, ClaimKind
from personaagent.persona.grades import grades
from personaagent.persona.manner import manner
from personaagent.persona.tally import HALF_LIFE, Found, above, found, settled
from personaagent.persona.tastes import tastes
from personaagent.persona.tool_rules import rules
from personaagent.types import Interaction, Kind

__all__ = ["counted_claims", "habits_of_writing", "newest_first"]

RULES = 6  # on the use of tools
MANNER = 3  # claims on how a user writes that are kept if there are as many
CROWDED = 0.75  # what each further claim of a group is worth against the one before
_HOURS = 3  # a usual time of day is this long
_DAYS = 12  # different ones that a usual time is read from


def counted_claims(interactions: Sequence[Interaction], most: int = 8) -> tuple[Claim, ...]:
    """What can be counted about a user, best supported first.

    Args:
        interactions: of one user, oldest first; those without a truth say nothing.
        most: claims; up to three of them are kept for how the user writes. Rules on the use of tools, which are counted from
            lessons, come on top, and may be as many as `RULES`.
    """
    every = newest_first(interactions)
    known = [i for i in every if not i.lesson]
    weights = [0.5 ** (age / HALF_LIFE) for age in range(len(known))]
    by_kind: dict[Kind, list[tuple[Interaction, float]]] = defaultdict(list)
    for interaction, weight in zip(known, weights, strict=True):
        by_kind[interaction.kind].append((interaction, weight))
    claims: list[Found] = []
    for kind, read in ((Kind.TEXT, manner), (Kind.CHOICE, tastes), (Kind.RATING, grades)):
        if by_kind[kind]:
            mine, their = zip(*by_kind[kind], strict=True)
            claims += read(mine, their)
    taught = [i for i in every if i.lesson]
    said = rules(taught, [0.5 ** (age / HALF_LIFE) for age in range(len(taught))])
    return tuple(f.claim for f in (*_best(claims + _times(known), most), *said[: min(most, RULES)]))


def habits_of_writing(interactions: Sequence[Interaction]) -> list[Found]:
    """What can be said of how a user writes, best first, and what shows it.

    Args:
        interactions: of one user; closed choices are left out.
    """
    known = [i for i in newest_first(interactions) if not i.lesson]
    texts = [(i, 0.5 ** (age / HALF_LIFE)) for age, i in enumerate(known) if i.kind is Kind.TEXT]
    return sorted(manner([i for i, _ in texts], [w for _, w in texts]), key=_rank)


def newest_first(interactions: Sequence[Interaction]) -> list[Interaction]:
    """Those with a truth, each id once, in an order that depends on nothing but themselves.

    Facts that were noted are left out: a model worded them, so they show neither manner nor taste.
    """
    known = [i for i in interactions if i.truth is not None and i.truth.strip() and not i.noted]
    known.sort(key=lambda i: (i.time, i.id, i.query, i.truth or "", i.choices or ()), reverse=True)
    return list({i.id: i for i in reversed(known)}.values())[::-1]


def _rank(f: Found) -> tuple[float, str]:
    return -f.worth, f.claim.text


def _best(claims: Sequence[Found], most: int) -> list[Found]:
    """The best claims, of different groups: each further one of a group counts for less."""
    left = sorted(claims, key=_rank)
    texts = [f for f in left if f.claim.kind is ClaimKind.WRITES]
    chosen = texts[: min(MANNER, (most + 1) // 2)] if most > 0 else []
    taken = Counter(f.group for f in chosen)
    left = [f for f in left if f not in chosen]
    while left and len(chosen) < most:
        best = min(left, key=lambda f: (-f.worth * CROWDED ** taken[f.group], f.claim.text))
        taken[best.group] += 1
        chosen.append(best)
        left.remove(best)
    return sorted(chosen, key=_rank)


def _times(known: Sequence[Interaction]) -> list[Found]:
    """The time of day, and the part of the week, in which a user nearly always asks."""
    times = [i.time for i in known]
    if len({t.date() for t in times}) < _DAYS:
        return []
    hours = Counter(t.hour for t in times)
    start = max(range(24), key=lambda h: (sum(hours[(h + n) % 24] for n in range(_HOURS)), -h))
    claims = []

    def usual(text: str, hits: Sequence[bool]) -> None:
        share = sum(hits) / len(hits)
        if above(share * len(hits), len(hits)) >= 0.65 and settled(hits, share):
            support = [i for i, hit in zip(known, hits, strict=True) if hit]
            claims.append(found(text, ClaimKind.FACT, support, 0.2 * share))

    usual(f"usually asks between {start}:00 and {(start + _HOURS) % 24}:00 UTC", [_in(t, start) for t in times])
    usual("usually asks at the weekend", [t.weekday() >= 5 for t in times])
    return claims


def _in(time: datetime, start: int) -> bool:
    return (time.hour - start) % 24 < _HOURS

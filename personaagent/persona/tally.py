"""How often is often enough: what it takes before something counted is said of a user.

Newer interactions weigh more, what the newest contradict is not said, and luck is no habit. It knows nothing of what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betainc

from personaagent.claims import MAX_SOURCES, Claim, ClaimKind, oldest
from personaagent.types import Interaction

__all__ = ["HALF_LIFE", "Found", "above", "adverb", "at_least", "at_most", "changed", "found", "settled"]

HALF_LIFE = 50  # interactions after which one weighs half
NEWEST = 5  # relevant ones, which may not contradict
CHANGE = 0.02  # how improbable the newest must be by what held before
BOUND = 1.28  # standard errors: one-sided, 90 %


@dataclass(frozen=True, slots=True)
class Found:
    """A claim, what it is worth beside others (strength and support), and every interaction that supports it."""

    claim: Claim
    worth: float
    support: frozenset[str]
    group: str  # claims of one group say similar things


def found(
    text: str, kind: ClaimKind, support: Sequence[Interaction], strength: float, group: str = "", note: str = ""
) -> Found:
    """A claim with what supports it.

    Args:
        text: of the claim.
        kind: of it.
        support: interactions that say so, newest first.
        strength: between 0, no more than chance, and 1.
        group: claims that say similar things; by kind unless given.
        note: how well it is supported, for people.
    """
    claim = Claim(
        text=_printable(text),
        note=_printable(note),
        kind=kind,
        sources=tuple(i.id for i in support[:MAX_SOURCES]),
        since=oldest([i.time for i in support]),
    )
    return Found(
        claim, strength * math.sqrt(min(len(support), 50)), frozenset(i.id for i in support), group or kind.value
    )


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def above(hits: float, tries: float, bound: float = BOUND) -> float:
    """The lower bound of a share (Wilson's), one-sided."""
    if tries <= 0:
        return 0.0
    share, b = hits / tries, bound**2 / tries
    return (share + b / 2 - math.sqrt(max(0.0, share * (1 - share) * b + b * b / 4))) / (1 + b)


def at_least(hits: float, tries: float, chance: float) -> float:
    """How probable at least so many hits are by chance; counts may be weighted."""
    return 1.0 if hits <= 0 else float(betainc(hits, max(0.0, tries - hits) + 1, chance))


def at_most(hits: float, tries: float, chance: float) -> float:
    """How probable at most so many hits are by chance; counts may be weighted."""
    return 1.0 if hits >= tries else 1 - float(betainc(hits + 1, tries - hits, chance))


def changed(hits: Sequence[bool]) -> bool:
    """Whether the newest are too few hits for what held before (newest first)."""
    for newest in range(2, min(NEWEST, len(hits) - 1) + 1):
        before = (sum(hits[newest:]) + 0.5) / (len(hits) - newest + 1)
        if at_most(sum(hits[:newest]), newest, before) < CHANGE:
            return True
    return False


def settled(hits: Sequence[bool], share: float) -> bool:
    """Whether the newest (first) agree with what holds in this share of all."""
    newest = hits[:NEWEST]
    return sum(newest) >= len(newest) * min(share, 0.5) and not changed(hits)


def adverb(share: float) -> str:
    """How often something is, before a verb; what nearly always is needs no word."""
    return "" if share >= 0.85 else "often " if share >= 0.6 else "sometimes "

"""What a user grades higher or lower than they usually do, counted by the words of the requests."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from personaagent.claims import ClaimKind
from personaagent.features import normalised
from personaagent.persona.languages import EVERYDAY
from personaagent.persona.tally import Found, found
from personaagent.types import Interaction

__all__ = ["grades"]

MOST_GRADES = 400  # newest ones that are read
FEWEST = 3  # of a subject
FALSE = 0.1  # expected share of false claims
_NEWEST = 5


def grades(interactions: Sequence[Interaction], weights: Sequence[float]) -> list[Found]:
    """What can be said of a user's grades, best first: what they grade higher or lower than they usually do.

    Args:
        interactions: ratings, newest first.
        weights: of them.
    """
    given = [
        (i, w, g) for i, w in zip(interactions[:MOST_GRADES], weights, strict=False) if (g := _grade(i)) is not None
    ]
    if len(given) < 6:
        return []
    shares = np.asarray([g[0] for _, _, g in given])
    weight = np.asarray([w for _, w, _ in given])
    usual = float(shares @ weight / weight.sum())
    spread = max(0.2, math.sqrt(float((shares - usual) ** 2 @ weight / weight.sum())))
    rows: dict[str, list[int]] = defaultdict(list)
    for n, (i, _, _) in enumerate(given):
        for word in _topics(i.query):
            rows[word].append(n)
    together: dict[tuple[int, ...], str] = {}
    for word, where in rows.items():
        if FEWEST <= len(where) <= 0.7 * len(given):
            key = tuple(where)
            together[key] = max(together.get(key, word), word, key=lambda w: (w.count(" "), len(w), w))
    tests = []
    for same_rows, word in together.items():
        where = list(same_rows)
        at = np.asarray(where)
        mine, own = shares[at], weight[at]
        tries = float(own.sum() ** 2 / (own @ own))
        rest = len(given) - len(where)
        off = float(mine @ own / own.sum()) - usual
        z = off * len(given) / rest / (spread * math.sqrt(1 / tries + 1 / rest))
        tests.append((math.erfc(abs(z) / math.sqrt(2)), word, where, off, abs(z)))
    tests.sort(key=lambda t: t[:2])
    passed = max((n for n, t in enumerate(tests, 1) if t[0] <= FALSE * n / len(tests)), default=0)
    claims: list[Found] = []
    named: list[frozenset[int]] = []
    for _, word, where, off, z in tests[:passed]:
        newest = shares[list(where[:_NEWEST])] - usual
        same = frozenset(where)
        if (
            float(newest.mean()) * off <= 0
            or abs(off) < 0.12
            or any(2 * len(same & o) > min(len(same), len(o)) for o in named)
        ):
            continue
        named.append(same)
        claims.append(_graded(given, word, where, off, usual, z))
    return claims


def _graded(
    given: Sequence[tuple[Interaction, float, tuple[float, float, float]]],
    word: str,
    where: Sequence[int],
    off: float,
    usual: float,
    z: float,
) -> Found:
    low, high = given[where[0]][2][1:]
    mean = low + (usual + off) * (high - low)
    support = [given[n][0] for n in where if (given[n][2][0] - usual) * off > 0]
    how = "higher" if off > 0 else "lower"
    note = f"about {mean:.1f} of {high:g}, usually {low + usual * (high - low):.1f}"
    kind = ClaimKind.PREFERS if off > 0 else ClaimKind.AVOIDS
    worth = min(1.0, abs(off) * 2) * min(1.0, z / 4)
    return found(f"grades “{word}” {how} than usual", kind, support, worth, "grades", note)


def _grade(interaction: Interaction) -> tuple[float, float, float] | None:
    """A grade as a share of its scale, with the ends of the scale."""
    try:
        scale = [float(c) for c in interaction.choices or ()]
        value = float(interaction.truth or "")
    except ValueError:
        return None
    low, high = min(scale), max(scale)
    if not (math.isfinite(value) and math.isfinite(high - low) and high > low and low <= value <= high):
        return None
    return (value - low) / (high - low), low, high


def _topics(query: str) -> set[str]:
    """Words of a request that may be what is graded, and pairs of them that no mark parts, but for the one after a key."""
    words = list(re.finditer(r"\w+(?:[-'’]\w+)*", normalised(query[:2000])))[:64]
    fit = [2 < len(w[0]) <= 20 and w[0] not in EVERYDAY and not w[0].isdigit() for w in words]
    topics = {w[0] for w, ok in zip(words, fit, strict=True) if ok}
    for n in range(len(words) - 1):
        if fit[n] and fit[n + 1] and words[n + 1].string[words[n].end() : words[n + 1].start()] in (" ", ": "):
            topics.add(words[n].string[words[n].start() : words[n + 1].end()])
    return topics

"""What a user takes and refuses when there is a choice, counted.

An option is its parts: what stands between its marks, short runs of its words, and itself. A part is of interest where some
options have it and some have not; taking it is compared with chance. Of parts that always come together one is named.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from personaagent.claims import ClaimKind
from personaagent.features import normalised, parts
from personaagent.persona.languages import EVERYDAY
from personaagent.persona.tally import Found, above, at_least, at_most, changed, found
from personaagent.types import Interaction

__all__ = ["Leaning", "Offer", "counted", "leanings", "tastes"]

Doubles = npt.NDArray[np.float64]

MOST_OFFERS = 200  # newest ones that are read; what is older weighs little
MOST_OPTIONS = 40  # of one offer
FEWEST = 3  # offers that a part must be at stake in
FALSE = 0.15  # expected share of false claims
MOST_LOCAL = 3  # claims for some requests only
MOST_QUOTED = 6  # words of an option
MOST_CHARACTERS = 50
MOST_WORDS = 12  # of one phrase
_SHOWN = 50  # newest offers that a claim counts aloud
_NEWEST = 5

_KEY = re.compile(r"^[^\s:][^:]{0,30}:\s*\S")
_APART = re.compile(r"[;,\n|]+")
_EMPTY = frozenset({"a", "an", "the", "and", "or", "of"})


@dataclass(frozen=True, slots=True)
class Offer:
    """What was on offer, by its parts, and which of it was taken."""

    at: Interaction
    weight: float
    options: tuple[frozenset[str], ...]  # parts of each
    taken: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of options in the offers where it was at stake, newest first."""

    name: str
    offers: tuple[int, ...]
    chances: tuple[float, ...]  # of taking it
    hits: tuple[bool, ...]  # whether it was taken


@dataclass(frozen=True, slots=True)
class Leaning:
    """That a part is taken or refused, in these of its offers: all, or those whose request says a word."""

    part: _Part
    where: tuple[int, ...]  # places among the part's offers, newest first
    taken: bool
    word: str = ""


@dataclass(frozen=True, slots=True)
class _Count:
    """Weighted counts of a part over some offers: as if `hits` of `tries` were taken, by chance `chance` of them."""

    hits: float
    tries: float
    chance: float

    def p(self, taken: bool) -> float:
        """How probable it is by chance that so many, or so few, are taken."""
        return (at_least if taken else at_most)(self.hits, self.tries, self.chance)

    def possible(self, taken: bool) -> float:
        """The least that `p` can be with so many tries."""
        return math.pow(self.chance if taken else 1 - self.chance, self.tries)

    def strength(self, taken: bool) -> float:
        """How far beyond chance its share certainly is, between 0 and 1."""
        if taken:
            return max(0.0, (above(self.hits, self.tries) - self.chance) / (1 - self.chance))
        return max(0.0, (self.chance - 1 + above(self.tries - self.hits, self.tries)) / self.chance)


def tastes(interactions: Sequence[Interaction], weights: Sequence[float]) -> list[Found]:
    """What can be said of a user's choices, best first.

    Args:
        interactions: closed choices, newest first.
        weights: of them.
    """
    known: dict[str, frozenset[str]] = {}
    offers = [o for i, w in zip(interactions[:MOST_OFFERS], weights, strict=False) if (o := _offer(i, w, known))]
    return [_said(offers, leaning) for leaning in leanings(offers)]


def leanings(offers: Sequence[Offer], refused: bool = True) -> list[Leaning]:
    """What is taken more often than by chance and, unless `refused` is False, what less often: everywhere, then where
    something is asked about.

    Args:
        offers: newest first.
        refused: whether what is left is of interest.
    """
    sides = (True, False) if refused else (True,)
    at_stake = _at_stake(offers)
    counts = [_count(offers, p, range(len(p.offers))) for p in at_stake]
    tests = [(p, c, taken, c.p(taken)) for p, c in zip(at_stake, counts, strict=True) for taken in sides]
    possible = sum(c.possible(taken) < 0.05 for _, c, taken, _ in tests)
    # Of two values, taking one is refusing the other: what is taken is said.
    tests.sort(key=lambda t: (float(f"{t[3]:.4g}"), not t[2], t[0].name))
    passed = max((n for n, t in enumerate(tests, 1) if t[3] <= FALSE * n / max(1, possible)), default=0)
    local = [found for found in _local(offers, at_stake) if found[2] in sides]
    only_there = {part.name for part, _, _, _ in local}
    claims: list[Leaning] = []
    accepted: list[str] = []
    for part, _, taken, _ in tests[:passed]:
        everywhere = range(len(part.offers))
        if part.name not in only_there and _holds(offers, part, everywhere, taken, accepted):
            accepted.append(part.name)
            claims.append(Leaning(part, tuple(everywhere), taken))
    most = len(claims) + MOST_LOCAL
    for part, where, taken, word in local:
        if len(claims) < most and _holds(offers, part, where, taken, accepted):
            accepted.append(part.name)
            claims.append(Leaning(part, tuple(where), taken, word))
    return claims


def _offer(interaction: Interaction, weight: float, known: dict[str, frozenset[str]]) -> Offer | None:
    truth = normalised(interaction.truth or "")
    wholes = list(dict.fromkeys(normalised(c) for c in interaction.choices or ()))
    if truth not in wholes or len(wholes) < 2:
        return None
    wholes = [truth, *(w for w in wholes if w != truth)][:MOST_OPTIONS]
    for whole in wholes:
        if whole not in known:
            known[whole] = frozenset(_parts(whole))
    return Offer(interaction, weight, tuple(known[w] for w in wholes), 0)


def _parts(whole: str) -> Iterator[str]:
    """What an option may be taken for: itself, what stands between its marks, runs of up to three words."""
    whole = whole[:400]
    pieces = [p.strip() for p in _APART.split(whole)]
    if sum(bool(_KEY.match(p)) for p in pieces) * 2 > len(pieces):
        yield from filter(_short, pieces)  # "key: value" says what the value is of
        return
    taken = parts(whole)
    yield from filter(_short, (whole, *taken.phrases))
    for phrase in taken.phrases:
        words = [w for w in phrase.split() if any(map(str.isalnum, w))][:MOST_WORDS]
        for n in (1, 2, 3):
            for start in range(len(words) - n + 1):
                run = words[start : start + n]
                if run[-1] not in EVERYDAY and run[0] not in _EMPTY and (n > 1 or len(run[0]) > 1):
                    yield from filter(_short, (" ".join(run),))


def _short(name: str) -> bool:
    return 0 < len(name) <= MOST_CHARACTERS and len(name.split()) <= MOST_QUOTED


def _at_stake(offers: Sequence[Offer]) -> list[_Part]:
    rows: dict[str, list[tuple[int, float, bool]]] = defaultdict(list)
    for n, offer in enumerate(offers):
        having: dict[str, int] = defaultdict(int)
        for option in offer.options:
            for name in option:
                having[name] += 1
        size = len(offer.options)
        for name, count in having.items():
            if count < size:
                rows[name].append((n, count / size, name in offer.options[offer.taken]))
    together: dict[tuple[tuple[int, float, bool], ...], str] = {}
    for name, row in rows.items():
        if len(row) >= FEWEST:
            key = tuple(row)
            together[key] = max(together.get(key, name), name, key=_fullness)
    found_parts = []
    for same, name in together.items():
        numbers, chances, hits = zip(*same, strict=True)
        found_parts.append(_Part(name, numbers, chances, hits))
    return sorted(found_parts, key=lambda p: p.name)


def _fullness(name: str) -> tuple[int, int, str]:
    words = name.split()
    return sum(w not in EVERYDAY for w in words), len(words), name


def _count(offers: Sequence[Offer], part: _Part, where: Sequence[int]) -> _Count:
    """Counts of a part in those of its offers, by their place among them."""
    weights = [offers[part.offers[n]].weight for n in where]
    total, squares = sum(weights), sum(w * w for w in weights)
    if not total:
        return _Count(0.0, 0.0, 0.5)
    tries = total * total / squares
    hits = sum(w for w, n in zip(weights, where, strict=True) if part.hits[n]) / total
    chance = sum(w * part.chances[n] for w, n in zip(weights, where, strict=True)) / total
    return _Count(hits * tries, tries, chance)


def _holds(offers: Sequence[Offer], part: _Part, where: Sequence[int], taken: bool, accepted: Sequence[str]) -> bool:
    """Whether the newest of these offers agree, and the part matters beside those that are named already."""
    hits = [part.hits[n] is taken for n in where]
    expected = sum(part.chances[n] if taken else 1 - part.chances[n] for n in where[:_NEWEST])
    if sum(hits[:_NEWEST]) < math.floor(expected) or not any(hits[:3]) or changed(hits):
        return False
    if not accepted:
        return True
    # Beside them: among options that are alike in what is named already.
    count = tries = chances = 0.0
    for n in where:
        offer = offers[part.offers[n]]
        chosen = offer.options[offer.taken]
        alike = [o for o in offer.options if all((a in o) == (a in chosen) for a in accepted)]
        chance = sum(part.name in o for o in alike) / len(alike)
        if 0 < chance < 1:
            tries += offer.weight
            count += offer.weight * part.hits[n]
            chances += offer.weight * chance
    return tries >= 1.5 and (at_least if taken else at_most)(count, tries, chances / tries) <= 0.15


def counted(offers: Sequence[Offer], leaning: Leaning) -> tuple[_Count, str, list[Interaction]]:
    """How often it was so by weighted counts, and as people read it of the newest, and the interactions that say so."""
    part, where = leaning.part, leaning.where
    recent = where[:_SHOWN]
    hits = sum(part.hits[n] for n in recent)
    support = [offers[part.offers[n]].at for n in where if part.hits[n] is leaning.taken]
    return _count(offers, part, where), f"{hits} of {len(recent)} times", support


def _said(offers: Sequence[Offer], leaning: Leaning) -> Found:
    part, taken, word = leaning.part, leaning.taken, leaning.word
    whole = _example(offers, part) if taken else ""
    text = f"{'prefers' if taken else 'avoids'} “{_bare(part.name)}”"
    if word:
        text += f" when a request says “{word}”"
    count, often, support = counted(offers, leaning)
    note = f"taken {often} when on offer" + (f", such as “{_bare(whole)}”" if whole else "")
    return found(text, ClaimKind.PREFERS if taken else ClaimKind.AVOIDS, support, count.strength(taken), note=note)


def _bare(name: str) -> str:
    """A name without its article."""
    return re.sub(r"^(?:an?|the) (?=\w)", "", name)


def _example(offers: Sequence[Offer], part: _Part) -> str:
    """The newest option that was taken and has this part, if it is short and says more."""
    for n, hit in zip(part.offers, part.hits, strict=True):
        whole = normalised(offers[n].at.truth or "")
        if hit and whole != part.name:
            return whole if _short(whole) and " " not in part.name else ""
    return ""


def _asked_about(offers: Sequence[Offer]) -> dict[str, frozenset[int]]:
    """Words of requests, and the offers they came with; of words that come together one."""
    having: dict[str, list[int]] = defaultdict(list)
    for n, offer in enumerate(offers):
        for word in _subjects(offer.at.query):
            having[word].append(n)
    kept: dict[tuple[int, ...], str] = {}
    for word, where in having.items():
        if 4 <= len(where) <= 0.8 * len(offers):
            kept[tuple(where)] = max(kept.get(tuple(where), word), word, key=lambda w: (len(w), w))
    return {word: frozenset(where) for where, word in kept.items()}


def _subjects(query: str) -> list[str]:
    return [w for w in parts(query[:2000]).words if 2 < len(w) <= 24 and w not in EVERYDAY and not w.isdigit()]


def _local(offers: Sequence[Offer], at_stake: Sequence[_Part]) -> list[tuple[_Part, list[int], bool, str]]:
    """What is taken or refused when something is asked about, and not when it is not: parts, in which of their offers,
    whether they are taken, and the word of the requests. Best first, each part once."""
    about = _asked_about(offers)
    often = sorted((p for p in at_stake if len(p.offers) >= 8), key=lambda p: (-len(p.offers), p.name))[:60]
    if not often or not about:
        return []
    asked = np.zeros((len(about), len(offers)))
    for row, places in enumerate(about.values()):
        asked[row, list(places)] = 1
    weights = np.asarray([o.weight for o in offers])
    tests: list[tuple[float, int, int, bool]] = []
    for number, part in enumerate(often):
        at = np.asarray(part.offers)
        own, hits, chances = weights[at], np.asarray(part.hits), np.asarray(part.chances)
        near = asked[:, at]
        enough = (near.sum(axis=1) >= 4) & (near.sum(axis=1) <= len(at) - 4)
        for taken in (True, False):
            p, beyond = (_by_chance(side, own, hits, chances, taken) for side in (near, 1 - near))
            # Elsewhere nothing of it, or the opposite, must show.
            tests += [(float(p[r]), number, r, taken) for r in np.flatnonzero(enough) if beyond[r] >= 0.4 or p[r] > 0.5]
    tests.sort(key=lambda t: (float(f"{t[0]:.4g}"), not t[3], t[1:]))
    passed = max((n for n, t in enumerate(tests, 1) if t[0] <= FALSE * n / len(tests)), default=0)
    words = list(about)
    chosen: dict[int, tuple[_Part, list[int], bool, str]] = {}
    for _, number, row, taken in tests[:passed]:
        part = often[number]
        where = [n for n, offer in enumerate(part.offers) if asked[row, offer]]
        chosen.setdefault(number, (part, where, taken, words[row]))
    return list(chosen.values())


def _by_chance(rows: Doubles, weights: Doubles, hits: Doubles, chances: Doubles, taken: bool) -> Doubles:
    """How probable so many, or so few, hits are by chance in the offers of each row; 1 where there are none."""
    total = np.maximum(rows @ weights, 1e-9)
    squares, hits, chances = rows @ weights**2, rows @ (weights * hits), rows @ (weights * chances)
    tries = total * total / np.maximum(squares, 1e-9)
    share, chance = np.clip(hits / total, 0, 1), np.clip(chances / total, 0, 1)
    if not taken:
        share, chance = 1 - share, 1 - chance
    return np.where(share > 0, betainc(np.maximum(share * tries, 1e-9), (1 - share) * tries + 1, chance), 1.0)

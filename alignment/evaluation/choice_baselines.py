"""Simple ways to answer closed choices and ratings from memory, without a language model: what a better one must beat.

Free text, which they are not for, gets the newest free-text answer, or the one given to the most similar request.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Protocol

import numpy as np

from alignment.evaluation.methods import Answer, Method, softmax
from alignment.evaluation.rules import Rules
from personaagent.features import normalised
from personaagent.memory.bm25 import tokens
from personaagent.protocols import Embedder, Memory
from personaagent.types import Interaction, Kind

__all__ = ["CHOICE_BASELINES", "choice_baseline"]

ALL = 100_000  # interactions of one user that are looked at
NEIGHBOURS = {Kind.CHOICE: 3, Kind.RATING: 10, Kind.TEXT: 1}
TEMPERATURE = 0.07
SHRINK = 4.0  # ratings at the user's mean that an attribute's own ratings are averaged with
CHOICE_BASELINES = ("last", "frequent", "counting", "knn", "rules")
_PARTS = re.compile(r"[,;]|\band\b|\bwith\b")


def choice_baseline(name: str, memory: Memory, embedder: Embedder | None = None) -> Method:
    """A method of `CHOICE_BASELINES`.

    - `last`: the newest answer that is on offer; the last rating.
    - `frequent`: the option taken most often; the user's mean rating.
    - `counting`: how often each attribute of an option was taken, against how often it was on offer; the mean rating of what
      shares attributes.
    - `knn`: the option most like the answers to the three most similar requests; the mean of the ten most similar ratings.
    - `rules`: see `alignment.evaluation.rules`.

    Raises:
        ValueError: the name is unknown, or `knn` and `rules` have no embedder.
    """
    counted: dict[str, _Counting] = {"last": _Last(), "frequent": _Frequent(), "counting": _Attributes()}
    if name in counted:
        return _Reading(memory, counted[name])
    if name not in CHOICE_BASELINES:
        raise ValueError(f"no method {name!r}; there are {', '.join(CHOICE_BASELINES)}")
    if embedder is None:
        raise ValueError(f"the method {name!r} needs an embedder")
    return Rules(memory, embedder) if name == "rules" else Nearest(memory, embedder)


class _Counting(Protocol):
    """A way to answer that looks at the texts of the past alone."""

    def choose(self, options: Sequence[str], past: Sequence[Interaction]) -> Answer:
        """`past` are closed choices, oldest first, at least one."""
        ...

    def rate(self, item: Interaction, past: Sequence[tuple[Interaction, float]]) -> Answer:
        """`past` are ratings, oldest first, at least one."""
        ...


class _Reading:
    """Hands the past of the item's kind to a way to answer; the first option, or the middle grade, if there is none."""

    def __init__(self, memory: Memory, way: _Counting) -> None:
        self._memory = memory
        self._way = way

    async def answer(self, item: Interaction) -> Answer:
        """See `Method`."""
        past = await _past(self._memory, item)
        if not past or not item.choices:
            return _unknown(item) if item.choices else Answer(text=(past[-1].truth or "") if past else "")
        if item.kind is Kind.RATING:
            return self._way.rate(item, [(i, float(i.truth or "")) for i in past])
        return self._way.choose(item.choices, past)


class _Last:
    def choose(self, options: Sequence[str], past: Sequence[Interaction]) -> Answer:
        on_offer = {normalised(o): o for o in reversed(options)}
        newest = next((on_offer[t] for i in reversed(past) if (t := normalised(i.truth or "")) in on_offer), options[0])
        return Answer(text=newest)

    def rate(self, item: Interaction, past: Sequence[tuple[Interaction, float]]) -> Answer:
        return _rated(item, past[-1][1])


class _Frequent:
    def choose(self, options: Sequence[str], past: Sequence[Interaction]) -> Answer:
        counts = Counter(normalised(i.truth or "") for i in past)
        return _likeliest(options, _smoothed([counts[normalised(o)] for o in options]))

    def rate(self, item: Interaction, past: Sequence[tuple[Interaction, float]]) -> Answer:
        return _rated(item, fmean(v for _, v in past), [(v, 1.0) for _, v in past])


class _Attributes:
    def choose(self, options: Sequence[str], past: Sequence[Interaction]) -> Answer:
        taken: Counter[str] = Counter()
        offers: Counter[str] = Counter()
        expected: dict[str, float] = {}  # how often it would have been taken by chance
        for interaction in past:
            offered = [_attributes(o) for o in interaction.choices or ()]
            wanted = _attributes(interaction.truth or "")
            for attribute, share in _varying(offered).items():
                offers[attribute] += 1
                taken[attribute] += attribute in wanted
                expected[attribute] = expected.get(attribute, 0.0) + share
        now = [_attributes(o) for o in options]
        worth = {
            a: _log_odds(taken[a], offers[a]) - _log_odds(expected[a], offers[a]) for a in _varying(now) if a in offers
        }
        return _likeliest(options, softmax([math.fsum(worth.get(a, 0.0) for a in own) for own in now]))

    def rate(self, item: Interaction, past: Sequence[tuple[Interaction, float]]) -> Answer:
        mean = fmean(v for _, v in past)
        described = [(_attributes(i.query), v) for i, v in past]
        shared = frozenset.intersection(*(own for own, _ in described))  # the words of the question itself
        leanings = []  # how far what has an attribute is rated from the mean
        for attribute in _attributes(item.query) - shared:
            values = [v - mean for own, v in described if attribute in own]
            if values:
                leanings.append(math.fsum(values) / (len(values) + SHRINK))
        # Attributes add up, but their parts and words say the same thing twice or more: a sum overshoots, a mean falls short.
        lean = math.fsum(leanings) / math.sqrt(len(leanings) or 1)
        scale = [float(c) for c in item.choices or ()]
        return _rated(item, min(max(scale), max(min(scale), mean + lean)))


class Nearest:
    """Looks at the most similar past requests, by the embedding of what was asked."""

    def __init__(self, memory: Memory, embedder: Embedder) -> None:
        self._memory = memory
        self._embedder = embedder

    async def answer(self, item: Interaction) -> Answer:
        """See `Method`."""
        past = await _past(self._memory, item)
        if not past:
            return _unknown(item) if item.choices else Answer(text="")
        rows = await self._embedder.embed([item.query, *(i.query for i in past)])
        similarity = rows[1:] @ rows[0]
        nearest = np.argsort(-similarity, kind="stable")[: NEIGHBOURS[item.kind]]
        weights = softmax([float(s) / TEMPERATURE for s in similarity[nearest]])
        truths = [past[int(i)].truth or "" for i in nearest]
        if not item.choices:
            return Answer(text=truths[0])
        if item.kind is Kind.RATING:
            values = [float(t) for t in truths]
            counts = [(v, w * len(values)) for v, w in zip(values, weights, strict=True)]
            return _rated(item, math.fsum(v * w for v, w in zip(values, weights, strict=True)), counts)
        vectors = await self._embedder.embed([*truths, *item.choices])
        match = vectors[: len(truths)] @ vectors[len(truths) :].T
        return _likeliest(item.choices, softmax([float(s) / TEMPERATURE for s in np.asarray(weights) @ match]))


async def _past(memory: Memory, item: Interaction) -> list[Interaction]:
    """The user's interactions with a truth, of the item's kind, oldest first; ratings only where the truth is a number."""
    known = await memory.latest(item.user, ALL, with_truth=True)
    usable: Callable[[str], bool] = _is_number if item.kind is Kind.RATING else bool
    return [i for i in known if i.kind is item.kind and usable(i.truth or "")]


def _unknown(item: Interaction) -> Answer:
    """The answer when nothing is known."""
    choices = item.choices or ()
    even = (1 / len(choices),) * len(choices)
    return Answer(text=choices[len(choices) // 2 if item.kind is Kind.RATING else 0], probabilities=even)


def _likeliest(options: Sequence[str], probabilities: tuple[float, ...]) -> Answer:
    return Answer(text=options[probabilities.index(max(probabilities))], probabilities=probabilities)


def _rated(item: Interaction, value: float, counts: Sequence[tuple[float, float]] | None = None) -> Answer:
    """A rating by its expected value; `counts` are past values and how much each counts, from which probabilities come."""
    choices = item.choices or ()
    nearest = _nearest(choices, value)
    if counts is None:
        return Answer(text=choices[nearest], expected=value)
    grades = [0.0] * len(choices)
    for past, weight in counts:
        grades[_nearest(choices, past)] += weight
    return Answer(text=choices[nearest], expected=value, probabilities=_smoothed(grades))


def _smoothed(counts: Sequence[float]) -> tuple[float, ...]:
    """Laplace's rule of succession."""
    total = math.fsum(counts) + len(counts)
    return tuple((c + 1) / total for c in counts)


def _nearest(choices: Sequence[str], value: float) -> int:
    return min(range(len(choices)), key=lambda at: abs(float(choices[at]) - value))


def _attributes(text: str) -> frozenset[str]:
    """What a text is made of: the parts between commas, semicolons, "and" and "with", and the words."""
    lowered = text.casefold()
    parts = (part.strip() for part in _PARTS.split(lowered))
    return frozenset((*(p for p in parts if p), *tokens(lowered)))


def _varying(offered: Sequence[frozenset[str]]) -> dict[str, float]:
    """Attributes that some options have and others lack, with the share that has them."""
    counts = Counter(a for own in offered for a in own)
    return {a: n / len(offered) for a, n in counts.items() if n < len(offered)}


def _log_odds(taken: float, offers: float) -> float:
    return math.log((taken + 1) / (offers - taken + 1))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

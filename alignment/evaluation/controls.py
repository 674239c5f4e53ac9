"""Feedback that says less about its users than it seems to: learned truths dealt out anew, or replaced by random ones.

Tests stay as they are. What an alignment still finds in such feedback, it finds by luck.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from alignment.evaluation.benchmark import Benchmark
from personaagent.errors import InvalidInput
from personaagent.features import normalised
from personaagent.types import Interaction, Kind

__all__ = ["Shuffle", "randomised", "shuffled"]

Shuffle = Literal["none", "items", "users"]
TRIES = 20  # random partners before all are looked through


def shuffled(benchmark: Benchmark, how: Shuffle, seed: int) -> Benchmark:
    """The data set with its learned truths dealt out anew, phase by phase.

    - `items`: among one user's own. Free texts and ratings go to another request of the same kind; a choice becomes a
      random one of its options. How a user writes stays theirs: only what was said to what is lost.
    - `users`: among users. A free text becomes another user's, a rating another user's on the same scale, a choice what
      another user took from the options most like these, or a random one where nobody else took any of them.

    Every truth of a choice or rating is one of its options. The same seed gives the same data. What cannot be swapped (a
    user's only text, or more texts of one user than of all others together) stays as it is.
    """
    if how == "none":
        return benchmark
    deal = _within_users if how == "items" else _across_users

    def learned(name: str, items: Sequence[Interaction]) -> tuple[Interaction, ...]:
        rng = random.Random(f"{seed}:shuffle:{how}:{name}")
        truths = deal([i for i in items if i.truth], rng)
        return tuple(i.model_copy(update={"truth": truths.get((i.user, i.id), i.truth)}) for i in items)

    phases = tuple(p.model_copy(update={"learn": learned(p.name, p.learn)}) for p in benchmark.phases)
    return benchmark.model_copy(update={"phases": phases})


def randomised(benchmark: Benchmark, share: float, seed: int) -> Benchmark:
    """The data set with that share of every user's learned truths replaced.

    A choice or rating gets another of its options, a free text somebody's other truth of the same phase.

    Raises:
        InvalidInput: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise InvalidInput(f"the share of random truths must lie between 0 and 1, not {share}")

    def learned(name: str, items: Sequence[Interaction]) -> tuple[Interaction, ...]:
        rng = random.Random(f"{seed}:noise:{name}")
        said = sorted({i.truth for i in items if i.truth and not i.choices})

        def one(item: Interaction) -> Interaction:
            if not item.truth or rng.random() >= share:
                return item
            others = [c for c in item.choices or said if normalised(c) != normalised(item.truth)]
            return item.model_copy(update={"truth": rng.choice(others)}) if others else item

        return tuple(one(i) for i in items)

    if share == 0:
        return benchmark
    phases = tuple(p.model_copy(update={"learn": learned(p.name, p.learn)}) for p in benchmark.phases)
    return benchmark.model_copy(update={"phases": phases})


Dealt = dict[tuple[str, str], str]  # truths by user and interaction


def _within_users(items: Sequence[Interaction], rng: random.Random) -> Dealt:
    dealt = {_key(i): rng.choice(i.choices) for i in items if i.kind is Kind.CHOICE and i.choices}
    for group in _grouped(items, lambda i: (i.user, i.choices)):
        dealt |= _swapped(group, rng, lambda one, other: _key(one) != _key(other))
    return dealt


def _across_users(items: Sequence[Interaction], rng: random.Random) -> Dealt:
    closed = [i for i in items if i.kind is Kind.CHOICE]
    dealt = {_key(i): _another_taste(i, closed, rng) for i in closed}
    for group in _grouped(items, lambda i: (i.choices,)):
        dealt |= _swapped(group, rng, lambda one, other: one.user != other.user)
    return dealt


def _grouped(items: Sequence[Interaction], key: Callable[[Interaction], object]) -> list[list[Interaction]]:
    """Free texts and ratings that may have each other's truths."""
    groups: dict[object, list[Interaction]] = {}
    for item in items:
        if item.kind is not Kind.CHOICE:
            groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _swapped(
    items: Sequence[Interaction], rng: random.Random, apart: Callable[[Interaction, Interaction], bool]
) -> Dealt:
    """Every truth once, each with an interaction that is `apart` from its own as far as that can be done.

    A random order, then random exchanges where it left somebody their own. Shifting users against each other instead would
    give each one the texts of a single other, which is a persona of its own.
    """
    given = list(items)
    rng.shuffle(given)
    places = range(len(items))
    for at in places:
        if apart(items[at], given[at]):
            continue
        partners = [rng.randrange(len(items)) for _ in range(TRIES)]
        start = rng.randrange(len(items))
        for other in (*partners, *((start + n) % len(items) for n in places)):
            if apart(items[at], given[other]) and apart(items[other], given[at]):
                given[at], given[other] = given[other], given[at]
                break
    return {_key(item): source.truth or "" for item, source in zip(items, given, strict=True)}


def _another_taste(item: Interaction, closed: Sequence[Interaction], rng: random.Random) -> str:
    """What another user took from the options most like an item's."""
    choices = item.choices or ()
    options = {normalised(c): c for c in choices}
    best, found = 0.0, list[str]()
    for other in closed:
        taken = options.get(normalised(other.truth or ""))
        if other.user == item.user or taken is None:
            continue
        theirs = {normalised(c) for c in other.choices or ()}
        alike = len(theirs & options.keys()) / len(theirs | options.keys())
        if alike > best:
            best, found = alike, []
        if alike == best:
            found.append(taken)
    return rng.choice(found or list(choices))


def _key(item: Interaction) -> tuple[str, str]:
    return item.user, item.id

"""Made-up users who choose among bundles of attributes, or grade them, by a linear utility."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import NamedTuple

from alignment.evaluation.synthetic_texts import (
    CONTEXTS,
    DOMAINS,
    FORMS,
    FRAMES,
    RATING_FRAMES,
    Domain,
    article,
    render,
)

__all__ = ["TESTED", "BundleQuestion", "Bundles", "Heard", "best", "bundle_user", "gumbel"]

TESTED = 12  # per user and phase
GRADES = ("1", "2", "3", "4", "5")
SHARED = OWN = 0.7  # spread of a preference over attributes in the population, and over users around it


class BundleQuestion(NamedTuple):
    """One request, what its options are worth to the user, and what the user said."""

    query: str
    choices: tuple[str, ...]
    utilities: tuple[float, ...]
    truth: str


class Heard(NamedTuple):
    """What one user says in one phase."""

    learned: list[BundleQuestion]
    tested: list[BundleQuestion]


@dataclass(frozen=True)
class Bundles:
    """A world whose users choose among bundles of attributes by a linear utility."""

    learned: tuple[int, int] = (24, 48)
    offered: tuple[int, int] = (2, 5)
    gumbel: float = 0.4  # scale of the noise in what is learned
    careless: float = 0.0  # share of learned answers that are any option
    dominant: bool = False
    contexts: bool = False
    drift: float = 0.0  # standard deviation of a weight's step from one learned interaction to the next
    phases: tuple[str, ...] = ("newest",)  # half of the attributes change their sign between them
    blank: bool = False  # nobody prefers anything
    rated: bool = False


@dataclass
class _Taste:
    """One user's weights, by attribute and value: equal attributes of different things are one preference."""

    weights: dict[tuple[str, str], float]
    scale: dict[tuple[str, str], float] = field(default_factory=dict)  # by noun and attribute
    flipped: frozenset[str] = frozenset()  # attributes whose sign the situation turns

    def utility(self, domain: Domain, levels: Sequence[int], turned: bool = False) -> float:
        total = 0.0
        for attribute, at in zip(domain.attributes, levels, strict=True):
            sign = -1.0 if turned and attribute.key in self.flipped else 1.0
            scale = self.scale.get((domain.noun, attribute.key), 1.0)
            total += sign * scale * self.weights[attribute.key, attribute.values[at]]
        return total

    def turn(self, keys: frozenset[str]) -> None:
        """From now on the user wants the opposite in these attributes."""
        self.weights = {(key, value): -w if key in keys else w for (key, value), w in self.weights.items()}

    def walk(self, rng: random.Random, step: float) -> None:
        """A little change in everything."""
        self.weights = {key: w + rng.gauss(0, step) for key, w in self.weights.items()}


def bundle_user(world: Bundles, seed: str, number: int) -> dict[str, Heard]:
    """What user `number` of the world says, by phase. The seed names the world, whose users have a population in common."""
    rng = random.Random(f"{seed}:{number}")
    everyday = [d for d in DOMAINS if d.everyday]
    domains = rng.sample(everyday if world.contexts else DOMAINS, 2)
    taste = _taste(world, rng, _population(seed), domains)
    form = FORMS[number % len(FORMS)]
    situations = {domain.noun: rng.choice(CONTEXTS) for domain in domains}
    grade = _grading(rng, taste, domains)

    def ask(noisy: bool) -> BundleQuestion:
        domain = rng.choice(domains)
        if world.rated:
            return _rated(rng, domain, form, taste, grade, noisy)
        turned = world.contexts and rng.random() < 0.5
        frame = rng.choice((*domain.requests, *FRAMES))
        query = frame.format(noun=domain.noun, a=article(domain.noun), plural=domain.plural)
        if world.contexts:
            query = f"{rng.choice(situations[domain.noun][turned])} {query}"
        bundles = _bundles(rng, domain, rng.randint(*world.offered))
        utilities = tuple(0.0 if world.blank else taste.utility(domain, levels, turned) for levels in bundles)
        heard = [u + world.gumbel * gumbel(rng) for u in utilities] if noisy or world.blank else utilities
        chosen = rng.randrange(len(bundles)) if noisy and rng.random() < world.careless else best(heard)
        choices = tuple(render(domain, levels, form) for levels in bundles)
        return BundleQuestion(query, choices, utilities, choices[chosen])

    result: dict[str, Heard] = {}
    for at, phase in enumerate(world.phases):
        if at:
            taste.turn(_half(rng, domains))
        learned = []
        for _ in range(rng.randint(*world.learned)):
            learned.append(ask(noisy=True))
            if world.drift:
                taste.walk(rng, world.drift)
        result[phase] = Heard(learned, [ask(noisy=False) for _ in range(TESTED)])
    return result


def _population(seed: str) -> dict[tuple[str, str], float]:
    rng = random.Random(f"{seed}:population")
    return {(a.key, value): rng.gauss(0, SHARED) for domain in DOMAINS for a in domain.attributes for value in a.values}


def _taste(
    world: Bundles, rng: random.Random, population: Mapping[tuple[str, str], float], domains: Sequence[Domain]
) -> _Taste:
    taste = _Taste({key: mean + rng.gauss(0, OWN) for key, mean in population.items()})
    taste.flipped = _half(rng, domains)
    if world.dominant:
        for domain in domains:
            deciding = rng.choice(domain.attributes)
            taste.scale.update({(domain.noun, a.key): 4.0 if a is deciding else 0.3 for a in domain.attributes})
    return taste


def _half(rng: random.Random, domains: Sequence[Domain]) -> frozenset[str]:
    """Half of the attributes of these domains."""
    keys = list(dict.fromkeys(a.key for domain in domains for a in domain.attributes))
    return frozenset(rng.sample(keys, len(keys) // 2))


def _bundles(rng: random.Random, domain: Domain, n: int) -> list[tuple[int, ...]]:
    """So many different bundles."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < n:
        found[tuple(rng.randrange(len(a.values)) for a in domain.attributes)] = None
    return list(found)


def gumbel(rng: random.Random) -> float:
    """The noise that makes the choice of the highest utility a softmax."""
    return -math.log(-math.log(rng.uniform(1e-12, 1 - 1e-12)))


def _grading(rng: random.Random, taste: _Taste, domains: Sequence[Domain]) -> Callable[[Domain, Sequence[int]], float]:
    """How good a bundle is to the user on the scale of the grades, before it is rounded to one of them."""
    mean, spread = rng.gauss(3.2, 0.5), rng.uniform(0.6, 1.3)
    usual = {}
    for domain in domains:
        utilities = [taste.utility(domain, levels) for levels in _bundles(rng, domain, 60)]
        usual[domain.noun] = (fmean(utilities), pstdev(utilities) or 1.0)

    def grade(domain: Domain, levels: Sequence[int]) -> float:
        middle, width = usual[domain.noun]
        return mean + spread * (taste.utility(domain, levels) - middle) / width

    return grade


def _rated(
    rng: random.Random,
    domain: Domain,
    form: str,
    taste: _Taste,
    grade: Callable[[Domain, Sequence[int]], float],
    noisy: bool,
) -> BundleQuestion:
    levels = _bundles(rng, domain, 1)[0]
    exact = grade(domain, levels)
    ideal = min(5, max(1, round(exact)))
    heard = min(5, max(1, round(exact + rng.gauss(0, 0.4)))) if noisy else ideal
    query = rng.choice(RATING_FRAMES).format(noun=domain.noun, text=render(domain, levels, form))
    return BundleQuestion(query, GRADES, tuple(-abs(float(g) - ideal) for g in GRADES), str(heard))


def best(utilities: Sequence[float]) -> int:
    """Where the highest utility is, the first one if there are several."""
    return max(range(len(utilities)), key=utilities.__getitem__)

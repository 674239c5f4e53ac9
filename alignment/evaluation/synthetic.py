"""Made-up users whose ideal answers are known, one small world per way of choosing.

Every interaction carries the utility of each of its options to the user at that moment, so that regret can be measured
beside accuracy. What users were heard to choose while learning may be noisy; what a test asks for is always the ideal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType

from alignment.evaluation.benchmark import Benchmark, Phase
from alignment.evaluation.synthetic_bundles import TESTED, BundleQuestion, Bundles, Heard, best, bundle_user, gumbel
from alignment.evaluation.synthetic_texts import article
from alignment.evaluation.synthetic_things import ANSWERS, HABITS, THING_FRAMES, THINGS
from personaagent.errors import InvalidInput
from personaagent.types import Interaction

__all__ = ["WORLDS", "synthetic"]

START = datetime(2024, 1, 1, tzinfo=UTC)


def synthetic(world: str, users: int = 20, seed: int = 0) -> Benchmark:
    """Made-up users of one world. A user is the same however many there are.

    - `bundles`: bundles of attributes, a linear utility around that of the population, a little noise.
    - `dominant`: one attribute decides nearly everything.
    - `contexts`: half of the preferences turn round with the situation that the request names.
    - `change`: half of the preferences turn round between the phases `learned` and `shifted`.
    - `drift`: preferences walk slowly while 60 interactions are learned.
    - `noise`: 30% of what is learned is any option.
    - `few`: 1 to 5 interactions are learned.
    - `unseen`: named things; what the test offers was never offered before, but things like it were.
    - `habits`: an arbitrary answer per kind of request, heard once and asked for again in other words.
    - `many`: 20 to 100 options.
    - `constant`: one favourite wherever it is on offer, otherwise anything.
    - `random`: nothing to learn, all utilities are equal.
    - `ratings`: bundles graded from 1 to 5, with each user's own mean and spread.

    Args:
        world: of `WORLDS`.
        users: how many.
        seed: of everything that is drawn.

    Returns:
        A data set with one phase `newest` (`change` has two), whose interactions have the metadata `utilities`: one number
        per option, in their order. Test truths are the options of highest utility.

    Raises:
        InvalidInput: the world is unknown, or there are no users.
    """
    if world not in _WORLDS:
        raise InvalidInput(f"there is no made-up world {world!r}; choose from {', '.join(WORLDS)}")
    if users < 1:
        raise InvalidInput(f"the number of users must be at least 1, not {users}")
    names = tuple(f"{world}-{number:02d}" for number in range(users))
    learned: dict[str, list[Interaction]] = {}
    tested: dict[str, list[Interaction]] = {}
    for number, name in enumerate(names):
        clock = iter(range(1_000_000))
        for phase, heard in _WORLDS[world](f"{seed}:{world}", number).items():
            for part, items in ((learned, heard.learned), (tested, heard.tested)):
                part.setdefault(phase, []).extend(_interaction(name, number, next(clock), asked) for asked in items)
    phases = tuple(Phase(name=p, learn=tuple(learned[p]), test=tuple(tested[p])) for p in learned)
    return Benchmark(name=f"synthetic-{world}", users=names, phases=phases)


def _interaction(user: str, number: int, at: int, asked: BundleQuestion) -> Interaction:
    return Interaction(
        id=f"{user}-{at:03d}",
        user=user,
        time=START + timedelta(hours=7 * at, minutes=number),
        query=asked.query,
        truth=asked.truth,
        choices=asked.choices,
        metadata={"source": "synthetic", "utilities": list(asked.utilities)},
    )


def _unseen_user(seed: str, number: int) -> dict[str, Heard]:
    """Each cluster's names are halved: one half is on offer while learning, the other in the test."""
    rng = random.Random(f"{seed}:{number}")
    everybody = random.Random(f"{seed}:population")
    shared = {noun: [everybody.gauss(0, 1.0) for _ in clusters] for noun, clusters in THINGS.items()}
    nouns = rng.sample(list(THINGS), 2)
    liking = {noun: [mean + rng.gauss(0, 1.5) for mean in shared[noun]] for noun in nouns}
    mixed = {noun: [rng.sample(names, len(names)) for names in THINGS[noun]] for noun in nouns}

    def ask(learning: bool) -> BundleQuestion:
        noun = rng.choice(nouns)
        clusters = rng.sample(range(len(THINGS[noun])), rng.randint(2, 4))
        names = (mixed[noun][c] for c in clusters)
        choices = tuple(rng.choice(n[: len(n) // 2] if learning else n[len(n) // 2 :]) for n in names)
        utilities = tuple(liking[noun][c] for c in clusters)
        heard = [u + 0.4 * gumbel(rng) for u in utilities] if learning else utilities
        query = rng.choice(THING_FRAMES).format(noun=noun, a=article(noun))
        return BundleQuestion(query, choices, utilities, choices[best(heard)])

    learned = [ask(learning=True) for _ in range(rng.randint(24, 48))]
    return {"newest": Heard(learned, [ask(learning=False) for _ in range(TESTED)])}


def _habits_user(seed: str, number: int) -> dict[str, Heard]:
    rng = random.Random(f"{seed}:{number}")
    habit = dict(zip(range(len(HABITS)), rng.sample(ANSWERS, len(HABITS)), strict=True))
    wordings = {at: rng.sample(words, 2) for at, words in enumerate(HABITS)}
    before = {at: rng.sample([a for a in ANSWERS if a != habit[at]], 3) for at in habit}

    def ask(at: int, query: str, others: Sequence[str]) -> BundleQuestion:
        choices = rng.sample((habit[at], *others), 1 + len(others))
        return BundleQuestion(query, tuple(choices), tuple(float(c == habit[at]) for c in choices), habit[at])

    def distractors(at: int) -> list[str]:
        own = rng.sample([a for other, a in habit.items() if other != at and a not in before[at]], 2)
        return [*own, rng.choice([a for a in ANSWERS if a not in (*before[at], *own, habit[at])])]

    order = rng.sample(range(len(HABITS)), len(HABITS))
    learned = [ask(at, wordings[at][0], before[at]) for at in order]
    return {"newest": Heard(learned, [ask(at, wordings[at][1], distractors(at)) for at in rng.sample(order, TESTED)])}


def _constant_user(seed: str, number: int) -> dict[str, Heard]:
    """The favourite is on offer in most requests while learning, and in all of the test."""
    rng = random.Random(f"{seed}:{number}")
    noun = rng.choice(list(THINGS))
    names = [name for cluster in THINGS[noun] for name in cluster]
    favourite = rng.choice(names)
    others = [name for name in names if name != favourite]

    def ask(offered: bool) -> BundleQuestion:
        n = rng.randint(2, 5)
        choices = rng.sample((favourite, *rng.sample(others, n - 1)), n) if offered else rng.sample(others, n)
        utilities = tuple(float(c == favourite) for c in choices)
        truth = favourite if offered else rng.choice(choices)
        return BundleQuestion(
            rng.choice(THING_FRAMES).format(noun=noun, a=article(noun)), tuple(choices), utilities, truth
        )

    learned = [ask(rng.random() < 0.6) for _ in range(rng.randint(24, 48))]
    return {"newest": Heard(learned, [ask(True) for _ in range(TESTED)])}


_WORLDS: Mapping[str, Callable[[str, int], dict[str, Heard]]] = MappingProxyType(
    {
        "bundles": partial(bundle_user, Bundles()),
        "dominant": partial(bundle_user, Bundles(dominant=True)),
        "contexts": partial(bundle_user, Bundles(learned=(40, 48), contexts=True)),
        "change": partial(bundle_user, Bundles(learned=(24, 36), phases=("learned", "shifted"))),
        "drift": partial(bundle_user, Bundles(learned=(60, 60), drift=0.15)),
        "noise": partial(bundle_user, Bundles(careless=0.3)),
        "few": partial(bundle_user, Bundles(learned=(1, 5))),
        "unseen": _unseen_user,
        "habits": _habits_user,
        "many": partial(bundle_user, Bundles(learned=(24, 36), offered=(20, 100))),
        "constant": _constant_user,
        "random": partial(bundle_user, Bundles(blank=True)),
        "ratings": partial(bundle_user, Bundles(learned=(24, 48), rated=True)),
    }
)
WORLDS = tuple(_WORLDS)

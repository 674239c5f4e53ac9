from __future__ import annotations

from collections import Counter, defaultdict
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.evaluation.benchmark import Benchmark
from alignment.evaluation.synthetic import WORLDS, synthetic
from alignment.evaluation.synthetic_bundles import TESTED
from alignment.evaluation.synthetic_texts import CONTEXTS, DOMAINS, FORMS, Domain, render
from alignment.evaluation.synthetic_things import ANSWERS, HABITS, THINGS
from personaagent.errors import InvalidInput
from personaagent.types import Interaction, Kind

LEARNED = {"few": (1, 5), "drift": (60, 60)}  # interactions per user, where not 24 to 48


def learned(benchmark: Benchmark) -> list[Interaction]:
    return [i for phase in benchmark.phases for i in phase.learn]


def asked(benchmark: Benchmark) -> list[Interaction]:
    return [i for phase in benchmark.phases for i in phase.test]


def worth(item: Interaction) -> dict[str, float]:
    utilities = item.metadata["utilities"]
    assert isinstance(utilities, list)
    return {c: float(str(u)) for c, u in zip(item.choices or (), utilities, strict=True)}


def ideal(items: list[Interaction]) -> float:
    """Share of the items whose truth is an option of highest utility."""
    return sum(worth(i)[i.truth or ""] == max(worth(i).values()) for i in items) / len(items)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_world_is_a_benchmark_whose_tests_ask_for_the_ideal(world: str, seed: int) -> None:
    made = synthetic(world, users=3, seed=seed)
    assert made == synthetic(world, users=3, seed=seed)
    assert made.users == tuple(f"{world}-0{n}" for n in range(3))
    everything = [*learned(made), *asked(made)]
    assert len({i.id for i in everything}) == len(everything)
    assert all(i.truth in (i.choices or ()) and i.metadata["source"] == "synthetic" for i in everything)
    assert ideal(asked(made)) == 1.0
    low, high = LEARNED.get(world, (24, 48))
    for user in made.users:
        before: list[Interaction] = []
        for phase in made.phases:
            assert low <= len(phase.learn_of(user)) <= high
            assert len(phase.test_of(user)) == TESTED
            assert tuple(phase.learn_of(user)) == tuple(i for i in phase.learn if i.user == user)
            before.extend(phase.learn_of(user))
            assert max(i.time for i in before) < min(i.time for i in phase.test_of(user))
            before.extend(phase.test_of(user))
        assert [i.time for i in before] == sorted({i.time for i in before})


def test_users_differ_seeds_differ_and_more_users_change_nobody() -> None:
    few, more = synthetic("bundles", users=2), synthetic("bundles", users=4)
    assert few.phases[0].learn_of("bundles-01") == more.phases[0].learn_of("bundles-01")
    assert few.phases[0].learn != synthetic("bundles", users=2, seed=1).phases[0].learn
    assert {i.query for i in few.phases[0].learn_of("bundles-00")} != {
        i.query for i in few.phases[0].learn_of("bundles-01")
    }


@pytest.mark.parametrize("change", [{"world": "flat"}, {"users": 0}])
def test_what_cannot_be_made_is_said(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        synthetic(**{"world": "bundles", **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("world", "low", "high"),
    [("bundles", 0.75, 0.99), ("noise", 0.55, 0.85), ("dominant", 0.65, 0.95), ("unseen", 0.75, 0.99)],
)
def test_what_is_learned_is_mostly_ideal(world: str, low: float, high: float) -> None:
    assert low < ideal(learned(synthetic(world))) < high


def test_one_attribute_dominates() -> None:
    def decisive(world: str) -> float:
        """Over users and things: how well the best single attribute explains which option is worth more."""
        made, shares = synthetic(world), []
        for user in made.users:
            by_keys: dict[tuple[str, ...], list[Interaction]] = defaultdict(list)
            for item in made.phases[0].learn_of(user):
                if "; " in (item.choices or ("",))[0]:  # only where attributes can be told from their values
                    by_keys[tuple(part.split(":")[0] for part in (item.choices or ("",))[0].split("; "))].append(item)
            shares += [max(explained(items, at) for at in range(len(keys))) for keys, items in by_keys.items()]
        return sum(shares) / len(shares)

    def explained(items: list[Interaction], at: int) -> float:
        """Share of pairs of options, unlike in this attribute, that one order of its values ranks as the utility does."""
        better: Counter[tuple[str, str]] = Counter()
        for item in items:
            options = [(u, c.split("; ")[at]) for c, u in worth(item).items()]
            better.update((a, b) for u, a in options for v, b in options if u > v and a != b)
        pairs = {frozenset(pair) for pair in better}
        return sum(max(better[a, b], better[b, a]) for a, b in pairs) / better.total()

    assert decisive("dominant") > 0.95
    assert decisive("bundles") < 0.9


def test_contexts_are_named_and_turn_preferences() -> None:
    items = learned(synthetic("contexts"))
    moods = [mood for pair in CONTEXTS for side in pair for mood in side]
    assert all(any(i.query.startswith(mood) for mood in moods) for i in items)
    for other in set(WORLDS) - {"contexts"}:
        assert not any(i.query.startswith(mood) for i in learned(synthetic(other, 3)) for mood in moods)


def test_preferences_turn_round_between_phases() -> None:
    made = synthetic("change")
    assert [p.name for p in made.phases] == ["learned", "shifted"]
    orders: list[dict[tuple[str, str, str], bool]] = []
    for phase in made.phases:
        prefers: dict[tuple[str, str, str], bool] = {}
        for item in (*phase.learn, *phase.test):
            options = worth(item)
            prefers.update({(item.user, a, b): options[a] > options[b] for a in options for b in options if a < b})
        orders.append(prefers)
    both = orders[0].keys() & orders[1].keys()
    assert 0.2 < sum(orders[0][k] != orders[1][k] for k in both) / len(both) < 0.8


@pytest.mark.slow
def test_a_drifting_user_changes_the_more_the_longer() -> None:
    def changed(world: str, low: int, high: int) -> float:
        """How much else an option is worth when it comes again after so many interactions, on average."""
        made, changes = synthetic(world), []
        for user in made.users:
            met: dict[str, list[tuple[int, float]]] = defaultdict(list)
            for n, item in enumerate(made.phases[0].learn_of(user)):
                for option, utility in worth(item).items():
                    changes += [abs(utility - u) for m, u in met[option] if low <= n - m < high]
                    met[option].append((n, utility))
        return sum(changes) / len(changes)

    assert changed("bundles", 1, 24) == 0.0
    assert 0.1 < changed("drift", 1, 10) < 0.5 * changed("drift", 40, 60)


def test_the_test_offers_nothing_that_was_offered_before() -> None:
    made = synthetic("unseen")
    for user in made.users:
        before = set(chain.from_iterable(i.choices or () for i in made.phases[0].learn_of(user)))
        asked = set(chain.from_iterable(i.choices or () for i in made.phases[0].test_of(user)))
        assert not before & asked
    clusters = list(chain.from_iterable(THINGS.values()))
    names = list(chain.from_iterable(clusters))
    assert len(set(names)) == len(names)
    assert all(len(cluster) == 8 for cluster in clusters)


def test_a_habit_is_heard_once_and_asked_in_other_words_with_other_distractors() -> None:
    made = synthetic("habits")
    assert len(set(chain.from_iterable(HABITS))) == 3 * len(HABITS)
    assert len(set(ANSWERS)) == len(ANSWERS) >= 2 * len(HABITS)
    for user in made.users:
        heard = {next(h for h in HABITS if i.query in h): i for i in made.phases[0].learn_of(user)}
        assert len(heard) == len(HABITS)
        answers = {i.truth for i in heard.values()}
        assert len(answers) == len(HABITS)
        for item in made.phases[0].test_of(user):
            before = heard[next(h for h in HABITS if item.query in h)]
            assert item.query != before.query
            assert item.truth == before.truth
            others = set(item.choices or ()) - {item.truth}
            assert not others & set(before.choices or ())
            assert len(others & answers) >= 2


@pytest.mark.slow
def test_many_options_few_interactions_one_favourite() -> None:
    sizes = [len(i.choices or ()) for i in asked(synthetic("many"))]
    assert min(sizes) >= 20
    assert 60 < max(sizes) <= 100
    constant = synthetic("constant")
    for user in constant.users:
        (favourite,) = {i.truth for i in constant.phases[0].test_of(user)}
        offered = [i for i in constant.phases[0].learn_of(user) if favourite in (i.choices or ())]
        assert {i.truth for i in offered} == {favourite}
        assert 0 < len(offered) < len(constant.phases[0].learn_of(user))


def test_nothing_can_be_learned_from_chance() -> None:
    made = synthetic("random", users=40)
    items = [*learned(made), *asked(made)]
    assert all(set(worth(i).values()) == {0.0} for i in items)
    share = sum(i.truth == (i.choices or ("",))[0] for i in items) / len(items)
    assert share == pytest.approx(sum(1 / len(i.choices or "x") for i in items) / len(items), abs=0.04)


def test_grades_have_each_users_own_mean() -> None:
    made = synthetic("ratings")
    items = asked(made)
    assert {i.kind for i in items} == {Kind.RATING}
    assert all(worth(i)[i.truth or ""] == 0.0 and min(worth(i).values()) <= -2.0 for i in items)
    means = [sum(float(i.truth or "") for i in p) / len(p) for u in made.users if (p := made.phases[0].learn_of(u))]
    assert max(means) - min(means) > 1.0
    assert {i.truth for i in items} == {"1", "2", "3", "4", "5"}


def test_a_user_writes_in_one_form_and_all_forms_occur() -> None:
    made = synthetic("bundles", users=6)
    forms = []
    for user in made.users:
        options = [c for i in made.phases[0].learn_of(user) for c in i.choices or ()]
        forms.append("keys" if all(": " in c for c in options) else "list" if ", " in options[0] else "?")
        assert len({": " in c for c in options}) == 1
    assert forms.count("keys") == 2


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda d: d.noun)
def test_every_bundle_has_a_text_of_its_own(domain: Domain) -> None:
    assert 4 <= len(domain.attributes) <= 6
    assert domain.bundles >= 144
    assert all(2 <= len(a.values) <= 4 for a in domain.attributes)
    for form in FORMS:
        texts = {render(domain, levels(domain, at), form) for at in range(domain.bundles)}
        assert len(texts) == domain.bundles


def levels(domain: Domain, at: int) -> tuple[int, ...]:
    found = []
    for attribute in domain.attributes:
        at, level = divmod(at, len(attribute.values))
        found.append(level)
    return tuple(found)


def test_bundles_read_naturally() -> None:
    flat = DOMAINS[0]
    assert render(flat, (2, 0, 1, 0, 0, 0), "prose") == (
        "an expensive, quiet flat with two rooms, on the ground floor, near the park and with a balcony"
    )
    assert render(flat, (0, 0, 1, 0, 0, 1), "list") == (
        "cheap, quiet street, 2 rooms, ground floor, near the park, no balcony"
    )
    assert render(flat, (0, 1, 2, 2, 2, 1), "keys") == (
        "price: low; street: lively; rooms: 4; floor: top; near: river; outside: none"
    )

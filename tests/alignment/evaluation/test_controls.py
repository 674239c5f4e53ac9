"""Shuffled and random feedback: valid, the same for the same seed, and none of the tests."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.evaluation.benchmark import Benchmark, Phase
from alignment.evaluation.controls import Shuffle, randomised, shuffled
from personaagent.errors import InvalidInput
from personaagent.types import Interaction, Kind

START = datetime(2025, 1, 1, tzinfo=UTC)
SCALE = ("1", "2", "3", "4", "5")
OPTIONS = ("amber", "basil", "cedar", "dune", "elm")


@st.composite
def benchmarks(draw: st.DrawFn) -> Benchmark:
    users = draw(st.integers(1, 4))
    learn = []
    for user in range(users):
        for n in range(draw(st.integers(1, 8))):
            kind = draw(st.sampled_from(list(Kind)))
            choices: tuple[str, ...] | None = None
            truth: str | None = f"text {n} of {user}"
            if kind is Kind.CHOICE:
                choices = tuple(draw(st.permutations(OPTIONS))[: draw(st.integers(2, 5))])
            elif kind is Kind.RATING:
                choices = SCALE
            if choices:
                truth = draw(st.sampled_from(choices))
            # The ids of different users may be the same.
            learn.append(item(f"u{user}", n, truth if draw(st.integers(0, 9)) else None, choices))
    test = tuple(item(f"u{user}", 100, "asked") for user in range(users))
    phase = Phase(name="newest", learn=tuple(learn), test=test)
    return Benchmark(name="made-up", users=tuple(f"u{u}" for u in range(users)), phases=(phase,))


def item(user: str, n: int, truth: str | None, choices: tuple[str, ...] | None = None) -> Interaction:
    time = START + timedelta(hours=n)
    return Interaction(id=f"i{n}", user=user, time=time, query=f"request {n}", truth=truth, choices=choices)


def texts(benchmark: Benchmark) -> dict[tuple[str, str], str]:
    learned = benchmark.phases[0].learn
    return {(i.user, i.id): i.truth for i in learned if i.kind is Kind.TEXT and i.truth}


@given(benchmarks(), st.sampled_from(get_args(Shuffle)), st.integers(0, 3))
def test_shuffled_truths_are_valid_and_the_same_for_the_same_seed(
    benchmark: Benchmark, how: Shuffle, seed: int
) -> None:
    found = shuffled(benchmark, how, seed)
    assert found == shuffled(benchmark, how, seed)
    before, after = benchmark.phases[0], found.phases[0]
    assert after.test == before.test
    assert [i.model_copy(update={"truth": None}) for i in after.learn] == [
        i.model_copy(update={"truth": None}) for i in before.learn
    ]
    assert all((a.truth is None) == (b.truth is None) for a, b in zip(after.learn, before.learn, strict=True))
    assert all(i.truth in i.choices for i in after.learn if i.choices and i.truth)
    assert Counter(texts(found).values()) == Counter(texts(benchmark).values())


@given(benchmarks(), st.integers(0, 3))
def test_items_stay_with_their_user_and_change_places(benchmark: Benchmark, seed: int) -> None:
    before, after = texts(benchmark), texts(shuffled(benchmark, "items", seed))
    count = Counter(user for user, _ in before)
    for (user, i), truth in after.items():
        assert truth.endswith(f"of {user[1:]}")
        assert truth != before[user, i] or count[user] == 1


@pytest.mark.slow
@given(benchmarks(), st.integers(0, 3))
def test_nobody_keeps_their_own_where_the_others_have_as_much_to_give(benchmark: Benchmark, seed: int) -> None:
    before, after = texts(benchmark), texts(shuffled(benchmark, "users", seed))
    count = Counter(user for user, _ in before)
    if before and 2 * max(count.values()) <= len(before):
        assert not [user for (user, _), truth in after.items() if truth.endswith(f"of {user[1:]}")]


def test_a_choice_becomes_what_another_user_took_from_the_most_similar_options() -> None:
    own = item("ann", 0, "amber", ("amber", "basil", "cedar"))
    alike = item("ben", 0, "cedar", ("cedar", "amber", "basil"))
    other = item("cem", 0, "basil", ("basil", "elm"))
    phase = Phase(name="newest", learn=(own, alike, other), test=(item("ann", 9, "asked"),))
    benchmark = Benchmark(name="made-up", users=("ann", "ben", "cem"), phases=(phase,))
    for seed in range(5):
        assert shuffled(benchmark, "users", seed).phases[0].learn[0].truth == "cedar"


def test_shuffled_users_get_texts_of_many_others() -> None:
    """With those of a single other each user would have a persona, though not their own."""
    learn = tuple(item(f"u{u}", n, f"text {n} of {u}") for u in range(8) for n in range(8))
    phase = Phase(name="newest", learn=learn, test=(item("u0", 99, "asked"),))
    found = texts(shuffled(Benchmark(name="x", users=tuple(f"u{u}" for u in range(8)), phases=(phase,)), "users", 0))
    for user in range(8):
        assert len({truth[-1] for (u, _), truth in found.items() if u == f"u{user}"}) >= 3


@given(benchmarks(), st.floats(0, 1), st.integers(0, 3))
def test_random_truths_are_valid_and_the_same_for_the_same_seed(benchmark: Benchmark, share: float, seed: int) -> None:
    found = randomised(benchmark, share, seed)
    assert found == randomised(benchmark, share, seed)
    assert found.phases[0].test == benchmark.phases[0].test
    assert all(i.truth in i.choices for i in found.phases[0].learn if i.choices and i.truth)
    if share == 1:
        pairs = zip(found.phases[0].learn, benchmark.phases[0].learn, strict=True)
        assert all(a.truth != b.truth for a, b in pairs if b.truth and b.choices)


def test_the_share_of_random_truths_is_what_was_asked_for() -> None:
    learn = tuple(item(f"u{u}", n, OPTIONS[n % 5], OPTIONS) for u in range(20) for n in range(50))
    phase = Phase(name="newest", learn=learn, test=(item("u0", 99, "asked"),))
    found = randomised(Benchmark(name="x", users=("u0",), phases=(phase,)), 0.3, 0).phases[0].learn
    changed = sum(a.truth != b.truth for a, b in zip(found, learn, strict=True)) / len(learn)
    assert changed == pytest.approx(0.3, abs=0.05)


def test_a_share_is_a_share() -> None:
    phase = Phase(name="newest", learn=(item("u0", 0, "text"),), test=(item("u0", 1, "asked"),))
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        randomised(Benchmark(name="x", users=("u0",), phases=(phase,)), 1.5, 0)

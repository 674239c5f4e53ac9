from __future__ import annotations

import base64
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from alignment.evaluation.synthetic import synthetic
from alignment.learned_commons import LEAST_USERS, learn, learn_into
from alignment.memory_views import MemoryView
from personaagent.errors import ConflictError, InvalidInput
from personaagent.evidence.commons import BINS, SIZE, Commons, Population, places
from personaagent.memory.local import LocalMemory
from personaagent.memory.ram_store import VolatileStore
from personaagent.types import Decision, Interaction, RecallQuery
from tests.support.doubles import HashEmbedder

START = datetime(2024, 5, 1, tzinfo=UTC)
TEA = ("green tea", "black tea", "iced tea", "mint tea")
GRADES = ("1", "2", "3", "4", "5")


def chosen(user: str, n: int, choices: Sequence[str], truth: str, query: str = "Which one?") -> Interaction:
    time = START + timedelta(minutes=n)
    return Interaction(id=f"{user}-{n}", user=user, time=time, query=query, choices=tuple(choices), truth=truth)


def drinkers(count: int, share: float = 0.8, each: int = 10, seed: int = 0) -> list[list[Interaction]]:
    """Users who take green tea so often, and otherwise anything that is on offer."""
    found = []
    for n in range(count):
        rng = random.Random(f"{seed}:{n}")
        choices = [rng.sample(TEA, 3) for _ in range(each)]
        found.append(
            [
                chosen(f"u{n}", i, c, "green tea" if "green tea" in c and rng.random() < share else rng.choice(c))
                for i, c in enumerate(choices)
            ]
        )
    return found


def raters(count: int, each: int = 30, seed: int = 0) -> list[list[Interaction]]:
    """Users who agree which of 40 films are good, half of them on a scale of their own."""
    world = random.Random(seed)
    quality = [world.gauss(0, 1) for _ in range(40)]
    found = []
    for n in range(count):
        rng = random.Random(f"{seed}:{n}")
        high = n % 2
        rated = []
        for i, film in enumerate(rng.sample(range(40), each)):
            grade = round(min(5, max(1, 3 + high + quality[film] + rng.gauss(0, 0.7))))
            rated.append(chosen(f"u{n}", i, GRADES, str(grade), f"How good is film {film}?"))
        found.append(rated)
    return found


def learned(histories: Sequence[Sequence[Interaction]]) -> Population:
    population = learn(histories, START, 1)
    assert population is not None
    return population


def test_a_common_taste_is_found() -> None:
    population = learned(drinkers(20))
    assert (population.number, population.users, population.time) == (1, 20, START)
    assert population.foretells
    assert not population.ratings
    assert population == learned(drinkers(20))
    utility = Commons(population).utility(TEA)
    assert utility[0] > max(utility[1:]) + 0.5
    assert Commons(population).utility(["a bus"]) == pytest.approx([0.0])


@pytest.mark.slow
def test_users_with_nothing_in_common_leave_the_table_empty() -> None:
    """All but those whom chance gave something."""
    found = 0
    for seed in range(10):
        found += bool(learned(drinkers(20, share=0.0, seed=seed)).choices)
        world = synthetic("random", 15, seed)
        histories = [[i for i in world.phases[0].learn if i.user == user] for user in world.users]
        found += bool(learned(histories).choices)
    assert found <= 2


def test_what_few_users_had_never_gets_a_weight() -> None:
    histories = drinkers(20)
    rare, common = "zyx tea", "qwv tea"
    for n in range(LEAST_USERS):
        extra = [chosen(f"u{n}", 100 + i, (common, *TEA[1:3]), common) for i in range(10)]
        if n < LEAST_USERS - 1:
            extra += [chosen(f"u{n}", 200 + i, (rare, *TEA[1:3]), rare) for i in range(10)]
        histories[n] += extra
    population = learned(histories)
    table = np.frombuffer(base64.b64decode(population.choices), dtype="<f2")
    assert len(table) == SIZE
    own = {word: places(word)[0][0] for word in ("zyx", "qwv")}
    assert table[own["zyx"]] == 0
    assert table[places(rare)[0][-1]] == 0
    assert table[own["qwv"]] > 0


def test_few_users_have_nothing_in_common() -> None:
    assert learn([], START, 1) is None
    assert learn(drinkers(LEAST_USERS - 1), START, 1) is None
    free = [[chosen("a", 1, TEA, "green tea").model_copy(update={"choices": None})]] * 9
    assert learn(free, START, 1) is None
    assert learned(drinkers(LEAST_USERS)).users == LEAST_USERS


def test_items_that_people_like_are_found_whatever_their_scales() -> None:
    population = learned(raters(25))
    assert population.ratings
    assert not population.choices
    world = random.Random(0)
    quality = [world.gauss(0, 1) for _ in range(40)]
    liking = Commons(population).liking([f"How good is film {n}?" for n in range(40)])
    assert np.corrcoef(quality, liking)[0, 1] > 0.8
    assert len(population.grades) == BINS
    assert sum(population.grades) == pytest.approx(1.0, abs=1e-4)
    assert np.argmax(Commons(population).scale(np.linspace(0, 1, 5))) in (2, 3, 4)


def test_grades_at_random_teach_only_how_often_each_is_given() -> None:
    rng = random.Random(3)
    histories = [
        [chosen(f"u{n}", i, GRADES, rng.choice(GRADES), f"How good is film {rng.randrange(40)}?") for i in range(30)]
        for n in range(25)
    ]
    population = learned(histories)
    assert not population.foretells
    assert population.grades


@pytest.mark.slow
def test_learning_takes_seconds() -> None:
    world = synthetic("bundles", 300, 3)
    by_user: dict[str, list[Interaction]] = {}
    for item in world.phases[0].learn:
        by_user.setdefault(item.user, []).append(item)
    started = time.perf_counter()
    assert learned(list(by_user.values())).choices
    assert time.perf_counter() - started < 20


async def answers(memory: LocalMemory, user: str) -> dict[str, float]:
    query = RecallQuery(text="Which one?", k=0, choices=TEA, decisions=(Decision(),))
    return dict(zip(TEA, (await memory.recall(user, query)).evidence[0], strict=True))


async def test_a_new_user_starts_from_it_and_leaves_it() -> None:
    memory = LocalMemory(HashEmbedder())
    histories = drinkers(20)
    for history in histories:
        await memory.append(history[0].user, history)
    assert len(set((await answers(memory, "new")).values())) == 1
    population = await learn_into(memory, [h[0].user for h in histories])
    assert population is not None
    assert await memory.population() == population
    before = await answers(memory, "new")
    assert max(before, key=lambda c: before[c]) == "green tea"
    await memory.append("new", [chosen("new", i, TEA, "black tea") for i in range(3)])
    after = await answers(memory, "new")
    assert max(after, key=lambda c: after[c]) == "black tea"


async def test_learning_again_counts_up_and_drops_what_no_longer_holds() -> None:
    memory = LocalMemory(HashEmbedder())
    histories = drinkers(8)
    for history in histories:
        await memory.append(history[0].user, history)
    users = [h[0].user for h in histories]
    for number in (1, 2):
        population = await learn_into(memory, users)
        assert population is not None
        assert population.number == number
    with pytest.raises(ConflictError):
        await memory.commit_population(population.model_copy(update={"users": 9}))
    assert await learn_into(memory, users[:3]) is None
    stored = await memory.population()
    assert stored is not None
    assert (stored.number, stored.users, stored.foretells) == (3, 0, False)
    assert len(set((await answers(memory, "new")).values())) == 1
    assert await learn_into(memory, users[:3]) is None
    assert await memory.population() == stored


async def test_a_view_reads_it_and_cannot_replace_it() -> None:
    memory = LocalMemory(HashEmbedder())
    view = MemoryView(memory)
    assert await view.population() is None
    population = learned(drinkers(20))
    await memory.commit_population(population)
    assert await view.population() == population
    with pytest.raises(InvalidInput):
        await view.commit_population(population.model_copy(update={"number": 2}))
    query = RecallQuery(text="Which one?", k=0, choices=TEA, decisions=(Decision(),))
    assert (await view.recall("new", query)).evidence == (await memory.recall("new", query)).evidence
    hidden = (await MemoryView(memory, episodes="none").recall("new", query)).evidence[0]
    assert len(set(hidden)) == 1


async def test_a_memory_on_a_store_has_it_from_the_start() -> None:
    store = VolatileStore(16)
    await LocalMemory(HashEmbedder(), store=store).commit_population(learned(drinkers(20)))
    again = await answers(LocalMemory(HashEmbedder(), store=store), "new")
    assert max(again, key=lambda c: again[c]) == "green tea"

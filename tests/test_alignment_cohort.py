from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.candidates import READINGS, Grid, Reading, changes_mind, readings_of
from alignment.cohort import Cohort, Entry, pooled
from alignment.gate import Gate, Table
from personaagent.errors import LLMError
from personaagent.types import ChatRequest, Decision, Interaction, Kind, Outcome
from tests.alignment_doubles import START, SecretLLM, World, drink, note

GROUP = ((Kind.CHOICE,), False)
ALL = READINGS[Kind.CHOICE]
BEST: Reading = (8.0, 8)


def entry(user: str, right: Sequence[Sequence[float]], readings: Sequence[Reading] = ALL) -> Entry:
    """`right[i][j]`: whether interaction i is answered right under reading j."""
    hard = np.asarray(right, dtype=np.float32)
    return Entry(user, tuple(readings), Table(hard, hard, np.zeros_like(hard)))


def drawn(user: str, gain: float, seed: int, rows: int = 20, readings: Sequence[Reading] = ALL) -> Entry:
    """A user whose answers are right every other time, and more often by `gain` under `BEST`."""
    rng = np.random.default_rng(seed)
    lucky = rng.random(rows)
    columns = [lucky < 0.5 + (gain if reading == BEST else 0.0) for reading in readings]
    return entry(user, np.stack(columns, axis=1))


def test_what_no_single_user_could_show_all_of_them_show() -> None:
    entries = [drawn(f"u{n}", 0.06, n) for n in range(40)]
    found = pooled(GROUP, entries, Gate(0.0), 0.0)
    assert {c.reading for c in found.values()} == {BEST}
    assert set(found) == {f"u{n}" for n in range(40)}
    some = found["u0"]
    assert some.users == 40
    assert some.verdict.after > some.verdict.before
    assert not pooled(GROUP, entries[:1], Gate(0.0), 0.0)  # one user has nobody to learn from


def test_a_reading_that_helps_nobody_is_given_to_nobody() -> None:
    assert not pooled(GROUP, [drawn(f"u{n}", 0.0, n) for n in range(30)], Gate(0.0), 0.0)
    assert not pooled(GROUP, [drawn(f"u{n}", -0.3, n) for n in range(30)], Gate(0.0), 0.0)


@given(seed=st.integers(0, 200), size=st.integers(2, 12))
def test_nothing_is_adopted_that_scores_lower_over_all(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    entries = [entry(f"u{n}", rng.random((6, len(ALL))) < 0.5) for n in range(size)]
    found = pooled(GROUP, entries, Gate(0.0), 0.0)
    before = [e.scores.hard[:, 0].mean() for e in entries if e.user in found]
    after = [e.column(found[e.user].reading).hard.mean() for e in entries if e.user in found]
    assert not found or np.mean(after) > np.mean(before)


def test_a_user_has_no_say_in_what_they_get() -> None:
    entries = [drawn(f"u{n}", 0.2, n) for n in range(12)]
    loud = entry("loud", np.eye(len(ALL), dtype=np.float32)[[3] * 40])  # right only under another reading
    found = pooled(GROUP, [*entries, loud], Gate(0.0), 0.0)
    assert found["loud"].reading == BEST


def test_readings_are_compared_by_what_they_are_not_where_they_stand() -> None:
    own: Reading = (2.0, 5)  # of a persona that was fitted before
    entries = [drawn(f"u{n}", 0.2, n) for n in range(12)]
    fitted = drawn("fitted", 0.2, 99, readings=[own, *reversed(ALL)])
    assert pooled(GROUP, [*entries, fitted], Gate(0.0), 0.0)["fitted"].reading == BEST


def test_who_changes_their_mind_gets_no_longer_memory() -> None:
    moody = [note("ann", 0), *(drink("ann", n) for n in range(6))]
    again = [drink("ann", n, "water").model_copy(update={"id": f"again{n}"}) for n in range(6)]
    assert not changes_mind(moody, 40)
    assert changes_mind([*moody, *again], 40)
    assert not changes_mind([*moody, *again], 3)  # too few to tell
    assert not changes_mind([*moody, *(i.model_copy(update={"truth": "mint tea"}) for i in again)], 40)
    assert BEST in readings_of([Kind.CHOICE], False)
    kept = readings_of([Kind.CHOICE], True)
    assert max(half_life or 0.0 for half_life, _ in kept) == 1.0
    grid = Grid(Decision(half_life=8.0, neighbours=8), [Kind.CHOICE], changeable=True)
    assert grid.readings[0] == BEST  # what the persona has stays among the candidates
    assert set(grid.readings[1:]) == set(kept)


async def test_members_wait_for_all_and_not_for_those_who_leave() -> None:
    cohort = Cohort(14, Gate(0.0), 0.0)
    entries = [drawn(f"u{n}", 0.3, n) for n in range(12)]
    members = [cohort.member() for _ in entries]
    for member, entry in zip(members, entries, strict=True):
        member.join(GROUP, entry)
    waiting = [asyncio.ensure_future(member.common()) for member in members]
    with pytest.raises(LLMError), cohort.member():
        raise LLMError("gone")
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    leaver = cohort.member()
    leaver.leave()
    leaver.leave()
    found = await asyncio.gather(*waiting)
    assert all(f is not None and f.reading == BEST for f in found)


async def test_who_comes_back_as_another_kind_of_user_gets_nothing_that_was_found_for_others() -> None:
    """A persona that changed meanwhile is aligned again, from interactions that may have changed as well."""
    cohort = Cohort(2, Gate(0.0), 0.0)
    first, second = cohort.member(), cohort.member()
    second.leave()
    for member, group in ((first, GROUP), (first, (GROUP[0], True)), (second, GROUP)):
        member.join(group, drawn("ann", 0.3, 1))
        assert await member.common() is None
    first.leave()
    assert await first.common() is None


class Fading(SecretLLM):
    """A model without any idea, so that memory alone answers."""

    def _answer(self, request: ChatRequest) -> Any:
        result = super()._answer(request)
        if request.choices:
            return result.model_copy(update={"first_logprobs": tuple((c, -1.0) for c in request.choices)})
        return result


def moods(user: str, count: int = 27) -> list[Interaction]:
    """The same subject in ever other words; two in three times the answer is the lasting one."""
    words = ("warm", "cold", "small", "large", "quick", "late", "early", "second", "extra")
    return [
        Interaction(
            id=f"i{n}",
            user=user,
            time=START + timedelta(minutes=n),
            query=f"my {words[n % 9]} {words[n // 9]} drink drink drink drink drink",
            truth="water" if n % 3 == 2 else "mint tea",
            choices=("mint tea", "water"),
        )
        for n in range(count)
    ]


async def test_users_with_memories_alike_get_the_reading_that_suits_them() -> None:
    world = World(Fading(teach=lambda r: ""), decision=Decision(episodes=0, evidence_weight=40.0, half_life=0.5))
    users = [f"u{n}" for n in range(8)]
    for user in users:
        await world.add(moods(user))
    results = await world.aligner().align(users, run="run-1")
    assert {r.outcome for r in results} == {Outcome.ACCEPTED}
    assert all("of 8 users" in r.reason for r in results)
    assert all((r.score_after or 0) >= (r.score_before or 0) for r in results)
    personas = [await world.memory.persona(user) for user in users]
    readings = {(p.decision.half_life, p.decision.neighbours) for p in personas if p is not None}
    assert len(readings) == 1
    assert (0.5, None) not in readings
    alone = World(Fading(teach=lambda r: ""), decision=Decision(episodes=0, evidence_weight=40.0), cohort=1)
    await alone.add(moods("ann"))
    assert (await alone.aligner().align(["ann"]))[0].outcome is Outcome.REJECTED


async def test_a_budget_that_ends_before_the_pooled_reading_can_be_checked_is_what_the_result_names() -> None:
    decision = Decision(episodes=0, evidence_weight=40.0, half_life=0.5)
    world = World(Fading(teach=lambda r: ""), decision=decision, max_calls=30)
    users = [f"u{n}" for n in range(8)]
    for user in users:
        await world.add(moods(user))
    results = await world.aligner().align(users)
    assert {r.outcome for r in results} == {Outcome.REJECTED}
    assert all("budget" in r.reason for r in results)


async def test_users_who_have_nothing_to_pool_keep_nobody_waiting() -> None:
    world = World(Fading())
    await world.add(moods("ann"))
    await world.add([note("bob", n) for n in range(9)])
    await world.add([note("cleo", 0)])
    results = await asyncio.wait_for(world.aligner().align(["ann", "bob", "cleo", "nobody"]), 20)
    assert [r.outcome is Outcome.FAILED for r in results] == [False] * 4

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from alignment.candidates import READINGS
from alignment.cohort import Cohort
from alignment.prequential import Foretold
from personaagent.errors import LLMError
from personaagent.types import ChatRequest, Decision, Interaction, Kind, Outcome
from tests.support.alignment_doubles import START, SecretLLM, World, note

GROUP = (Kind.CHOICE,)
BEST = READINGS[2]


def drawn(user: str, gain: float, seed: int, rows: int = 20) -> Foretold:
    """A user whose answers are foretold better by `gain` nats each under `BEST`."""
    rng = np.random.default_rng(seed)
    logs = np.full((rows, len(READINGS)), -1.0) + 0.3 * rng.standard_normal((rows, len(READINGS)))
    logs[:, READINGS.index(BEST)] += gain
    return Foretold(user, READINGS, logs)


async def test_members_wait_for_all_and_not_for_those_who_leave() -> None:
    cohort = Cohort([f"u{n}" for n in range(14)], 0.0, 1.0)
    entries = [drawn(f"u{n}", 0.3, n) for n in range(12)]
    members = [cohort.member() for _ in entries]
    for member, entry in zip(members, entries, strict=True):
        member.join(GROUP, entry)
    waiting = [asyncio.ensure_future(member.fitted()) for member in members]
    with pytest.raises(LLMError), cohort.member():
        raise LLMError("gone")
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    leaver = cohort.member()
    leaver.leave()
    leaver.leave()
    found = await asyncio.gather(*waiting)
    assert all(f is not None and f.accepted and f.reading == BEST and f.users == 11 for f in found)
    assert await leaver.fitted() is None


async def test_who_comes_back_is_fitted_anew_and_counts_once() -> None:
    """A persona that changed meanwhile is aligned again, from interactions that may have changed as well."""
    cohort = Cohort(["ann", *(f"u{n}" for n in range(4))], 0.0, 1.0)
    others = [cohort.member() for _ in range(4)]
    for n, member in enumerate(others):
        member.join(GROUP, drawn(f"u{n}", 0.3, n))
    member = cohort.member()
    member.join(GROUP, drawn("ann", 0.3, 9))
    first = await member.fitted()
    member.join(GROUP, drawn("ann", 0.0, 10, rows=0))
    second = await member.fitted()
    assert first is not None
    assert second is not None
    assert (first.answers, second.answers) == (20, 0)
    assert first.users == second.users == 4
    member.join((Kind.RATING,), drawn("ann", 0.3, 9))  # as another kind of user: alone
    third = await member.fitted()
    assert third is not None
    assert third.users == 0
    member.leave()
    assert await member.fitted() is None


class Fading(SecretLLM):
    """A model without any idea, so that memory alone answers."""

    def result(self, request: ChatRequest) -> Any:
        result = super().result(request)
        if request.choices:
            return result.model_copy(update={"first_logprobs": tuple((c, -1.0) for c in request.choices)})
        return result


def moods(user: str, count: int = 18) -> list[Interaction]:
    """The same subject in ever other words; four in five times the answer is the same."""
    words = ("warm", "cold", "small", "large", "quick", "late", "early", "second", "extra")
    return [
        Interaction(
            id=f"i{n}",
            user=user,
            time=START + timedelta(minutes=n),
            query=f"my {words[n % 9]} {('hot', 'iced')[n // 9]} drink drink drink drink drink",
            truth="water" if n % 5 == 4 else "mint tea",
            choices=("water", "mint tea"),
        )
        for n in range(count)
    ]


@pytest.mark.slow
async def test_a_reading_that_predicts_better_is_a_new_version_without_anything_else() -> None:
    world = World(Fading(teach=lambda r: ""), decision=Decision(episodes=0, prior_scale=100.0))
    users = [f"u{n}" for n in range(5)]
    for user in users:
        await world.add(moods(user))
    aligned = await world.aligner().align(users, run="run-1")
    # The replays of one may lead back to where they started: that is no new version.
    results = [r for r in aligned if r.outcome is Outcome.ACCEPTED]
    users = [r.user for r in results]
    assert len(results) >= 4
    assert all(r.reason.startswith("predicts 17 past answers better by") for r in results)
    assert all("with 4 other users" in r.reason for r in results)
    personas = [await world.memory.persona(user) for user in users]
    readings = {(p.decision.change, p.decision.prior_scale) for p in personas if p is not None}
    assert len(readings) == 1
    assert (1.0, 100.0) not in readings
    again = await world.aligner().align(users[:2], run="run-2")
    assert not any("predicts" in r.reason and r.outcome is Outcome.ACCEPTED for r in again)


@pytest.mark.slow
async def test_the_fit_takes_no_model_calls_and_survives_a_search_without_budget() -> None:
    decision = Decision(episodes=0, prior_scale=100.0)
    world = World(Fading(teach=lambda r: ""), decision=decision, max_calls=16)
    users = [f"u{n}" for n in range(5)]
    for user in users:
        await world.add(moods(user))
    results = await world.aligner().align(users)
    assert sum(r.outcome is Outcome.ACCEPTED for r in results) >= 4
    assert all(r.calls <= 16 and "predicts" in r.reason for r in results)


@pytest.mark.slow
async def test_users_who_have_nothing_to_foretell_keep_nobody_waiting() -> None:
    world = World(Fading(), decision=Decision(episodes=0))
    await world.add(moods("ann"))
    await world.add([note("bob", n) for n in range(9)])
    await world.add([note("cleo", 0)])
    results = await asyncio.wait_for(world.aligner().align(["ann", "bob", "cleo", "nobody"]), 20)
    assert [r.outcome is Outcome.FAILED for r in results] == [False] * 4


@pytest.mark.slow
async def test_a_user_who_is_forgotten_meanwhile_is_skipped_and_keeps_nobody_waiting() -> None:
    world = World(Fading(), decision=Decision(episodes=0))
    for user in ("ann", "bob"):
        await world.add(moods(user))
    recall_many = world.memory.recall_many

    async def forgetful(user: str, queries: Any) -> Any:
        if user == "bob":
            world.memory.recall_many = recall_many  # type: ignore[method-assign]
            await world.memory.forget("bob")
        return await recall_many(user, queries)

    world.memory.recall_many = forgetful  # type: ignore[method-assign]
    ann, bob = await asyncio.wait_for(world.aligner().align(["ann", "bob"]), 20)
    assert ann.outcome in (Outcome.ACCEPTED, Outcome.REJECTED)
    assert (bob.outcome, bob.reason) == (Outcome.SKIPPED, "the user was forgotten meanwhile")

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.jobs.aligner_actor import AlignerParts, AlignmentActor
from actors.jobs.online import DueQueue, OnlineAligner
from personaagent.errors import StoreError, UnavailableError
from personaagent.settings import AlignmentSettings
from personaagent.types import AlignmentResult, Outcome, UserSummary
from tests.support.alignment_doubles import START, World, drink


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def summary(user: str, new: int, truths: int | None = None, pinned: bool = False) -> UserSummary:
    return UserSummary(
        user=user,
        interactions=truths or new,
        truths=truths or new,
        persona=1,
        pinned=pinned,
        last_time=START + timedelta(days=1),
        truths_since_alignment=new,
    )


def result(user: str, outcome: Outcome = Outcome.REJECTED, reason: str = "") -> AlignmentResult:
    return AlignmentResult(user=user, outcome=outcome, reason=reason)


class TestDueQueue:
    def queue(self, every: int = 5, capacity: int = 100) -> tuple[DueQueue, Clock]:
        clock = Clock()
        return DueQueue(every, capacity, clock), clock

    def test_a_user_is_due_after_so_many_new_truths(self) -> None:
        queue, _ = self.queue()
        queue.refresh([summary("a", 4), summary("b", 5), summary("c", 9, pinned=True)])
        assert queue.take(10) == ["b"]

    def test_who_waits_longest_comes_first(self) -> None:
        queue, clock = self.queue()
        queue.refresh([summary("b", 5)])
        clock.now += 7
        queue.refresh([summary("a", 5), summary("b", 6)])
        assert queue.oldest_age == 7
        assert queue.take(1) == ["b"]
        assert queue.take(5) == ["a"]
        assert queue.oldest_age == 0

    def test_whoever_was_looked_at_is_due_again_by_what_the_store_counts_as_new(self) -> None:
        queue, _ = self.queue()
        queue.refresh([summary("a", 5)])
        queue.done(queue.take(1), [result("a")])
        queue.refresh([summary("a", 4, truths=9)])
        assert len(queue) == 0
        queue.refresh([summary("a", 5, truths=9)])  # one of the old ones was corrected
        assert len(queue) == 1

    def test_who_only_said_which_tools_were_right_is_due_too(self) -> None:
        queue = DueQueue(2, 100, least=2)
        taught = summary("a", 2).model_copy(update={"truths": 0, "taught": 2})
        queue.refresh([taught, taught.model_copy(update={"user": "b", "taught": 0})])
        assert queue.take(9) == ["a"]

    def test_too_few_truths_to_align_are_not_due(self) -> None:
        queue = DueQueue(1, 100, least=2)
        queue.refresh([summary("a", 1), summary("b", 1, truths=2)])
        assert queue.take(5) == ["b"]

    def test_a_failed_user_is_tried_again_later_and_later(self) -> None:
        queue, clock = self.queue()
        waits = []
        for _ in range(3):
            queue.refresh([summary("a", 5)])
            queue.done(queue.take(1), [result("a", Outcome.FAILED)])
            start = clock.now
            while not len(queue):
                clock.now += 10
                queue.refresh([summary("a", 5)])
            waits.append(clock.now - start)
        assert waits == [60, 120, 240]

    def test_a_user_without_a_result_counts_as_failed(self) -> None:
        queue, clock = self.queue()
        queue.refresh([summary("a", 5)])
        queue.done(queue.take(1), [])
        queue.refresh([summary("a", 5)])
        assert (len(queue), queue.running) == (0, 0)
        clock.now += 60
        queue.refresh([summary("a", 5)])
        assert len(queue) == 1

    def test_a_forgotten_user_leaves_nothing(self) -> None:
        queue, _ = self.queue()
        queue.refresh([summary("a", 5), summary("b", 5)])
        queue.done(queue.take(1), [result("a")])
        queue.refresh([])
        assert len(queue) == 0
        queue.refresh([summary("a", 5)])  # a new user of that name
        assert queue.take(5) == ["a"]

    @pytest.mark.slow
    @given(
        st.lists(
            st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9)), unique_by=lambda t: t[0]), max_size=6
        ),
        st.integers(1, 4),
    )
    def test_it_stays_bounded_and_nobody_is_lost(self, rounds: list[list[tuple[str, int]]], capacity: int) -> None:
        queue, _ = self.queue(every=5, capacity=capacity)
        for seen in rounds:
            queue.refresh([summary(user, new) for user, new in seen])
            due = {user for user, new in seen if new >= 5}
            assert len(queue) <= capacity
            assert len(queue) + queue.overflow == len(due)


class Scripted:
    """An alignment actor with results by user."""

    def __init__(self, outcome: Outcome = Outcome.ACCEPTED, reason: str = "") -> None:
        self.batches: list[list[str]] = []
        self.outcome, self.reason = outcome, reason
        self.hang = False

    async def stream(self, users: Sequence[str], run: str | None = None) -> AsyncIterator[AlignmentResult]:
        self.batches.append(list(users))
        for user in users:
            if self.hang:
                await asyncio.sleep(3600)
            yield result(user, self.outcome, self.reason)


class Summaries:
    """As much of a memory as the queue reads."""

    def __init__(self, *summaries: UserSummary) -> None:
        self.known = {s.user: s for s in summaries}
        self.down = False

    async def users(self) -> tuple[UserSummary, ...]:
        if self.down:
            raise StoreError("the store is gone")
        return tuple(self.known.values())

    async def summary(self, user: str) -> UserSummary | None:
        return self.known.get(user)


def online(memory: Any, actor: Any, clock: Clock | None = None, **changed: Any) -> OnlineAligner:
    settings = AlignmentSettings.model_validate(
        {"online_every": 5, "online_poll_s": 0.01, "online_stalled_s": 100, **changed}
    )
    return OnlineAligner(memory, actor, settings, clock or Clock())


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - the condition is read from outside
            await asyncio.sleep(0.005)


class TestOnlineAligner:
    async def test_a_round_aligns_everybody_due_in_batches(self) -> None:
        actor = Scripted()
        aligner = online(Summaries(*(summary(f"u{i}", 5) for i in range(7)), summary("x", 1)), actor, users_per_batch=3)
        await aligner.round()
        assert [len(b) for b in actor.batches] == [3, 3, 1]
        status = await aligner.status()
        assert (status.depth, status.aligned, status.accepted, status.healthy) == (0, 7, 7, True)
        assert status.last_success is not None

    async def test_news_of_one_user_wake_it(self) -> None:
        memory, actor = Summaries(), Scripted()
        aligner = online(memory, actor, online_poll_s=3600)
        task = asyncio.create_task(aligner.run())
        await asyncio.sleep(0.02)
        memory.known["ann"] = summary("ann", 4)
        await aligner.notify("ann")
        await aligner.notify("nobody")
        await asyncio.sleep(0.02)
        assert actor.batches == []
        memory.known["ann"] = summary("ann", 5)
        await aligner.notify("ann")
        await until(lambda: asyncio.sleep(0, bool(actor.batches)))
        task.cancel()

    async def test_unhealthy_when_work_waits_and_nothing_gets_done(self) -> None:
        clock, actor = Clock(), Scripted()
        actor.hang = True
        aligner = online(Summaries(summary("ann", 5)), actor, clock)
        task = asyncio.create_task(aligner.run())
        await until(lambda: asyncio.sleep(0, bool(actor.batches)))
        await aligner.check_health()
        clock.now += 101
        with pytest.raises(UnavailableError, match="1 users waiting"):
            await aligner.check_health()
        task.cancel()

    async def test_an_outage_makes_it_unhealthy_and_it_recovers(self) -> None:
        clock, actor = Clock(), Scripted(Outcome.FAILED, "error: unavailable")
        aligner = online(Summaries(summary("ann", 5)), actor, clock)
        await aligner.round()
        clock.now += 101
        assert not (await aligner.status()).healthy
        actor.outcome, actor.reason = Outcome.ACCEPTED, ""
        await aligner.round()
        assert (await aligner.status()).healthy

    async def test_one_user_that_always_fails_does_not(self) -> None:
        clock, actor = Clock(), Scripted(Outcome.FAILED, "error: llm_error")
        aligner = online(Summaries(summary("ann", 5)), actor, clock)
        for _ in range(5):
            await aligner.round()
            clock.now += 90
            await aligner.check_health()
        assert (await aligner.status()).failed > 0

    async def test_a_store_that_is_down_is_named_and_waited_for(self) -> None:
        clock, actor, memory = Clock(), Scripted(), Summaries(summary("ann", 5))
        memory.down = True
        aligner = online(memory, actor, clock)
        task = asyncio.create_task(aligner.run())

        async def noticed() -> bool:
            return (await aligner.status()).error == "the store is gone"

        await until(noticed)
        clock.now += 101
        with pytest.raises(UnavailableError, match="the store is gone"):
            await aligner.check_health()
        memory.down = False
        await until(lambda: asyncio.sleep(0, bool(actor.batches)))
        await aligner.check_health()
        task.cancel()

    @pytest.mark.slow
    async def test_with_a_real_aligner_and_memory(self) -> None:
        world = World()
        await world.add([drink("ann", i) for i in range(27)])
        actor = AlignmentActor(
            AlignerParts(world.llm, world.embedder, world.memory, world.agent.settings, world.settings)
        )
        aligner = online(world.memory, actor)
        await aligner.round()
        await aligner.round()
        assert len(await world.memory.personas("ann")) == 2
        assert (await aligner.status()).accepted == 1
        await world.add([drink("ann", 100 + i, truth="water") for i in range(5)])
        await aligner.round()
        assert (await aligner.status()).aligned == 2

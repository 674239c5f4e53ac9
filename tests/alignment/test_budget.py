from __future__ import annotations

import asyncio

import pytest

from alignment.budget import Budget, Caller, patiently
from alignment.slots import Slots
from personaagent.errors import BudgetExceeded, LLMError, UnavailableError
from personaagent.types import Usage

ONE = Usage(calls=1, prompt_tokens=10, completion_tokens=5)


async def give(usage: Usage = ONE) -> Usage:
    await asyncio.sleep(0)
    return usage


def caller(budget: Budget, slots: int = 8, retry_s: float = 0.0) -> Caller:
    return Caller(Slots(slots), budget, retry_s, pause_s=0.001)


async def test_calls_in_flight_cannot_pass_the_bound_together() -> None:
    budget = Budget(calls=5)
    c = caller(budget)
    results = await asyncio.gather(*(c.call(give, lambda u: u) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(r, Usage) for r in results) == 5
    assert sum(isinstance(r, BudgetExceeded) for r in results) == 15
    assert (budget.calls, budget.prompt_tokens, budget.completion_tokens) == (5, 50, 25)


async def test_tokens_are_bounded_and_the_run_is_charged_too() -> None:
    run = Budget(tokens=40)
    first, second = caller(Budget(parent=run)), caller(Budget(parent=run))
    await first.call(give, lambda u: u)
    await second.call(give, lambda u: u)
    await first.call(give, lambda u: u)
    with pytest.raises(BudgetExceeded, match="40 tokens"):
        await second.call(give, lambda u: u)
    assert (run.calls, run.tokens) == (3, 45)
    assert (first.budget.calls, second.budget.calls) == (2, 1)


async def test_reserved_calls_stay_for_later() -> None:
    budget = Budget(calls=3)
    budget.reserve(2)
    c = caller(budget)
    await c.call(give, lambda u: u)
    with pytest.raises(BudgetExceeded):
        await c.call(give, lambda u: u)
    budget.release()
    await c.call(give, lambda u: u)
    await c.call(give, lambda u: u)
    assert budget.calls == 3


async def test_work_without_a_model_is_free() -> None:
    budget = Budget(calls=1)
    for _ in range(3):
        await caller(budget).call(lambda: give(Usage()), lambda u: u)
    assert budget.calls == 0


async def test_waits_for_a_part_that_is_down_and_counts_only_answers() -> None:
    budget, failures = Budget(), 3

    async def flaky() -> Usage:
        nonlocal failures
        if failures:
            failures -= 1
            raise UnavailableError("the engine is starting")
        return ONE

    assert await caller(budget, retry_s=60).call(flaky, lambda u: u) == ONE
    assert budget.calls == 1


@pytest.mark.parametrize("error", [UnavailableError("gone"), LLMError("refused")])
async def test_errors_that_stay_are_raised_and_cost_nothing(error: Exception) -> None:
    budget = Budget()

    async def fail() -> Usage:
        raise error

    with pytest.raises(type(error)):
        await caller(budget).call(fail, lambda u: u)
    assert budget.calls == 0


async def test_calls_sent_as_one_are_counted_each() -> None:
    run = Budget(calls=7)
    c = caller(Budget(calls=10, parent=run))
    five = Usage(calls=5, prompt_tokens=50)
    assert await c.call(lambda: give(five), lambda u: u, 5) == five
    with pytest.raises(BudgetExceeded, match="7 calls"):
        await c.call(lambda: give(five), lambda u: u, 5)
    assert (c.budget.calls, run.calls, run.prompt_tokens) == (5, 5, 50)

    async def fail() -> Usage:
        raise LLMError("refused")

    with pytest.raises(LLMError):
        await c.call(fail, lambda u: u, 2)
    assert (c.budget.calls, run.calls) == (5, 5)


class Clock:
    """Time that passes only in waits and in calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 0.0, list[float]()
        monkeypatch.setattr("time.monotonic", lambda: self.now)

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)
            self.now += seconds

        monkeypatch.setattr("asyncio.sleep", sleep)


async def test_attempts_get_rarer_and_time_counts_from_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(monkeypatch), 0

    async def away() -> None:
        nonlocal calls
        calls += 1
        clock.now += 1000 if calls == 1 else 0  # it takes long to find out that nobody is there
        raise UnavailableError("gone")

    with pytest.raises(UnavailableError, match="gone"):
        await patiently(away, 36)
    assert clock.waits == [0.5, 1, 2, 4, 8, 10, 10]
    assert calls == 8
    clock.waits.clear()
    with pytest.raises(UnavailableError):
        await patiently(away, 0)
    assert clock.waits == []


async def test_waiting_can_be_cancelled() -> None:
    async def away() -> None:
        raise UnavailableError("gone")

    task = asyncio.create_task(patiently(away, 60, 30))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await patiently(away, 60, 30)


async def test_whatever_makes_an_awaitable_is_awaited_and_tried_again() -> None:
    left = [UnavailableError("gone")]

    async def flaky() -> int:
        if left:
            raise left.pop()
        return 7

    assert await patiently(lambda: flaky(), 60, 0.001) == 7
    assert left == []

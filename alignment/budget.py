"""What alignment may spend: calls and tokens, per user and per run; and how calls wait for a part that is down."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from alignment.slots import Slots
from personaagent.errors import BudgetExceeded, UnavailableError
from personaagent.types import Usage

__all__ = ["Budget", "Caller", "patiently"]

T = TypeVar("T")

PAUSE_S = 10.0  # the longest wait between two attempts


class Budget:
    """Calls and tokens spent, with bounds. A user's budget charges the run's budget (`parent`) too.

    A call is counted when it starts, so that many calls in flight cannot pass the bound together; its tokens are known,
    and charged, when it ends.
    """

    def __init__(self, calls: int | None = None, tokens: int | None = None, parent: Budget | None = None) -> None:
        """None: no bound."""
        self._max_calls = calls
        self._max_tokens = tokens
        self._parent = parent
        self._reserved = 0
        self.calls = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0

    @property
    def is_run_over(self) -> bool:
        """Whether the budget of the whole run is used up, so that a user may not have had their turn."""
        run = self._parent
        if run is None:
            return False
        calls, tokens = run._max_calls, run._max_tokens
        return (calls is not None and run.calls >= calls) or (tokens is not None and run.tokens >= tokens)

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        return Usage(
            calls=self.calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
        )

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens so far."""
        return self.prompt_tokens + self.completion_tokens

    def reserve(self, calls: int) -> None:
        """Keep so many calls, and the tokens such calls took on average, out of reach until `release`."""
        self._reserved = calls

    def release(self) -> None:
        """Make reserved calls available."""
        self._reserved = 0

    def start(self, calls: int = 1) -> None:
        """Count calls that are about to be made.

        Raises:
            BudgetExceeded: they would pass a bound of the user or of the run.
        """
        mean = self.tokens / self.calls if self.calls else 0.0
        if self._max_calls is not None and self.calls + self._reserved + calls > self._max_calls:
            raise BudgetExceeded(f"the budget of {self._max_calls} calls is used up")
        if self._max_tokens is not None and self.tokens + self._reserved * mean >= self._max_tokens:
            raise BudgetExceeded(f"the budget of {self._max_tokens} tokens is used up")
        if self._parent is not None:
            self._parent.start(calls)
        self.calls += calls

    def cancel(self, calls: int = 1) -> None:
        """Take back started calls that failed: nothing was answered."""
        self.calls -= calls
        if self._parent is not None:
            self._parent.cancel(calls)

    def finish(self, usage: Usage, calls: int = 1) -> None:
        """Charge started calls with what they really used; work without a model (`usage.calls` 0) costs nothing."""
        self.calls += usage.calls - calls
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        if self._parent is not None:
            self._parent.finish(usage, calls)


class Caller:
    """Makes one user's calls: takes a slot, counts the call, waits for a part of the system that is down.

    Slots are shared by all users of an aligner, and who was started first is served first; so the requests of one user
    stay together and share their prompt's prefix in the engine's cache.

    `incarnation` is the user's when the work began, see `Memory`: what the work comes to is stored under it or not at all.
    `seen` is when the newest truth arrived of those that the work looks at; None before it has looked.
    """

    def __init__(self, slots: Slots, budget: Budget, retry_s: float = 0.0, pause_s: float = 0.5) -> None:
        self._slots = slots
        self._rank = slots.rank()
        self._retry_s = retry_s
        self._pause_s = pause_s
        self.budget = budget
        self.incarnation: int | None = None
        self.seen: int | None = None

    async def call(self, make: Callable[[], Awaitable[T]], usage: Callable[[T], Usage], calls: int = 1) -> T:
        """The result of `make`, so many model calls sent as one, charged with `usage(result)`.

        Raises:
            BudgetExceeded: before anything is sent.
            UnavailableError: still down after `retry_s` seconds.
        """

        async def once() -> T:
            async with self._slots.taken(self._rank):
                self.budget.start(calls)
                try:
                    result = await make()
                except BaseException:
                    self.budget.cancel(calls)
                    raise
                self.budget.finish(usage(result), calls)
                return result

        return await self.patiently(once)

    async def patiently(self, make: Callable[[], Awaitable[T]]) -> T:
        """The result of `make`, waiting up to `retry_s` seconds for a part of the system that is down."""
        return await patiently(make, self._retry_s, self._pause_s)


async def patiently(make: Callable[[], Awaitable[T]], retry_s: float, pause_s: float = 0.5) -> T:
    """The result of `make`, which is tried again, ever less often, while it raises UnavailableError.

    Raises:
        UnavailableError: still down after `retry_s` seconds.
    """
    deadline: float | None = None

    def too_late(state: RetryCallState) -> bool:
        """Time counts from the first failure: a call may take long before it finds out that nobody is there."""
        nonlocal deadline
        now = time.monotonic()
        deadline = now + retry_s if deadline is None else deadline
        return now + state.upcoming_sleep > deadline

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(UnavailableError),
        wait=wait_exponential(pause_s, max=PAUSE_S),
        stop=too_late,
        reraise=True,
    )

    async def once() -> T:
        """Without it tenacity would not await what a lambda or another plain function makes."""
        return await make()

    result: T = await retrying(once)
    return result

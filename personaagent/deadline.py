"""One deadline per request, handed along to everything that is done for it.

Who takes a request in says `until`; whoever waits for another part of the system does so inside `bounded`. The deadline
travels with the task and with all tasks that it starts, so no function in between has to pass it on. Work that is nobody's
request (a job, a command) has none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

from personaagent.errors import DeadlineExceeded, UnavailableError

__all__ = ["bounded", "check", "each", "remaining", "until"]

T = TypeVar("T")

_AT: ContextVar[float | None] = ContextVar("personaagent_deadline", default=None)  # on the monotonic clock


def remaining() -> float | None:
    """Seconds until the deadline, 0 once it is over; None if there is none."""
    at = _AT.get()
    return None if at is None else max(0.0, at - time.monotonic())


def check() -> None:
    """Raise DeadlineExceeded if the deadline is over, so that nothing more is begun."""
    if remaining() == 0.0:
        raise DeadlineExceeded


@contextmanager
def until(seconds: float) -> Iterator[None]:
    """What is done inside has so many seconds, or less if it is part of something with an earlier deadline."""
    outer, own = _AT.get(), time.monotonic() + seconds
    token = _AT.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _AT.reset(token)


@asynccontextmanager
async def bounded(timeout_s: float | None = None, late: str = "it took too long") -> AsyncIterator[None]:
    """Cancels what is inside after `timeout_s` (None: no bound of its own) or at the deadline, whichever comes first.

    Args:
        timeout_s: seconds.
        late: what the error says if it was `timeout_s` that ended it.

    Raises:
        DeadlineExceeded: the deadline came, or was over before.
        UnavailableError: `timeout_s` was over.
    """
    check()
    left = remaining()
    first = left is not None and (timeout_s is None or left <= timeout_s)
    try:
        async with asyncio.timeout(left if first else timeout_s) as limit:
            yield
    except TimeoutError as e:
        if not limit.expired():  # somebody else's
            raise
        raise (DeadlineExceeded() if first else UnavailableError(late)) from e


async def each(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The items, none of which is waited for beyond the deadline. Raises DeadlineExceeded. The caller closes `items`."""
    while True:
        async with bounded():
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item

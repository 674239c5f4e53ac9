"""Refusing chats where they come in, once it is known that the routers are full.

A router's refusal costs a way through Serve's proxy and its handle, and back; several hundred a second of them take the processor
from the model on the same machine. A router says with its answers how many chats all routers take at most, and the proxy
sees how many were under way when one was refused. It refuses further ones itself until one of those has ended. Now and then it
lets one through, to hear whether the routers take more by now.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from serve.http.turnover import Turnover

__all__ = ["Shedding"]

PROBE_S = 0.5


class Shedding:
    """What one proxy knows of the routers' limit on chats."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that only grow."""
        self._clock = clock
        self._bound: int | None = None  # chats that were under way when one was refused
        self._most: int | None = None  # that all routers together take
        self._probe_at = 0.0
        self._turnover = Turnover(1, clock)

    def refuse(self) -> int | None:
        """Whether to refuse the next chat: in how many seconds it should come again, or None to let it through."""
        bound = self._most if self._bound is None else self._bound
        if bound is None or self._turnover.inside < bound:
            return None
        self._turnover.places = bound
        if self._clock() >= self._probe_at:
            self._probe_at = self._clock() + PROBE_S
            return None
        return self._turnover.refuse()

    def learn(self, most: int) -> None:
        """How many chats all routers together take at most."""
        self._most = max(1, most)

    def begin(self) -> int:
        """A chat is let through; its number."""
        return self._turnover.begin()

    def answered(self, status: int) -> None:
        """What the routers say to a chat, before its answer is complete."""
        others = self._turnover.inside - 1
        if status == 429:
            self._bound = max(1, others)
            self._probe_at = self._clock() + PROBE_S
        elif self._bound is not None and others >= self._bound and status < 400:
            self._bound = None  # they take more than they did

    def end(self, number: int, status: int | None) -> None:
        """A chat has ended. `status`: of its answer; None if there was none."""
        if status is not None and status < 400:
            self._turnover.end(number)
        else:
            self._turnover.drop(number)
        if not self._turnover.inside:
            self._bound = None

"""Users who are worked on together and wait for each other, once."""

from __future__ import annotations

import asyncio
from typing import Self

__all__ = ["Arrivals", "Guest"]


class Arrivals:
    """How many of a number of guests are still to come. Not thread-safe: it belongs to one event loop."""

    def __init__(self, size: int) -> None:
        """`size`: guests; each must arrive or leave, or the others wait forever."""
        self.size = size
        self._missing = size
        self._complete = asyncio.Event()

    def arrive(self) -> None:
        """One more has come, or will do without."""
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()

    async def wait(self) -> None:
        """Until all have come."""
        await self._complete.wait()


class Guest:
    """One user's place among those who wait for each other; use it as a context manager, so that a user who fails does not keep
    the others."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._arrived = False

    def arrive(self) -> bool:
        """Come; False for who came, or left, before."""
        first, self._arrived = not self._arrived, True
        if first:
            self._arrivals.arrive()
        return first

    def leave(self) -> None:
        """Do without; the others need not wait."""
        self.arrive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

"""Places for calls in flight, given to the users who came first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Slots"]


class Slots:
    """A bound on calls in flight. Who waits is served by rank, the lowest first, and within a rank in order.

    With users ranked in the order they were started, they finish one after another while later ones fill the gaps. Served
    in turn they would all finish at the very end, and a job that is killed would lose nearly everything it had paid for.
    Not thread-safe: it belongs to one event loop.
    """

    def __init__(self, count: int) -> None:
        """`count`: calls in flight, at least one."""
        self._free = count
        self._ranks = itertools.count()
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    def rank(self) -> int:
        """The next rank: behind all given before."""
        return next(self._ranks)

    @asynccontextmanager
    async def taken(self, rank: int) -> AsyncIterator[None]:
        """Hold a slot, once there is one for this rank."""
        await self._take(rank)
        try:
            yield
        finally:
            self._give()

    async def _take(self, rank: int) -> None:
        if self._free:  # then nobody waits
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the slot had just been given
                self._give()
            raise

    def _give(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

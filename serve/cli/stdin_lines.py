"""Lines from standard input without blocking the loop, so that waiting for one can be cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

__all__ = ["StdinLines"]


class StdinLines:
    """The lines of a descriptor, without their ends.

    A daemon thread reads the descriptor itself: one that waits inside Python's buffered stdin would hold a lock which the
    interpreter needs to exit.
    """

    def __init__(self, private: bool = False) -> None:
        """`private`: from here on processes that are started find nothing on their standard input, and hold none of ours."""
        self._descriptor = 0
        if private:
            self._descriptor = os.dup(0)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    async def next(self) -> str | None:
        """The next line; None at the end of input."""
        return await self._queue.get()

    def __aiter__(self) -> StdinLines:
        return self

    async def __anext__(self) -> str:
        line = await self.next()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        for line in _split(iter(lambda: os.read(self._descriptor, 65_536), b"")):
            self._put(line)
        self._put(None)

    def _put(self, line: str | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, line)


def _split(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")

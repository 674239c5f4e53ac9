"""Merges the texts of many callers into batches for one model. It knows nothing of Ray or of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from personaagent.protocols import Matrix

__all__ = ["TextBatcher"]


@dataclass(eq=False, slots=True)
class _Call:
    texts: Sequence[str]
    done: asyncio.Future[Matrix]
    taken: int = 0
    rows: list[Matrix] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.texts) - self.taken


class TextBatcher:
    """One batch at a time, in a thread. Half of each batch goes to the smallest calls, the rest to the oldest.

    So a chat's single question does not wait for an import of thousands of texts, and the import still moves on.
    """

    def __init__(self, encode: Callable[[Sequence[str]], Matrix], max_batch: int, wait_s: float) -> None:
        """Args:
        encode: texts to rows; called in a thread, never twice at once.
        max_batch: texts per call of `encode`.
        wait_s: how long a batch that is not full waits for more.
        """
        self._encode = encode
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._calls: list[_Call] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, texts: Sequence[str]) -> Matrix:
        """The rows of `texts`, in order. Raises what `encode` raised for a batch with one of them."""
        call = _Call(texts, asyncio.get_running_loop().create_future())
        self._calls.append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await call.done

    async def _work(self) -> None:
        await asyncio.sleep(self._wait_s)
        while self._calls:
            parts = self._take()
            if not parts:
                continue
            try:
                rows = await asyncio.to_thread(self._encode, [t for call, n in parts for t in _next(call, n)])
            except Exception as e:  # noqa: BLE001 - it belongs to the callers, who get it
                for call, _ in parts:
                    if not call.done.done():
                        call.done.set_exception(e)
                self._calls = [c for c in self._calls if not c.done.done()]
                continue
            start = 0
            for call, n in parts:
                call.rows.append(rows[start : start + n])
                call.taken += n
                start += n
                if not call.left and not call.done.done():
                    call.done.set_result(np.concatenate(call.rows))
            self._calls = [c for c in self._calls if not c.done.done()]

    def _take(self) -> list[tuple[_Call, int]]:
        """The next batch: calls with how many of their next texts."""
        self._calls = [c for c in self._calls if not c.done.done()]  # a cancelled caller needs nothing any more
        room = self._max_batch
        taken: dict[_Call, int] = {}
        for order, limit in ((sorted(self._calls, key=lambda c: c.left), -(-room // 2)), (self._calls, room)):
            free = min(room, limit)
            for call in order:
                n = min(call.left - taken.get(call, 0), free)
                if n > 0:
                    taken[call] = taken.get(call, 0) + n
                    free -= n
                    room -= n
        return list(taken.items())


def _next(call: _Call, n: int) -> Sequence[str]:
    return call.texts[call.taken : call.taken + n]

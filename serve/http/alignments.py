"""Alignments asked for over HTTP: who asks for one that is under way waits for it, and few are under way at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from dataclasses import dataclass

from personaagent import deadline
from personaagent.errors import OverloadedError
from personaagent.types import AlignmentResult

__all__ = ["Alignments"]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    task: asyncio.Task[AlignmentResult]
    waiting: int = 0


class Alignments:
    """Those of one process. What two processes do for the same user at once, the persona's compare-and-set sorts out."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        """Args:
        limit: alignments under way.
        timeout_s: seconds of one.
        """
        self._limit = limit
        self._timeout_s = timeout_s
        self._jobs: dict[Hashable, _Job] = {}

    async def run(self, what: Hashable, align: Callable[[], Awaitable[AlignmentResult]]) -> AlignmentResult:
        """The result of `align`, or of the one that is under way for the same `what`. Once nobody waits for it, it ends.

        Raises:
            OverloadedError: too many are under way.
            DeadlineExceeded: it took too long.
        """
        job = self._jobs.get(what)
        if job is None:
            if len(self._jobs) >= self._limit:
                raise OverloadedError(f"{self._limit} alignments are under way and no more are taken; try again soon")
            # Nobody's context: it must outlive the request that happens to be the first.
            job = _Job(asyncio.create_task(self._work(align), context=Context()))
            self._jobs[what] = job
            job.task.add_done_callback(lambda task: self._ended(what, task))
        job.waiting += 1
        try:
            return await asyncio.shield(job.task)
        finally:
            job.waiting -= 1
            if not job.waiting:
                job.task.cancel()
                if self._jobs.get(what) is job:
                    del self._jobs[what]  # whoever asks now gets one of their own

    async def _work(self, align: Callable[[], Awaitable[AlignmentResult]]) -> AlignmentResult:
        with deadline.until(self._timeout_s):
            async with deadline.bounded():
                return await align()

    def _ended(self, what: Hashable, task: asyncio.Task[AlignmentResult]) -> None:
        if (job := self._jobs.get(what)) is not None and job.task is task:
            del self._jobs[what]
        if not task.cancelled() and task.exception() is not None:
            log.debug("an alignment failed")  # those who wait for it say why

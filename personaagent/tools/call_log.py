"""Which tools were called for whom, for the audit log: their names, and never what they were told or answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context

from personaagent.errors import DeadlineExceeded, StoreError, UnavailableError

__all__ = ["CallLog"]

log = logging.getLogger(__name__)

# Writes that a tool is called for a user or, if True, that its call failed. Raises StoreError or UnavailableError.
Write = Callable[[str, str, bool], Awaitable[None]]

CLOSE_S = 5.0  # for what is still to be written


class CallLog:
    """Every call is written down before it is made, also in a turn that is not remembered or never answered."""

    def __init__(self, write: Write) -> None:
        """`write`: into the audit log."""
        self._write = write
        self._writing: set[asyncio.Task[None]] = set()

    async def calling(self, user: str, tool: str) -> None:
        """A tool is about to be called.

        Raises:
            UnavailableError: that cannot be logged, so it must not be done.
        """
        try:
            await self._write(user, tool, False)
        except DeadlineExceeded:
            raise
        except (StoreError, UnavailableError) as e:
            log.warning("a call of tool %s could not be logged: %s", tool, e.message)
            raise UnavailableError("the call was not made, because it could not be logged") from e

    def failed(self, user: str, tool: str) -> None:
        """A call failed, or nobody waits for it any more. Returns at once: neither is the time of a request to wait in."""
        task = asyncio.create_task(self._failed(user, tool), context=Context())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def close(self) -> None:
        """Wait for what is still to be written."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=CLOSE_S)

    async def _failed(self, user: str, tool: str) -> None:
        try:
            await self._write(user, tool, True)
        except (StoreError, UnavailableError) as e:
            log.warning("a call of tool %s was logged, but not that it failed: %s", tool, e.message)

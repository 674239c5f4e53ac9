"""What a router replica says of itself and of the parts behind it, without waiting for any of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass

from personaagent.errors import PersonaAgentError

__all__ = ["Health"]

FRESH_S = 5.0  # a look that is older is repeated, in the background
PATIENCE_S = 5.0  # for a part to answer
FIRST_S = 0.5  # that a report waits, if no part was ever looked at
UNSEEN = "not looked at yet"


@dataclass(frozen=True)
class _Look:
    state: str
    at: float


class Health:
    """Looks at the parts in the background, and remembers what it saw last."""

    def __init__(self, parts: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        """`parts`: checks by name; one raises if its part does not answer."""
        self._parts = dict(parts)
        self._seen: dict[str, _Look] = {}
        self._looking: asyncio.Task[None] | None = None
        self._refreshed = float("-inf")
        self.closing = False  # this replica is being ended

    def refresh(self) -> None:
        """Begin to look, unless the last look is fresh or still under way."""
        if self._looking is not None and not self._looking.done():
            return
        if time.monotonic() - self._refreshed < FRESH_S:
            return
        # Nobody's context: neither a request's deadline nor its end is the look's.
        self._looking = asyncio.create_task(self._look(), context=Context())

    async def report(self) -> tuple[dict[str, str], dict[str, float | None]]:
        """What each part last said, `ok` or what is wrong with it, and how many seconds ago that was."""
        self.refresh()
        if not self._seen and self._looking is not None:
            await asyncio.wait({self._looking}, timeout=FIRST_S)
        now = time.monotonic()
        states = {name: look.state if (look := self._seen.get(name)) else UNSEEN for name in self._parts}
        ages = {name: round(now - look.at, 1) if (look := self._seen.get(name)) else None for name in self._parts}
        return states, ages

    def close(self) -> None:
        """This replica takes no more requests."""
        self.closing = True
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        await asyncio.gather(*(self._at(name, check) for name, check in self._parts.items()))
        self._refreshed = time.monotonic()

    async def _at(self, name: str, check: Callable[[], Awaitable[object]]) -> None:
        state = await _state(check)
        self._seen[name] = _Look(state, time.monotonic())


async def _state(check: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await check()
    except TimeoutError:
        return f"no answer within {PATIENCE_S:g} s"
    except PersonaAgentError as e:
        return e.message
    except Exception as e:  # noqa: BLE001 - a probe reports, whatever is wrong
        return f"failed ({type(e).__name__})"
    return "ok"

"""Parts of the system that do not answer, and note whether the calls to them were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from ray.serve.exceptions import BackPressureError


class Response:
    """A call under way: it never ends, or fails at once."""

    def __init__(self, error: Exception | None = None, pieces: int = 0) -> None:
        self.cancelled = False
        self._error = error
        self._pieces = pieces

    def __await__(self) -> Generator[Any, None, Any]:
        if self._error is not None:
            raise self._error
        yield from asyncio.sleep(100).__await__()

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> list[dict[str, Any]]:
        if self._pieces:
            self._pieces -= 1
            return [{"choices": [{"delta": {"content": "word "}}]}]
        return await self

    def cancel(self) -> None:
        self.cancelled = True


class Part:
    """A handle of a deployment, and a shard: every method can be called, and every call is kept."""

    def __init__(self, error: Exception | None = None, pieces: int = 0) -> None:
        self.calls: list[Response] = []
        self.arguments: list[Any] = []
        self.error = error
        self.pieces = pieces

    def options(self, **_: Any) -> Part:
        return self

    def remote(self, *arguments: Any) -> Response:
        self.arguments.append(arguments)
        self.calls.append(Response(self.error, self.pieces))
        return self.calls[-1]

    def __getattr__(self, name: str) -> Part:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    @property
    def left(self) -> int:
        """Calls that nobody waits for and that nobody cancelled."""
        return sum(not call.cancelled for call in self.calls)


def full() -> BackPressureError:
    return BackPressureError(num_queued_requests=1, max_queued_requests=1)

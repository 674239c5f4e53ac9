"""Calls and tokens of one run, counted per purpose while equal work is done once.

It knows a model and an embedder by their protocols; nothing of users, methods or scores.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from personaagent.aio import together
from personaagent.models.wrapper import WholeAnswers, telling
from personaagent.protocols import LLM, Embedder, Matrix
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest, Usage

__all__ = ["CachedEmbedder", "Meter", "SharedLLM", "Tally", "counted", "spent"]

R = TypeVar("R", ChatResult, Likelihood)


@dataclass
class Tally:
    """What some work cost: calls and tokens, and `seconds` of the engine's time."""

    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0


_TALLY: ContextVar[Tally | None] = ContextVar("tally", default=None)


@contextmanager
def counted() -> Iterator[Tally]:
    """Count what the work inside, and the tasks it starts, sends through any meter.

    Work side by side in other tasks is not counted, so the cost of one item among many in flight is known.
    """
    tally = Tally()
    token = _TALLY.set(tally)
    try:
        yield tally
    finally:
        _TALLY.reset(token)


@dataclass
class _Entry:
    """One distinct request; the lock lets a second asker wait for the first one's answer."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    result: Any = None
    seconds: float = 0.0


class _EngineClock:
    """Divides the time in which the engine is busy among the requests in flight, as processor sharing does.

    Latency would charge every request with the others it was batched with; these shares add up to the busy time.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last = now()
        self._flying = 0
        self._share = 0.0  # seconds that a request in flight since the beginning would have been charged

    def enter(self) -> float:
        self._advance()
        self._flying += 1
        return self._share

    def leave(self, since: float) -> float:
        self._advance()
        self._flying -= 1
        return self._share - since

    def _advance(self) -> None:
        now = self._now()
        if self._flying:
            self._share += (now - self._last) / self._flying
        self._last = now


class SharedLLM:
    """Sends each distinct request once, whoever asks; every asker's `Meter` is charged as if it had asked alone.

    Only requests whose answer is determined (temperature 0, or a seed) are shared. Errors are not kept: the next asker
    tries again.
    """

    def __init__(self, llm: LLM, keep: int = 50_000, now: Callable[[], float] = time.perf_counter) -> None:
        """`keep`: answers remembered, the least recently used going first. `now`: a clock in seconds."""
        self.llm = llm
        self._keep = keep
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._clock = _EngineClock(now)
        self.sent = 0  # requests that really went to the engine

    def meter(self) -> Meter:
        """A new purpose to count for."""
        return Meter(self)

    async def ask(self, request: ChatRequest) -> tuple[ChatResult, float]:
        """The answer and its share of the engine's time in seconds. Raises as `LLM.chat` does."""

        async def chat() -> ChatResult:
            # The engine's whole response is large.
            return (await self.llm.chat(request)).model_copy(update={"raw": {}})

        if request.temperature > 0 and request.seed is None:
            return await self._send(partial(self.llm.chat, request))
        return await self._once(request, chat)

    async def tell(self, request: LikelihoodRequest) -> tuple[Likelihood, float]:
        """An answer's likelihood, and its share of the engine's time in seconds. Raises as `Likely.likelihoods` does."""
        llm = telling(self.llm)

        async def read() -> Likelihood:
            (found,) = await llm.likelihoods([request])
            return found

        return await self._once(request, read)

    async def _once(
        self, request: ChatRequest | LikelihoodRequest, make: Callable[[], Awaitable[R]]
    ) -> tuple[R, float]:
        # Priority changes when an answer comes, not which.
        raw = request.model_dump_json(exclude={"priority"}).encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(raw, digest_size=16).digest()
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        if len(self._entries) > self._keep:
            self._entries.popitem(last=False)
        async with entry.lock:
            if entry.result is None:
                entry.result, entry.seconds = await self._send(make)
            return entry.result, entry.seconds

    async def _send(self, make: Callable[[], Awaitable[R]]) -> tuple[R, float]:
        self.sent += 1
        since = self._clock.enter()
        seconds = 0.0
        try:
            result = await make()
        finally:
            seconds = self._clock.leave(since)
        return result, seconds


class Meter(WholeAnswers):
    """An `LLM` that counts what goes through it: `usage`, and `seconds` of the engine's time."""

    def __init__(self, shared: SharedLLM) -> None:
        super().__init__(shared.llm)
        self._shared = shared
        self.usage = Usage()
        self.seconds = 0.0

    async def chat(self, request: ChatRequest) -> ChatResult:
        """See `LLM`. A shared answer counts as a call with its whole usage."""
        return self._counted(*await self._shared.ask(request))

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        """See `Likely`; each counts as a call. TypeError if the model tells none (`protocols.likely`)."""
        told = await together(self._shared.tell(request) for request in requests)
        return tuple(self._counted(result, seconds) for result, seconds in told)

    def _counted(self, result: R, seconds: float) -> R:
        self.usage = self.usage + result.usage
        self.seconds += seconds
        tally = _TALLY.get()
        if tally is not None:
            tally.usage = tally.usage + result.usage
            tally.seconds += seconds
        return result


def spent(tallies: Iterable[Tally]) -> dict[str, float]:
    """Some tallies together: calls, tokens, seconds of the engine's time."""
    added = list(tallies)
    usage = sum((t.usage for t in added), Usage())
    return {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "seconds": sum(t.seconds for t in added),
    }


class CachedEmbedder:
    """Embeds each distinct text once in its life; `warm` does it in bulk, which is far quicker than one by one."""

    def __init__(self, embedder: Embedder, batch: int = 512) -> None:
        """`batch`: texts per call."""
        self._embedder = embedder
        self._batch = batch
        self._rows: dict[str, Matrix] = {}

    async def warm(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> None:
        """Embed what is not known yet; `progress(done, total)` after every batch."""
        missing = sorted({t for t in texts if t not in self._rows}, key=len)  # equal lengths need no padding
        for start in range(0, len(missing), self._batch):
            some = missing[start : start + self._batch]
            rows = await self._embedder.embed(some)
            self._rows.update(zip(some, rows, strict=True))
            if progress is not None:
                progress(start + len(some), len(missing))

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """See `Embedder`."""
        if not texts:
            return await self._embedder.embed(texts)
        await self.warm(texts)
        return np.stack([self._rows[t] for t in texts])

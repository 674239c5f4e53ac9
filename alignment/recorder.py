"""What a measured alignment sends to the model, and where its time goes: by stage, and between the model's calls."""

from __future__ import annotations

import inspect
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from alignment.stages import current_stage
from personaagent.models.wrapper import WholeAnswers, telling
from personaagent.protocols import LLM
from personaagent.types import ChatRequest, ChatResult, Likelihood, LikelihoodRequest, Usage

__all__ = ["OWN", "WAITING", "Recorder", "Timed", "WallClock"]

OWN = "own code"
WAITING = "waiting"


class WallClock:
    """Divides the time of a run, so that the parts add up to all of it.

    While calls of the model are in flight, time is divided among their stages: `calls`. While there are none, the engine has
    nothing to do: `between`. That is this process's own code as far as its processor was busy, else the part of the system
    that was waited for (memory, embedding), else just waiting.
    """

    def __init__(
        self, now: Callable[[], float] = time.perf_counter, processor: Callable[[], float] = time.process_time
    ) -> None:
        """`now` and `processor`: seconds on the wall, and of this process's processor time."""
        self._now, self._processor = now, processor
        self._last, self._used = now(), processor()
        self._flying: Counter[str] = Counter()
        self._beside: Counter[str] = Counter()
        self._calls: defaultdict[str, float] = defaultdict(float)
        self._between: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def call(self, stage: str, requests: int = 1) -> Iterator[None]:
        """Inside, so many requests to the model are in flight for a stage."""
        with self._entered(self._flying, stage, requests):
            yield

    @contextmanager
    def beside(self, part: str) -> Iterator[None]:
        """Inside, another part of the system is waited for."""
        with self._entered(self._beside, part, 1):
            yield

    def seconds(self) -> tuple[dict[str, float], dict[str, float]]:
        """Up to now: by stage while calls were in flight, and by part while none was."""
        self._advance()
        return dict(self._calls), dict(self._between)

    @contextmanager
    def _entered(self, among: Counter[str], name: str, count: int) -> Iterator[None]:
        self._advance()
        among[name] += count
        try:
            yield
        finally:
            self._advance()
            among[name] -= count

    def _advance(self) -> None:
        now, used = self._now(), self._processor()
        passed, own = now - self._last, min(now - self._last, used - self._used)
        self._last, self._used = now, used
        if self._flying.total():
            _divide(self._calls, self._flying, passed)
            return
        self._between[OWN] += own
        _divide(self._between, self._beside if self._beside.total() else {WAITING: 1}, passed - own)


class Recorder(WholeAnswers):
    """An `LLM` that passes calls on, counts them by stage of alignment and keeps the requests for a replay.

    It tells likelihoods if the model inside does.
    """

    def __init__(
        self, llm: LLM, salt: str | None = None, *, singly: bool = False, clock: WallClock | None = None
    ) -> None:
        """Args:
        llm: the model.
        salt: keeps the engine's prefix cache of one measurement from speeding up the next.
        singly: likelihoods that are asked for together are sent one after the other.
        clock: is told what is in flight.
        """
        super().__init__(llm)
        self._salt = salt
        self._singly = singly
        self._clock = clock or WallClock()
        self.requests: list[ChatRequest | LikelihoodRequest] = []
        self.stages: dict[str, Usage] = {}

    @property
    def usage(self) -> Usage:
        """Of all stages."""
        return sum(self.stages.values(), Usage())

    async def chat(self, request: ChatRequest) -> ChatResult:
        """See `LLM`."""
        salted = request
        if self._salt is not None:
            salted = request.model_copy(update={"extra": {**request.extra, "cache_salt": self._salt}})
        with self._clock.call(current_stage()):
            result = await self._llm.chat(salted)
        self._count([request], result.usage)
        return result

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        """See `Likely`. TypeError if the model tells none (`protocols.likely`)."""
        model = telling(self._llm)
        found: list[Likelihood] = []
        size = 1 if self._singly else max(1, len(requests))
        for start in range(0, len(requests), size):
            some = [r.model_copy(update={"cache_salt": self._salt}) for r in requests[start : start + size]]
            with self._clock.call(current_stage(), len(some)):
                found += await model.likelihoods(some)
        self._count(requests, sum((f.usage for f in found), Usage()))
        return tuple(found)

    def _count(self, requests: Sequence[ChatRequest | LikelihoodRequest], usage: Usage) -> None:
        self.requests += requests
        name = current_stage()
        self.stages[name] = self.stages.get(name, Usage()) + usage


class Timed:
    """Another part of the system, such as memory, whose asynchronous methods a clock sees; otherwise it is that part."""

    def __init__(self, part: object, name: str, clock: WallClock) -> None:
        self._part = part
        self._name = name
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def timed(*args: Any, **kwargs: Any) -> Any:
            with self._clock.beside(self._name):
                return await found(*args, **kwargs)

        return timed


def _divide(parts: defaultdict[str, float], among: Mapping[str, int], seconds: float) -> None:
    """Share seconds out in proportion to counts."""
    whole = sum(among.values())
    for name, count in among.items():
        if count:
            parts[name] += seconds * count / whole

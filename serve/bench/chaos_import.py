"""The import of `bench chaos`: many users at once through the memory's handles, as `personaagent import` does it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from personaagent.errors import PersonaAgentError
from personaagent.types import AppendResult, Interaction, utc_now
from serve.bench.chaos_history import Status
from serve.bench.chaos_record import ChaosAnswer, History, Person

__all__ = ["Importer"]

CALL_S = 30.0
READ_S = 2.0  # at most, between the beginning of an import and its write
PAUSE_S = 2.0  # between two imports, on average
DRINKS = ("tea", "coffee", "water")


class ChaosTarget(Protocol):
    """The memory that is written to."""

    async def incarnations(self) -> tuple[int, ...]:
        """Where forgetting stands; see `personaagent.protocols.Memory`."""
        ...

    async def append_many(
        self, interactions: Sequence[Interaction], incarnations: Sequence[int] | None = None
    ) -> AppendResult:
        """Add interactions of many users."""
        ...


class Importer:
    """Imports interactions of a few users at a time. Whoever is forgotten after an import has begun must not get them."""

    def __init__(self, memory: ChaosTarget, history: History, people: Sequence[Person], seed: str) -> None:
        self._memory = memory
        self._history = history
        self._people = people
        self._rng = random.Random(seed)

    async def work(self, over: Callable[[], bool]) -> None:
        """One import after the other until it is over."""
        while not over():
            await self.bring(self._rng.sample(self._people, self._rng.randint(1, min(3, len(self._people)))))
            await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_S))

    async def bring(self, people: Sequence[Person]) -> None:
        """One import, and the same one again if nobody said whether it was done."""
        marks = {p.name: [self._history.mark() for _ in range(self._rng.randint(1, 3))] for p in people}
        items = [self._interaction(name, mark) for name, of in marks.items() for mark in of]
        for _ in range(2):
            began, answer = self._history.clock(), ChaosAnswer()
            await self._append(items, answer)
            for person in people:
                self._history.note(
                    "import many",
                    person.name,
                    began,
                    answer,
                    wrote=set(marks[person.name]),
                    makes=True,
                    needs={person.part},
                )
            if answer.status is not Status.UNKNOWN or self._rng.random() < 0.5:
                return

    async def _append(self, items: Sequence[Interaction], answer: ChaosAnswer) -> None:
        try:
            async with asyncio.timeout(CALL_S):
                incarnations = await self._memory.incarnations()
                answer.started = self._history.clock()
                await asyncio.sleep(self._rng.uniform(0, READ_S))
                result = await self._memory.append_many(items, incarnations)
        except (PersonaAgentError, RayError, RayServeException, TimeoutError) as e:
            answer.status = Status.FAIL if answer.started is None else Status.UNKNOWN
            answer.error = type(e).__name__
            return
        answer.code = 200
        # Which users were refused is not said.
        answer.status = {0: Status.OK, len(items): Status.FAIL}.get(result.refused, Status.UNKNOWN)

    def _interaction(self, user: str, mark: str) -> Interaction:
        query = f"What shall I have to drink tonight? {mark}"
        return Interaction(id=mark, user=user, time=utc_now(), query=query, choices=DRINKS, truth=DRINKS[0])

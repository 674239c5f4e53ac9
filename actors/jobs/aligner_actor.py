"""Actors that align users, and a pool of them.

Each actor works on many users at once; it keeps no state that matters, so it may die and be replaced at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayActorError

from alignment.aligner import Aligner
from alignment.budget import patiently
from personaagent.agent.agent import Agent
from personaagent.errors import PersonaAgentError
from personaagent.models.openai_client import teacher_llm
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.types import AlignmentResult, Origin, Outcome, Persona

__all__ = ["AlignerParts", "AlignmentActor", "AlignmentPool", "align_users", "aligned_earlier"]

log = logging.getLogger(__name__)

VERSIONS = 20  # persona versions read at a time
RESTART_S = 120.0  # an actor that dies has so long to come back and finish one of its users


@dataclass(frozen=True)
class AlignerParts:
    """What alignment needs of the running system. It can be sent to other processes of the cluster.

    Without `teacher`, the model of `alignment.teacher` writes losses and rewrites, and without that the served model.
    """

    llm: LLM
    embedder: Embedder
    memory: Memory
    agent: AgentSettings
    alignment: AlignmentSettings
    teacher: LLM | None = None

    def aligner(self) -> Aligner:
        """An aligner of these parts. Raises InvalidInput if the teacher's settings are incomplete."""
        agent = Agent(self.llm, self.memory, self.agent, self.embedder)
        teacher = self.teacher or teacher_llm(self.alignment.teacher)
        return Aligner(agent, self.memory, self.embedder, self.alignment, teacher)


class AlignmentActor:
    """Aligns batches of users. Used as a Ray actor and, in the population job, inside Ray Data's actors."""

    def __init__(self, parts: AlignerParts) -> None:
        self._memory = parts.memory
        self._aligner = parts.aligner()
        self._retry_s = parts.alignment.retry_s

    async def align(self, users: Sequence[str], run: str | None = None) -> list[AlignmentResult]:
        """One result per user, in no particular order; users aligned earlier in the same run are not aligned again."""
        return [result async for result in self.stream(users, run)]

    async def stream(self, users: Sequence[str], run: str | None = None) -> AsyncIterator[AlignmentResult]:
        """Results as they come."""
        known = await asyncio.gather(*(self._earlier(u, run) for u in users)) if run else []
        done = {r.user: r for r in known if r is not None}
        for result in done.values():
            yield result
        results: asyncio.Queue[AlignmentResult | None] = asyncio.Queue()
        rest = [u for u in dict.fromkeys(users) if u not in done]
        work = asyncio.create_task(self._aligner.align(rest, run, results.put_nowait))
        work.add_done_callback(lambda _: results.put_nowait(None))
        try:
            while (found := await results.get()) is not None:
                yield found
            await work
        finally:
            work.cancel()

    async def _earlier(self, user: str, run: str) -> AlignmentResult | None:
        try:
            return await patiently(partial(aligned_earlier, self._memory, user, run), self._retry_s)
        except PersonaAgentError as e:  # not knowing, and aligning anyway, could align the user twice
            return AlignmentResult(user=user, outcome=Outcome.FAILED, reason=f"error: {e.code}", run=run)


async def aligned_earlier(memory: Memory, user: str, run: str) -> AlignmentResult | None:
    """The result of a user whose persona this run has replaced already, as far as the store knows it; else None.

    The store has it even if whoever waited for the result died before writing it down.
    """
    async for persona in _newest_first(memory, user):
        if persona.run == run and persona.origin is Origin.ALIGNED:
            return AlignmentResult(
                user=user,
                outcome=Outcome.ACCEPTED,
                reason="aligned earlier in this run",
                score_before=persona.score_before,
                score_after=persona.score_after,
                persona_before=persona.parent,
                persona_after=persona.number,
                run=run,
            )
    return None


async def _newest_first(memory: Memory, user: str) -> AsyncIterator[Persona]:
    before: int | None = None
    while True:
        page = await memory.persona_page(user, before, VERSIONS)
        for persona in reversed(page.versions):
            yield persona
        before = page.next
        if before is None:
            return


class AlignmentPool:
    """A fixed number of alignment actors. Use it as an async context manager, or close it."""

    def __init__(self, parts: AlignerParts) -> None:
        """Starts `parts.alignment.actors` actors; Ray must be running."""
        self._size = parts.alignment.users_per_batch
        remote = ray.remote(AlignmentActor).options(
            num_cpus=parts.alignment.actor_cpus,
            max_restarts=-1,
            # Without room for many calls a second caller would wait for the first one's users.
            max_concurrency=1000,
        )
        self._actors: list[Any] = [remote.remote(parts) for _ in range(parts.alignment.actors)]

    async def align(
        self,
        users: Sequence[str],
        run: str | None = None,
        on_result: Callable[[AlignmentResult], None] | None = None,
    ) -> list[AlignmentResult]:
        """Align users on all actors; one result per user, in their order.

        An actor that dies is replaced and the users it still owed go to its successor. If for two minutes actors die
        without finishing any of them, these get outcome FAILED. `on_result` is called with each result as soon as it is there.
        """
        names = list(dict.fromkeys(users))
        size = max(1, min(self._size, -(-len(names) // len(self._actors))))
        batches = iter([names[i : i + size] for i in range(0, len(names), size)])
        results: dict[str, AlignmentResult] = {}

        def take(result: AlignmentResult) -> None:
            results[result.user] = result
            if on_result is not None:
                on_result(result)

        async def work(actor: Any) -> None:
            for batch in batches:  # shared: each actor takes the next batch
                await self._batch(actor, batch, run, take)

        # Two batches per actor: while the last users of one batch finish, the next batch keeps the engine busy.
        async with asyncio.TaskGroup() as tasks:
            for actor in self._actors * 2:
                tasks.create_task(work(actor))
        return [results[user] for user in users]

    async def _batch(
        self, actor: Any, users: Sequence[str], run: str | None, take: Callable[[AlignmentResult], None]
    ) -> None:
        left = dict.fromkeys(users)
        progress, pause = time.monotonic(), 0.25
        while left:
            stream = actor.stream.options(num_returns="streaming").remote(list(left), run)
            try:
                async for reference in stream:
                    result = await reference
                    left.pop(result.user, None)
                    take(result)
                    progress, pause = time.monotonic(), 0.25
                return
            except RayActorError as e:
                # Also raised again and again while the actor restarts.
                log.info(
                    "an alignment actor is gone (%s); %d users wait for its successor", type(e).__name__, len(left)
                )
            if time.monotonic() - progress > RESTART_S:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)
        for user in left:
            reason = "error: the alignment actor keeps dying"
            take(AlignmentResult(user=user, outcome=Outcome.FAILED, reason=reason, run=run))

    async def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    async def __aenter__(self) -> AlignmentPool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def align_users(
    parts: AlignerParts,
    users: Sequence[str],
    run: str | None = None,
    on_result: Callable[[AlignmentResult], None] | None = None,
) -> list[AlignmentResult]:
    """Align users on a pool that lives as long as this call; see `AlignmentPool.align`."""
    async with AlignmentPool(parts) as pool:
        return await pool.align(users, run, on_result)

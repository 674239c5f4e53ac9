"""Who aligns users, wherever that runs: in actors of the population job, in the online aligner's replica, in the demo's process.

Each works on many users at once; it keeps no state that matters, so it may die and be replaced at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from alignment.aligner import Aligner
from alignment.budget import patiently
from personaagent.agent.agent import Agent
from personaagent.errors import PersonaAgentError
from personaagent.models.openai_client import teacher_llm
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.tools.described import DescribedTools, ToolDescriptions
from personaagent.tools.tool import ToolSpec
from personaagent.types import AlignmentResult, Origin, Outcome, Persona

__all__ = ["AlignerParts", "AlignmentActor", "aligned_earlier"]

VERSIONS = 20  # persona versions read at a time


@dataclass(frozen=True)
class AlignerParts:
    """What alignment needs of the running system. It can be sent to other processes of the cluster.

    Without `teacher`, the model of `alignment.teacher` writes losses and rewrites, and without that the served model. `tools`
    describe those of the agent that answers users, so that lessons are replayed as its turns choose; None: it has none.
    """

    llm: LLM
    embedder: Embedder
    memory: Memory
    agent: AgentSettings
    alignment: AlignmentSettings
    teacher: LLM | None = None
    tools: ToolDescriptions | None = None

    def aligner(self, tools: DescribedTools | None = None) -> Aligner:
        """An aligner of these parts. Raises InvalidInput if the teacher's settings are incomplete.

        Args:
            tools: take the place of those of the parts.
        """
        if tools is None and self.tools is not None:
            tools = DescribedTools(self.tools)
        toolbox = None if tools is None else tools.toolbox(self.embedder)
        agent = Agent(self.llm, self.memory, self.agent, self.embedder, toolbox)
        teacher = self.teacher or teacher_llm(self.alignment.teacher)
        return Aligner(agent, self.memory, self.embedder, self.alignment, teacher)


class AlignmentActor:
    """Aligns batches of users."""

    def __init__(self, parts: AlignerParts) -> None:
        self._memory = parts.memory
        self._tools = DescribedTools(parts.tools) if parts.tools is not None else None
        self._aligner = parts.aligner(self._tools)
        self._retry_s = parts.alignment.retry_s

    def know(self, specs: Sequence[ToolSpec]) -> None:
        """Replay lessons with these tools from now on, if the agent that answers users has any."""
        if self._tools is not None:
            self._tools.know(specs)

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

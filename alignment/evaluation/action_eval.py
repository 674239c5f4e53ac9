"""What a persona is worth where something has to be done: learn which actions were right, align, then measure held-out requests.

One memory in RAM holds what was learned, and the agent and the aligner that serve users work on it. A held-out request is
answered six times:

- `own`: with tools, by the user's own persona and memory;
- `other`: the same, but all of the next user: their persona, what they were heard to want, what memory says of them;
- `none`: with tools, for somebody of whom nothing is known;
- `no_evidence`: as `own`, but memory says nothing about which tool or argument to choose;
- `no_tools`: as `own`, without tools; `neither`: without tools, for somebody of whom nothing is known.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from alignment.aligner import Aligner
from alignment.evaluation.action_measures import Acted, measures, valid
from alignment.evaluation.action_result import ACTING, ACTION_ARMS, ActionArm, ActionRow, action_result
from alignment.evaluation.action_world import ActionRequest, ActionWorld
from alignment.evaluation.metering import CachedEmbedder, SharedLLM
from alignment.evaluation.persona_arms import draft_of, neutral
from alignment.evaluation.watch import Progress
from alignment.learned_commons import learn_into
from alignment.memory_views import MemoryView
from personaagent.agent.agent import Agent
from personaagent.agent.turns import Turn
from personaagent.aio import together
from personaagent.errors import InvalidInput, LLMError
from personaagent.memory.local import LocalMemory
from personaagent.models.files import model_name
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import Settings
from personaagent.tools.configured import calls_natively, copies
from personaagent.tools.tool import ToolSpec
from personaagent.tools.toolbox import Toolbox
from personaagent.types import Action, AlignmentResult, Interaction, Message

__all__ = ["ActionEvaluation", "AgentTurns", "Teach", "Turns"]

NOBODY = "nobody"  # of whom nothing is known; no user of a world is called so

# What is learned of an interaction at which something was right to do, see `personaagent.tools.lessons`.
Teach = Callable[[Interaction, Action, Sequence[ToolSpec]], Sequence[Interaction]]


class Turns(Protocol):
    """Who answers."""

    def agent(self, memory: Memory) -> Agent:
        """The agent that is aligned."""
        ...

    async def answer(self, memory: Memory, user: str, request: str, tools: bool) -> Acted:
        """Answer a request without remembering it. Raises LLMError or InvalidInput where it cannot be answered."""
        ...


class AgentTurns:
    """Turns of the agent as it serves users, with the tools of a world."""

    def __init__(self, llm: LLM, embedder: Embedder, settings: Settings, world: ActionWorld) -> None:
        self._llm = llm
        self._embedder = embedder
        self._settings = settings.agent.model_copy(update={"tools": True})
        self._toolbox = Toolbox(
            settings.tools,
            tuple(world.tools.values()),
            native=calls_natively(settings),
            embedder=embedder,
            copying=copies(settings),
        )

    def agent(self, memory: Memory) -> Agent:
        """See `Turns`."""
        return self._agent(memory, tools=True)

    async def answer(self, memory: Memory, user: str, request: str, tools: bool) -> Acted:
        """See `Turns`."""
        messages = (Message(role="user", content=request),)
        turn = Turn(user=user, messages=messages, remember=False, trace=True)
        reply = await self._agent(memory, tools).respond(turn)
        tokens = reply.usage.prompt_tokens + reply.usage.completion_tokens
        calls = tuple(observation.call for observation in reply.trace or ())
        return Acted(answer=reply.text, calls=calls, steps=reply.steps, tokens=tokens)

    def _agent(self, memory: Memory, tools: bool) -> Agent:
        settings = self._settings.model_copy(update={"tools": tools})
        return Agent(self._llm, memory, settings, self._embedder, self._toolbox if tools else None)


@dataclass(frozen=True)
class _Asked:
    """Whose turn it is in an arm, and what is seen."""

    memory: Memory
    user: str
    tools: bool


class ActionEvaluation:
    """One run over one world."""

    def __init__(
        self,
        world: ActionWorld,
        settings: Settings,
        llm: LLM,
        embedder: Embedder,
        teach: Teach,
        progress: Progress,
        *,
        seed: int = 0,
        teacher: LLM | None = None,
        turns: Callable[[LLM, Embedder, Settings, ActionWorld], Turns] = AgentTurns,
    ) -> None:
        """Args:
        world: with at least two users.
        settings: of the system.
        llm: that acts and answers.
        embedder: of memory.
        teach: makes lessons of what was right.
        progress: is told.
        seed: of alignment.
        teacher: writes edits of claims instead of the model.
        turns: makes who answers.

        Raises:
            InvalidInput: there is no other user to compare with.
        """
        if len(world.users) < 2:
            raise InvalidInput("another user's persona is needed to compare with; take at least two users")
        alignment = settings.alignment.model_copy(update={"seed": seed})
        self._world = world
        self._settings = settings.model_copy(update={"alignment": alignment})
        self._teach = teach
        self._tell = progress
        self._teacher = teacher
        self._seed = seed
        self._shared = SharedLLM(llm)
        self._embedder = CachedEmbedder(embedder)
        self._memory = LocalMemory(self._embedder, settings.memory)
        self._aligned_by = turns(llm, self._embedder, self._settings, world)  # asks as it does for users
        self._answered_by = turns(self._shared.meter(), self._embedder, self._settings, world)
        self._missing: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        """Learn, align and measure.

        Returns:
            A JSON-able dictionary: what `action_result` gives, and beside it `dataset`, `world`, `users`, `requests`, `model`,
            `seed`, `tools`, `alignment`, `missing` (turns that failed, by arm), `requests_sent` and `seconds`.

        Raises:
            UnavailableError: the model or the embedder is down.
        """
        started, world = time.perf_counter(), self._world
        await self._learn()
        results = await self._align()
        rows = await self._measure()
        return {
            "dataset": "actions",
            "world": world.name,
            "users": len(world.users),
            "requests": {
                "learned": len({r.id for asked in world.asked.values() for r in asked}),
                "held_out": sum(len(tested) for tested in world.tested.values()),
            },
            "model": model_name(self._settings),
            "seed": self._seed,
            "tools": list(world.tools),
            **action_result(rows),
            "alignment": _alignment(results),
            "missing": dict(self._missing),
            "requests_sent": self._shared.sent + sum(r.calls for r in results),
            "seconds": round(time.perf_counter() - started, 1),
        }

    async def _learn(self) -> None:
        specs = [tool.spec for tool in self._world.tools.values()]
        items = []
        for user in self._world.users:
            for interaction, action in self._world.history(user):
                items += [interaction, *self._teach(interaction, action, specs)]
        texts = dict.fromkeys(t for i in items for t in (i.query, i.truth, *(i.choices or ())) if t)
        await self._embedder.warm(list(texts), lambda done, total: self._tell("embedding", done, total))
        await self._memory.append_many(items)
        if self._settings.alignment.population:
            await learn_into(self._memory, self._world.users)

    async def _align(self) -> list[AlignmentResult]:
        users, done = self._world.users, 0

        def step(_: object) -> None:
            nonlocal done
            done += 1
            self._tell("aligning", done, len(users))

        self._tell("aligning", 0, len(users))
        agent = self._aligned_by.agent(self._memory)
        aligner = Aligner(agent, self._memory, self._embedder, self._settings.alignment, self._teacher)
        results = await aligner.align(users, on_result=step)
        for user in users:  # who was skipped may have no persona yet
            await agent.ensure_persona(user)
        return list(results)

    async def _measure(self) -> list[ActionRow]:
        users = self._world.users
        total, done = sum(len(tested) for tested in self._world.tested.values()), 0
        slots = asyncio.Semaphore(self._settings.alignment.in_flight)

        async def row(user: str, arms: Mapping[ActionArm, _Asked], request: ActionRequest) -> ActionRow:
            nonlocal done
            async with slots:
                found = await self._row(user, arms, request)
            done += 1
            self._tell("measuring", done, total)
            return found

        self._tell("measuring", 0, total)
        arms = {user: await self._arms(user, users[(n + 1) % len(users)]) for n, user in enumerate(users)}
        return list(await together(row(u, arms[u], request) for u in users for request in self._world.tested[u]))

    async def _arms(self, user: str, other: str) -> dict[ActionArm, _Asked]:
        persona = await self._memory.persona(user)
        assert persona is not None  # every user has one once all are aligned
        blind = draft_of(persona).model_copy(
            update={"decision": persona.decision.model_copy(update={"evidence": False})}
        )
        own = MemoryView(self._memory, personas_of=self._memory)
        unknown = MemoryView(self._memory, fixed=neutral(self._settings.agent))
        return {
            "own": _Asked(own, user, tools=True),
            "other": _Asked(own, other, tools=True),
            "none": _Asked(unknown, NOBODY, tools=True),
            "no_evidence": _Asked(MemoryView(self._memory, fixed=blind), user, tools=True),
            "no_tools": _Asked(own, user, tools=False),
            "neither": _Asked(unknown, NOBODY, tools=False),
        }

    async def _row(self, user: str, arms: Mapping[ActionArm, _Asked], request: ActionRequest) -> ActionRow:
        ideal, tools = self._world.ideal(user, request), self._world.tools
        acted: dict[ActionArm, Acted] = {}
        for arm in ACTION_ARMS:
            asked = arms[arm]
            try:
                acted[arm] = await self._answered_by.answer(asked.memory, asked.user, request.text, asked.tools)
            except (LLMError, InvalidInput):
                self._missing[arm] += 1
        return ActionRow(
            user=user,
            request=request.id,
            kind=request.kind,
            values={arm: measures(ideal, turn, tools) for arm, turn in acted.items()},
            valid={arm: tuple(valid(c, tools) for c in turn.calls) for arm, turn in acted.items() if arm in ACTING},
        )


def _alignment(results: Sequence[AlignmentResult]) -> dict[str, Any]:
    users = max(1, len(results))
    return {
        "users": len(results),
        "outcomes": dict(Counter(r.outcome.value for r in results)),
        "calls_per_user": round(sum(r.calls for r in results) / users, 1),
        "tokens_per_user": round(sum(r.prompt_tokens + r.completion_tokens for r in results) / users),
    }

"""A model that knows what a user wants only if the persona says so, and users who want something."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from alignment.aligner import Aligner
from personaagent import prompts
from personaagent.agent.agent import Agent
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.types import ChatRequest, ChatResult, Decision, Interaction, Usage
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

START = datetime(2024, 5, 1, tzinfo=UTC)
DRINKS = ("apple juice", "black coffee", "mint tea", "water")
BLIND = Decision(episodes=0, evidence=False)  # a persona that only its prose can help


def drink(user: str, i: int, truth: str = "mint tea") -> Interaction:
    """A closed choice; every request is about something else, so similar ones say little."""
    return Interaction(
        id=f"i{i}",
        user=user,
        time=START + timedelta(minutes=i),
        query=f"Drink number {i} please",
        truth=truth,
        choices=DRINKS,
    )


def note(user: str, i: int, truth: str = "short notes in green ink") -> Interaction:
    """A free-text request."""
    return Interaction(
        id=f"n{i}", user=user, time=START + timedelta(minutes=i), query=f"Write note number {i}", truth=truth
    )


class SecretLLM(FakeLLM):
    """Answers with what the persona says the user likes ("likes X."), otherwise with nonsense.

    As a teacher it reads the truth out of the loss prompt, and writes it into the persona. `teach` replaces what it writes
    as an update; `before` is awaited ahead of every call.
    """

    def __init__(self, teach: Callable[[ChatRequest], str] | None = None, context_length: int = 4096) -> None:
        super().__init__(context_length=context_length)
        self.teach = teach
        self.answers: list[ChatRequest] = []
        self.losses: list[ChatRequest] = []
        self.updates: list[ChatRequest] = []
        self.order: list[str] = []
        self.now = 0
        self.most = 0

    async def chat(self, request: ChatRequest) -> ChatResult:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            return await super().chat(request)
        finally:
            self.now -= 1

    def pieces(self, result: ChatResult) -> Iterator[str]:
        yield result.text

    def result(self, request: ChatRequest) -> ChatResult:
        usage = Usage(calls=1, prompt_tokens=100, completion_tokens=10)
        system, prompt = request.messages[0].text, request.messages[-1].text
        if system == prompts.ALIGN_SYSTEM:
            if "Write better notes" in prompt:
                self.updates.append(request)
                self.order.append("update")
                text = self.teach(request) if self.teach else self._update(prompt)
            else:
                self.losses.append(request)
                self.order.append("loss")
                wanted = re.search(r"What the person really wanted: (.*)", prompt)
                text = f"The person likes {wanted.group(1)}." if wanted else ""
            return ChatResult(text=text, usage=usage)
        self.answers.append(request)
        self.order.append("answer")
        liked = re.findall(r"likes ([^.\n]+)\.", system)
        if request.choices:
            scores = tuple((c[:1], 0.0 if c in liked else -3.0 - 0.1 * i) for i, c in enumerate(request.choices))
            return ChatResult(text=request.choices[0], usage=usage, first_logprobs=scores)
        return ChatResult(text=liked[-1] if liked else "zzz qqq", usage=usage)

    @staticmethod
    def _update(prompt: str) -> str:
        wanted = re.findall(r"likes ([^.\n]+)\.", prompt.split("leave out:")[-1])
        best = max(set(wanted), key=wanted.count) if wanted else "nothing"
        return f"This person has a clear taste and always likes {best}."


class World:
    """A memory, an agent and an aligner around a `SecretLLM`."""

    def __init__(
        self,
        llm: SecretLLM | None = None,
        decision: Decision = BLIND,
        teacher: SecretLLM | None = None,
        **settings: object,
    ) -> None:
        self.llm = llm or SecretLLM()
        self.embedder = HashEmbedder()
        self.memory = LocalMemory(self.embedder)
        self.settings = AlignmentSettings.model_validate({"retry_s": 0, "profile": False, "held_out": 12, **settings})
        self.agent = Agent(self.llm, self.memory, AgentSettings(decision=decision, tools=False))
        self.teacher = teacher

    def aligner(self, **parts: object) -> Aligner:
        return Aligner(self.agent, self.memory, self.embedder, self.settings, self.teacher, **parts)  # type: ignore[arg-type]

    async def add(self, interactions: Sequence[Interaction]) -> None:
        await self.memory.append(interactions[0].user, interactions)

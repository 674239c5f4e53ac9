"""Rewriting a persona by textual loss and textual gradient, with any model, however weak."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from alignment.budget import Caller
from personaagent import prompts
from personaagent.agent.prompt import question
from personaagent.aio import together
from personaagent.errors import ContextLengthExceeded
from personaagent.features import normalised
from personaagent.persona.persona import clip, tokens
from personaagent.persona.safety import danger, repeats_prompt, repetitive, words
from personaagent.protocols import LLM
from personaagent.tools.lesson_words import asked_in_words, in_words
from personaagent.types import ChatRequest, Interaction, Message

__all__ = ["Case", "Proposals", "Proposer", "TextualProposer", "refusal", "tidy", "unquoted"]

PRIORITY = 10  # as replays; chat runs at 0
LOSS_TOKENS = 80
TEMPERATURES = (0.2, 0.7, 1.0)  # of rewrites; the first stays close to the losses, the next ones explore


@dataclass(frozen=True)
class Case:
    """A past interaction, what the persona made the agent answer, and how good that was (in [0, 1])."""

    interaction: Interaction
    answer: str
    score: float

    @property
    def asked(self) -> str:
        """The request in words, with its options."""
        i = self.interaction
        return asked_in_words(i) if i.lesson else question(i.query, i.choices)

    @property
    def answered(self) -> str:
        """The answer in words; of a lesson, what the agent would have done."""
        return in_words(self.interaction, self.answer) if self.interaction.lesson and self.answer else self.answer

    @property
    def wanted(self) -> str:
        """What the user really wanted, in words."""
        truth = self.interaction.truth or ""
        return in_words(self.interaction, truth) if self.interaction.lesson else truth


@dataclass(frozen=True)
class Proposals:
    """Usable rewrites, all different, and how many were dropped by reason."""

    texts: tuple[str, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)


class Proposer(Protocol):
    """Proposes persona texts from cases of the rewrite batch; it never sees any other interaction.

    Whatever its model returns, it returns only texts that could be a persona, and drops the others with a reason. It
    may return none. Every model call goes through `caller`. Only errors of the engine or the budget are raised.
    """

    async def propose(self, persona: str, cases: Sequence[Case], count: int, caller: Caller) -> Proposals:
        """At most `count` rewrites of `persona`."""
        ...


class TextualProposer:
    """LLM_loss for each case, then LLM_update from the losses."""

    def __init__(self, llm: LLM, budget: int, seed: int = 0) -> None:
        """`budget`: length of a persona in tokens."""
        self._llm = llm
        self._budget = budget
        self._seed = seed
        # Texts come from outside and may be of any length; each takes a fixed share of the context.
        self._share = max(32, llm.context_length // 10)

    async def propose(self, persona: str, cases: Sequence[Case], count: int, caller: Caller) -> Proposals:
        """Rewrites from different mini-batches of the cases at different temperatures.

        Cases that were answered perfectly have no loss; if all were, nothing is proposed. The first rewrite reads all
        losses; each further one leaves another one out, so that a single misleading truth is not in all of them.
        """
        wrong = [c for c in cases if c.score < 1.0 - 1e-6]
        if not wrong or count < 1:
            return Proposals()
        losses = await together(self.loss(persona, case, caller) for case in wrong)
        said = [loss for loss in losses if loss]
        if not said:
            return Proposals(dropped=Counter({"no loss": count}))
        batches = [said]
        for j in range(1, count):
            left_out = (j - 1) % len(said)
            batches.append([s for i, s in enumerate(said) if i != left_out] or said)
        written = await together(
            self.update(persona, batch, caller, TEMPERATURES[j % len(TEMPERATURES)], self._seed + j)
            for j, batch in enumerate(batches)
        )
        texts: list[str] = []
        dropped: Counter[str] = Counter()
        for text in written:
            reason = "repeated" if text in texts else refusal(text, persona)
            if reason:
                dropped[reason] += 1
            else:
                texts.append(text)
        return Proposals(tuple(texts), dropped)

    async def loss(self, persona: str, case: Case, caller: Caller) -> str:
        """LLM_loss: what the persona gets wrong or leaves out, judged by one case. Empty if the model says nothing."""
        prompt = prompts.LOSS.format(
            persona=clip(persona, 2 * self._share),
            query=clip(case.asked, 2 * self._share),
            answer=clip(case.answered, self._share) or "(nothing)",
            truth=clip(case.wanted, self._share),
        )
        return clip(await self._ask(prompt, LOSS_TOKENS, 0.0, self._seed, caller), LOSS_TOKENS)

    async def update(
        self, persona: str, losses: Sequence[str], caller: Caller, temperature: float = 0.0, seed: int = 0
    ) -> str:
        """LLM_update: the persona rewritten after the losses, within the length budget. Empty if the model says nothing."""
        # Room to grow by half a persona: a weak model that does not stop would otherwise fill any room it gets.
        room = min(self._budget, 64 + tokens(persona) * 3 // 2, 2 * self._share)
        listed = "\n".join(f"- {' '.join(loss.split())}" for loss in losses)
        prompt = prompts.UPDATE.format(
            persona=clip(persona, 2 * self._share), losses=clip(listed, 3 * self._share), words=room * 3 // 4
        )
        return clip(tidy(await self._ask(prompt, room, temperature, seed, caller)), self._budget)

    async def _ask(self, prompt: str, max_tokens: int, temperature: float, seed: int, caller: Caller) -> str:
        request = ChatRequest(
            messages=(Message(role="system", content=prompts.ALIGN_SYSTEM), Message(role="user", content=prompt)),
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            priority=PRIORITY,
        )
        try:
            result = await caller.call(lambda: self._llm.chat(request), lambda r: r.usage)
        except ContextLengthExceeded:  # a tokenizer that needs far more tokens than estimated: as good as no answer
            return ""
        return result.text.strip()


_PREAMBLE = re.compile(r"\A(?:sure|certainly|okay|of course|here (?:is|are))\b[^\n]{0,120}:\s*\n", re.IGNORECASE)
_FENCE = re.compile(r"\A```[a-z]*\n(.*?)\n?```\Z", re.DOTALL)


def tidy(text: str) -> str:
    """A model's answer without what models wrap around answers: code fences, quotes, "Here is ...:"."""
    text = _PREAMBLE.sub("", text.strip()).strip()
    if fenced := _FENCE.match(text):
        text = fenced.group(1).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text


def refusal(text: str, incumbent: str) -> str | None:
    """Why a rewrite cannot be a persona, in one or two words; None if it can.

    It catches what weak or broken models return: nothing, the persona unchanged, the prompt itself, control tokens, one
    thing over and over, or no words at all; and what may stand in no persona, such as secrets and orders. Whether a readable
    rewrite is any good is for selection and the gate.
    """
    if not text.strip():
        return "empty"
    said = words(text)
    if said == words(incumbent):
        return "unchanged"
    if any(mark in text for mark in ("<|", "|>", "<tool_call>", "[INST]", "</s>")):
        return "control tokens"
    if sum(ch.isalpha() for ch in text) < max(8, len(text) // 3):
        return "not words"
    if repeats_prompt(said, (prompts.LOSS, prompts.UPDATE, prompts.ALIGN_SYSTEM)):
        return "the prompt itself"
    if repetitive(text, said):
        return "repetitive"
    return danger(text)


def unquoted(text: str, interactions: Sequence[Interaction]) -> str:
    """A persona without the lines that quote one of these requests.

    Personas made from the semantic profile say of past requests what was wanted. Whoever is asked such a request again, to
    see whether the persona helps, must not read the answer there.
    """
    quotes = [quote for i in interactions if len(quote := normalised(i.query)[:200]) >= 12]
    parts = re.split(r"\n(?=[-*•] )", text)
    heading = parts[0].rstrip().endswith(":")
    return "\n".join(
        p for n, p in enumerate(parts) if (n == 0 and heading) or not any(q in normalised(p) for q in quotes)
    )

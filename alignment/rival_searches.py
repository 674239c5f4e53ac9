"""Other ways to look for a persona's words, under the same gate: what the search of claims is compared with.

- `claims`: the aligner as it serves users.
- `memory`: only how memory is read is aligned; words stay as they are.
- `instruct`: one call asks the model to write the persona from what the user said.
- `gepa`: see `alignment.rival_gepa`.

A text that a model wrote at once is one candidate. Its writer never sees the interactions that the gate judges it on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Literal

from alignment.aligner import Aligner
from alignment.budget import Caller
from alignment.cohort import Member
from alignment.likelihoods import Likelihoods
from alignment.rewording import Reworded, Rewording, judged_on, judges
from alignment.splits import repetitions
from alignment.textual import PRIORITY, refusal, tidy
from alignment.wording import BOTH, Wording, Wordings
from personaagent import prompts
from personaagent.claims import MAX_SOURCES, Claim
from personaagent.errors import BudgetExceeded, ContextLengthExceeded
from personaagent.persona.persona import CHARS_PER_TOKEN, clip, tokens
from personaagent.persona.safety import objection
from personaagent.types import ChatRequest, Interaction, Message, Persona, PersonaDraft, Usage

__all__ = ["Instructed", "MemoryAlone", "RivalWords", "Search", "Watched", "parts_of"]

Search = Literal["claims", "memory", "gepa", "instruct"]
LISTED = 6  # tenths of the context that past interactions may take


class Watched(Aligner):
    """An aligner that remembers how the search for words ended for each user, and what it cost."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.words: dict[str, Reworded] = {}
        self.spent: dict[str, Usage] = {}
        self.ungated: dict[str, PersonaDraft] = {}  # what was written, whatever the gate said of it

    async def _reworded(
        self, persona: Persona, history: Sequence[Interaction], measure: Likelihoods, caller: Caller, member: Member
    ) -> Reworded:
        user, before = history[-1].user, caller.budget.usage
        try:
            self.words[user] = await self._words(persona, history, measure, caller, member)
        finally:
            self.spent[user] = caller.budget.usage - before
        return self.words[user]

    async def _words(
        self, persona: Persona, history: Sequence[Interaction], measure: Likelihoods, caller: Caller, member: Member
    ) -> Reworded:
        """How the search for words ends."""
        return await super()._reworded(persona, history, measure, caller, member)


class MemoryAlone(Watched):
    """Aligns how memory is read, and leaves the words as they are."""

    async def _words(
        self, persona: Persona, history: Sequence[Interaction], measure: Likelihoods, caller: Caller, member: Member
    ) -> Reworded:
        return Reworded(None, "words are left as they are")


class RivalWords(Watched, ABC):
    """A persona whose words something else writes as a whole, accepted by the gate of all words."""

    async def _words(
        self, persona: Persona, history: Sequence[Interaction], measure: Likelihoods, caller: Caller, member: Member
    ) -> Reworded:
        learn, select = parts_of(history)
        if not select:
            return Reworded(None, "too few answers in the user's own words")
        budget = self._agent.settings.persona_tokens
        try:
            text = clip(await self._write(persona, learn, select, caller), budget)
            reason = refusal(text, persona.text) or objection(text, limit=budget * CHARS_PER_TOKEN)
            if reason is not None:
                refused = f"what was written cannot be a persona: {reason}"
                said = "nothing better was written" if reason == "unchanged" else refused
                return Reworded(None, said, candidates=1, refused=Counter({reason: 1}))
            sources = tuple(i.id for i in learn)[-MAX_SOURCES:]
            wordings = _Whole(persona, history, Wording((Claim(text=text, origin="model", sources=sources),)))
            self.ungated[history[-1].user] = wordings.candidate(BOTH).draft(persona, budget)
            gate = Rewording(measure, self._settings.min_gain, self._settings.text_luck, budget)
            return await gate.run(persona, wordings, history, member.selection, member.gate)
        except BudgetExceeded as e:
            return Reworded(None, e.message)

    @abstractmethod
    async def _write(
        self, persona: Persona, learn: Sequence[Interaction], select: Sequence[Interaction], caller: Caller
    ) -> str:
        """The text of a persona; empty if nothing usable was written.

        Args:
            persona: as it is.
            learn: interactions it may be written from, oldest first.
            select: those of `learn` that the search of claims selects on.
            caller: makes the calls.

        Raises:
            BudgetExceeded: nothing is left to write with.
            LLMError, UnavailableError: the model failed.
        """


class Instructed(RivalWords):
    """The model is told to write the persona, once, without losses."""

    async def _write(
        self, persona: Persona, learn: Sequence[Interaction], select: Sequence[Interaction], caller: Caller
    ) -> str:
        llm, room = self._agent.llm, self._agent.settings.persona_tokens
        left = llm.context_length * LISTED // 10
        lines: list[str] = []
        for interaction in reversed(learn):  # the newest first, as far as there is room
            line = clip(
                prompts.EPISODE_LINE.format(query=interaction.query, truth=interaction.truth), llm.context_length // 10
            )
            left -= tokens(line) + 1
            if left < 0:
                break
            lines.append(line)
        prompt = prompts.WRITE.format(interactions="\n".join(reversed(lines)), words=room * 3 // 4)
        request = ChatRequest(
            messages=(Message(role="system", content=prompts.ALIGN_SYSTEM), Message(role="user", content=prompt)),
            max_tokens=room,
            seed=self._settings.seed,
            priority=PRIORITY,
        )
        try:
            return tidy((await caller.call(lambda: llm.chat(request), lambda r: r.usage)).text)
        except ContextLengthExceeded:  # a tokenizer that needs far more tokens than estimated
            return ""


class _Whole(Wordings):
    """A single candidate: a text that was written without the interactions that judge it, and stands or falls as a whole."""

    def __init__(self, persona: PersonaDraft, history: Sequence[Interaction], wording: Wording) -> None:
        super().__init__(persona, history)
        self._wording = wording

    @property
    def names(self) -> tuple[str, ...]:
        return (BOTH,)

    def candidate(self, name: str, without: Interaction | None = None, dropped: Collection[str] = ()) -> Wording:
        return self._wording


def parts_of(history: Sequence[Interaction]) -> tuple[list[Interaction], list[Interaction]]:
    """What a persona may be written from, oldest first, and which of it `Rewording` selects on.

    What `Rewording` judges on is in neither, nor is what asked the same in the same words. Both are empty with fewer than
    two interactions to judge on.
    """
    judged = judged_on(history)
    if len(judged) < 2:
        return [], []
    alike = repetitions(history)
    judging, selecting = judges(judged)
    held = {i for interaction in judging for i in alike[interaction.id]}
    learn = [i for i in history if i.id not in held and (i.truth or "").strip()]
    return learn, [i for i in selecting if i.id not in held]

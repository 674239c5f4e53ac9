"""The agent: recall, then act within bounds, then remember. One model call for a plain turn.

It knows a model, a memory and its settings, all passed in; nothing of HTTP, Ray or Milvus.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from personaagent.agent.acting import Acting
from personaagent.agent.contrast import Samples, checked_samples
from personaagent.agent.copying import Said, copied
from personaagent.agent.decision import decide
from personaagent.agent.free_text import FreeText, sources
from personaagent.agent.prompt import query_of
from personaagent.agent.replaying import Replaying
from personaagent.agent.turns import Replay, Reply, Turn
from personaagent.agent.view import PromptView, Saw
from personaagent.errors import (
    ConflictError,
    InvalidInput,
    StoreError,
    TooLarge,
    UnavailableError,
)
from personaagent.memory.changes import same_question
from personaagent.memory.rounds import RECENT, Rounds
from personaagent.persona.versions import PersonaVersions
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AgentSettings
from personaagent.tools.client_tools import OFFERED, ClientTools, made_before, offered
from personaagent.tools.tool import ToolContext
from personaagent.tools.toolbox import CALLS, Observation, Toolbox, recorded, remembered
from personaagent.types import (
    LESSON,
    MAX_TEXT,
    Decision,
    Interaction,
    Kind,
    Persona,
    Reason,
    Recall,
    RecallQuery,
    choice_kind,
    utc_now,
)

__all__ = ["Agent", "Replay", "Reply", "Saw", "Turn"]

logger = logging.getLogger(__name__)

HABITS = 50  # latest interactions in which a copy is told from a habit
# Fields of a request whose answer is not simply text.
_FORMED = frozenset({"tools", "response_format", "structured_outputs"})


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a turn is answered from."""

    interaction: str  # the id that it will be remembered by
    number: int  # of the persona, 0 if it is not stored yet
    asking: RecallQuery
    recall: Recall
    view: PromptView

    @property
    def recalled(self) -> tuple[str, ...]:
        """Ids of the recalled interactions."""
        return tuple(e.interaction.id for e in self.recall.episodes)


class Agent(Replaying):
    """Answers turns of any user; it keeps no state of its own, so any number of copies can run."""

    def __init__(
        self,
        llm: LLM,
        memory: Memory,
        settings: AgentSettings,
        embedder: Embedder | None = None,
        toolbox: Toolbox | None = None,
    ) -> None:
        """Args:
        llm: the model.
        memory: of all users.
        settings: how it answers.
        embedder: lets the first persona of a user with a history be made from it.
        toolbox: what it acts with; None: nothing.
        """
        super().__init__(llm, memory, settings, toolbox)
        self.personas = PersonaVersions(memory, settings, embedder)

    async def ensure_persona(self, user: str, incarnation: int | None = None) -> Persona:
        """The user's current persona; see `PersonaVersions.ensured`."""
        return await self.personas.ensured(user, incarnation)

    async def placed(self, turn: Turn) -> Turn:
        """The turn with the id that it will be remembered by.

        Raises:
            ConflictError: the id that the client chose is another question's already.
        """
        if turn.interaction_id is not None and not turn.generated:
            await self._check_id(turn, turn.interaction_id)
            return turn
        rounds = Rounds(turn.user, turn.messages)
        began = rounds.began(await self.memory.latest(turn.user, RECENT)) if rounds.goes_on else None
        made = began or turn.interaction_id or uuid.uuid4().hex
        return turn.model_copy(update={"interaction_id": made, "generated": began is None})

    async def _check_id(self, turn: Turn, name: str) -> None:
        """Before the model is asked for an answer that could not be remembered; the memory itself decides in the end."""
        if name.startswith(LESSON):
            raise InvalidInput(
                f"interaction ids that begin with {LESSON!r} are those of lessons on tools; choose another"
            )
        asked = Interaction(
            id=name, user=turn.user, time=utc_now(), query=query_of(turn.messages), choices=turn.choices
        )
        for stored in await self.memory.interactions(turn.user, [name]):
            # A line of a history may leave its options out; a request that does asks another question.
            if stored.choices != asked.choices or not same_question(stored, asked):
                raise ConflictError(f"interaction id {name!r} is another question's already; choose another id")

    async def respond(self, turn: Turn) -> Reply:
        """Answer a turn and remember it.

        Raises:
            InvalidInput: no user message, or several samples are asked for where there cannot be (see `checked_samples`).
            ConflictError: the turn's interaction id is another question's already.
            ContextLengthExceeded: the conversation does not fit even without recalled episodes and exemplars.
            ForgottenError: the user was forgotten while this was answered; nothing was remembered.
            LLMError, UnavailableError, StoreError: a part of the system failed; nothing was remembered.
        """
        reply: Reply | None = None
        async for piece in self._run(turn, streaming=False):
            if isinstance(piece, Reply):
                reply = piece
        assert reply is not None  # _run always ends with a Reply or raises
        return reply

    def stream(self, turn: Turn) -> AsyncIterator[str | Reply]:
        """Like `respond`, in pieces of text as they are generated; the last item is the Reply."""
        return self._run(turn, streaming=True)

    async def _run(self, turn: Turn, streaming: bool) -> AsyncIterator[str | Reply]:
        query = query_of(turn.messages)
        whole_text = not streaming and not turn.choices and not turn.extra.keys() & _FORMED
        samples = checked_samples(self.llm, turn.samples, self.settings.samples, whole_text)
        client = ClientTools.of(turn.extra) if self._acts(turn) else None
        asked = utc_now()
        # Before anything is read: what rests on a memory that is forgotten meanwhile must not become a new one.
        incarnation = await self.memory.incarnation(turn.user)
        turn = await self.placed(turn)
        stored = await self.memory.persona(turn.user)
        # A first persona is committed when the answer is: a turn that fails, or is not remembered, leaves nothing behind.
        persona = stored or await self.personas.first(turn.user, incarnation, commit=False)
        number = 0 if stored is None else stored.number
        decision = persona.decision
        asking = self._query(query, turn.choices, decision)
        if turn.explain and turn.choices and decision.evidence:
            asking = asking.model_copy(update={"explain": True})
        recall = await self.memory.recall(turn.user, asking)
        view = PromptView.of(persona, recall, turn.choices)
        interaction = turn.interaction_id or uuid.uuid4().hex  # `placed` has given it one
        seen = _Seen(interaction, number, asking, recall, view)
        reply: Reply | None = None
        if turn.choices:
            reply = await self._decided(turn, turn.choices, decision, seen)
            if streaming:
                yield reply.text
        else:
            # Closed explicitly, like the streams within: whoever stops reading also stops the model.
            async with aclosing(self._written(turn, seen, streaming, samples, incarnation, client)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield piece
                    else:
                        reply = piece
        assert reply is not None  # `_written` ends with it or raises
        if turn.remember:
            rounds = Rounds(turn.user, turn.messages).note(reply.message)
            await self._remember(
                Interaction(
                    id=interaction,
                    user=turn.user,
                    time=asked,
                    query=query,
                    response=reply.text if len(reply.text) <= MAX_TEXT else None,
                    choices=turn.choices,
                    metadata={
                        "source": "chat",
                        "persona": number or 1,
                        "identity": turn.identity,
                        **rounds,
                        **({CALLS: recorded(reply.trace)} if reply.trace else {}),
                        **({OFFERED: offered(client)} if client else {}),
                    },
                ),
                incarnation,
            )
            if stored is None:
                reply = reply.model_copy(update={"persona": await self._begun(turn.user, incarnation)})
        yield reply if turn.trace else reply.model_copy(update={"trace": None})

    async def _decided(self, turn: Turn, choices: tuple[str, ...], decision: Decision, seen: _Seen) -> Reply:
        """The reply to a closed choice or rating."""
        lm, usage = await self._option_scores(turn.messages, seen.view, choices, turn.priority)
        memory = seen.recall.evidence[0] if decision.evidence else None
        choice = decide(choices, lm, memory, decision.model_weight)
        return Reply(
            interaction_id=seen.interaction,
            text=choice.answer,
            usage=usage,
            persona=seen.number,
            recalled=seen.recalled,
            scores=choice.probabilities,
            expected=choice.expected,
            reasons=await self._reasons(turn.user, seen.asking, seen.recall, choice.answer) if turn.explain else None,
            saw=seen.view.saw() if turn.explain else None,
            message={"role": "assistant", "content": choice.answer},
        )

    async def _written(
        self,
        turn: Turn,
        seen: _Seen,
        streaming: bool,
        samples: Samples,
        incarnation: int,
        client: ClientTools | None,
    ) -> AsyncIterator[str | Reply]:
        """The reply with free text, behind its pieces if these are asked for."""
        context = ToolContext(
            user=turn.user,
            interaction=seen.interaction,
            incarnation=incarnation,
            said=tuple(m.text for m in turn.messages if m.role == "user"),
            remember=turn.remember,
        )
        acting, calls = None, 0
        earlier: list[Observation] = []
        known: list[Observation] = []
        if self.toolbox is not None and self._acts(turn):
            calls = self.toolbox.settings.calls
            taught = seen.recall.lessons != 0
            acting = await Acting.begun(self.toolbox, self.llm, self.memory, turn, seen.view, context, client, taught)
            if Rounds(turn.user, turn.messages).goes_on:
                earlier = await self._called(turn.user, seen.interaction)
                known = made_before(turn.messages, self.toolbox.settings.tokens)
        habits = await self._said(turn.user) if samples.count > 1 or turn.explain else {}
        text = FreeText(
            self.llm, self.settings, turn, seen.view, acting, calls, streaming, samples, habits, earlier, known
        )
        async with aclosing(text.pieces()) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece
                    continue
                result, steps, chosen, trace = piece
                yield Reply(
                    interaction_id=seen.interaction,
                    text=result.text,
                    finish_reason=result.finish_reason,
                    usage=result.usage,
                    persona=seen.number,
                    recalled=seen.recalled,
                    saw=seen.view.saw() if turn.explain else None,
                    copied=copied(result.text, *sources(turn, seen.view, habits)) if turn.explain else None,
                    samples=chosen if turn.explain or chosen.note else None,
                    steps=steps,
                    trace=trace,
                    message=result.message or {"role": "assistant", "content": result.text},
                )

    def _acts(self, turn: Turn) -> bool:
        """Whether tools are called at this turn; otherwise the application's are left to the model's own ways."""
        if self.toolbox is None or not self.settings.tools or not self.toolbox.settings.calls or turn.choices:
            return False
        return "tools" in turn.extra or not turn.extra.keys() & _FORMED

    async def _called(self, user: str, interaction: str) -> list[Observation]:
        """The calls of our own tools in the earlier requests of a turn that brings results of the application's."""
        begun = await self.memory.interactions(user, [interaction])
        return [o for i in begun for o in remembered(i.metadata.get(CALLS)) if not o.client]

    async def _begun(self, user: str, incarnation: int) -> int:
        """Commit the first persona of a user whose first answer was just remembered; its number."""
        try:
            return (await self.ensure_persona(user, incarnation)).number
        except (StoreError, UnavailableError) as e:
            # The answer stands, and a client that were told of an error would ask again; the next turn commits it.
            logger.warning("a first persona was not stored: %s", e.message)
            return 0

    async def _remember(self, interaction: Interaction, incarnation: int) -> None:
        """Append a turn; without its calls or its answer if only they make it larger than may be stored. The user has both."""
        told = {name: value for name, value in interaction.metadata.items() if name not in (CALLS, OFFERED)}
        without: dict[str, object] = {"metadata": told, "response": None}
        for left_out in ((), ("metadata",), ("response",), ("metadata", "response")):
            smaller = interaction.model_copy(update={name: without[name] for name in left_out})
            try:
                await self.memory.append(interaction.user, [smaller], incarnation)
                return
            except TooLarge:
                if len(left_out) == len(without):
                    raise

    async def _reasons(self, user: str, asked: RecallQuery, recall: Recall, answer: str) -> tuple[Reason, ...]:
        """What memory has to say about the answer, which the model may have made another one than memory prefers."""
        choices = asked.choices or ()
        if not asked.explain or choice_kind(choices) is Kind.RATING:  # a rating's reasons are about the request
            return recall.reasons
        if answer == choices[int(np.argmax(recall.evidence[0]))]:
            return recall.reasons
        return (await self.memory.recall(user, asked.model_copy(update={"k": 0, "about": answer}))).reasons

    async def _said(self, user: str) -> dict[str, Said]:
        """The user's latest free texts, by their interactions."""
        known = await self.memory.latest(user, HABITS, with_truth=True)
        return {i.id: Said(i.query, i.truth) for i in known if i.kind is Kind.TEXT and i.truth}

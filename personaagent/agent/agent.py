"""The agent: recall, then act within bounds, then remember. One model call for a plain turn.

It knows a model, a memory and its settings, all passed in; nothing of HTTP, Ray or Milvus.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from personaagent.agent.contrast import Samples, checked_samples
from personaagent.agent.copying import Said, copied
from personaagent.agent.decision import decide, score_options
from personaagent.agent.free_text import FreeAnswer, FreeText, sources
from personaagent.agent.prompt import query_of
from personaagent.agent.tools import MemoryTools
from personaagent.agent.turns import Replay, Reply, Turn
from personaagent.agent.view import PromptView, Saw
from personaagent.errors import (
    ConflictError,
    ContextLengthExceeded,
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
from personaagent.tools.lesson_words import asks
from personaagent.tools.lessons import kin
from personaagent.types import (
    LESSON,
    MAX_TEXT,
    OF,
    ChatResult,
    Decision,
    Interaction,
    Kind,
    Message,
    Persona,
    PersonaDraft,
    Reason,
    Recall,
    RecallQuery,
    Usage,
    choice_kind,
    utc_now,
)

__all__ = ["Agent", "Replay", "Reply", "Saw", "Turn"]

logger = logging.getLogger(__name__)

# Of a simulated free-text answer: enough to compare, and a model that runs on does not hold up the batch.
REPLAY_TOKENS = 96
HABITS = 50  # latest interactions in which a copy is told from a habit
BATCH_PRIORITY = 10  # of replays; chat runs at 0, and lower goes first
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


class Agent:
    """Answers turns of any user; it keeps no state of its own, so any number of copies can run."""

    def __init__(self, llm: LLM, memory: Memory, settings: AgentSettings, embedder: Embedder | None = None) -> None:
        """`embedder`: lets the first persona of a user with a history be made from it."""
        self.llm = llm
        self.memory = memory
        self.settings = settings
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

    def replay_query(
        self,
        interaction: Interaction,
        persona: PersonaDraft,
        decisions: Sequence[Decision] = (),
        without: Sequence[str] = (),
    ) -> RecallQuery:
        """What `replay`, called with the same, asks of memory; who replays much can look it up for all at once."""
        query = self._query(interaction.query, interaction.choices, persona.decision)
        if not interaction.choices:
            return query.model_copy(update={"before": interaction.id})
        query = query.model_copy(
            update={
                "decisions": tuple(decisions) or query.decisions,
                "before": None if without else interaction.id,
                "exclude": tuple(without),
            }
        )
        return kin(query, interaction)

    async def replay(
        self,
        interaction: Interaction,
        persona: PersonaDraft,
        decisions: Sequence[Decision] = (),
        priority: int = BATCH_PRIORITY,
        temperature: float = 0.0,
        use_model: bool = True,
        without: Sequence[str] = (),
    ) -> Replay:
        """What the agent would have answered under `persona`, with memory as it was before the interaction.

        Exemplars taken from the interaction itself, or from those it is replayed `without`, are not shown.
        For closed choices memory can also be read as it is now, `without` some interactions; see `Rollouts`.

        Args:
            interaction: a past interaction of the user, in their memory.
            persona: text and decision to simulate.
            decisions: for closed choices, all are evaluated on the one pass of the model; they must share the
                persona's `episodes` and `form`. Default: the persona's own.
            priority: of the model calls.
            temperature: of free-text answers.
            use_model: False leaves the model out of closed choices (evidence alone).
            without: ids of interactions, the replayed one among them, that memory as it is now is read without.
        """
        decision = persona.decision
        decisions = tuple(decisions) or (decision,)
        messages = (Message(role="user", content=interaction.query),)
        query = self.replay_query(interaction, persona, decisions, without)
        recall = await self.memory.recall(interaction.user, query)
        view = await self._shown(interaction, persona, query, recall, without)
        if interaction.choices:
            lm: tuple[float, ...] | None = None
            usage = Usage()
            if use_model:
                ask = asks(interaction) if interaction.lesson else None
                lm, usage = await self._option_scores(messages, view, interaction.choices, priority, ask)
            made = tuple(
                decide(interaction.choices, lm, row if d.evidence or lm is None else None, d.model_weight)
                for d, row in zip(decisions, recall.evidence, strict=True)
            )
            return Replay(
                interaction=interaction, text=made[0].answer, lm=lm, evidence=recall.evidence, choices=made, usage=usage
            )
        tools = MemoryTools(self.memory, interaction.user, interaction.id, 600)
        turn = Turn(
            user=interaction.user,
            messages=messages,
            temperature=temperature,
            priority=priority,
            max_tokens=min(self.settings.max_tokens, REPLAY_TOKENS),
        )
        result: ChatResult | None = None
        async for piece in FreeText(self.llm, self.settings, turn, view, tools).pieces():
            if isinstance(piece, FreeAnswer):
                result = piece.result
        assert result is not None
        return Replay(interaction=interaction, text=result.text, usage=result.usage)

    async def _shown(
        self,
        interaction: Interaction,
        persona: PersonaDraft,
        query: RecallQuery,
        recall: Recall,
        without: Sequence[str],
    ) -> PromptView:
        """What stands in the prompt of a replay. A turn chooses its tools in sight of what was recalled for its answer."""
        if not interaction.lesson:
            return PromptView.of(persona, recall, interaction.choices, {interaction.id, *without})
        plain = {"lessons": False, "metadata": {}, "choices": None, "decisions": ()}
        seen = await self.memory.recall(interaction.user, query.model_copy(update=plain))
        return PromptView.of(persona, seen, None, {str(interaction.metadata.get(OF)), *without})

    async def _run(self, turn: Turn, streaming: bool) -> AsyncIterator[str | Reply]:
        query = query_of(turn.messages)
        whole_text = not streaming and not turn.choices and not turn.extra.keys() & _FORMED
        samples = checked_samples(self.llm, turn.samples, self.settings.samples, whole_text)
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
            async with aclosing(self._written(turn, seen, streaming, samples)) as pieces:  # type: ignore[type-var]
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
                    metadata={"source": "chat", "persona": number or 1, "identity": turn.identity, **rounds},
                ),
                incarnation,
            )
            if stored is None:
                reply = reply.model_copy(update={"persona": await self._begun(turn.user, incarnation)})
        yield reply

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

    async def _written(self, turn: Turn, seen: _Seen, streaming: bool, samples: Samples) -> AsyncIterator[str | Reply]:
        """The reply with free text, behind its pieces if these are asked for."""
        tools = MemoryTools(self.memory, turn.user, budget=600)
        habits = await self._said(turn.user) if samples.count > 1 or turn.explain else {}
        text = FreeText(self.llm, self.settings, turn, seen.view, tools, streaming, samples, habits)
        async with aclosing(text.pieces()) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                if isinstance(piece, str):
                    yield piece
                    continue
                result, steps, chosen = piece
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
                    message=result.message or {"role": "assistant", "content": result.text},
                )

    async def _begun(self, user: str, incarnation: int) -> int:
        """Commit the first persona of a user whose first answer was just remembered; its number."""
        try:
            return (await self.ensure_persona(user, incarnation)).number
        except (StoreError, UnavailableError) as e:
            # The answer stands, and a client that were told of an error would ask again; the next turn commits it.
            logger.warning("a first persona was not stored: %s", e.message)
            return 0

    async def _remember(self, interaction: Interaction, incarnation: int) -> None:
        """Append a turn; without its answer if only that makes it larger than may be stored. The user has the answer then."""
        try:
            await self.memory.append(interaction.user, [interaction], incarnation)
        except TooLarge:
            if interaction.response is None:
                raise
            await self.memory.append(interaction.user, [interaction.model_copy(update={"response": None})], incarnation)

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

    def _query(self, text: str, choices: Sequence[str] | None, decision: Decision) -> RecallQuery:
        return RecallQuery(
            text=text,
            k=decision.episodes,
            choices=tuple(choices) if choices else None,
            decisions=(decision,) if choices else (),
            with_truth=True,  # an answer nobody confirmed must not become an example
            max_tokens=self.settings.recall_tokens,
        )

    async def _option_scores(
        self,
        messages: Sequence[Message],
        view: PromptView,
        choices: Sequence[str],
        priority: int,
        ask: str | None = None,
    ) -> tuple[tuple[float, ...], Usage]:
        """`ask`: what is asked behind the request, whose options are then not its own."""
        while True:
            try:
                shown = view.prompt(messages, choices)
                if ask is not None:
                    shown = (*view.prompt(messages), Message(role="user", content=ask))
                scored = await score_options(self.llm, shown, choices, priority)
            except ContextLengthExceeded:
                if not view.shrink():
                    raise
                continue
            return scored.logprobs, scored.usage

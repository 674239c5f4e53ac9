"""Replays: what the agent would have answered at a past request, under a persona that is being judged.

A lesson is replayed as the choice of a turn that it tells of: asked in the words of a turn, with the tools as they are described
now, and weighed as a turn weighs it. So the answer is what the agent would choose if it were asked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from personaagent.agent.action_choice import ActionChoice, model_scores
from personaagent.agent.decision import OptionScores, decide, score_options
from personaagent.agent.free_text import FreeAnswer, FreeText
from personaagent.agent.turns import Replay, Turn
from personaagent.agent.view import PromptView
from personaagent.errors import ContextLengthExceeded
from personaagent.protocols import LLM, Memory
from personaagent.settings import AgentSettings
from personaagent.tools.lesson_words import argument_of, asks
from personaagent.tools.lessons import kin
from personaagent.tools.tool import ToolSpec
from personaagent.tools.toolbox import CALLS, Toolbox, remembered
from personaagent.types import OF, ChatResult, Decision, Interaction, Message, PersonaDraft, Recall, RecallQuery, Usage

__all__ = ["BATCH_PRIORITY", "Replaying"]

# Of a simulated free-text answer: enough to compare, and a model that runs on does not hold up the batch.
REPLAY_TOKENS = 96
BATCH_PRIORITY = 10  # of replays; chat runs at 0, and lower goes first

T = TypeVar("T")


class Replaying:
    """Answers past requests again. It keeps no state of its own."""

    def __init__(self, llm: LLM, memory: Memory, settings: AgentSettings, toolbox: Toolbox | None = None) -> None:
        """See `Agent`; the tools are not called, only named."""
        self.llm = llm
        self.memory = memory
        self.settings = settings
        self.toolbox = toolbox

    async def asks(self, lesson: Interaction) -> str:
        """What a turn asks the model at the choice that a lesson tells of, with the tools as they are described now."""
        return asks(lesson, await self._specs())

    async def action_choice(self, lesson: Interaction) -> ActionChoice:
        """How a turn weighs the choice that a lesson tells of, among what there was to choose from then."""
        options, specs = lesson.choices or (), await self._specs()
        weight = None if self.toolbox is None else self.toolbox.model_weight
        about = argument_of(lesson)
        if about is None:
            embedder = None if self.toolbox is None else self.toolbox.embedder
            return await ActionChoice.of_tool(options, specs, lesson.query, embedder, weight)
        tool, argument = about
        choice = ActionChoice.of_value(options, argument, next((s for s in specs if s.name == tool), None), weight)
        if self.toolbox is not None and self.toolbox.native:  # what nobody asks for the model writes as it thinks best
            return choice.model_copy(update={"optional": False})
        return choice

    def model_weight(self, interaction: Interaction, decision: Decision) -> float:
        """How much the model's scores count in the choice of a closed interaction."""
        if not interaction.lesson:
            return decision.model_weight if decision.evidence else 1.0
        fixed = None if self.toolbox is None else self.toolbox.model_weight
        return decision.model_weight if fixed is None else fixed

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
        if interaction.lesson:  # as a turn asks: one episode shows whether anything is known
            query = query.model_copy(update={"k": 1, "max_tokens": None})
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

        Nothing acts: where tools were called, the results are shown that were recorded then.

        Exemplars taken from the interaction itself, or from those it is replayed `without`, are not shown.
        For closed choices memory can also be read as it is now, `without` some interactions; see `Rollouts`.

        Args:
            interaction: a past interaction of the user, in their memory.
            persona: text and decision to simulate.
            decisions: for closed choices, all are evaluated on the one pass of the model; they must share the
                persona's `episodes` and `form`. Default: the persona's own. Their `model_weight` counts for lessons only
                where the settings of tools leave it to the persona.
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
        view = await self._shown(interaction, persona, recall, without)
        if interaction.choices and interaction.lesson:
            return await self._acted(interaction, view, recall, decisions, priority, use_model)
        if interaction.choices:
            lm: tuple[float, ...] | None = None
            usage = Usage()
            if use_model:
                lm, usage = await self._option_scores(messages, view, interaction.choices, priority)
            made = tuple(
                decide(interaction.choices, lm, row if d.evidence or lm is None else None, d.model_weight)
                for d, row in zip(decisions, recall.evidence, strict=True)
            )
            return Replay(
                interaction=interaction, text=made[0].answer, lm=lm, evidence=recall.evidence, choices=made, usage=usage
            )
        return await self._rewritten(interaction, messages, view, temperature, priority)

    async def _rewritten(
        self,
        interaction: Interaction,
        messages: tuple[Message, ...],
        view: PromptView,
        temperature: float,
        priority: int,
    ) -> Replay:
        """Free text: what would have been written, from what tools found then."""
        turn = Turn(
            user=interaction.user,
            messages=messages,
            temperature=temperature,
            priority=priority,
            max_tokens=min(self.settings.max_tokens, REPLAY_TOKENS),
        )
        earlier = remembered(interaction.metadata.get(CALLS))
        result: ChatResult | None = None
        async for piece in FreeText(self.llm, self.settings, turn, view, trace=earlier).pieces():
            if isinstance(piece, FreeAnswer):
                result = piece.result
        assert result is not None
        return Replay(interaction=interaction, text=result.text, usage=result.usage)

    async def _acted(
        self,
        lesson: Interaction,
        view: PromptView,
        recall: Recall,
        decisions: Sequence[Decision],
        priority: int,
        use_model: bool,
    ) -> Replay:
        """The choice that a turn would make where a lesson tells what was right.

        The model is asked even where it would not be in a turn: who tries other decisions needs its scores.
        """
        choice, scored = await self.action_choice(lesson), None
        if use_model:
            messages, ask = (Message(role="user", content=lesson.query),), await self.asks(lesson)

            async def scores() -> OptionScores | None:
                shown = (*view.prompt(messages), Message(role="user", content=ask))
                return await model_scores(self.llm, shown, choice, priority)

            scored = await _fitting(view, scores)
        lm = None if scored is None else scored.logprobs
        rows = recall.evidence if recall.episodes else ()
        made = tuple(
            choice.made(lm, rows[n] if rows and d.evidence else None, d.model_weight) for n, d in enumerate(decisions)
        )
        return Replay(
            interaction=lesson,
            text=made[0].answer,
            lm=lm,
            evidence=rows,
            choices=made,
            acting=choice,
            usage=Usage() if scored is None else scored.usage,
        )

    async def _shown(
        self, interaction: Interaction, persona: PersonaDraft, recall: Recall, without: Sequence[str]
    ) -> PromptView:
        """What stands in the prompt of a replay. A turn chooses its tools in sight of what was recalled for its answer."""
        if not interaction.lesson:
            return PromptView.of(persona, recall, interaction.choices, {interaction.id, *without})
        query = self._query(interaction.query, None, persona.decision)
        reach = {"before": None if without else interaction.id, "exclude": tuple(without)}
        seen = await self.memory.recall(interaction.user, query.model_copy(update=reach))
        return PromptView.of(persona, seen, None, {str(interaction.metadata.get(OF)), *without})

    async def _specs(self) -> tuple[ToolSpec, ...]:
        return () if self.toolbox is None else await self.toolbox.specs()

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
        self, messages: Sequence[Message], view: PromptView, choices: Sequence[str], priority: int
    ) -> tuple[tuple[float, ...], Usage]:
        scored = await _fitting(
            view, lambda: score_options(self.llm, view.prompt(messages, choices), choices, priority)
        )
        return scored.logprobs, scored.usage


async def _fitting(view: PromptView, call: Callable[[], Awaitable[T]]) -> T:
    """What a call of the model gives once the prompt of the view fits. Raises ContextLengthExceeded if it never does."""
    while True:
        try:
            return await call()
        except ContextLengthExceeded:
            if not view.shrink():
                raise

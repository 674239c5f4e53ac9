"""Replays: what the agent would have answered at a past request, under a persona that is being judged.

A lesson is replayed as the choice of a turn that it tells of, with the words in which a turn asks the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from personaagent.agent.decision import decide, score_options
from personaagent.agent.free_text import FreeAnswer, FreeText
from personaagent.agent.turns import Replay, Turn
from personaagent.agent.view import PromptView
from personaagent.errors import ContextLengthExceeded
from personaagent.protocols import LLM, Memory
from personaagent.settings import AgentSettings
from personaagent.tools.lesson_words import asks
from personaagent.tools.lessons import kin
from personaagent.tools.toolbox import CALLS, Toolbox, remembered
from personaagent.types import OF, ChatResult, Decision, Interaction, Message, PersonaDraft, Recall, RecallQuery, Usage

__all__ = ["BATCH_PRIORITY", "Replaying"]

# Of a simulated free-text answer: enough to compare, and a model that runs on does not hold up the batch.
REPLAY_TOKENS = 96
BATCH_PRIORITY = 10  # of replays; chat runs at 0, and lower goes first


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
        return asks(lesson, () if self.toolbox is None else await self.toolbox.specs())

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

        Nothing acts: where tools were called, the results are shown that were recorded then.

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
                ask = await self.asks(interaction) if interaction.lesson else None
                lm, usage = await self._option_scores(messages, view, interaction.choices, priority, ask)
            made = tuple(
                decide(interaction.choices, lm, row if d.evidence or lm is None else None, d.model_weight)
                for d, row in zip(decisions, recall.evidence, strict=True)
            )
            return Replay(
                interaction=interaction, text=made[0].answer, lm=lm, evidence=recall.evidence, choices=made, usage=usage
            )
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

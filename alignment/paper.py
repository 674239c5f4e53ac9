"""The loop of the paper: simulate, loss, update, and no gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from alignment.budget import Caller
from alignment.candidates import Arm, Grid
from alignment.persona_commit import commit_patiently
from alignment.rollouts import Rollouts
from alignment.scorer import Scorer
from alignment.textual import TextualProposer
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.errors import BudgetExceeded
from personaagent.persona.safety import danger
from personaagent.protocols import Memory
from personaagent.settings import AlignmentSettings
from personaagent.types import AlignmentResult, Interaction, Outcome, Persona

__all__ = ["PaperLoop"]


class PaperLoop:
    """Whatever the model writes becomes the persona, unless it is empty or cannot be one.

    Args:
        agent: answers the replays.
        memory: of the users.
        settings: of the alignment.
        scorer: scores simulated answers.
        textual: writes losses and updates.
    """

    def __init__(
        self, agent: Agent, memory: Memory, settings: AlignmentSettings, scorer: Scorer, textual: TextualProposer
    ) -> None:
        self._agent, self._memory, self._settings = agent, memory, settings
        self._scorer, self._textual = scorer, textual

    async def align(
        self, persona: Persona, latest: Sequence[Interaction], run: str | None, caller: Caller
    ) -> AlignmentResult:
        """Align a user whose `persona` is the current one, from `latest`, the latest interactions with truths.

        Raises:
            ConflictError: the persona changed meanwhile.
            BudgetExceeded: before anything was written.
        """
        user = latest[0].user
        grid = Grid(persona.decision, persona=persona)
        rollouts = Rollouts(self._agent, self._scorer, caller, grid)
        arm, before, reason = Arm.of(persona), None, "the model wrote nothing new"
        refused: Counter[str] = Counter()
        try:
            for _ in range(self._settings.iterations):
                await rollouts.run([arm], latest)
                cases = rollouts.cases(arm, 0, latest)
                before = sum(c.score for c in cases) / len(cases) if before is None else before
                losses = await together(self._textual.loss(arm.text, case, caller) for case in cases)
                text = await self._textual.update(arm.text, losses, caller)
                # As published there is no gate, but this is no matter of taste.
                if text and (unsafe := danger(text)) is not None:
                    refused[unsafe] += 1
                    text, reason = "", f"what the model wrote cannot be a persona: {unsafe}"
                arm = Arm(text or arm.text, arm.episodes, arm.form)
        except BudgetExceeded as e:
            if arm.text == persona.text:
                raise
            reason = e.message
        result = AlignmentResult(
            user=user,
            outcome=Outcome.REJECTED,
            reason=reason,
            score_before=before,
            persona_before=persona.number,
            refused=dict(refused),
        )
        if arm.text == persona.text:
            return result.model_copy(update={"persona_after": persona.number})
        draft = grid.draft(0, arm).model_copy(
            update={"score_before": before, "run": run, "sources": tuple(i.id for i in latest)}
        )
        committed = await commit_patiently(self._memory, user, draft, persona.number, caller)
        changed = {"outcome": Outcome.ACCEPTED, "reason": "paper mode: no gate", "persona_after": committed.number}
        return result.model_copy(update={**changed, "candidates": self._settings.iterations})

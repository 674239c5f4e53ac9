"""The search for what a persona should say: candidates from claims that are counted, and from a teacher's edits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from alignment.budget import Caller
from alignment.cohort import Member
from alignment.edits import EditProposer
from alignment.likelihoods import Likelihoods
from alignment.rewording import Reworded, Rewording, judged_on, judges
from alignment.stages import stage
from alignment.textual import Case
from alignment.wording import BOTH, Wordings
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.errors import BudgetExceeded
from personaagent.persona.persona import ranked, stated
from personaagent.protocols import Memory
from personaagent.scoring import same
from personaagent.settings import AlignmentSettings
from personaagent.types import Interaction, Persona

__all__ = ["ClaimSearch"]


class ClaimSearch:
    """Finds better words for one user after the other.

    Args:
        agent: answers the replays that edits are proposed from.
        memory: of the users.
        settings: of the alignment.
        editor: proposes edits of the persona's claims; None: only what is counted is tried.
    """

    def __init__(self, agent: Agent, memory: Memory, settings: AlignmentSettings, editor: EditProposer | None) -> None:
        self._agent, self._memory, self._settings, self._editor = agent, memory, settings, editor

    async def best(
        self,
        persona: Persona,
        history: Sequence[Interaction],
        measure: Likelihoods,
        caller: Caller,
        member: Member,
    ) -> Reworded:
        """What the persona should say instead, if anything. From a history of lessons: what of the use of tools."""
        taught, facts = history[0].lesson, []
        if not taught:
            profile = await caller.patiently(partial(self._memory.profile, history[0].user))
            facts = [stated(fact) for fact in ranked(profile.current) if fact.source == "model"]
        wordings = Wordings(persona, history, member.others - {history[0].user}, facts)
        if self._editor is not None:
            with suppress(BudgetExceeded):  # counting and exemplars are tried all the same
                await self._edits(self._editor, persona, history, wordings, caller)
        search = Rewording(
            measure, self._settings.min_gain, self._settings.text_luck, self._agent.settings.persona_tokens
        )
        try:
            places = (member.rules, member.rules_gate) if taught else (member.selection, member.gate)
            return await search.run(persona, wordings, history, *places)
        except BudgetExceeded as e:
            return Reworded(None, e.message, refused=wordings.refused)

    @stage("edits")
    async def _edits(
        self,
        editor: EditProposer,
        persona: Persona,
        history: Sequence[Interaction],
        wordings: Wordings,
        caller: Caller,
    ) -> None:
        """Let the teacher propose edits from what the agent would have answered; never from what judges them."""
        select = judges(judged_on(history))[1][: self._settings.batch]

        async def case(interaction: Interaction) -> Case:
            draft = wordings.own(interaction).draft(persona, self._agent.settings.persona_tokens)
            replay = await caller.call(lambda: self._agent.replay(interaction, draft), lambda r: r.usage)
            return Case(interaction, replay.text, float(same(replay.text, interaction.truth or "")))

        cases = await together(case(i) for i in select)
        claims = wordings.candidate(BOTH).claims
        found = await editor.propose(claims, cases, self._settings.candidates, caller, persona.struck, wordings.others)
        wordings.refused += found.dropped
        for edit in found.edits:
            wordings.edit(edit)

"""The loop of PersonaAgent: how memory is read and what the persona says, each replaced only for what it gains itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from alignment.budget import Caller
from alignment.candidates import Arm, Grid
from alignment.cohort import Member
from alignment.gate import Acceptor
from alignment.likelihoods import Likelihoods
from alignment.persona_commit import commit_patiently
from alignment.prequential import foretell
from alignment.rewording import Reworded, finite
from alignment.rollouts import Rollouts
from alignment.scorer import Scorer
from alignment.search import Search, SearchResult, fitted_kinds
from alignment.splits import Split, halved, split
from alignment.stages import stage
from alignment.textual import Proposer, refusal
from personaagent.agent.agent import Agent
from personaagent.claims import MAX_SOURCES
from personaagent.errors import BudgetExceeded
from personaagent.persona.persona import initial_persona
from personaagent.protocols import Memory, likely
from personaagent.settings import AlignmentSettings
from personaagent.types import AlignmentResult, Interaction, Kind, Origin, Outcome, Persona, PersonaDraft, user_key

__all__ = ["GatedLoop"]

log = logging.getLogger(__name__)

Words = Callable[[Persona, Sequence[Interaction], Likelihoods, Caller, Member], Awaitable[Reworded]]

SEEN = 4  # closed interactions that only show what a change of reading does


class GatedLoop:
    """Aligns one user after the other; it keeps nothing of them.

    Words are judged by the likelihood of what the user really said. A model that cannot tell likelihoods leaves prose to
    be judged by scores of simulated answers, together with how memory is read.

    Args:
        agent: answers the replays.
        memory: of the users.
        settings: of the alignment.
        scorer: scores simulated answers.
        acceptor: the gate for how memory is read, and for prose that it judges.
        proposer: writes prose from losses.
        words: finds what the persona should say instead, where likelihoods judge that.
        rules: finds what it should say of the use of tools instead, from lessons.
    """

    def __init__(
        self,
        agent: Agent,
        memory: Memory,
        settings: AlignmentSettings,
        scorer: Scorer,
        acceptor: Acceptor,
        proposer: Proposer,
        words: Words,
        rules: Words,
    ) -> None:
        self._agent, self._memory, self._settings = agent, memory, settings
        self._scorer, self._acceptor, self._proposer = scorer, acceptor, proposer
        self._words, self._rules = words, rules

    async def align(
        self, persona: Persona, history: Sequence[Interaction], run: str | None, caller: Caller, member: Member
    ) -> AlignmentResult:
        """Align a user whose `persona` is the current one, from `history`, the latest interactions with truths, oldest first.

        Raises:
            ConflictError: the persona changed meanwhile.
            BudgetExceeded: before anything could be judged.
        """
        user = history[0].user
        model = likely(self._agent.llm)
        asked, taught = [i for i in history if not i.lesson], [i for i in history if i.lesson]
        closed = [i for i in asked if i.kind is not Kind.TEXT] if model is not None else list(history)
        read = await self._read(persona, closed, caller, member, prose=model is None) if len(closed) >= 2 else None
        result = AlignmentResult(
            user=user,
            outcome=Outcome.REJECTED,
            persona_before=persona.number,
            persona_after=persona.number,
            words_judged_by="simulated answers" if model is None else "likelihood",
        )
        draft: PersonaDraft = persona
        reasons: list[str] = []
        if read is None:
            member.leave()
        else:
            draft, reasons, result = read.draft, list(read.reasons), read.told(result)
        if model is not None:
            measure = Likelihoods(self._agent, model, caller, user, history)
            if asked:
                said = await self._words(persona, asked, measure, caller, member)
                draft, result = self._worded(draft, said), _told(said, result)
                reasons.append(said.reason)
            if taught:
                draft, ruled = await self._ruled(persona, draft, taught, measure, caller, member)
                reasons.append(f"rules on tools: {ruled}")
        result = result.model_copy(update={"reason": "; ".join(r for r in reasons if r)})
        member.rules.leave()
        member.rules_gate.leave()
        if (draft.text, draft.exemplars, draft.decision) == (persona.text, persona.exemplars, persona.decision):
            return result
        before, after = (read.before, read.after) if read is not None else (None, None)
        plain = PersonaDraft(
            text=draft.text,
            origin=Origin.ALIGNED,
            decision=draft.decision,
            claims=draft.claims,
            exemplars=draft.exemplars,
            struck=draft.struck,
            run=run,
            sources=draft.sources,
            score_before=before,
            score_after=after,
        )
        committed = await commit_patiently(self._memory, user, plain, persona.number, caller)
        news = {"persona_after": committed.number, "score_before": before, "score_after": after}
        return result.model_copy(update={"outcome": Outcome.ACCEPTED, **news})

    # What the persona says

    def _worded(self, draft: PersonaDraft, said: Reworded) -> PersonaDraft:
        """The draft with the words that were found."""
        if said.wording is not None:
            return said.wording.draft(draft, self._agent.settings.persona_tokens)
        # What its claims are worth was measured all the same.
        known = {c.text: c for c in said.measured}
        return draft.model_copy(update={"claims": tuple(known.get(c.text, c) for c in draft.claims)})

    async def _ruled(
        self,
        persona: Persona,
        draft: PersonaDraft,
        taught: Sequence[Interaction],
        measure: Likelihoods,
        caller: Caller,
        member: Member,
    ) -> tuple[PersonaDraft, str]:
        """The draft with the rules on tools that were found, and why.

        They are judged by lessons alone: texts and choices would say nothing of them, nor lessons of how the user writes.
        """
        member.selection.leave()
        member.gate.leave()
        said_so = {name: getattr(draft, name) for name in ("text", "claims", "exemplars", "decision")}
        said = await self._rules(persona.model_copy(update=said_so), taught, measure, caller, member)
        return self._worded(draft, said), said.reason

    # How memory is read

    async def _read(
        self, persona: Persona, history: Sequence[Interaction], caller: Caller, member: Member, prose: bool
    ) -> _Read:
        """How memory is best read, by all past answers; then the user's own candidates, selection, gate.

        Nothing of the gate's interactions is used by the search; candidates are replayed on them after it has ended. With
        `prose` rewritten texts are candidates too.
        """
        user, sizes = history[0].user, (self._settings.batch, self._settings.held_out)
        parts = split(history, *sizes, self._settings.seed) if prose else self._weighed(history)
        base = Arm.of(persona)
        asked = [
            i for i in history if not i.lesson
        ]  # how memory is read is not told by lessons, which are few and all alike
        closed = sorted({i.kind for i in asked} - {Kind.TEXT})
        grid = Grid(persona.decision, closed, persona)
        rollouts = Rollouts(self._agent, self._scorer, caller, grid, history)
        texts = await self._from_profile(user, persona, caller) if prose else []

        if closed and persona.decision.evidence:
            member.join(tuple(closed), await foretell(self._memory, user, asked, grid, caller.patiently))
        else:
            member.leave()
        await self._first_replays(rollouts, base, parts, caller)
        # Only now are the others waited for: meanwhile these replays kept the engine busy.
        fitted = await member.fitted()
        if fitted is not None and not fitted.accepted:
            fitted = None
        start = grid.index(fitted.reading, persona.decision.model_weight) if fitted else 0

        found = SearchResult(base, start, reason="there are too few choices to weigh the model by")
        if parts.select:
            # Eight replays tell the model's weight, but not how memory is read: that is told by all past answers.
            readings = {grid.reading(0), grid.reading(start)}
            weights = grid.weights if fitted_kinds(parts) else grid.weights[:1]
            allowed = grid.columns(readings, weights)
            search = Search(self._settings, self._proposer if prose else None, rollouts, caller, allowed, texts)
            found = await search.run(base, parts, start)
        caller.budget.release()
        kept = await self._judged(rollouts, parts, base, start, found)
        reasons = [kept.reason]
        if fitted is not None and grid.reading(kept.index) == fitted.reading:
            reasons = [fitted.reason, *([kept.reason] if kept.moved else ())]
        draft = grid.draft(kept.index, kept.arm)
        sources = parts.rewrite if draft.text != persona.text else parts.select or tuple(history[-MAX_SOURCES:])
        draft = draft.model_copy(update={"sources": tuple(i.id for i in sources)})
        return _Read(draft, tuple(reasons), kept.before, kept.after, len(parts.gate), found.candidates, found.dropped)

    def _weighed(self, history: Sequence[Interaction]) -> Split:
        """Closed interactions to replay where prose is not judged by them.

        How memory is read needs no replays. What needs them is the model's weight beside memory, which few cannot tell: a user
        with less than three times what the gate takes keeps the usual one, and replays only show what has changed.
        """
        held_out = self._settings.held_out
        if len(history) >= 3 * held_out:
            return halved(history, held_out, self._settings.seed)
        return Split(gate=halved(history, min(SEEN, held_out), self._settings.seed).gate)

    @stage("first replays")
    async def _first_replays(self, rollouts: Rollouts, base: Arm, parts: Split, caller: Caller) -> None:
        """Replay what there is under the persona as it is; the gate's part in any case."""
        learn = list({i.id: i for i in (*parts.rewrite, *parts.select)}.values())
        caller.budget.reserve(2 * len(parts.gate))  # a search that used up everything could not be judged
        with suppress(BudgetExceeded):  # the search will say so
            await rollouts.run([base], learn)
        caller.budget.reserve(len(parts.gate))
        await rollouts.run([base], parts.gate)

    async def _from_profile(self, user: str, persona: Persona, caller: Caller) -> list[str]:
        """The persona that the profile as it is now would start with: it knows what has changed since."""
        profile = await caller.patiently(partial(self._memory.profile, user))
        if not profile.current:
            return []
        text = initial_persona(profile, persona.decision, self._agent.settings.persona_tokens).text
        return [] if refusal(text, persona.text) else [text]

    @stage("gate")
    async def _judged(self, rollouts: Rollouts, parts: Split, base: Arm, start: int, found: SearchResult) -> _Kept:
        """What is kept, by the gate: what the search found, or where it started."""
        own = rollouts.scores(base, parts.gate)
        before, after = float(own.column(0).hard.mean()), own.column(start)
        if (found.arm, found.index) == (base, start):
            return _Kept(base, start, found.reason, before, float(after.hard.mean()))
        await rollouts.run([found.arm], parts.gate)
        challenger = rollouts.scores(found.arm, parts.gate).column(found.index)
        verdict = self._acceptor.judge(after, challenger)
        if verdict.accepted:
            return _Kept(found.arm, found.index, verdict.reason, before, float(challenger.hard.mean()), moved=True)
        user = user_key(parts.gate[0].user)
        log.debug("gate kept %s's persona: %.3f, not %.3f", user, verdict.before, verdict.after)
        return _Kept(base, start, verdict.reason, before, float(after.hard.mean()))


@dataclass(frozen=True)
class _Kept:
    """The persona the gate left: its arm and decision, why, and mean scores on the gate's interactions.

    `before` is the score of the persona as it was; `moved` says whether it is what the search found.
    """

    arm: Arm
    index: int
    reason: str
    before: float
    after: float
    moved: bool = False


@dataclass(frozen=True)
class _Read:
    """How memory is to be read: the persona that does so, why, its scores on the gate's interactions, and what it rests on."""

    draft: PersonaDraft
    reasons: tuple[str, ...]
    before: float
    after: float
    held_out: int
    candidates: int
    refused: Counter[str]  # rewritten texts that could not be a persona, by reason

    def told(self, result: AlignmentResult) -> AlignmentResult:
        """The result with what was found here; nothing is accepted yet."""
        found = {"held_out": self.held_out, "candidates": self.candidates, "refused": dict(self.refused)}
        return result.model_copy(update={"score_before": self.before, "score_after": self.before, **found})


def _told(said: Reworded, result: AlignmentResult) -> AlignmentResult:
    """The result with what became of the words."""
    return result.model_copy(
        update={
            "candidates": result.candidates + said.candidates,
            "text_gain": said.gain and said.gain.mean,
            "text_error": said.gain and finite(said.gain.error),
            "text_items": said.gain.items if said.gain else 0,
            "refused": dict(said.refused),
        }
    )

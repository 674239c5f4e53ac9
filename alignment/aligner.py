"""Aligns many users at once, all their model calls in flight together."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

from alignment.budget import Budget, Caller
from alignment.candidates import Arm, Grid
from alignment.cohort import Cohort, Member
from alignment.edits import EditProposer
from alignment.gate import Acceptor, Gate
from alignment.likelihoods import Likelihoods
from alignment.prequential import foretell
from alignment.rewording import Reworded, Rewording, finite, judged_on, judges
from alignment.rollouts import Rollouts
from alignment.scorer import EmbeddingScorer, JudgeScorer, Scorer
from alignment.search import Search, SearchResult, fitted_kinds
from alignment.slots import Slots
from alignment.splits import Split, halved, split, window
from alignment.stages import stage
from alignment.textual import Case, Proposer, TextualProposer, refusal
from alignment.wording import BOTH, Wordings
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.claims import MAX_SOURCES
from personaagent.errors import BudgetExceeded, ConflictError, ForgottenError, NotFoundError, PersonaAgentError
from personaagent.models.wrapper import Wrapping, telling
from personaagent.persona.persona import initial_persona, ranked, stated
from personaagent.persona.profile import build_profile
from personaagent.persona.safety import danger
from personaagent.protocols import LLM, Embedder, Memory, likely
from personaagent.scoring import same
from personaagent.settings import AlignmentSettings
from personaagent.types import (
    AlignmentResult,
    ChatRequest,
    ChatResult,
    Interaction,
    Kind,
    Likelihood,
    LikelihoodRequest,
    Origin,
    Outcome,
    Persona,
    PersonaDraft,
    Usage,
    user_key,
)

__all__ = ["Aligner", "least_truths"]

log = logging.getLogger(__name__)

SEEN = 4  # closed interactions that only show what a change of reading does
HISTORY = 400  # latest interactions among which repetitions of a request are looked for


def least_truths(settings: AlignmentSettings) -> int:
    """How many truths a user must have to be aligned."""
    return 1 if settings.paper else 2


class Aligner:
    """Rewrites personas from what users really answered, and keeps only what is better.

    Per user: replay the latest interactions under the persona, propose candidates (rewritten prose, demonstrations,
    decision parameters), select one, and let the gate compare it with the incumbent on interactions that neither rewriting
    nor selection saw. How memory is read is fitted on all past answers instead, each foretold from what was known before it;
    what the other users aligned together (a cohort) gain is the prior. With
    `settings.paper` the paper's loop runs instead, which rewrites unconditionally.
    """

    def __init__(
        self,
        agent: Agent,
        memory: Memory,
        embedder: Embedder,
        settings: AlignmentSettings,
        teacher: LLM | None = None,
        *,
        proposer: Proposer | None = None,
        scorer: Scorer | None = None,
        acceptor: Acceptor | None = None,
    ) -> None:
        """`teacher` writes losses and rewrites (and judges free text); by default the agent's own model does."""
        llm = teacher or agent.llm
        self._agent = agent
        self._embedder = embedder
        self._memory = memory
        self._settings = settings
        self._textual = TextualProposer(llm, agent.settings.persona_tokens, settings.seed)
        self._proposer = proposer or self._textual
        self._editor: EditProposer | None = None
        if settings.edits == "always" or (settings.edits == "teacher" and teacher is not None):
            self._editor = EditProposer(llm, settings.seed)
        judged = JudgeScorer(embedder, llm) if settings.judge == "llm" else EmbeddingScorer(embedder)
        self._scorer = scorer or judged
        self._acceptor = acceptor or Gate(settings.min_gain, settings.caution)
        # Shared by all calls of `align`: several batches of users may be under way in one actor.
        self._slots = Slots(settings.in_flight)
        self._budgets: dict[str, Budget] = {}

    async def align(
        self,
        users: Sequence[str],
        run: str | None = None,
        on_result: Callable[[AlignmentResult], None] | None = None,
        within: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> list[AlignmentResult]:
        """Align users; one result per user, in their order. A user named twice is aligned once.

        Users are worked on in cohorts of at most `settings.cohort`, two cohorts at a time, so memory does not grow with their
        number and the engine has work while the last users of a cohort finish. One user's failure is a result with outcome
        FAILED and touches nobody else. Of the work itself only cancellation is raised.

        Args:
            users: user ids.
            run: kept with the personas that are committed; a run that resumes finds them by it.
            on_result: called with each result as soon as it is there, in order of completion. What it raises ends the others
                and is raised.
            within: makes a context for a user, inside which all work on that user is done.
        """
        names = list(dict.fromkeys(users))
        budget = self._budget(run)
        results: dict[str, AlignmentResult] = {}
        count = -(-len(names) // self._settings.cohort)
        waiting = iter([names[n::count] for n in range(count)])

        async def one(user: str, member: Member) -> None:
            with member, within(user):
                results[user] = await self._guarded(user, run, budget, member)
            if on_result is not None:
                on_result(results[user])

        async def work() -> None:
            for chunk in waiting:  # shared: each worker takes the next cohort
                cohort = Cohort(chunk, self._settings.min_gain, self._settings.caution)
                await together(one(user, cohort.member()) for user in chunk)

        await together(work() for _ in range(min(2, count)))
        return [results[user] for user in users]

    def _budget(self, run: str | None) -> Budget:
        """The budget of a run, shared by its batches; without a name every call of `align` is a run of its own."""
        budget = Budget(self._settings.run_calls, self._settings.run_tokens)
        if run is None:
            return budget
        if run not in self._budgets and len(self._budgets) >= 8:  # of runs long ended
            del self._budgets[next(iter(self._budgets))]
        return self._budgets.setdefault(run, budget)

    async def _guarded(self, user: str, run: str | None, total: Budget, member: Member) -> AlignmentResult:
        started = time.monotonic()
        budget = Budget(self._settings.max_calls, self._settings.max_tokens, total)
        caller = Caller(self._slots, budget, self._settings.retry_s)
        try:
            result = await self._attempt(user, run, caller, member)
        except (NotFoundError, ForgottenError):
            result = AlignmentResult(user=user, outcome=Outcome.SKIPPED, reason="the user was forgotten meanwhile")
        except Exception as e:
            # The message may quote what the user wrote, so the result names only the kind of error.
            log.debug("alignment of user %s failed", user_key(user), exc_info=True)
            name = e.code if isinstance(e, PersonaAgentError) else type(e).__name__
            result = AlignmentResult(user=user, outcome=Outcome.FAILED, reason=f"error: {name}")
        cost = {**budget.usage.model_dump(), "seconds": round(time.monotonic() - started, 3), "run": run}
        return result.model_copy(update=cost)

    async def _attempt(self, user: str, run: str | None, caller: Caller, member: Member) -> AlignmentResult:
        """Align a user, and note what was looked at: whatever came of it, only what arrives from now on is new.

        Nothing is noted of who has to be tried again: the persona changed, a part of the system failed, or the budget of the
        whole run was used up before this user's turn.
        """
        try:
            result = await self._user(user, run, caller, member)
        except BudgetExceeded as e:
            result = AlignmentResult(user=user, outcome=Outcome.SKIPPED, reason=e.message)
        if result.outcome is Outcome.CONFLICT:
            return result
        if result.outcome is not Outcome.ACCEPTED and caller.budget.is_run_over and not caller.budget.calls:
            return result
        if (seen := caller.seen) is not None:
            await caller.patiently(partial(self._memory.note_alignment, user, seen, caller.incarnation))
        return result

    async def _user(self, user: str, run: str | None, caller: Caller, member: Member) -> AlignmentResult:
        caller.incarnation = await caller.patiently(partial(self._memory.incarnation, user))
        for attempt in (1, 2):
            skipped = AlignmentResult(user=user, outcome=Outcome.SKIPPED)
            wanted = self._settings.batch if self._settings.paper else max(HISTORY, window(*self._sizes))
            # First: what arrives between the two is looked at now and counts as new all the same. Nothing is lost by that.
            newest = (await caller.patiently(partial(self._memory.truths, user, 0, 0))).newest
            latest = await caller.patiently(partial(self._memory.latest, user, wanted, with_truth=True))
            needed = least_truths(self._settings)
            if len(latest) < needed:
                reason = f"{len(latest)} interactions with a known truth; alignment needs {needed}"
                return skipped.model_copy(update={"reason": reason})
            known = await caller.patiently(partial(self._memory.persona, user))
            if known is not None and known.pinned:
                return skipped.model_copy(update={"reason": "the persona is pinned", "persona_before": known.number})
            caller.seen = newest
            if self._settings.profile:
                await self._learn_profile(user, caller)
            persona = await caller.patiently(partial(self._agent.ensure_persona, user, caller.incarnation))
            try:
                if self._settings.paper:  # where nobody waits for the cohort
                    return await self._paper(persona, latest, run, caller)
                return await self._gated(persona, latest, run, caller, member)
            except ForgottenError:
                raise
            except ConflictError:
                log.debug("persona of user %s changed during alignment, attempt %d", user_key(user), attempt)
        return AlignmentResult(user=user, outcome=Outcome.CONFLICT, reason="the persona changed twice during alignment")

    async def _commit(self, user: str, draft: PersonaDraft, expected: int, caller: Caller) -> Persona:
        """Commit, also if the store goes down meanwhile and nobody knows whether it has the persona already."""

        async def once() -> Persona:
            current = await self._memory.persona(user)
            if current is not None and current.number == expected + 1 and current.parent == expected:
                wanted, there = (
                    (d.text, d.decision, d.run, d.origin, d.claims, d.exemplars, d.struck) for d in (draft, current)
                )
                if wanted == there:
                    return current
            return await self._memory.commit_persona(user, draft, expected, caller.incarnation)

        return await caller.patiently(once)

    @stage("profile")
    async def _learn_profile(self, user: str, caller: Caller) -> None:
        """Bring the semantic profile up to date: a user's first persona is made from it."""
        llm = _Charged(self._agent.llm, caller)
        try:
            await build_profile(
                self._memory, self._embedder, user, llm, self._settings.profile_tokens, incarnation=caller.incarnation
            )
        except ForgottenError:
            raise
        except ConflictError:  # another build was first, and read the same interactions
            log.debug("profile of user %s was built meanwhile", user_key(user))

    async def _from_profile(self, user: str, persona: Persona, caller: Caller) -> list[str]:
        """The persona that the profile as it is now would start with: it knows what has changed since."""
        profile = await caller.patiently(partial(self._memory.profile, user))
        if not profile.current:
            return []
        text = initial_persona(profile, persona.decision, self._agent.settings.persona_tokens).text
        return [] if refusal(text, persona.text) else [text]

    @property
    def _sizes(self) -> tuple[int, int]:
        return self._settings.batch, self._settings.held_out

    async def _paper(
        self, persona: Persona, latest: Sequence[Interaction], run: str | None, caller: Caller
    ) -> AlignmentResult:
        """The paper's loop: simulate, loss, update; whatever the model writes becomes the persona, unless it is empty."""
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
                if (
                    text and (unsafe := danger(text)) is not None
                ):  # as published there is no gate, but this is no matter of taste
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
        committed = await self._commit(user, draft, persona.number, caller)
        changed = {"outcome": Outcome.ACCEPTED, "reason": "paper mode: no gate", "persona_after": committed.number}
        return result.model_copy(update={**changed, "candidates": self._settings.iterations})

    async def _gated(
        self, persona: Persona, history: Sequence[Interaction], run: str | None, caller: Caller, member: Member
    ) -> AlignmentResult:
        """How memory is read, and what the persona says: each replaced only for what it gains itself.

        Words are judged by the likelihood of what the user really said. A model that cannot tell likelihoods leaves prose to
        be judged by scores of simulated answers, together with how memory is read.
        """
        user = history[0].user
        model = likely(self._agent.llm)
        closed = [i for i in history if i.kind is not Kind.TEXT] if model is not None else list(history)
        read = await self._read(persona, closed, caller, member, prose=model is None) if len(closed) >= 2 else None
        if read is None:
            member.leave()
        result = AlignmentResult(
            user=user, outcome=Outcome.REJECTED, persona_before=persona.number, persona_after=persona.number
        )
        reasons: list[str] = []
        draft: PersonaDraft = persona
        sources: tuple[str, ...] = persona.sources
        if read is not None:
            draft, reasons = read.draft, list(read.reasons)
            sources = tuple(i.id for i in read.sources)
            scores = {"score_before": read.before, "score_after": read.before}
            more = {"held_out": read.held_out, "candidates": read.candidates, "refused": dict(read.refused)}
            result = result.model_copy(update={**scores, **more})
        result = result.model_copy(update={"words_judged_by": "simulated answers" if model is None else "likelihood"})
        if model is not None:
            measure = Likelihoods(self._agent, model, caller, user, history)
            said = await self._reworded(persona, history, measure, caller, member)
            reasons.append(said.reason)
            result = result.model_copy(
                update={
                    "candidates": result.candidates + said.candidates,
                    "text_gain": said.gain and said.gain.mean,
                    "text_error": said.gain and finite(said.gain.error),
                    "text_items": said.gain.items if said.gain else 0,
                    "refused": dict(said.refused),
                }
            )
            if said.wording is not None:
                draft = said.wording.draft(draft, self._agent.settings.persona_tokens)
                sources = draft.sources
            else:  # what its claims are worth was measured all the same
                known = {c.text: c for c in said.measured}
                draft = draft.model_copy(update={"claims": tuple(known.get(c.text, c) for c in draft.claims)})
        result = result.model_copy(update={"reason": "; ".join(r for r in reasons if r)})
        if (draft.text, draft.exemplars, draft.decision) == (persona.text, persona.exemplars, persona.decision):
            return result
        after = (read.before, read.after) if read is not None else (None, None)
        draft = PersonaDraft(
            text=draft.text,
            origin=Origin.ALIGNED,
            decision=draft.decision,
            claims=draft.claims,
            exemplars=draft.exemplars,
            struck=draft.struck,
            run=run,
            sources=sources,
            score_before=after[0],
            score_after=after[1],
        )
        committed = await self._commit(user, draft, persona.number, caller)
        news = {"persona_after": committed.number, "score_before": after[0], "score_after": after[1]}
        return result.model_copy(update={"outcome": Outcome.ACCEPTED, **news})

    async def _reworded(
        self,
        persona: Persona,
        history: Sequence[Interaction],
        measure: Likelihoods,
        caller: Caller,
        member: Member,
    ) -> Reworded:
        """What the persona should say instead, if anything."""
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
            return await search.run(persona, wordings, history, member.selection, member.gate)
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

    async def _read(
        self, persona: Persona, history: Sequence[Interaction], caller: Caller, member: Member, prose: bool
    ) -> _Read:
        """How memory is best read, by all past answers; then the user's own candidates, selection, gate.

        Nothing of the gate's interactions is used by the search; candidates are replayed on them after it has ended. With
        `prose` rewritten texts are candidates too.
        """
        user = history[0].user
        parts = split(history, *self._sizes, self._settings.seed) if prose else self._weighed(history)
        base, closed = Arm.of(persona), sorted({i.kind for i in history} - {Kind.TEXT})
        grid = Grid(persona.decision, closed, persona)
        rollouts = Rollouts(self._agent, self._scorer, caller, grid, history)
        texts = await self._from_profile(user, persona, caller) if prose else []

        if closed and persona.decision.evidence:
            member.join(tuple(closed), await foretell(self._memory, user, history, grid, caller.patiently))
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
        return _Read(
            draft, tuple(reasons), kept.before, kept.after, sources, len(parts.gate), found.candidates, found.dropped
        )

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
    sources: tuple[Interaction, ...]
    held_out: int
    candidates: int
    refused: Counter[str]  # rewritten texts that could not be a persona, by reason


class _Charged(Wrapping):
    """A model whose calls go through a user's caller, which counts and bounds them."""

    def __init__(self, llm: LLM, caller: Caller) -> None:
        super().__init__(llm)
        self._caller = caller

    async def chat(self, request: ChatRequest) -> ChatResult:
        return await self._caller.call(lambda: self._llm.chat(request), lambda r: r.usage)

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        if not requests:
            return ()
        together = partial(telling(self._llm).likelihoods, requests)
        return await self._caller.call(together, lambda rs: sum((r.usage for r in rs), Usage()), len(requests))

    def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        raise TypeError("alignment reads whole answers")

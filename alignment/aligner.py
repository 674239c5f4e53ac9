"""Aligns many users at once, all their model calls in flight together."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from alignment.budget import Budget, Caller
from alignment.claim_search import ClaimSearch
from alignment.cohort import Cohort, Member
from alignment.edits import EditProposer
from alignment.gate import Acceptor, Gate
from alignment.gated import GatedLoop
from alignment.likelihoods import Likelihoods
from alignment.paper import PaperLoop
from alignment.rewording import Reworded
from alignment.scorer import EmbeddingScorer, JudgeScorer, Scorer
from alignment.slots import Slots
from alignment.splits import window
from alignment.stages import stage
from alignment.textual import Proposer, TextualProposer
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.errors import BudgetExceeded, ConflictError, ForgottenError, NotFoundError, PersonaAgentError
from personaagent.models.wrapper import Wrapping, telling
from personaagent.persona.profile import build_profile
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AlignmentSettings
from personaagent.types import (
    AlignmentResult,
    ChatRequest,
    ChatResult,
    Interaction,
    Likelihood,
    LikelihoodRequest,
    Outcome,
    Persona,
    Usage,
    user_key,
)

__all__ = ["Aligner", "least_truths"]

log = logging.getLogger(__name__)

HISTORY = 400  # latest interactions among which repetitions of a request are looked for


def least_truths(settings: AlignmentSettings) -> int:
    """How many truths a user must have to be aligned."""
    return 1 if settings.paper else 2


class Aligner:
    """Rewrites personas from what users really answered, and keeps only what is better.

    Per user (`GatedLoop`): replay the latest interactions under the persona, propose candidates (rewritten prose, demonstrations,
    decision parameters), select one, and let the gate compare it with the incumbent on interactions that neither rewriting
    nor selection saw. How memory is read is fitted on all past answers instead, each foretold from what was known before it;
    what the other users aligned together (a cohort) gain is the prior. With
    `settings.paper` the paper's loop runs instead (`PaperLoop`), which rewrites unconditionally.
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
        textual = TextualProposer(llm, agent.settings.persona_tokens, settings.seed)
        judged = JudgeScorer(embedder, llm) if settings.judge == "llm" else EmbeddingScorer(embedder)
        scorer = scorer or judged
        edits = settings.edits == "always" or (settings.edits == "teacher" and teacher is not None)
        self._claims = ClaimSearch(agent, memory, settings, EditProposer(llm, settings.seed) if edits else None)
        self._gated = GatedLoop(
            agent,
            memory,
            settings,
            scorer,
            acceptor or Gate(settings.min_gain, settings.caution),
            proposer or textual,
            self._reworded,
            self._claims.best,
        )
        self._paper = PaperLoop(agent, memory, settings, scorer, textual)
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
            replayed = window(self._settings.batch, self._settings.held_out)
            wanted = self._settings.batch if self._settings.paper else max(HISTORY, replayed)
            # First: what arrives between the two is looked at now and counts as new all the same. Nothing is lost by that.
            heard = await caller.patiently(partial(self._memory.truths, user, 0, 0))
            newest = max(heard.newest, heard.taught)
            latest = await self._latest(user, wanted, caller)
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
                    return await self._paper.align(persona, latest, run, caller)
                return await self._gated.align(persona, latest, run, caller, member)
            except ForgottenError:
                raise
            except ConflictError:
                log.debug("persona of user %s changed during alignment, attempt %d", user_key(user), attempt)
        return AlignmentResult(user=user, outcome=Outcome.CONFLICT, reason="the persona changed twice during alignment")

    async def _latest(self, user: str, wanted: int, caller: Caller) -> list[Interaction]:
        """The user's latest interactions with a truth, and as many of their latest lessons, oldest first.

        Nobody asked what is noted (`Interaction.noted`): it cannot be answered again, and is left out.
        """
        read = partial(self._memory.latest, user, wanted, with_truth=True)
        found = [*await caller.patiently(read), *await caller.patiently(partial(read, lessons=True))]
        found = [i for i in found if not i.noted]
        found.sort(key=lambda i: i.time)  # stable: lessons stand behind what they are about
        return found[-wanted:] if self._settings.paper else found

    async def _reworded(
        self, persona: Persona, history: Sequence[Interaction], measure: Likelihoods, caller: Caller, member: Member
    ) -> Reworded:
        """What the persona should say instead, if anything. Other searches take this one's place (`rival_searches`)."""
        return await self._claims.best(persona, history, measure, caller, member)

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

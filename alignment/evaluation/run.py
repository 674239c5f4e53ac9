"""The evaluation of PersonaAgent against baselines: learn in time order, test on what came later.

All methods run in this process over one memory in RAM, with one model and the agent that serves users. Nothing is
fitted on a test item, and no test item enters memory before or after it is asked. What is found out is kept in a journal
as it comes; with the same journal an evaluation that was cut short goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

from alignment.aligner import Aligner
from alignment.evaluation.baselines import (
    ABLATIONS,
    METHODS,
    Answer,
    Answering,
    EvidenceAlone,
    Method,
    agent_settings,
    method_of,
)
from alignment.evaluation.benchmark import Phase
from alignment.evaluation.eval_plan import (
    COLD,
    AskedItem,
    EvaluationOptions,
    Plan,
    code_digest,
    cold_stage,
    needs_model,
    plan_evaluation,
)
from alignment.evaluation.journal import Journal
from alignment.evaluation.metering import CachedEmbedder, SharedLLM, Tally, counted
from alignment.evaluation.metrics import Scored
from alignment.evaluation.records import AlignedRecord, Answered, Built, Records
from alignment.evaluation.result import result_of
from alignment.evaluation.segments import Groups, group_users
from alignment.evaluation.watch import Outage, Progress, Watch, silent
from alignment.learned_commons import learn_into
from alignment.memory_views import MemoryView
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.errors import InvalidInput, LLMError, UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.persona.profile import PAGE, build_profile
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.types import AlignmentResult, Interaction, Kind, user_key, utc_now

__all__ = [
    "ABLATIONS",
    "METHODS",
    "Evaluation",
    "EvaluationOptions",
    "Plan",
    "answers_there",
    "code_changed",
    "needs_model",
    "plan_evaluation",
    "run_evaluation",
]

log = logging.getLogger(__name__)

TELL_S = 1.0  # between two looks at how far it is
NOTE_S = 10.0  # between two notes of the time spent

_MISSED = (LLMError, InvalidInput, UnavailableError)  # one call failed, and the others may well succeed


async def run_evaluation(
    plan: Plan,
    llm: LLM,
    embedder: Embedder,
    journal: Journal | None = None,
    *,
    progress: Progress | None = None,
    teacher: LLM | None = None,
) -> dict[str, Any]:
    """Evaluate methods on a data set, or go on with an evaluation.

    A call that fails is one missing answer: it is scored as a wrong one, counted in `missing`, and asked again when the same
    journal is given again. So are profiles and alignments that failed, with everything that rests on them. Of users who
    are aligned together those who were done before an interruption keep their result, and the others are aligned in a
    smaller cohort; their personas may differ slightly from those of a run that was not interrupted.

    Args:
        plan: what to do.
        llm: the model that all methods use; never called if the plan needs no model.
        embedder: of memory and of free-text scores.
        journal: of this plan's key; None: nothing is kept.
        progress: called with what is being done, steps done and steps in all, and how far the whole is.
        teacher: another model for loss and rewrite.

    Returns:
        A JSON-able dictionary. Scores are as `metrics.summary` makes them.
        `results[phase][method]`: scores; phases of PAHF are `learned` and `shifted`.
        `floors[phase][name]`: scores of what needs neither model nor memory.
        `differences[phase][method]`: how much better personaagent is, paired by item.
        `control[phase]`: scores of `wrong_user` (persona and memory of another user) and `wrong_persona` (persona alone).
        `segments[phase][grouping][group]`: scores with and without alignment, and the gain.
        `cost[method]`: calls, tokens and engine seconds in all, and `per_user` for answering, profile and alignment.
        `cold_start[learned][method]`: scores, if asked for.
        `alignment[method][phase]`: accepted share, outcomes, gate scores, calls, tokens.
        `missing[method]`: answers that failed, where some did; `failed`: how many `profiles` and `alignments` did.
        And `dataset`, `key`, `users`, `methods`, `model` (None if none was needed), `paper`, `noise`, `seed`; and over all
        runs, what was lost included, `seconds` and `requests_sent`.

    Raises:
        UnavailableError: the model or the embedder is down, not for one call only; what was answered is in the journal.
        LLMError, InvalidInput: not one answer is there; the last error.
        StoreError: the journal cannot be written.
    """
    return await Evaluation(plan, llm, embedder, journal or Journal(), progress, teacher).run()


def answers_there(plan: Plan, journal: Journal) -> int:
    """How many of a plan's answers a journal holds."""
    return Records(plan, journal).answered


def code_changed(journal: Journal) -> bool:
    """Whether the program was another one, of the same version, when some of a journal was written."""
    now = code_digest()
    return any(entry.value.get("code") != now for _, entry in journal.all("run"))


class Evaluation:
    """One run: the memory, the methods over it, and the records of what they answered."""

    def __init__(
        self,
        plan: Plan,
        llm: LLM,
        embedder: Embedder,
        journal: Journal,
        progress: Progress | None = None,
        teacher: LLM | None = None,
    ) -> None:
        self._shared = [SharedLLM(model) for model in (llm, teacher) if model is not None]
        self._llm, *taught = [shared.meter() for shared in self._shared]
        self._teacher = taught[0] if taught else None
        self._plan = plan
        self._embedder = CachedEmbedder(embedder)
        self._agent = plan.settings.agent
        # Profiles are built once for all methods that read them, and each is charged for them.
        changed = {"paper": plan.paper, "seed": plan.options.seed, "profile": False}
        self._alignment = plan.settings.alignment.model_copy(update=changed)
        self._slots = asyncio.Semaphore(self._alignment.in_flight)
        self._memory = LocalMemory(self._embedder, plan.settings.memory)
        self._aligned: dict[str, MemoryView] = {}
        self._groups: dict[str, Groups] = {}
        self._journal = journal
        self._records = Records(plan, journal)
        if self._records.damaged:
            log.warning("%d lines of the journal cannot be read; their work is done again", self._records.damaged)
        tell: Progress = progress or silent
        self._watch = Watch(tell, plan.answers, self._records.answered, self._sent)
        self._outage = Outage()
        self._last: LLMError | InvalidInput | UnavailableError | None = None
        self._code = code_digest()
        self._began, self._started = utc_now().isoformat(), time.perf_counter()

    async def run(self) -> dict[str, Any]:
        """Learn and test every phase in its order, then the cold start. Returns and raises as `run_evaluation`."""
        self._note_time()
        beating = asyncio.ensure_future(self._beat())
        try:
            await self._warm()
            for phase in self._plan.benchmark.phases:
                await self._phase(phase)
            for learned in COLD:
                await self._cold_start(learned)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating
            self._note_time()
        if self._last is not None and not self._records.answered:
            raise self._last
        result = self._result()
        self._journal.finish(result, complete=not (result["missing"] or result["failed"]))
        return result

    def _result(self) -> dict[str, Any]:
        plan, runs = self._plan, [entry.value for _, entry in self._journal.all("run")]
        return {
            "dataset": plan.options.dataset,
            "key": plan.key,
            "users": len(plan.benchmark.users),
            "methods": list(plan.options.names),
            "model": plan.model,
            "paper": plan.paper,
            "noise": plan.options.noise,
            "seed": plan.options.seed,
            "seconds": round(sum(run["seconds"] for run in runs), 2),
            "requests_sent": sum(run["requests"] for run in runs),
            **result_of(plan, self._records, self._groups),
        }

    async def _beat(self) -> None:
        """Say how far it is also while nothing ends, and note the time, of which a run that is killed has no last word."""
        noted = time.monotonic()
        while True:
            await asyncio.sleep(TELL_S)
            self._watch.again()
            if time.monotonic() > noted + NOTE_S:
                noted = time.monotonic()
                self._note_time()

    def _sent(self) -> int:
        """Requests that went to the engine in this run."""
        return sum(shared.sent for shared in self._shared)

    def _note_time(self) -> None:
        seconds = round(time.perf_counter() - self._started, 3)
        value = {"seconds": seconds, "requests": self._sent(), "code": self._code}
        self._journal.write(("run", self._began), value)

    # Stages

    async def _phase(self, phase: Phase) -> None:
        """One phase of the data set; memory keeps what earlier phases taught."""
        plan, memory = self._plan, self._memory
        await memory.append_many(phase.learn)
        await self._learn_commons(memory)
        await self._build_profiles(memory, phase.name)
        for name in plan.learners:  # its personas go on from those of the phase before
            episodes: Literal["retrieved", "none"] = "none" if name == "without_memory" else "retrieved"
            view = self._aligned.setdefault(name, MemoryView(memory, episodes=episodes))
            await self._align(phase.name, name, view)
        own = self._aligned.get("personaagent") or MemoryView(memory)
        other = plan.neighbours
        wrong = {
            "wrong_user": MemoryView(memory, personas_of=own, memory_as=other, persona_as=other),
            "wrong_persona": MemoryView(memory, personas_of=own, persona_as=other),
        }
        for asked in plan.asked_in(phase.name):
            if asked.name in wrong and not plan.needs_model:  # what memory alone says of another user
                method: Method = EvidenceAlone(MemoryView(memory, memory_as=other), self._agent)
            elif asked.name in wrong:  # a control: every user is answered as the next one
                method = Answering(Agent(self._llm, wrong[asked.name], self._agent))
            else:
                method = method_of(asked.name, self._llm, memory, self._aligned, self._agent, self._embedder)
            await self._answer_all(asked, method)
        users = plan.benchmark.users
        self._groups[phase.name] = await group_users(memory, users, self._agent.decision, plan.noisy)

    async def _cold_start(self, learned: int) -> None:
        """The first phase's test with only the newest few learned interactions of each user."""
        stage = cold_stage(learned)
        tests = self._plan.asked_in(stage)
        if all(self._records.answer(asked, n) is not None for asked in tests for n in range(len(asked.items))):
            return
        phase, users = self._plan.benchmark.phases[0], self._plan.benchmark.users
        memory = LocalMemory(self._embedder, self._plan.settings.memory)
        await memory.append_many([i for u in users for i in phase.learn_of(u)[-learned:] if learned])
        await self._learn_commons(memory)
        await self._build_profiles(memory, stage)
        for asked in tests:
            view = MemoryView(memory)
            if asked.name == "personaagent":
                await self._align(stage, asked.name, view)
            await self._answer_all(asked, Answering(Agent(self._llm, view, self._agent)))

    # Learning

    async def _warm(self) -> None:
        """Embed every text of the data set in bulk; one by one would take many times as long."""
        texts: dict[str, None] = {}
        for phase in self._plan.benchmark.phases:
            for item in (*phase.learn, *phase.test):
                texts[item.query] = None
                texts.update(dict.fromkeys([item.truth] if item.truth else []))
                texts.update(dict.fromkeys(item.choices or ()))
        await self._embedder.warm(list(texts), lambda done, total: self._watch.stage("embedding", done, total))

    async def _learn_commons(self, memory: Memory) -> None:
        """Learn what the users have in common from what a memory holds; it takes no model, and gives the same each time."""
        if self._alignment.population:
            await learn_into(memory, self._plan.benchmark.users)

    async def _build_profiles(self, memory: Memory, stage: str) -> None:
        """Build the profiles that are not there yet, and put back the others. A user whose build fails goes on without."""
        if not self._plan.profiles:
            return
        users, missing = self._plan.benchmark.users, []
        for user in users:
            built = self._records.profile(stage, user)
            current = await memory.profile(user)
            if built is None:
                missing.append(user)
            elif built.profile is not None and built.profile.version > current.version:
                # It has read all that is there now, which arrived anew in this process.
                put_back = built.profile.model_copy(update={"mark": await _newest(memory, user)})
                await memory.commit_profile(user, put_back, current.version)

        async def one(user: str) -> None:
            profile = error = None
            async with self._slots:
                with counted() as spent:
                    try:
                        budget = self._alignment.profile_tokens
                        profile = (await build_profile(memory, self._embedder, user, self._llm, budget)).profile
                    except _MISSED as e:
                        error = e
                        log.warning("the profile of user %s could not be built: %s", user_key(user), e.code)
            self._records.add_profile(stage, user, Built(profile, error.code if error else None, spent))
            self._watch.step()
            self._outage.saw(error)

        self._begin(f"{stage}: profiles", len(users) - len(missing), len(users))
        await together(one(user) for user in missing)

    async def _align(self, stage: str, name: str, view: MemoryView) -> None:
        """Align in a view for the method `name` who is not aligned yet, and put back the personas of the others."""
        agent = Agent(self._llm, view, agent_settings(name, self._agent))
        aligner = Aligner(agent, view, self._embedder, self._alignment, self._teacher)
        users, missing = self._plan.benchmark.users, []
        for user in users:
            if (done := self._records.alignment(stage, name, user)) is not None:
                view.restore(user, done.personas)
            else:
                missing.append(user)
                # Now and not at the first answer, so that it is in the record, also of who cannot be aligned.
                await agent.ensure_persona(user)
        tallies: dict[str, Tally] = {}

        def within(user: str) -> AbstractContextManager[None]:
            return _counted_for(user, tallies)

        def on_result(result: AlignmentResult) -> None:
            done = AlignedRecord(result, view.own_personas(result.user), tallies.pop(result.user))
            self._records.add_alignment(stage, name, done)
            self._watch.step()
            down = done.failure == UnavailableError.code
            self._outage.saw(UnavailableError(f"alignment failed ({done.failure})") if down else None)

        self._begin(f"{stage}: align {name}", len(users) - len(missing), len(users))
        await aligner.align(missing, f"eval-{stage}", on_result, within)

    # Testing

    async def _answer_all(self, asked: AskedItem, method: Method) -> None:
        """All items of all users in flight together, a user's items next to each other for the prefix cache."""
        items = asked.items
        missing = [n for n in range(len(items)) if self._records.answer(asked, n) is None]

        async def one(number: int) -> None:
            error: LLMError | InvalidInput | UnavailableError | None = None
            async with self._slots:
                with counted() as spent:
                    try:
                        scored = await self._score(items[number], await method.answer(items[number]))
                    except _MISSED as e:
                        error, scored = e, self._plan.benchmark.scored(items[number], None, None, None)
            self._records.add_answer(asked, number, Answered(scored, error.code if error else None, spent))
            self._last = error or self._last
            self._watch.step(answered=error is None)
            self._outage.saw(error)

        self._begin(asked.label, len(items) - len(missing), len(items))
        await together(one(number) for number in missing)

    async def _score(self, item: Interaction, answer: Answer) -> Scored:
        similarity: float | None = None
        if item.kind is Kind.TEXT:
            similarity = 0.0
            if answer.text.strip():
                a, b = await self._embedder.embed([answer.text, item.truth or ""])
                similarity = float(a @ b)
        return self._plan.benchmark.scored(item, answer.text, answer.expected, similarity, answer.probabilities)

    def _begin(self, label: str, done: int, total: int) -> None:
        self._watch.stage(label, done, total)
        self._outage.begin()


@contextmanager
def _counted_for(user: str, tallies: dict[str, Tally]) -> Iterator[None]:
    with counted() as tallies[user]:
        yield


async def _newest(memory: Memory, user: str) -> int:
    """When the newest of a user's truths arrived; 0 if there are none."""
    mark, more = 0, True
    while more:
        found = await memory.truths(user, mark, PAGE)
        mark, more = found.mark, found.more
    return mark

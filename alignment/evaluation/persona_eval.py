"""What personas are worth: learn, align, then measure own, first, other and no persona on items that no search ever saw.

One memory in RAM holds what was learned, the aligner that serves users works on it, and tests never enter it. Controls are
feedback that says nothing (`alignment.evaluation.controls`) and other ways to look for words (`alignment.rival_searches`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.aligner import Aligner
from alignment.evaluation.benchmark import Benchmark, Phase
from alignment.evaluation.controls import Shuffle, randomised, shuffled
from alignment.evaluation.datasets import load_benchmark
from alignment.evaluation.effect import Aligned, effect
from alignment.evaluation.metering import CachedEmbedder, SharedLLM
from alignment.evaluation.persona_arms import Arm, ArmRow, Arms, neutral
from alignment.evaluation.persona_result import Stage, alignment_of, by_luck, general_of, measured, user_gains
from alignment.evaluation.segments import group_users
from alignment.evaluation.watch import Progress
from alignment.learned_commons import learn_into
from alignment.memory_views import MemoryView
from alignment.rival_gepa import Gepa, require_gepa
from alignment.rival_searches import Instructed, MemoryAlone, Search, Watched
from personaagent.agent.agent import Agent
from personaagent.aio import together
from personaagent.errors import InvalidInput
from personaagent.memory.local import LocalMemory
from personaagent.models.files import model_name
from personaagent.protocols import LLM, Embedder, likely
from personaagent.settings import Settings
from personaagent.types import Frozen, Interaction, Persona, PersonaDraft, Usage

__all__ = ["Controls", "PersonaEvaluation", "PersonaPlan", "plan_personas"]

_KINDS: Mapping[Search, type[Watched]] = {
    "claims": Watched,
    "memory": MemoryAlone,
    "instruct": Instructed,
    "gepa": Gepa,
}


class Controls(Frozen):
    """What an evaluation of personas varies.

    Args:
        shuffle: see `controls.shuffled`.
        noise: share of every user's learned truths that are replaced by random ones.
        search: who looks for words.
        seed: of all of them.
        left_out: also measure all free texts of the sample, each left out in turn; it takes an alignment more.
    """

    shuffle: Shuffle = "none"
    noise: float = 0.0
    search: Search = "claims"
    seed: int = 0
    left_out: bool = True

    @property
    def clean(self) -> bool:
        """Whether truths are what users said."""
        return self.shuffle == "none" and self.noise == 0


@dataclass(frozen=True)
class PersonaPlan:
    """An evaluation with its data read: `benchmark` as it is learned and asked, `original` with all truths as they were."""

    controls: Controls
    settings: Settings
    original: Benchmark
    benchmark: Benchmark


def plan_personas(
    dataset: str, path: Path | None, users: int | None, controls: Controls, settings: Settings
) -> PersonaPlan:
    """Read the data set and change its feedback. Starts nothing; may take some seconds for large data.

    Args:
        dataset: a name that `load_benchmark` knows.
        path: its file or folder; None for those that need none.
        users: only the first so many; at least two.
        controls: what is varied.
        settings: of the system; the seed of `controls` is that of alignment.

    Raises:
        InvalidInput: the data cannot be read, has fewer than two users, or the search needs a package that is not there.
    """
    if controls.search == "gepa":
        require_gepa()
    if settings.alignment.paper:
        raise InvalidInput("the paper's loop has no gate to measure; set alignment.paper to false")
    original = load_benchmark(dataset, path, users)
    if len(original.users) < 2:
        raise InvalidInput("another user's persona is needed to compare with; take at least two users")
    benchmark = shuffled(randomised(original, controls.noise, controls.seed), controls.shuffle, controls.seed)
    alignment = settings.alignment.model_copy(update={"seed": controls.seed})
    return PersonaPlan(controls, settings.model_copy(update={"alignment": alignment}), original, benchmark)


class PersonaEvaluation:
    """One run. Alignment asks the model as it does for users, so that its cost is what it costs them; of what measuring asks,
    equal requests are sent once."""

    def __init__(
        self, plan: PersonaPlan, llm: LLM, embedder: Embedder, progress: Progress, teacher: LLM | None = None
    ) -> None:
        """`teacher`: writes edits of claims instead of the model."""
        self._plan = plan
        self._llm = llm
        self._shared = SharedLLM(llm)
        self._asked = 0  # calls of alignment, and of what is left out
        self._teacher = teacher
        self._embedder = CachedEmbedder(embedder)
        self._tell = progress
        self._model = likely(llm)
        self._memory = LocalMemory(self._embedder, plan.settings.memory)
        self._reference = LocalMemory(self._embedder, plan.settings.memory)  # our own search's, for the budget of GEPA
        if self._model is None and plan.controls.search in ("instruct", "gepa"):
            raise InvalidInput(f"--search {plan.controls.search} needs a model whose server tells likelihoods")

    async def run(self) -> dict[str, Any]:
        """Learn, align and measure phase by phase.

        Returns:
            A JSON-able dictionary. `phases[phase]` has `kinds` (see `persona_result.measured`), `alignment`, `general`,
            `by_luck` if feedback was shuffled, and with noise `users` and `groups`, what each gained. `left_out` is
            `effect.effect` over all of the sample, aligned anew on all of it; None where it is not asked for, for other
            data, changed feedback and words written as a whole.
            `measured_on` says so in words. Beside them `dataset`, `users`, `model`, `likelihoods` (whether free text could
            be measured), `shuffle`, `noise`, `search`, `seed`, `missing` (answers that failed, by kind), `requests_sent`,
            `seconds`.

        Raises:
            UnavailableError: the model or the embedder is down.
        """
        started, plan = time.perf_counter(), self._plan
        phases: dict[str, Any] = {}
        missing: dict[str, int] = {}
        for phase in plan.benchmark.phases:
            phases[phase.name], lost = await self._phase(phase)
            missing = {kind: missing.get(kind, 0) + lost.get(kind, 0) for kind in {*missing, *lost}}
        left_out = await self._left_out()
        return {
            "dataset": plan.benchmark.name,
            "users": len(plan.benchmark.users),
            "model": model_name(plan.settings),
            "likelihoods": self._model is not None,
            **plan.controls.model_dump(exclude={"left_out"}),
            "measured_on": "test items, later than all that was learned"
            + ("; left_out: every free text, under words made without it" if left_out else ""),
            "phases": phases,
            "left_out": left_out,
            "missing": missing,
            "requests_sent": self._shared.sent + self._asked,
            "seconds": round(time.perf_counter() - started, 1),
        }

    async def _phase(self, phase: Phase) -> tuple[dict[str, Any], Mapping[str, int]]:
        limits: dict[str, Usage] = {}
        controls = self._plan.controls
        if controls.search == "gepa":
            await self._learn(self._reference, phase.learn)
            ours = self._aligner(Watched, self._reference)
            await self._align(phase.name, ours, self._reference, "what our own search spends")
            limits = ours.spent
        await self._learn(self._memory, phase.learn)
        aligner = self._aligner(_KINDS[controls.search], self._memory)
        if isinstance(aligner, Gepa):
            aligner.limits = limits
        stage = await self._align(phase.name, aligner, self._memory, "aligning")
        rows, gains, lost = await self._measure(phase, stage, aligner.ungated)
        result: dict[str, Any] = {
            "kinds": measured(rows),
            "alignment": alignment_of(stage),
            "general": general_of(stage, gains),
        }
        if controls.shuffle != "none":
            result["by_luck"] = by_luck(stage, self._plan.settings.alignment.text_luck)
        if controls.noise:
            result["users"] = user_gains(rows)
            result["groups"] = await self._groups(rows)
        return result, lost

    async def _learn(self, memory: LocalMemory, items: Sequence[Interaction]) -> None:
        texts = dict.fromkeys(t for i in items for t in (i.query, i.truth, *(i.choices or ())) if t)
        await self._embedder.warm(list(texts), lambda done, total: self._tell("embedding", done, total))
        await memory.append_many(items)
        if self._plan.settings.alignment.population:
            await learn_into(memory, self._plan.benchmark.users)

    def _aligner(self, kind: type[Watched], memory: LocalMemory) -> Watched:
        settings = self._plan.settings
        agent = Agent(self._llm, memory, settings.agent)
        return kind(agent, memory, self._embedder, settings.alignment, self._teacher)

    async def _align(self, phase: str, aligner: Aligner, memory: LocalMemory, what: str) -> Stage:
        users, started = self._plan.benchmark.users, time.perf_counter()
        known = {user: len(await memory.personas(user)) for user in users}
        done = 0

        def step(_: object) -> None:
            nonlocal done
            done += 1
            self._tell(f"{phase}: {what}", done, len(users))

        self._tell(f"{phase}: {what}", 0, len(users))
        results = await aligner.align(users, on_result=step)
        seconds = time.perf_counter() - started
        self._asked += sum(r.calls for r in results)
        # Who was skipped may have no persona yet; the agent makes one at their first turn.
        agent = Agent(self._llm, memory, self._plan.settings.agent)
        after = {user: await agent.ensure_persona(user) for user in users}
        before: dict[str, Persona] = {}
        for user in users:
            versions = await memory.personas(user)
            before[user] = versions[max(0, known[user] - 1)]
        watched = aligner if isinstance(aligner, Watched) else None
        words, spent = (watched.words, watched.spent) if watched else ({}, {})
        return Stage(results, words, spent, before, after, seconds)

    async def _measure(
        self, phase: Phase, stage: Stage, ungated: Mapping[str, PersonaDraft]
    ) -> tuple[list[ArmRow], dict[str, float], Mapping[str, int]]:
        """Rows of all test items of a phase, what general requests gained by user, and answers that failed by kind."""
        settings, users = self._plan.settings, self._plan.benchmark.users
        title, done = f"{phase.name}: measuring", 0

        def step() -> None:
            nonlocal done
            done += 1
            self._tell(title, done, len(phase.test))

        meter = self._shared.meter()
        arms = Arms(meter, likely(meter), self._memory, settings.agent, settings.alignment.in_flight, step)
        first = Agent(
            self._llm, MemoryView(self._memory), settings.agent
        )  # as the user would start now; commits nothing
        personas: dict[str, dict[Arm, PersonaDraft]] = {}
        for n, user in enumerate(users):
            personas[user] = {
                "aligned": stage.after[user],
                "first": await first.ensure_persona(user),
                "other": stage.after[users[(n + 1) % len(users)]],
                "none": neutral(settings.agent),
            }
            if user in ungated:
                personas[user]["ungated"] = ungated[user]
        self._tell(title, 0, len(phase.test))
        found = await together(arms.rows(user, personas[user], phase.test_of(user)) for user in users)
        gains = await together(arms.general(user, personas[user]) for user in users)
        told = {user: gain for user, gain in zip(users, gains, strict=True) if gain is not None}
        return [row for rows in found for row in rows], told, arms.missing

    async def _groups(self, rows: Sequence[ArmRow]) -> dict[str, Any]:
        """Aligned against first persona by group of users."""
        users = self._plan.benchmark.users
        groups = await group_users(self._memory, users, self._plan.settings.agent.decision)
        result: dict[str, Any] = {}
        for grouping, members in groups.items():
            for name, chosen in members.items():
                kinds = measured([row for row in rows if row.user in chosen])
                gained = {kind: cell["differences"].get("aligned-first", {}) for kind, cell in kinds.items()}
                result.setdefault(grouping, {})[name] = {"users": len(chosen), **gained}
        return result

    async def _left_out(self) -> dict[str, Any] | None:
        """The measure of `alignment.evaluation.effect` on the sample, whose test has few free texts."""
        plan = self._plan
        if plan.original.name != "sample" or not (plan.controls.left_out and plan.controls.clean):
            return None
        if self._model is None:
            return None
        if plan.controls.search in ("instruct", "gepa"):  # their words cannot be made anew without each text
            return None
        memory = LocalMemory(self._embedder, plan.settings.memory)
        whole = [i for phase in plan.original.phases for i in (*phase.learn, *phase.test)]
        await self._learn(memory, whole)
        stage = await self._align("left out", self._aligner(_KINDS[plan.controls.search], memory), memory, "aligning")
        users = {}
        for user in plan.original.users:
            history = await memory.latest(user, len(whole), with_truth=True)
            users[user] = Aligned(stage.before[user], stage.after[user], history)
        self._tell("left out: measuring", 0, 0)
        agent = Agent(self._llm, memory, plan.settings.agent)
        found = await effect(agent, self._model, users, plan.settings.agent.persona_tokens)
        self._asked += found.calls
        return {
            "own_minus_other": found.own_minus_other.as_dict(),
            "text_gain": found.gain.as_dict(),
            "alignment": alignment_of(stage),
        }

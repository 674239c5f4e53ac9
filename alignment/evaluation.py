"""The evaluation of PersonaAgent against baselines: learn in time order, test on what came later.

All methods run in this process over one memory in RAM, with one model and the agent that serves users. Nothing is
fitted on a test item, and no test item enters memory before or after it is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from alignment.aligner import Aligner
from alignment.baselines import ABLATIONS, BASELINES, METHODS, Answer, Answering, Method, agent_settings, method_of
from alignment.benchmarks import Benchmark, Phase, floors, load_benchmark, spoil, spread
from alignment.metering import CachedEmbedder, Meter, SharedLLM, spent
from alignment.metrics import Scored, gain, outcomes, summary
from alignment.segments import Groups, group_users, segment_scores
from alignment.views import View
from personaagent.agent import Agent
from personaagent.errors import InvalidInput, LLMError
from personaagent.local_memory import LocalMemory
from personaagent.models import model_name
from personaagent.profile import build_profile
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import Settings
from personaagent.tasks import together
from personaagent.types import AlignmentResult, Interaction, Kind

__all__ = ["ABLATIONS", "METHODS", "Evaluation", "run_evaluation"]

COLD = (0, 1, 3, 10)  # learned interactions
COLD_ITEMS = 10  # test items per user of the cold start
READ_PROFILE = frozenset({"pag", "react", "persona"})  # baselines that pay for the profile

Progress = Callable[[str, int, int], None]


async def run_evaluation(
    dataset: str,
    path: Path | str | None,
    methods: Sequence[str],
    users: int | None,
    llm: LLM,
    embedder: Embedder,
    settings: Settings,
    *,
    paper: bool = False,
    ablate: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
    cold_start: bool = True,
    controls: bool = True,
    noise: float = 0.0,
    teacher: LLM | None = None,
) -> dict[str, Any]:
    """Evaluate methods on a data set.

    Args:
        dataset: `pahf`, `movielens`, `lamp` or `history`.
        path: the data set's folder or file.
        methods: of `METHODS`.
        users: how many, in the data set's order; None: all.
        llm: the model that all methods use.
        embedder: of memory and of free-text scores.
        settings: agent, memory and alignment settings.
        paper: align as in the paper, without the gate.
        ablate: of `ABLATIONS`; each adds a method `without_<part>`.
        seed: of alignment, noise and intervals.
        progress: called with what is being done, steps done and steps in all.
        cold_start: also test with 0, 1, 3 and 10 learned interactions.
        controls: also answer every user with another user's persona and memory.
        noise: share of the learned truths of every other user that are replaced by random ones.
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
        And `dataset`, `users`, `methods`, `model`, `paper`, `noise`, `seed`, `seconds`, `requests_sent`.

    Raises:
        InvalidInput: unknown data set, method or ablation, or files that cannot be read.
        UnavailableError: the model or embedder is down; a test with missing answers would mean nothing.
    """
    _known("method", methods, METHODS)
    _known("ablation", ablate, ABLATIONS)
    if not methods:
        raise InvalidInput(f"name at least one method of {', '.join(METHODS)}")
    benchmark = await asyncio.to_thread(load_benchmark, dataset, None if path is None else Path(path), users)
    noisy: frozenset[str] = frozenset()
    if noise > 0:
        benchmark, noisy = spoil(benchmark, noise, seed)
    run = Evaluation(benchmark, methods, ablate, llm, embedder, settings, paper, seed, progress, teacher, noisy)
    started = time.perf_counter()
    await run.phases(controls)
    result = run.result()
    if cold_start:
        result["cold_start"] = await run.cold_start()
    head = {
        "dataset": dataset,
        "users": len(benchmark.users),
        "methods": list(run.names),
        "model": model_name(settings),
        "paper": paper,
        "noise": noise,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 2),
        "requests_sent": run.shared.sent,
    }
    return {**head, **result}


class Evaluation:
    """One run: the memory, the methods over it, what they answered and what it cost."""

    def __init__(
        self,
        benchmark: Benchmark,
        methods: Sequence[str],
        ablate: Sequence[str],
        llm: LLM,
        embedder: Embedder,
        settings: Settings,
        paper: bool,
        seed: int,
        progress: Progress | None,
        teacher: LLM | None,
        noisy: frozenset[str],
    ) -> None:
        self.shared = SharedLLM(llm)
        self._teacher = SharedLLM(teacher) if teacher is not None else None
        self.names = tuple(dict.fromkeys((*methods, *(f"without_{part}" for part in ablate))))
        self._benchmark = benchmark
        self._embedder = CachedEmbedder(embedder)
        self._settings = settings
        # Profiles are built once for all methods that read them, and each is charged for them.
        changed = {"paper": paper or settings.alignment.paper, "seed": seed, "profile": False}
        self._alignment = settings.alignment.model_copy(update=changed)
        self._seed = seed
        self._progress = progress or (lambda what, done, total: None)
        self._noisy = noisy
        self._slots = asyncio.Semaphore(settings.alignment.in_flight)
        self._memory = LocalMemory(self._embedder, settings.memory)
        self._meters: dict[tuple[str, str], Meter] = {}
        self._aligned: dict[str, View] = {}
        self._answers: dict[str, dict[str, list[Scored]]] = {}
        self._control: dict[str, dict[str, list[Scored]]] = {}
        self._alignments: dict[str, dict[str, list[AlignmentResult]]] = {}
        self._groups: dict[str, Groups] = {}

    async def phases(self, controls: bool) -> None:
        """Learn and test every phase in its order; memory keeps what earlier phases taught."""
        await self._warm()
        for phase in self._benchmark.phases:
            await self._memory.append_many(phase.learn)
            await self._build_profiles(self._memory, phase.name)
            for name in self._learners():
                await self._align(name, phase.name)
            answers = self._answers[phase.name] = {}
            for name in self.names:
                llm = self._meter(name, "answer")
                method = method_of(name, llm, self._memory, self._aligned, self._settings.agent, self._embedder)
                answers[name] = await self._answer_all(method, phase.test, f"{phase.name}: {name}")
            decision = self._settings.agent.decision
            self._groups[phase.name] = await group_users(self._memory, self._benchmark.users, decision, self._noisy)
            if controls and len(self._benchmark.users) > 1 and {"persona", "personaagent"} & set(self.names):
                self._control[phase.name] = await self._controls(phase)

    def result(self) -> dict[str, Any]:
        """Everything but the cold start, JSON-able."""
        results: dict[str, Any] = {}
        differences: dict[str, Any] = {}
        segments: dict[str, Any] = {}
        for phase, answers in self._answers.items():
            results[phase] = {name: summary(items, self._seed) for name, items in answers.items()}
            if ours := answers.get("personaagent"):
                others = {name: items for name, items in answers.items() if name != "personaagent"}
                differences[phase] = {name: gain(ours, items, self._seed) for name, items in others.items()}
            segments[phase] = segment_scores(self._groups[phase], answers, self._seed)
        return {
            "results": results,
            "floors": {p.name: floors(self._benchmark, p, self._seed) for p in self._benchmark.phases},
            "differences": differences,
            "control": {
                phase: {name: summary(items, self._seed) for name, items in wrong.items()}
                for phase, wrong in self._control.items()
            },
            "segments": segments,
            "cost": {name: self._cost(name) for name in self.names},
            "alignment": {
                name: {phase: outcomes(results) for phase, results in by_phase.items()}
                for name, by_phase in self._alignments.items()
            },
        }

    async def cold_start(self) -> dict[str, Any]:
        """The first phase's test with only the newest 0, 1, 3, 10 learned interactions of each user."""
        phase = self._benchmark.phases[0]
        names = [n for n in ("persona", "personaagent") if n in self.names]
        items = tuple(i for user in self._benchmark.users for i in spread(phase.test_of(user), COLD_ITEMS))
        result: dict[str, Any] = {}
        for n in COLD if names else ():
            memory = LocalMemory(self._embedder, self._settings.memory)
            await memory.append_many([i for u in self._benchmark.users for i in phase.learn_of(u)[-n:] if n])
            await self._build_profiles(memory, f"cold start {n}")
            cell = result[str(n)] = {}
            for name in names:
                view = View(memory)
                agent = Agent(self._meter(name, f"cold {n}"), view, self._settings.agent)
                if name == "personaagent":
                    await self._aligner(f"cold {n}", agent, view).align(self._benchmark.users, f"cold-{n}")
                answered = await self._answer_all(Answering(agent), items, f"cold start {n}: {name}")
                cell[name] = summary(answered, self._seed)
        return result

    # Learning

    async def _warm(self) -> None:
        """Embed every text of the data set in bulk; one by one would take many times as long."""
        texts: dict[str, None] = {}
        for phase in self._benchmark.phases:
            for item in (*phase.learn, *phase.test):
                texts[item.query] = None
                texts.update(dict.fromkeys([item.truth] if item.truth else []))
                texts.update(dict.fromkeys(item.choices or ()))
        await self._embedder.warm(list(texts), lambda done, total: self._progress("embedding", done, total))

    def _learners(self) -> list[str]:
        wanted = {"personaagent" if n == "without_persona" else n for n in self.names}
        return [n for n in ("personaagent", "without_memory", "without_actions") if n in wanted]

    async def _build_profiles(self, memory: Memory, label: str) -> None:
        if not any(n in READ_PROFILE or n not in BASELINES for n in self.names):
            return
        meter = self._meter("", "profile")
        users = self._benchmark.users

        async def one(user: str) -> None:
            async with self._slots:
                await build_profile(memory, self._embedder, user, meter, self._settings.alignment.profile_tokens)

        await self._together((one(u) for u in users), len(users), f"{label}: profiles")

    async def _align(self, name: str, phase: str) -> None:
        """Align for the method `name`; its personas go on from those of the phase before."""
        episodes: Literal["retrieved", "none"] = "none" if name == "without_memory" else "retrieved"
        view = self._aligned.setdefault(name, View(self._memory, episodes=episodes))
        agent = Agent(self._meter(name, "align"), view, agent_settings(name, self._settings.agent))
        users, done = self._benchmark.users, 0

        def on_result(result: AlignmentResult) -> None:
            nonlocal done
            done += 1
            self._progress(f"{phase}: align {name}", done, len(users))

        results = await self._aligner(name, agent, view).align(users, f"eval-{phase}", on_result)
        self._alignments.setdefault(name, {})[phase] = results

    def _aligner(self, name: str, agent: Agent, memory: Memory) -> Aligner:
        teacher = self._meter(name, "teach", self._teacher) if self._teacher is not None else None
        return Aligner(agent, memory, self._embedder, self._alignment, teacher)

    # Testing

    async def _controls(self, phase: Phase) -> dict[str, list[Scored]]:
        """Every user answered as the next one: with their persona and memory, and with their persona alone."""
        users = self._benchmark.users
        other = dict(zip(users, (*users[1:], users[0]), strict=True))
        own = self._aligned.get("personaagent") or View(self._memory)
        wrong = {
            "wrong_user": View(self._memory, personas_of=own, memory_as=other, persona_as=other),
            "wrong_persona": View(self._memory, personas_of=own, persona_as=other),
        }
        answers: dict[str, list[Scored]] = {}
        for name, view in wrong.items():
            agent = Agent(self._meter(name, "answer"), view, self._settings.agent)
            answers[name] = await self._answer_all(Answering(agent), phase.test, f"{phase.name}: {name}")
        return answers

    async def _answer_all(self, method: Method, items: Sequence[Interaction], label: str) -> list[Scored]:
        """All items of all users in flight together, a user's items next to each other for the prefix cache."""

        async def one(item: Interaction) -> Scored:
            async with self._slots:
                try:
                    answer = await method.answer(item)
                except (LLMError, InvalidInput):  # this prompt failed, not the engine: a wrong answer
                    return await self._score(item, None)
                return await self._score(item, answer)

        return await self._together((one(i) for i in items), len(items), label)

    async def _score(self, item: Interaction, answer: Answer | None) -> Scored:
        if answer is None:
            return self._benchmark.scored(item, None, None, None)
        similarity: float | None = None
        if item.kind is Kind.TEXT:
            similarity = 0.0
            if answer.text.strip():
                a, b = await self._embedder.embed([answer.text, item.truth or ""])
                similarity = float(a @ b)
        return self._benchmark.scored(item, answer.text, answer.expected, similarity, answer.probabilities)

    # Counting

    def _meter(self, name: str, part: str, shared: SharedLLM | None = None) -> Meter:
        return self._meters.setdefault((name, part), (shared or self.shared).meter())

    def _cost(self, name: str) -> dict[str, Any]:
        """What a method would have cost alone: calls, tokens and its share of the engine's busy seconds."""
        ours = "personaagent" if name == "without_persona" else name  # whose aligned persona it borrows
        profile = READ_PROFILE if name in BASELINES else {name}
        parts = {
            "answer": spent([self._meters.get((name, "answer"))]),
            "profile": spent([self._meters.get(("", "profile"))] if name in profile else []),
            "align": spent([self._meters.get((ours, part)) for part in ("align", "teach")]),
        }
        users = len(self._benchmark.users)
        per_user = {part: {key: round(value / users, 4) for key, value in cost.items()} for part, cost in parts.items()}
        total = {key: round(sum(cost[key] for cost in parts.values()), 4) for key in parts["answer"]}
        return {**total, "per_user": per_user}

    async def _together(self, work: Iterable[Any], total: int, label: str) -> list[Any]:
        done = 0
        self._progress(label, 0, total)

        async def counted(one: Any) -> Any:
            nonlocal done
            result = await one
            done += 1
            self._progress(label, done, total)
            return result

        return await together(counted(w) for w in work)


def _known(what: str, names: Sequence[str], valid: Sequence[str]) -> None:
    for name in names:
        if name not in valid:
            raise InvalidInput(f"there is no {what} {name!r}; choose from {', '.join(valid)}")

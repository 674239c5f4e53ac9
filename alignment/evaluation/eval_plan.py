"""What an evaluation is going to do, known before anything is started: its data, its questions, and its name.

The name (`Plan.key`) is a digest of everything that the result depends on, so the same command finds its own journal again
and a changed one never goes on in another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.evaluation.baselines import ABLATIONS, BASELINES, METHODS, MODEL_FREE
from alignment.evaluation.benchmark import Benchmark
from alignment.evaluation.datasets import load_benchmark, spoil, spread
from personaagent import __version__
from personaagent.errors import InvalidInput
from personaagent.models.files import model_name
from personaagent.settings import Settings
from personaagent.types import Frozen, Interaction

__all__ = [
    "COLD",
    "CONTROLS",
    "AskedItem",
    "EvaluationOptions",
    "Plan",
    "code_digest",
    "cold_stage",
    "learner_of",
    "needs_model",
    "plan_evaluation",
    "reads_profile",
]

COLD = (0, 1, 3, 10)  # learned interactions
COLD_ITEMS = 10  # test items per user of the cold start
READ_PROFILE = frozenset({"pag", "react", "persona"})  # baselines that pay for the profile
CONTROLS = ("wrong_user", "wrong_persona")
# Settings that change where and how fast something is done, or that are replaced by options, but never the result.
_MEMORY = frozenset(
    {
        "uri", "token", "collection", "shards", "tenant", "idle_s", "max_ram_mb", "flush_s",
        "retention_days", "redact", "encryption_key", "audit_reads", "limits", "user_ram_share",
    }
)  # fmt: skip
_ALIGNMENT = frozenset(
    {
        "paper", "seed", "profile", "teacher", "retry_s", "actors", "max_actors", "actor_cpus", "users_per_batch", "in_flight",
        "online_every", "online_poll_s", "online_stalled_s",
    }
)  # fmt: skip


class EvaluationOptions(Frozen):
    """What an evaluation compares, and how.

    Args:
        dataset: a name that `load_benchmark` knows.
        methods: of `METHODS`.
        ablate: of `ABLATIONS`; each adds a method `without_<part>`.
        users: how many, in the data set's order; None: all.
        paper: align as in the paper, without the gate.
        noise: share of the learned truths of every other user that are replaced by random ones.
        seed: of alignment, noise and intervals.
        cold_start: also test with 0, 1, 3 and 10 learned interactions.
        controls: also answer every user with another user's persona and memory.
    """

    dataset: str
    methods: tuple[str, ...]
    ablate: tuple[str, ...] = ()
    users: int | None = None
    paper: bool = False
    noise: float = 0.0
    seed: int = 0
    cold_start: bool = True
    controls: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """All methods, with those that the ablations add."""
        return tuple(dict.fromkeys((*self.methods, *(f"without_{part}" for part in self.ablate))))


def needs_model(methods: Sequence[str], ablate: Sequence[str] = ()) -> bool:
    """Whether any of these methods asks the language model."""
    return bool(ablate) or any(name not in MODEL_FREE for name in methods)


@dataclass(frozen=True)
class AskedItem:
    """One method's test in one stage of an evaluation: a phase of the data set, or a cold start."""

    stage: str
    name: str
    items: tuple[Interaction, ...]

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.stage}: {self.name}"


@dataclass(frozen=True)
class Plan:
    """An evaluation with its data read. `asked` are its tests, in their order; `noisy` are the users whose truths were spoilt;
    `about` is what its name is made from, JSON-able and without secrets."""

    options: EvaluationOptions
    settings: Settings
    benchmark: Benchmark
    noisy: frozenset[str]
    asked: tuple[AskedItem, ...]
    about: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The evaluation's name, which will do as the name of a folder."""
        raw = json.dumps(self.about, sort_keys=True).encode("ascii")
        return f"{self.options.dataset}-{hashlib.blake2b(raw, digest_size=8).hexdigest()}"

    @property
    def answers(self) -> int:
        """How many answers it takes."""
        return sum(len(a.items) for a in self.asked)

    @property
    def needs_model(self) -> bool:
        """Whether the language model is asked at all."""
        return needs_model(self.options.methods, self.options.ablate)

    @property
    def model(self) -> str | None:
        """The model's name, if one is needed."""
        return model_name(self.settings) if self.needs_model else None

    @property
    def paper(self) -> bool:
        """Whether alignment is the paper's loop."""
        return self.options.paper or self.settings.alignment.paper

    @property
    def learners(self) -> tuple[str, ...]:
        """Methods that are aligned."""
        wanted = {learner_of(name) for name in self.options.names}
        return tuple(n for n in ("personaagent", "without_memory", "without_actions") if n in wanted)

    @property
    def profiles(self) -> bool:
        """Whether any method reads profiles."""
        return any(reads_profile(name) for name in self.options.names)

    @property
    def neighbours(self) -> dict[str, str]:
        """Whose persona and memory stand in for a user's own in the controls."""
        users = self.benchmark.users
        return dict(zip(users, (*users[1:], users[0]), strict=True))

    def asked_in(self, stage: str) -> tuple[AskedItem, ...]:
        """The tests of one stage."""
        return tuple(a for a in self.asked if a.stage == stage)


def learner_of(name: str) -> str | None:
    """The method whose aligned personas a method answers with, if any."""
    if name in BASELINES or name == "without_alignment":
        return None
    return "personaagent" if name == "without_persona" else name  # which borrows what alignment fitted


def reads_profile(name: str) -> bool:
    """Whether a method reads the profile, or personas that were made from it."""
    return name in READ_PROFILE or name not in BASELINES


def cold_stage(learned: int) -> str:
    """The stage that tests with so many learned interactions."""
    return f"cold start {learned}"


def code_digest() -> str:
    """A digest of the program's own files: while it is being worked on, its version does not tell what it did."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).resolve().parents[2]
    for package in ("alignment", "personaagent"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def plan_evaluation(options: EvaluationOptions, path: Path | None, settings: Settings) -> Plan:
    """Read the data set and say what will be asked. Starts nothing; may take some seconds for large data.

    Args:
        options: what to compare.
        path: the data set's folder or file; None for those that need none.
        settings: agent, memory and alignment settings, and the model's name.

    Raises:
        InvalidInput: unknown data set, method or ablation, files that cannot be read, or a model without a name.
    """
    _known("method", options.methods, METHODS)
    _known("ablation", options.ablate, ABLATIONS)
    if not options.methods:
        raise InvalidInput(f"name at least one method of {', '.join(METHODS)}")
    benchmark = load_benchmark(options.dataset, path, options.users)
    about = _about(options, benchmark, settings)
    noisy: frozenset[str] = frozenset()
    if options.noise > 0:
        benchmark, noisy = spoil(benchmark, options.noise, options.seed)
    return Plan(options, settings, benchmark, noisy, _asked(options, benchmark), about)


def _known(what: str, names: Sequence[str], valid: Sequence[str]) -> None:
    for name in names:
        if name not in valid:
            raise InvalidInput(f"there is no {what} {name!r}; choose from {', '.join(valid)}")


def _asked(options: EvaluationOptions, benchmark: Benchmark) -> tuple[AskedItem, ...]:
    # Where no persona is tested, memory alone is also asked about another user.
    ours = [name for name in ("persona", "personaagent") if name in options.names]
    asked: list[AskedItem] = []
    controls: tuple[str, ...]
    for phase in benchmark.phases:
        controls = CONTROLS if ours else CONTROLS[:1] if "evidence" in options.names else ()
        if not options.controls or len(benchmark.users) < 2:
            controls = ()
        asked += (AskedItem(phase.name, name, phase.test) for name in (*options.names, *controls))
    if options.cold_start and ours:
        first = benchmark.phases[0]
        items = tuple(i for user in benchmark.users for i in spread(first.test_of(user), COLD_ITEMS))
        asked += (AskedItem(cold_stage(n), name, items) for n in COLD for name in ours)
    return tuple(asked)


def _about(options: EvaluationOptions, benchmark: Benchmark, settings: Settings) -> dict[str, Any]:
    """Everything that the result depends on. Secrets are masked by their type, and left out besides."""
    paper = options.paper or settings.alignment.paper
    about: dict[str, Any] = {
        "version": __version__,
        "data": {"name": benchmark.name, "users": len(benchmark.users), "digest": _digest(benchmark)},
        "options": {**options.model_dump(mode="json", exclude={"dataset", "users"}), "paper": paper},
        "embedder": settings.embedder.model,
        "agent": settings.agent.model_dump(mode="json"),
        "memory": settings.memory.model_dump(mode="json", exclude=set(_MEMORY)),
        "population": settings.alignment.population,  # evidence starts from it also where no model is needed
    }
    if needs_model(options.methods, options.ablate):
        engine = settings.llm.model_dump(mode="json", include={"max_model_len", "dtype", "engine_kwargs"})
        raw = json.dumps(engine, sort_keys=True, default=str).encode("ascii")
        about |= {
            "model": model_name(settings),
            "engine": hashlib.blake2b(raw, digest_size=8).hexdigest(),  # may hold anything, so only its digest is kept
            "teacher": settings.alignment.teacher.model,
            "alignment": settings.alignment.model_dump(mode="json", exclude=set(_ALIGNMENT)),
        }
    return about


def _digest(benchmark: Benchmark) -> str:
    """A digest of everything in a data set, in its order."""
    digest = hashlib.blake2b(digest_size=16)

    def add(part: Mapping[str, Any]) -> None:
        digest.update(json.dumps(part, sort_keys=True, default=str).encode("ascii") + b"\n")

    add(benchmark.model_dump(exclude={"phases"}))
    for phase in benchmark.phases:
        add(phase.model_dump(exclude={"learn", "test"}))
        for items in (phase.learn, phase.test):
            add({"items": len(items)})
            for item in items:
                add(item.model_dump())
    return digest.hexdigest()

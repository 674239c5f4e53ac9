"""How fast alignment is: batched, one call at a time, and against the engine's own limit; and what it does to chat.

Words of a persona are judged by likelihoods of what users said, where the model tells them, else by scores of simulated
answers. The former is measured in full; the latter stands beside it, under `simulated`.

The parts here know a model and a memory by their protocols. What starts the real system, the bare engine and a job over
scripted users is in `serve.bench.alignment`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from alignment.aligner import Aligner
from alignment.memory_views import MemoryView
from alignment.recorder import Recorder, Timed, WallClock
from personaagent.agent.agent import Agent, Turn
from personaagent.models.wrapper import ChatOnly
from personaagent.protocols import LLM, Embedder, Memory, likely
from personaagent.settings import AlignmentSettings, Settings
from personaagent.types import AlignmentResult, ChatRequest, LikelihoodRequest, Message, Outcome, Usage
from serve.bench.workload import made_up_length, made_up_user

__all__ = ["Measured", "align_all", "fill", "probe", "report"]

CHAT_TOKENS = 16  # of a probe's answer
Progress = Callable[[str, int, int], None]


@dataclass
class Measured:
    """One way of aligning some users: how long it took, and what went to the engine.

    Attributes:
        stages: what each stage of alignment asked of the model.
        calls_s: seconds during which calls were in flight, divided among their stages.
        between_s: seconds during which none was, by what was done or waited for instead.
        likelihoods: whether words were judged by them.
    """

    users: int
    seconds: float
    usage: Usage
    results: list[AlignmentResult]
    requests: list[ChatRequest | LikelihoodRequest] = field(default_factory=list)
    stages: Mapping[str, Usage] = field(default_factory=dict)
    calls_s: Mapping[str, float] = field(default_factory=dict)
    between_s: Mapping[str, float] = field(default_factory=dict)
    likelihoods: bool = True

    @property
    def users_per_min(self) -> float:
        """Users aligned per minute."""
        return 60 * self.users / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Prompt and completion tokens per second."""
        return (self.usage.prompt_tokens + self.usage.completion_tokens) / self.seconds


async def align_all(
    llm: LLM,
    memory: Memory,
    embedder: Embedder,
    settings: Settings,
    users: Sequence[str],
    *,
    sequential: bool = False,
    simulated: bool = False,
    salt: str | None = None,
) -> Measured:
    """Align users that are in memory, from their initial personas; what comes of it is thrown away.

    Args:
        llm: the model.
        memory: holds the users; it is only read, so that the same users can be aligned again.
        embedder: of free-text scores.
        settings: of agent and alignment.
        users: whom to align.
        sequential: one user, and one request to the model, at a time.
        simulated: words are judged by simulated answers, even if the model tells likelihoods.
        salt: of the engine's prefix cache.
    """
    started, clock = time.perf_counter(), WallClock()
    recorder = Recorder(ChatOnly(llm) if simulated else llm, salt, singly=sequential, clock=clock)
    view = cast(Memory, Timed(MemoryView(memory), "memory", clock))
    alignment = settings.alignment
    if sequential:
        alignment = alignment.model_copy(update={"in_flight": 1})
    agent = Agent(recorder, view, settings.agent)
    aligner = Aligner(agent, view, cast(Embedder, Timed(embedder, "embedding", clock)), alignment)
    results = await aligner.align(users, "bench")
    seconds, (calls, between) = time.perf_counter() - started, clock.seconds()
    return Measured(
        len(users),
        seconds,
        recorder.usage,
        results,
        recorder.requests,
        recorder.stages,
        calls,
        between,
        likely(recorder) is not None,
    )


async def probe(
    agent: Agent, users: Sequence[str], count: int, until: asyncio.Future[Any] | None = None
) -> list[float]:
    """Latencies in ms of short chats, one after the other, each with another prompt.

    Args:
        agent: answers the chats.
        users: take turns.
        count: chats, if `until` is not given.
        until: chat as long as it is not done, at least once.
    """
    latencies: list[float] = []
    while (len(latencies) < count) if until is None else (not latencies or not until.done()):
        n = len(latencies)
        text = f"Note {n}: tell me in a few words what I might like this evening."
        turn = Turn(
            user=users[n % len(users)],
            messages=(Message(role="user", content=text),),
            max_tokens=CHAT_TOKENS,
            remember=False,
        )
        started = time.perf_counter()
        await agent.respond(turn)
        latencies.append(1000 * (time.perf_counter() - started))
    return latencies


async def fill(memory: Memory, settings: AlignmentSettings, users: int, first: int = 0) -> list[str]:
    """Put made-up users with just the history that one alignment looks at into memory; their ids."""
    length = made_up_length(settings)
    names = []
    for number in range(first, first + users):
        history = made_up_user(number, length)
        await memory.append(history[0].user, history)
        names.append(history[0].user)
    return names


def report(
    batched: Measured,
    sequential: Measured,
    offline_tokens_per_s: float | None,
    idle: Sequence[float],
    aligning: Sequence[float],
    simulated: Measured | None = None,
) -> dict[str, Any]:
    """The measurements under the keys that `bench alignment --json` prints; what could not be measured is null.

    Args:
        batched: all users together.
        sequential: some of them, one request at a time.
        offline_tokens_per_s: of the bare engine, for the requests of `batched`.
        idle: latencies of chats alone.
        aligning: latencies of chats beside a run like `batched`.
        simulated: the users of `batched`, whose words were judged by simulated answers; None if those of `batched` were.
    """
    share = batched.tokens_per_s / offline_tokens_per_s if offline_tokens_per_s else None
    p95 = {"idle": _percentile(idle, 95), "aligning": _percentile(aligning, 95)}
    return {
        "words_judged_by": "likelihoods" if batched.likelihoods else "simulated answers",
        "users": batched.users,
        **_cost(batched),
        "users_per_min": {
            "batched": round(batched.users_per_min, 2),
            "sequential": round(sequential.users_per_min, 2),
        },
        "speedup": round(batched.users_per_min / sequential.users_per_min, 3),
        "tokens_per_s": {
            "batched": round(batched.tokens_per_s, 1),
            "offline": round(offline_tokens_per_s, 1) if offline_tokens_per_s else None,
        },
        "engine_share": round(share, 4) if share is not None else None,
        "chat_p50_ms": {"idle": _percentile(idle, 50), "aligning": _percentile(aligning, 50)},
        "chat_p95_ms": p95,
        "chat_p95_ratio": round(p95["aligning"] / p95["idle"], 2) if p95["idle"] else None,
        "chats": {"idle": len(idle), "aligning": len(aligning)},
        "sequential_users": sequential.users,
        "seconds": {"batched": round(batched.seconds, 2), "sequential": round(sequential.seconds, 2)},
        "failed": sum(r.outcome is Outcome.FAILED for r in (*batched.results, *sequential.results)),
        "stages": _stages(batched, sequential),
        "between_calls": _between(batched),
        "simulated": {
            **_cost(simulated),
            "users_per_min": {"batched": round(simulated.users_per_min, 2)},
            "failed": sum(r.outcome is Outcome.FAILED for r in simulated.results),
            "stages": _stages(simulated),
            "between_calls": _between(simulated),
        }
        if simulated is not None
        else None,
    }


def _cost(measured: Measured) -> dict[str, Any]:
    """What a user costs. `prefilled` are prompt tokens that were not in the prefix cache."""
    usage = measured.usage
    return {
        "seconds_per_user": round(measured.seconds / measured.users, 3),
        "calls_per_user": round(usage.calls / measured.users, 1),
        "tokens_per_user": round((usage.prompt_tokens + usage.completion_tokens) / measured.users),
        "prefilled_per_user": round((usage.prompt_tokens - usage.cached_tokens) / measured.users),
        "written_per_user": round(usage.completion_tokens / measured.users),
        "cache_hit_rate": round(usage.cached_tokens / max(1, usage.prompt_tokens), 4),
        "accepted": sum(r.outcome is Outcome.ACCEPTED for r in measured.results),
    }


def _stages(measured: Measured, sequential: Measured | None = None) -> dict[str, dict[str, float]]:
    """What each stage of alignment costs a user, the longest first.

    Batched, `seconds` are a share of the time during which calls were in flight; one call at a time, they are the stage's.
    """
    found = {}
    for name in sorted(measured.stages, key=lambda name: -measured.calls_s.get(name, 0.0)):
        usage = measured.stages[name]
        found[name] = {
            "seconds": round(measured.calls_s.get(name, 0.0) / measured.users, 3),
            "calls": round(usage.calls / measured.users, 1),
            "tokens": round((usage.prompt_tokens + usage.completion_tokens) / measured.users),
            "prefilled": round((usage.prompt_tokens - usage.cached_tokens) / measured.users),
            "written": round(usage.completion_tokens / measured.users),
        }
        if sequential is not None:
            found[name]["sequential_seconds"] = round(sequential.calls_s.get(name, 0.0) / sequential.users, 3)
    return found


def _between(measured: Measured) -> dict[str, Any]:
    """The time during which no call was in flight, so that the engine had nothing to do: its share, and seconds per user."""
    share = sum(measured.between_s.values()) / measured.seconds
    parts = sorted(measured.between_s.items(), key=lambda part: -part[1])
    return {"share": round(share, 4), "seconds": {name: round(s / measured.users, 3) for name, s in parts}}


def _percentile(values: Sequence[float], q: float) -> float:
    return round(float(np.percentile(values, q)), 1)

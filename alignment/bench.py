"""How fast alignment is: batched, one call at a time, and against the engine's own limit; and what it does to chat.

The parts here know a model and a memory by their protocols. What starts the real system, the bare engine and a job over
scripted users is in `serve.bench`, which is imported when `run` needs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.aligner import Aligner
from alignment.splits import window
from alignment.views import View
from alignment.workload import made_up_user
from personaagent.agent import Agent, Turn
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AlignmentSettings, Settings
from personaagent.types import AlignmentResult, ChatRequest, ChatResult, Message, Usage

__all__ = ["Measured", "Recorder", "align_all", "fill", "probe", "report", "run"]

SCRIPTED_USERS = (1_000, 10_000)
CHAT_TOKENS = 16  # of a probe's answer
Progress = Callable[[str, int, int], None]


class Recorder:
    """An `LLM` that passes calls on, counts them and keeps the requests for a replay.

    `salt` keeps the engine's prefix cache of one measurement from speeding up the next.
    """

    def __init__(self, llm: LLM, salt: str | None = None) -> None:
        self._llm = llm
        self._salt = salt
        self.requests: list[ChatRequest] = []
        self.usage = Usage()

    @property
    def context_length(self) -> int:
        """See `LLM`."""
        return self._llm.context_length

    async def chat(self, request: ChatRequest) -> ChatResult:
        """See `LLM`."""
        salted = request
        if self._salt is not None:
            salted = request.model_copy(update={"extra": {**request.extra, "cache_salt": self._salt}})
        result = await self._llm.chat(salted)
        self.requests.append(request)
        self.usage = self.usage + result.usage
        return result

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """The whole answer as one piece; alignment does not stream."""
        result = await self.chat(request)
        yield result.text
        yield result


@dataclass
class Measured:
    """One way of aligning some users: how long it took, and what went to the engine."""

    users: int
    seconds: float
    usage: Usage
    results: list[AlignmentResult]
    requests: list[ChatRequest] = field(default_factory=list)

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
    in_flight: int | None = None,
    salt: str | None = None,
) -> Measured:
    """Align users that are in memory, from their initial personas; what comes of it is thrown away.

    Args:
        llm: the model.
        memory: holds the users; it is only read, so that the same users can be aligned again.
        embedder: of free-text scores.
        settings: of agent and alignment.
        users: whom to align.
        in_flight: LLM calls at a time; 1 is one user and one call at a time.
        salt: of the engine's prefix cache.
    """
    recorder = Recorder(llm, salt)
    view = View(memory)
    alignment = settings.alignment
    if in_flight is not None:
        alignment = alignment.model_copy(update={"in_flight": in_flight})
    aligner = Aligner(Agent(recorder, view, settings.agent), view, embedder, alignment)
    started = time.perf_counter()
    results = await aligner.align(users, "bench")
    seconds = time.perf_counter() - started
    return Measured(len(users), seconds, recorder.usage, results, recorder.requests)


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
    length = window(settings.batch, settings.held_out)
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
) -> dict[str, Any]:
    """The measurements under the keys that `bench alignment --json` prints; what could not be measured is null."""
    share = batched.tokens_per_s / offline_tokens_per_s if offline_tokens_per_s else None
    return {
        "users": batched.users,
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
        "cache_hit_rate": round(batched.usage.cached_tokens / max(1, batched.usage.prompt_tokens), 4),
        "chat_p50_ms": {"idle": _percentile(idle, 50), "aligning": _percentile(aligning, 50)},
        "chat_p95_ms": {"idle": _percentile(idle, 95), "aligning": _percentile(aligning, 95)},
        "chats": {"idle": len(idle), "aligning": len(aligning)},
        "calls_per_user": round(batched.usage.calls / batched.users, 1),
        "tokens_per_user": round((batched.usage.prompt_tokens + batched.usage.completion_tokens) / batched.users),
        "sequential_users": sequential.users,
        "seconds": {"batched": round(batched.seconds, 2), "sequential": round(sequential.seconds, 2)},
        "failed": sum(r.outcome.value == "failed" for r in (*batched.results, *sequential.results)),
    }


async def run(
    settings: Settings,
    users: int = 32,
    *,
    scripted_users: Sequence[int] = SCRIPTED_USERS,
    peers: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`personaagent bench alignment`: start the real system, measure, end it; then the scripted part.

    Args:
        settings: the model and how alignment works. The store is a temporary one; no user's data is touched.
        users: made-up users to align.
        scripted_users: sizes of the scripted population.
        peers: also run TextGrad and GEPA where they are installed.
        progress: called with what is being done, steps done and steps in all.

    Raises:
        UnavailableError, InvalidInput: the engine does not start.
    """
    from serve.bench import measure, scripted  # serve imports this package, so it is reached only from here

    tell = progress or (lambda what, done, total: None)
    result = await measure(settings, users, peers=peers, progress=tell)
    # Small searches: what is asked is whether the cost per user and the driver's memory depend on the population.
    small = settings.alignment.model_copy(update={"held_out": 4, "candidates": 1, "profile": False})
    sizes = {}
    for n, size in enumerate(scripted_users):
        tell("scripted users", n, len(scripted_users))
        sizes[str(size)] = await scripted(size, small)
    result["scripted_ms_per_user"] = {size: round(cell["ms_per_user"], 2) for size, cell in sizes.items()}
    result["scripted_rss_mb"] = {size: round(cell["rss_mb"], 1) for size, cell in sizes.items()}
    result["scripted_failed"] = {size: int(cell["failed"]) for size, cell in sizes.items()}
    return result


def _percentile(values: Sequence[float], q: float) -> float:
    return round(float(np.percentile(values, q)), 1)

"""The part of `personaagent bench alignment` that needs the real system: the served engine, then the bare one."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.evaluation.peers import run_peers
from alignment.memory_views import MemoryView
from personaagent.agent.agent import Agent
from personaagent.errors import UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.models.files import model_name, prepare_llm
from personaagent.protocols import LLM, Memory, likely
from personaagent.settings import Settings
from serve.bench.alignment_load import Measured, align_all, fill, probe, report
from serve.bench.bare_engine import replay
from serve.bench.scripted_job import scripted
from serve.runtime.system import System

__all__ = ["measure", "run", "scripted"]

SCRIPTED_USERS = (1_000, 10_000)
IDLE_CHATS = 40
SEQUENTIAL_SHARE = 4  # one in so many users is aligned one call at a time; all of them would take minutes
PEER_USERS = 3
PROBERS = 4  # users that chat, and are not aligned

Progress = Callable[[str, int, int], None]


async def measure(settings: Settings, users: int, *, peers: bool, progress: Progress) -> dict[str, Any]:
    """Start the system on a temporary store, measure, end it, then replay the same requests on the bare engine.

    (a) all users batched, (a') the same while somebody chats, (b) some of the users one request at a time, (b') all users
    batched with words judged by simulated answers, if those of (a) were judged by likelihoods, (c) the requests of (a)
    offline at once. Every run has a prefix cache of its own, so none profits from the one before.

    Args:
        settings: of the model and of alignment.
        users: made-up users to align.
        peers: also run TextGrad and GEPA where they are installed.
        progress: called with what is being done, steps done and steps in all.
    """
    own_cluster = not (settings.serve.ray_address or os.environ.get("RAY_ADDRESS"))
    # An engine that serves others as well can neither be kept quiet nor be ended for (c).
    own_engine = own_cluster and settings.llm.base_url is None
    offline: dict[str, float] | None = None
    failure: str | None = None
    steps = iter(range(1, 100))

    def tell(what: str) -> None:
        progress(what, next(steps), 8)

    with tempfile.TemporaryDirectory(prefix="personaagent-bench-", ignore_cleanup_errors=True) as home:
        store = settings.memory.model_copy(update={"uri": None})
        own = settings.model_copy(update={"home": Path(home), "memory": store})
        tell("starting the system")
        system = await System.start(own)
        try:
            # Somebody else's cluster has memory shards with users in them; made-up ones do not belong there.
            memory: Memory = system.memory if own_cluster else LocalMemory(system.embedder)
            measured = await _measure_running(system, memory, own, users, peers, tell)
            arguments, environment = (
                await asyncio.to_thread(_engine_of, own, await prepare_llm(own)) if own_engine else ({}, {})
            )
        finally:
            await system.close()
        if own_engine:
            tell("the bare engine")
            try:
                offline = await replay(await prepare_llm(own), arguments, environment, measured.batched.requests)
            except UnavailableError as e:  # minutes of other measurements are still worth printing
                failure = e.message
    return {
        "model": model_name(settings),
        **measured.report(offline["tokens_per_s"] if offline else None),
        "users_per_min_while_chatting": round(measured.while_chatting.users_per_min, 2),
        "offline": {k: round(v, 2) for k, v in offline.items()} if offline else None,
        "offline_error": failure,
        "peers": measured.peers,
    }


@dataclass(frozen=True)
class _Runs:
    """What was measured on the running system: runs of the alignment, and seconds of single chats."""

    batched: Measured
    while_chatting: Measured
    sequential: Measured
    simulated: Measured | None
    idle: list[float]
    busy: list[float]
    peers: dict[str, Any]

    def report(self, offline_tokens_per_s: float | None) -> dict[str, Any]:
        """All of it against the bare engine, where that was measured."""
        return report(self.batched, self.sequential, offline_tokens_per_s, self.idle, self.busy, self.simulated)


async def _measure_running(
    system: System, memory: Memory, own: Settings, users: int, peers: bool, tell: Callable[[str], None]
) -> _Runs:
    """All that is measured while the system runs, see `measure`."""
    names = await fill(memory, own.alignment, users)
    others = await fill(memory, own.alignment, PROBERS, first=users)
    chatting = Agent(system.llm, MemoryView(memory), own.agent)

    async def aligned(label: str, who: list[str], **how: bool) -> Measured:
        salt = label if own.llm.base_url is None else None
        return await align_all(system.llm, memory, system.embedder, own, who, salt=salt, **how)

    await aligned("warm-up", others)
    await probe(chatting, others, 3)
    tell("chat alone")
    idle = await probe(chatting, others, IDLE_CHATS)
    tell("aligning, batched")
    batched = await aligned("batched", names)
    tell("aligning and chatting")
    together = asyncio.create_task(aligned("together", names))
    try:
        busy = await probe(chatting, others, 0, until=together)
        while_chatting = await together
    finally:
        together.cancel()
    tell("aligning, one call at a time")
    few = names[::SEQUENTIAL_SHARE]  # spread over all of them
    sequential = await aligned("sequential", few, sequential=True)
    simulated: Measured | None = None
    if likely(system.llm) is not None:
        tell("aligning by simulated answers")
        simulated = await aligned("simulated", names, simulated=True)
    compared = await _peers(system.llm, memory, own, few) if peers else {}
    return _Runs(batched, while_chatting, sequential, simulated, idle, busy, compared)


async def _peers(llm: LLM, memory: Memory, settings: Settings, users: list[str]) -> dict[str, Any]:
    chosen = users[:PEER_USERS]
    histories = [await memory.latest(user, 1000, with_truth=True) for user in chosen]
    agent = Agent(llm, MemoryView(memory), settings.agent)
    personas = [(await agent.ensure_persona(user)).text for user in chosen]
    return dict(await run_peers(llm, histories, personas))


def _engine_of(settings: Settings, model: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments and environment of the engine that is running; the import costs seconds, so it comes last."""
    from serve.engine.cpu import cpu_fit
    from serve.engine.deployment import llm_config

    config = llm_config(settings, model)
    arguments, environment = cpu_fit(settings) if config.accelerator_config.kind == "cpu" else ({}, {})
    return {**config.engine_kwargs, **arguments}, {**(config.runtime_env or {}).get("env_vars", {}), **environment}


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

"""`personaagent bench overload`: more chats at once than the system takes, and how it comes back from that.

Clients chat in a closed loop: each sends its next request when the last one was answered. Who is refused waits as long as
`Retry-After` says, as OpenAI's own client does. At the end of the load all of them hang up.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from personaagent.errors import InvalidInput, UnavailableError
from personaagent.models.files import model_name
from personaagent.settings import Settings
from serve.bench.chaos_faults import Processes, check_platform
from serve.runtime.home_lock import HomeLock
from serve.runtime.system import System

__all__ = ["overload_settings", "run_overload"]

IDLE_CHATS = 12
SHORT, LONG = 4, 128  # tokens of the single chat, and of those that make the load
SLOWER = 1.5  # times the idle latency that counts as recovered
PATIENCE_S = 120.0  # for it to recover
TIMEOUT_S = 600.0  # of a client; the server's own bounds come first

Tell = Callable[[str, int, int], None]


def overload_settings(settings: Settings, home: Path) -> Settings:
    """Those of the system under test: on a store of its own below `home`, on a Ray of its own.

    Raises:
        InvalidInput: processes cannot be found here, or the settings name a cluster, which serves others too.
    """
    check_platform()
    if settings.serve.ray_address or os.environ.get("RAY_ADDRESS"):
        raise InvalidInput("bench overload starts a Ray of its own; unset serve.ray_address and RAY_ADDRESS")
    memory = settings.memory.model_copy(update={"uri": None})
    serve = settings.serve.model_copy(update={"host": "127.0.0.1", "port": 0, "api_key": None})
    return settings.model_copy(update={"home": home, "memory": memory, "serve": serve})


@dataclass
class Seen:
    """What the clients saw."""

    accepted_s: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """Answered, in whatever way."""
        return len(self.accepted_s) + len(self.refused_ms) + self.errors.total()


async def run_overload(system: System, seconds: float, clients: int, progress: Tell) -> dict[str, Any]:
    """Measure a system that serves HTTP.

    Args:
        system: made for this with `overload_settings`, and closed by the caller.
        seconds: of load.
        clients: at once.
        progress: called with what is being done, seconds done and in all.

    Returns:
        JSON-able. `refuse_ms` is the time until a refusal, `accepted_s` that of answers, `idle_s` that of a single short chat
        before the load and `recovered_s` how long after the load such a chat was first answered in 1.5 times their
        median, or in their p99 if that is more (null: it was not within two minutes). `rss_mb` is of the largest router replica.
    """
    mark = HomeLock(system.settings.home).owner().get("mark")
    if system.url is None or not mark:
        raise UnavailableError("bench overload needs a system of its own that serves HTTP")
    model = model_name(system.settings)
    # One for each client: a pool that many share looks through all its connections at every request, and would be what is timed.
    tls = httpx.create_ssl_context()
    new = partial(httpx.AsyncClient, base_url=system.url, timeout=TIMEOUT_S, verify=tls)
    async with new() as http:
        single = partial(_single, http, model)
        progress("chatting alone", 0, int(seconds))
        for n in range(2):  # the first ones load what is needed
            await single(f"warm {n}")
        idle = [await single(f"idle {n % 3}") for n in range(IDLE_CHATS)]
        if any(status != 200 for _, status in idle):
            raise UnavailableError("a single chat is not answered, even without load")
        idle_s = [taken for taken, _ in idle]
        enough_s = max(SLOWER * float(np.median(idle_s)), float(np.percentile(idle_s, 99)))
        before = router_mb(mark)
        seen = Seen()
        load_s = await _load(
            [partial(_client, new, model, f"client {n}", seen) for n in range(clients)], seconds, progress
        )
        progress("recovering", int(seconds), int(seconds))
        recovered = await _recovered(single, enough_s)
        after = router_mb(mark)
    return {
        "model": model,
        "clients": clients,
        "seconds": round(load_s, 1),
        "requests": seen.requests,
        "accepted": len(seen.accepted_s),
        "refused_share": round(len(seen.refused_ms) / max(1, seen.requests), 3),
        "refuse_ms": _percentiles(seen.refused_ms, 1),
        "without_retry_after": seen.without_retry_after,
        "accepted_s": _percentiles(seen.accepted_s, 2),
        "errors": dict(sorted(seen.errors.items())),
        "idle_s": _percentiles(idle_s, 3),
        "recovered_s": None if recovered is None else round(recovered, 2),
        "rss_mb": {"before": before, "after": after},
    }


async def _single(http: httpx.AsyncClient, model: str, user: str) -> tuple[float, int]:
    """A short chat: seconds it took, and the status of its answer (0: there was none)."""
    started = time.perf_counter()
    try:
        response = await http.post("/v1/chat/completions", json=_body(model, user, SHORT))
    except httpx.HTTPError:
        return time.perf_counter() - started, 0
    return time.perf_counter() - started, response.status_code


async def _load(clients: Sequence[Callable[[], Coroutine[Any, Any, None]]], seconds: float, progress: Tell) -> float:
    """Let clients work for so long; seconds until the last of them had ended."""
    began = time.monotonic()
    working = [asyncio.create_task(client()) for client in clients]
    try:
        while (done := time.monotonic() - began) < seconds:
            progress("overloading", int(done), int(seconds))
            await asyncio.sleep(min(1.0, seconds - done))
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    return time.monotonic() - began


async def _recovered(single: Callable[[str], Coroutine[Any, Any, tuple[float, int]]], enough_s: float) -> float | None:
    """Seconds until a short chat was answered within `enough_s`; None if it was not in `PATIENCE_S`."""
    ended = time.monotonic()
    while time.monotonic() - ended < PATIENCE_S:
        taken, status = await single("idle 0")
        if status == 200 and taken <= enough_s:
            return time.monotonic() - ended
        if status != 200:
            await asyncio.sleep(0.1)
    return None


async def _client(new: Callable[[], httpx.AsyncClient], model: str, user: str, seen: Seen) -> None:
    async with new() as http:
        await _chat(http, model, user, seen)


async def _chat(http: httpx.AsyncClient, model: str, user: str, seen: Seen) -> None:
    while True:
        started = time.perf_counter()
        wait = 0.0
        try:
            response = await http.post("/v1/chat/completions", json=_body(model, user, LONG))
        except httpx.HTTPError as e:
            seen.errors[type(e).__name__] += 1
            wait = 1.0
        else:
            taken = time.perf_counter() - started
            if response.status_code == 200:
                seen.accepted_s.append(taken)
            elif response.status_code == 429:
                seen.refused_ms.append(1000 * taken)
                told = response.headers.get("Retry-After")
                seen.without_retry_after += told is None
                wait = float(told or 1.0)
            else:
                seen.errors[str(response.status_code)] += 1
        if wait:
            await asyncio.sleep(wait)


def _body(model: str, user: str, tokens: int) -> dict[str, Any]:
    text = "Tell me about the sea." if tokens == LONG else "Say yes."
    ask = {"model": model, "user": user, "max_tokens": tokens, "personaagent": {"remember": False}}
    return {**ask, "messages": [{"role": "user", "content": text}]}


def _percentiles(values: list[float], digits: int) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p99": None}
    return {f"p{p}": round(float(np.percentile(values, p)), digits) for p in (50, 99)}


def router_mb(mark: str) -> float | None:
    """Resident memory of the largest router replica of this Ray; None if there is none."""
    found = []
    for pid in Processes(mark, random.Random(0)).of("router"):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has just ended
            continue
        found += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")]
    return round(max(found), 1) if found else None

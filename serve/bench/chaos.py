"""`personaagent bench chaos`: a real system under load, its processes killed and paused, and whether it keeps its promises.

Clients chat, import, give feedback, forget and read over HTTP, and a population job aligns everybody, as users of the system do
it. Meanwhile memory shards, router replicas, the engine and alignment actors are killed (SIGKILL) or stand still for a while
(SIGSTOP), sometimes for longer than a shard's lease. When this is over and the system has settled, everything stored is
looked at, also after one more kill of every shard, and the history of all operations is checked (see `chaos_history`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from personaagent.errors import InvalidInput, PersonaAgentError, UnavailableError
from personaagent.models.files import model_name
from personaagent.settings import Settings
from serve.bench.chaos_faults import ALIGNMENT, KINDS, Processes, check_platform
from serve.bench.chaos_history import Fault, Status, check, recoveries
from serve.bench.chaos_import import Importer
from serve.bench.chaos_job import ChaosPopulation
from serve.bench.chaos_load import Client
from serve.bench.chaos_record import ChaosAnswer, History, Person, marks_in, shard_part
from serve.bench.chaos_report import result, said
from serve.runtime.home_lock import HomeLock
from serve.runtime.system import System

__all__ = ["chaos_settings", "run_chaos"]

log = logging.getLogger(__name__)

PEOPLE, CLIENTS = 8, 5
CHATTING = 2  # of the clients; the others go on while the engine is away
PAUSE_S = 0.3  # of a client between two calls, on average
FAULT_S = 8.0  # between two faults, on average
PAUSED = 0.4  # share of faults that only pause
SHORT_S = (0.5, 4.0)
LONG = 1.5  # a long pause, in leases
PROBE_S = 0.5
LATE_S = 300.0  # for what is under way to end
SETTLE_S = 180.0  # for everything to answer again
# Small steps, so that many are under way when something is killed.
ALIGNMENT_SETTINGS = {"batch": 1, "held_out": 2, "candidates": 1, "max_calls": 24, "users_per_batch": 4, "retry_s": 60}

Tell = Callable[[str, int, int], None]


def chaos_settings(settings: Settings, home: Path) -> Settings:
    """Those of the system under test: on a store of its own below `home`, on a Ray of its own, with two routers.

    Raises:
        InvalidInput: processes cannot be found here, or the settings name a cluster, which serves others too.
    """
    check_platform()
    if settings.serve.ray_address:
        raise InvalidInput("bench chaos kills processes, so it starts a Ray of its own; unset serve.ray_address")
    memory = settings.memory.model_copy(update={"uri": None, "shards": max(2, settings.memory.shards)})
    serve = {"host": "127.0.0.1", "port": 0, "api_key": None, "router_replicas": 2, "max_router_replicas": 2}
    return settings.model_copy(
        update={"home": home, "memory": memory, "serve": settings.serve.model_copy(update=serve)}
    )


async def run_chaos(system: System, minutes: float, seed: int, progress: Tell) -> dict[str, Any]:
    """Load a system that serves HTTP, break it, let it settle, look, and judge.

    Args:
        system: made for this with `chaos_settings`, and closed by the caller.
        minutes: of load and faults; settling comes after.
        seed: of what is done and of what is hit. Timing is not repeatable, so a run is not either.
        progress: called with what is being done, seconds done and in all.

    Returns:
        JSON-able: the verdict and what it rests on.
    """
    mark = HomeLock(system.settings.home).owner().get("mark")
    if system.url is None or not mark:
        raise UnavailableError("bench chaos needs a system of its own that serves HTTP")
    limits = httpx.Limits(max_keepalive_connections=0)  # a kept connection may lead to a replica that was killed
    async with httpx.AsyncClient(base_url=system.url, limits=limits) as http:
        run = _Run(system, http, mark, seed)
        started = time.monotonic()
        await run.load(60 * minutes, progress)
        progress("settling", 0, 0)
        settled = await run.settle()
        progress("checking", 0, 0)
        seconds = time.monotonic() - started
    found = check(run.history.operations)
    for violation in found:
        log.warning("%s", said(violation, run.history.operations))
    return {
        "model": model_name(system.settings),
        "minutes": minutes,
        "seed": seed,
        "seconds": round(seconds, 1),
        **result(run.history.operations, run.faults, found, settled),
        "alignment": {"outcomes": dict(run.population.outcomes), "exit_codes": dict(run.population.codes)},
        "answers": dict(sorted(run.history.answers.items())),
    }


class _Run:
    """One run of the bench."""

    def __init__(self, system: System, http: httpx.AsyncClient, mark: str, seed: int) -> None:
        self._memory = system.memory
        self._home = system.settings.home
        self._lease_s = system.settings.memory.lease_s
        shards = system.settings.memory.shards
        self.history = History(seed, shards)
        self.faults: list[Fault] = []
        self._open: list[Fault] = []  # faults after which nothing has succeeded yet
        self._late = False  # whether something hung
        self._seen = 0  # operations that were compared with them
        self._rng = random.Random(f"faults {seed}")
        self._processes = Processes(mark, self._rng)
        self._people = [self.history.person(f"user {n}") for n in range(PEOPLE)]
        self._probes = self._one_per_shard(shards)
        self._model = model_name(system.settings)
        self._clients = [
            Client(http, self.history, self._people, self._model, f"client {seed} {n}") for n in range(CLIENTS)
        ]
        self._importer = Importer(self._memory.acting_as("import"), self.history, self._people, f"import {seed}")
        self._prober = Client(http, self.history, [], self._model, "probe")
        self._http = http
        self.population = ChaosPopulation(self._home, mark, self.history, ALIGNMENT_SETTINGS)

    def _one_per_shard(self, shards: int) -> dict[str, Person]:
        found: dict[str, Person] = {}
        number = 0
        while len(found) < shards:
            person = self.history.person(f"probe {number}")
            found.setdefault(person.part, person)
            number += 1
        return found

    # Load and faults

    async def load(self, seconds: float, progress: Tell) -> None:
        """Clients, imports, job and faults for so long; returns when all that was begun has ended, or hangs."""
        for person in self._probes.values():
            await self._prober.bring(person)
        began = self.history.clock()

        def over() -> bool:
            return self.history.clock() - began >= seconds

        async def tell() -> None:
            while not over():
                progress("breaking", int(self.history.clock() - began), int(seconds))
                await asyncio.sleep(1.0)

        async with asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(self._probing())
            working = [
                tasks.create_task(client.work(over, PAUSE_S, n < CHATTING), name="a client")
                for n, client in enumerate(self._clients)
            ]
            working.append(tasks.create_task(self._importer.work(over), name="the import"))
            working.append(tasks.create_task(self.population.work(over), name="the population job"))
            working.append(tasks.create_task(self._break(over), name="a pause"))
            working.append(tasks.create_task(tell()))
            _, late = await asyncio.wait(working, timeout=seconds + LATE_S)
            for task in late:
                log.warning("%s did not end within %g s", task.get_name(), LATE_S)
            self._late = bool(late)
            for task in (probing, *late):
                task.cancel()

    async def _break(self, over: Callable[[], bool]) -> None:
        """Kill and pause, kind after kind in random order; a part that has not come back yet is left alone."""
        bag: list[str] = []
        async with asyncio.TaskGroup() as pauses:
            while not over():
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * FAULT_S)
                if over():
                    return
                if not bag:
                    bag = self._rng.sample(KINDS, len(KINDS))
                kind = next((k for k in bag if not any(k == f.kind.split()[0] for f in self._open)), None)
                if kind is None:
                    continue
                bag.remove(kind)
                if (target := await self._target(kind)) is None:
                    continue
                pid, part = target
                if self._rng.random() >= PAUSED:
                    self._kill(kind, pid, part)
                    continue
                long = self._rng.random() < 0.3
                pause_s = LONG * self._lease_s if long else self._rng.uniform(*SHORT_S)
                pauses.create_task(self._pause(kind, pid, part, pause_s))

    async def _target(self, kind: str) -> tuple[int, str] | None:
        """A process of a kind and what it is part of; None if there is none that can be told."""
        pid = self._processes.any_of(kind)
        if pid is None or kind != "shard":
            return None if pid is None else (pid, kind)
        return next(((p, part) for part, p in (await self._shards()).items() if p == pid), None)

    async def _shards(self) -> dict[str, int]:
        """The shards' processes."""
        try:
            async with asyncio.timeout(5.0):
                return {shard_part(s["shard"]): s["pid"] for s in await self._memory.stats()}
        except (TimeoutError, PersonaAgentError):  # one is paused, or coming back
            return {}

    def _kill(self, kind: str, pid: int, part: str) -> None:
        at = self.history.clock()
        if self._processes.kill(pid):
            self._hit(Fault(kind, part, at))

    async def _pause(self, kind: str, pid: int, part: str, seconds: float) -> None:
        at = self.history.clock()
        with self._processes.paused(pid) as stands:
            if stands:
                self._hit(Fault(f"{kind} paused", part, at))
                await asyncio.sleep(seconds)

    def _hit(self, fault: Fault) -> None:
        log.info("%s: %s", fault.kind, fault.part)
        self.faults.append(fault)
        self._open.append(fault)

    async def _probing(self) -> None:
        """Ask each part that was hit until it answers, one question at a time."""
        asking: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await asyncio.sleep(PROBE_S)
                self._close_faults()
                for part in {f.part for f in self._open} - {ALIGNMENT}:
                    if part not in asking or asking[part].done():
                        person = self._probes.get(part) or next(iter(self._probes.values()))
                        asking[part] = asyncio.create_task(self._prober.ask(part, person))
        finally:
            for task in asking.values():
                task.cancel()

    def _close_faults(self) -> None:
        fresh, self._seen = self.history.operations[self._seen :], len(self.history.operations)
        self._open = [r.fault for r in recoveries(fresh, self._open) if r.seconds is None]

    # The end

    async def settle(self) -> bool:
        """Wait until everything answers, look at everything, kill every shard once more, and look again; whether it did."""
        probing = asyncio.create_task(self._probing())
        try:
            async with asyncio.timeout(SETTLE_S):
                while {f.part for f in self._open} - {ALIGNMENT} or not await self._ready():  # noqa: ASYNC110
                    await asyncio.sleep(PROBE_S)
            last = self._people[0]
            await self._prober.forget(last)
            await self._look()
            for part, pid in (await self._shards()).items():
                self._kill("shard", pid, part)
            await self._look()
            async with asyncio.timeout(SETTLE_S):
                await self.population.run("chaos-last", [p.name for p in self._people[1:3]])
            self._close_faults()
            self.population.look()
            self._look_at_files()
        except TimeoutError:
            log.warning("the system does not answer within %g s", SETTLE_S)
            return False
        finally:
            probing.cancel()
        return not self._late

    async def _ready(self) -> bool:
        try:
            parts = (await self._http.get("/readyz", timeout=10.0)).json()["parts"]
        except (httpx.HTTPError, ValueError, KeyError):  # the router is away, and the proxy says so
            return False
        return set(parts.values()) == {"ok"}

    async def _look(self) -> None:
        """A whole look at every user. Raises TimeoutError."""
        async with asyncio.timeout(SETTLE_S):
            for person in self._people:
                while (await self._prober.export(person)).status is not Status.OK:  # noqa: ASYNC110
                    await asyncio.sleep(PROBE_S)

    def _look_at_files(self) -> None:
        """Marks that stand in any file of the home, for the users who wrote them: a receipt speaks of files too."""
        began = self.history.clock()
        owner = {mark: o.user for o in self.history.operations for mark in o.wrote}
        seen: dict[str, set[str]] = {}
        for mark in {m for text in _texts(self._home) for m in marks_in(text)} & owner.keys():
            seen.setdefault(owner[mark], set()).add(mark)
        for user, marks in seen.items():
            self.history.note("files", user, began, ChaosAnswer(Status.OK, 200), saw=marks)


def _texts(home: Path) -> Iterable[str]:
    for path in home.rglob("*"):
        try:
            if not path.is_file():
                continue
            yield path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":  # its pages are compressed
                table = pq.read_table(path)
                yield from (str(table[name].to_pylist()) for name in table.column_names if name != "vector")
        except FileNotFoundError:  # the store has merged it into another one meanwhile
            continue

"""One seed: what is planned, what happens, and what the checker says of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from personaagent.errors import PersonaAgentError
from tests.simulation.checker import check
from tests.simulation.clients import Client
from tests.simulation.history import History
from tests.simulation.kernel import Process, Stuck, Threads
from tests.simulation.world import LEASE_S, Embedder, World

__all__ = ["Result", "Simulator"]

FAULTS_S = 40.0  # of the clock there: so long there are faults
CALM_S = 240.0  # so long at most until every call works again


@dataclass
class Result:
    """What came of a seed."""

    seed: int
    violations: list[str]
    operations: int
    calls: int  # of the store
    events: int
    faults: list[str]
    seconds: float  # of the clock on the wall here
    trace: list[str] = field(default_factory=list)


class Simulator:
    """Runs seeds, one after the other."""

    def __init__(self) -> None:
        self._threads = Threads()
        self._embedder = Embedder(4)

    def run(self, seed: int, traced: bool = False) -> Result:
        """Run one seed."""
        started = time.perf_counter()
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # coroutines of killed processes end badly
        try:
            return self._run(seed, traced, started)
        finally:
            sys.unraisablehook = hook

    def _run(self, seed: int, traced: bool, started: float) -> Result:
        world = World(seed, self._threads, self._embedder, traced)
        history = History(world.kernel)
        with world.patched():
            scenario = Scenario(world, history)
            try:
                violations = scenario.play()
            except Stuck as e:
                violations = [f"stuck: {e}"]
            finally:
                world.close()
            violations += [f"unexpected: {t}" for t in world.kernel.trouble]
            if not violations or not violations[0].startswith("stuck"):
                violations += check(world, history)
        return Result(
            seed,
            violations,
            len(history.ops),
            world.weather.calls,
            world.kernel.events,
            scenario.faults,
            time.perf_counter() - started,
            world.kernel.trace or [],
        )

    def close(self) -> None:
        self._threads.close()


class Scenario:
    """Clients at work in a world, faults that hit it, and the calm after."""

    def __init__(self, world: World, history: History) -> None:
        self.world, self.history, self.kernel = world, history, world.kernel
        self.random: Random = world.kernel.random
        self.faults: list[str] = []
        self.users = ["ann", "bob", "eve"][: self.random.choice([1, 2, 2, 3])]
        self.clients = [Client(world, history, f"c{n}", self.users) for n in range(self.random.choice([2, 3, 4]))]
        self.home = Process(world.kernel, "clients")

    def play(self) -> list[str]:
        """From the start to the end; what is wrong with it beside what the history tells."""
        world, kernel = self.world, self.kernel
        world.launch()
        self._plan()
        tasks = [self._spawn(client.work(FAULTS_S)) for client in self.clients]
        kernel.run(lambda: kernel.now > FAULTS_S and all(t.done() for t in tasks), FAULTS_S)
        self._calm()
        if not kernel.run(lambda: all(t.done() for t in tasks), FAULTS_S + CALM_S):
            return ["liveness: calls that began amid the faults have not ended long after them"]
        settled = self._spawn(self._settle())
        if not kernel.run(settled.done, FAULTS_S + 2 * CALM_S):
            return ["liveness: the calm did not come to its end"]
        return list(settled.result())

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        return self.home.loop.create_task(work)

    # Faults

    def _plan(self) -> None:
        random, weather = self.random, self.world.weather
        rate = random.choice([0.0, 0.0, 0.005, 0.02])
        if rate:
            self.faults.append(f"calls fail {rate}")
            weather.refused = rate
            if not self.world.lite:
                weather.lost, weather.partly = rate, 2 * rate
        weather.slow = random.choice([0.0, 0.0, 0.01])
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._strike, 6),
            (self._upgrade, 2 if not self.world.lite else 1),
            (self._zombie, 0 if self.world.lite else 2),
            (self._outage, 1),
            (self._clock_jump, 1),
            (self._no_audit, 1),
        ]
        made, weights = zip(*kinds, strict=True)
        for _ in range(random.choice([0, 1, 2, 3, 4, 5, 6])):
            random.choices(made, weights)[0]()

    def _when(self) -> float:
        return self.random.uniform(1.0, FAULTS_S - 2.0)

    def _strike(self) -> None:
        """Kill or pause a process between two of its calls of the store."""
        random = self.random
        at, after = random.randint(10, 700), random.random() < 0.5
        if random.random() < 0.5:
            self.faults.append(f"kill at call {at}")
            self.world.weather.strikes.append((at, lambda process, _: process.kill(), after))
        else:
            seconds = random.choice([0.5, LEASE_S / 2, LEASE_S + 2, 3 * LEASE_S])
            self.faults.append(f"pause {seconds} s at call {at}")
            self.world.weather.strikes.append((at, lambda process, _: process.pause(seconds), True))

    def _upgrade(self) -> None:
        """Another generation beside the old one, which is ended in order, killed, paused, or goes on."""
        random = self.random
        way = random.choice(["close", "kill", "pause", "stay", "stay"]) if not self.world.lite else "close"
        when, seconds = self._when(), random.choice([2.0, LEASE_S + 3, 25.0])
        self.faults.append(f"upgrade at {when:.1f}: {way}")

        def go() -> None:
            old = self.world.slots()
            self.kernel.note("upgrade", way)
            if way == "pause":
                for slot in old:
                    if slot.process is not None:
                        slot.process.pause(seconds)
            new = self.world.launch()
            for slot in self.world.generations[new]:
                self._spawn(self._ready(slot))
            if way in ("close", "kill"):
                for slot in old:
                    self._spawn(self._retire(slot, way == "close", random.random() * 3))

        self.kernel.at(when, None, go)

    def _zombie(self) -> None:
        """A process is paused between two calls of the store for longer than its lease, and another one takes over."""
        random = self.random
        at, seconds = random.randint(10, 500), LEASE_S + random.choice([1.0, 5.0, 20.0])
        self.faults.append(f"zombie of {seconds} s at call {at}")

        def strike(process: Process, _: str) -> None:
            process.pause(seconds)
            new = self.world.launch()
            for slot in self.world.generations[new]:
                self._spawn(self._ready(slot))
            for client in self.clients:
                client.generation = new

        self.world.weather.strikes.append((at, strike, True))

    async def _ready(self, slot: Any) -> None:
        try:
            await slot.ready.remote(slot.config)
        except Exception as e:  # noqa: BLE001 - the first call of a client tries again
            self.kernel.note("not ready", e)

    async def _retire(self, slot: Any, gently: bool, delay: float) -> None:
        await asyncio.sleep(delay)
        if gently:
            try:
                async with asyncio.timeout(30):
                    await slot.close.remote()
            except Exception as e:  # noqa: BLE001 - it is ended anyway
                self.kernel.note("not closed", e)
        slot.end()

    def _outage(self) -> None:
        """The server is away for a while, or the disk is full."""
        when, seconds = self._when(), self.random.choice([0.5, 5.0, 15.0])
        self.faults.append(f"outage at {when:.1f} for {seconds} s")
        weather = self.world.weather

        def away() -> None:
            self.kernel.note("outage")
            weather.away = weather.full = True

        def back() -> None:
            self.kernel.note("outage over")
            weather.away = weather.full = False
            if self.world.server is not None:
                self.world.server.loaded = False

        self.kernel.at(when, None, away)
        self.kernel.at(when + seconds, None, back)

    def _clock_jump(self) -> None:
        when, seconds = self._when(), self.random.choice([-3600.0, 3600.0, -5.0])
        self.faults.append(f"clock jumps {seconds} s at {when:.1f}")

        def jump() -> None:
            for slot in self.world.slots()[:1]:
                self.world.skews[slot.generation] = seconds
                if slot.process is not None:
                    slot.process.skew = seconds

        self.kernel.at(when, None, jump)

    def _no_audit(self) -> None:
        when = self._when()
        self.faults.append(f"no audit at {when:.1f}")

        def broken(is_broken: bool) -> Callable[[], None]:
            return lambda: setattr(self.world, "audit_broken", is_broken)

        self.kernel.at(when, None, broken(True))
        self.kernel.at(when + self.random.choice([0.5, 4.0]), None, broken(False))

    # The calm after

    def _calm(self) -> None:
        self.kernel.note("calm")
        self.world.weather.calm()
        self.world.audit_broken = False
        for slot in self.world.slots():
            if slot.process is not None:
                slot.process.resume()

    async def _settle(self) -> list[str]:
        """One generation goes on; then all calls have to work, and all that is known is read."""
        world = self.world
        world.weather.calm()
        world.audit_broken = False
        survivor = len(world.generations) - 1
        for slot in world.slots():
            if slot.generation != survivor:
                await self._retire(slot, self.random.random() < 0.5, 0.0)
        for slot in world.generations[survivor]:
            if slot.process is not None:
                slot.process.resume()
        for client in self.clients:
            client.generation, client.patient = survivor, True
        if (trouble := await self._serving(survivor)) is not None:
            return [f"liveness: {trouble}"]
        await asyncio.sleep(2)  # what was in doubt is looked up
        if self.random.random() < 0.5:  # what is in RAM, and what is in the store
            for slot in world.generations[survivor]:
                if slot.process is not None:
                    slot.process.kill()
        first = len(self.history.ops)
        client = self.clients[0]
        for user in self.users:
            for call in (client.export, client.latest, client.recall, client.personas, client.read_profile):
                await call(user)
            for call in (client.append, client.feedback, client.persona, client.profile):
                await call(user)
        await client.listing("")
        if self.random.random() < 0.5:
            await client.forget(self.users[0])
        if world.seed % 2:  # what those say who find only what is stored
            for slot in world.generations[survivor]:
                if slot.process is not None:
                    slot.process.kill()
        for user in self.users:
            await client.export(user)
        await client.listing("")
        return [
            f"liveness: {op}" for op in self.history.ops[first:] if op.outcome == "unknown" and op.kind != "restore"
        ]

    async def _serving(self, survivor: int) -> str | None:
        """Wait until a read works; a generation that was taken over is started again, as an operator would."""
        said = "nothing"
        for _ in range(3):
            for user in self.users:
                try:
                    async with asyncio.timeout(90):
                        await self.world.memory(survivor, "probe").summary(user)
                        await self.world.memory(survivor, "probe").incarnations()
                except (PersonaAgentError, TimeoutError) as e:
                    said = f"{type(e).__name__} {e}"
                    break
            else:
                return None
            for slot in self.world.generations[survivor]:
                if slot.process is not None:
                    slot.process.kill()
            await asyncio.sleep(3)
        return said

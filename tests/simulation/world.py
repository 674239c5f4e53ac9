"""The memory service in a world that a seed decides: processes, restarts and upgrades, a network, a store, and their faults.

What runs is the product: `ShardedMemory`, `MemoryShard`, `Writer`, `Tenure`, `MilvusStore` and `MilvusConnection` as they are.
Something else stands in the place of Ray's calls, the client of Milvus, clocks, threads, locks and the audit log's file.
"""

from __future__ import annotations

import datetime as calendar
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

import actors.memory.active_users
import actors.memory.expiry
import actors.memory.remote_shard
import actors.memory.shard
import actors.memory.shard_store
import actors.memory.shard_upkeep
import actors.milvus.connection
import actors.milvus.lite
import actors.milvus.milvus_store
import actors.milvus.rows
import personaagent.memory.changes
from actors.memory.audit import AuditEntry
from actors.memory.client import ShardedMemory
from actors.memory.shard import MemoryShard
from actors.milvus.counts import UserCounts
from actors.milvus.open import ShardConfig, collection_of
from actors.milvus.tenure import Tenure
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import PersonaAgentError, StoreError
from personaagent.settings import MemorySettings
from tests.simulation.faulty_store import Client, Engine, Folder, Server, Stored, Weather, path_of
from tests.simulation.kernel import Kernel, Locks, Process, Threads
from tests.simulation.patching import Patch, patched
from tests.support.doubles import HashEmbedder

__all__ = ["LEASE_S", "World"]

LEASE_S = 10.0
DIM = 4
URI = "http://simulated"


class Slot:
    """An actor of one generation of the service: Ray starts its process anew when it died, until it is ended."""

    def __init__(self, world: World, generation: int, config: ShardConfig) -> None:
        self.world, self.generation, self.config = world, generation, config
        self.ended = False
        self.process: Process | None = None
        self.shard: MemoryShard | None = None
        self._lives = 0
        self.start()

    def start(self) -> None:
        if self.ended:
            return
        kernel = self.world.kernel
        self._lives += 1
        name = f"g{self.generation}s{self.config.shard}.{self._lives}"
        self.process = process = Process(kernel, name)
        process.skew = self.world.skew(self.generation)
        kernel.note("start", name)
        kernel.current = process
        try:
            self.shard = MemoryShard(self.config)
        finally:
            kernel.current = None
        process.on_death.append(lambda: kernel.after(0.2 + 2 * kernel.random.random(), None, self.start))

    def end(self) -> None:
        """Kill the process for good."""
        self.ended = True
        if self.process is not None:
            self.process.kill()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=partial(self._call, method))

    def _call(self, method: str, *args: Any) -> Any:
        """A call as Ray makes it: it arrives after a while, and fails when the process dies before its answer is on its way."""
        kernel = self.world.kernel
        caller = kernel.current
        assert caller is not None
        answer = caller.loop.create_future()

        def tell(result: Any, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        def failed() -> None:
            gone: type[RayActorError] = ActorDiedError if self.ended else RayActorError
            kernel.after(0.05, caller, lambda: tell(None, gone()))

        def arrived() -> None:
            process, shard = self.process, self.shard
            if process is None or process.dead:
                failed()
                return
            waiting = [True]

            def died() -> None:
                if waiting[0]:
                    waiting[0] = False
                    failed()

            process.on_death.append(died)

            def begin() -> None:
                task = process.loop.create_task(getattr(shard, method)(*args))
                task.add_done_callback(answered)

            def answered(task: Any) -> None:
                if not waiting[0] or process.dead:
                    return
                waiting[0] = False
                process.on_death.remove(died)
                if task.cancelled():
                    error: BaseException | None = RayActorError()
                else:
                    error = task.exception()
                if error is not None and not isinstance(error, (PersonaAgentError, RayActorError)):
                    kernel.trouble.append(f"{method} raised {error!r}")
                    error = StoreError(f"unexpected: {error!r}")
                if isinstance(error, PersonaAgentError):
                    cause, error = error, RayTaskError(method, "", error, proctitle="sim", pid=1, ip="sim")
                    error.cause = cause
                result = None if error is not None else task.result()
                kernel.after(self._latency(), caller, lambda: tell(result, error))

            kernel.after(0.0, process, begin)

        kernel.after(self._latency(), None, arrived)
        return answer

    def _latency(self) -> float:
        return 0.0002 + self.world.kernel.random.random() * 0.003


class Audit:
    """The audit log, of which what was written is there whatever happens to the process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def write(self, action: str, user_key: str, by: str, details: Mapping[str, Any], *, sync: bool = False) -> None:
        self.write_all([AuditEntry(action, user_key, by, details)], sync=sync)

    def write_all(self, entries: Sequence[AuditEntry], *, sync: bool = False) -> None:
        kernel = self._world.kernel
        if sync and kernel.worker is not None:
            kernel.sleep(0.0005)
        if kernel.current is not None and kernel.current.dead:
            return
        if self._world.audit_broken:
            raise StoreError("the audit log cannot be written; nothing is changed without it")
        self._world.audit += [(kernel.now, entry) for entry in entries]


class Embedder(HashEmbedder):
    """Remembers the vectors of words, which nearly all come again."""

    @lru_cache(4096)  # noqa: B019 - lives as long as a run of seeds
    def _word(self, word: str) -> Any:
        return super()._word(word)


class World:
    """Everything of one seed. `with world.patched():` around all use of it."""

    def __init__(self, seed: int, threads: Threads, embedder: Embedder, traced: bool = False) -> None:
        self.seed = seed
        self.kernel = kernel = Kernel(seed, threads)
        if traced:
            kernel.trace = []
        random = kernel.random
        self.embedder = embedder
        self.weather = Weather(kernel)
        self.audit: list[tuple[float, AuditEntry]] = []
        self.audit_broken = False
        self.skews: dict[int, float] = {}
        self.lite = random.random() < 0.3
        self.body_bytes = 400 if random.random() < 0.2 else 60_000
        shards = 1 if random.random() < 0.7 else 2
        settings = MemorySettings(
            uri=None if self.lite else URI,
            shards=shards,
            lease_s=LEASE_S,
            flush_s=random.choice([0.5, 5.0]),
            idle_s=random.choice([0.5, 900.0]),
        )
        self.settings = settings.model_copy(update={"max_active_episodes": random.choice([3, 50_000, 50_000])})
        self.folders = [Folder(kernel, self.weather) for _ in range(shards)] if self.lite else []
        version = random.choice(["2.3.5", "2.6.1"])
        self.server = None if self.lite else Server(kernel, self.weather, version)
        self.generations: list[list[Slot]] = []

    @property
    def backends(self) -> list[Server | Folder]:
        return list(self.folders) if self.server is None else [self.server]

    def raw(self, key: str) -> Iterator[Stored]:
        """Everything that a look into the store and its files finds under a user's key, but the tombstone."""
        for backend in self.backends:
            for stored in backend.raw():
                if stored.pk.startswith(key) and not stored.pk.endswith("/tombstone"):
                    yield stored

    def skew(self, generation: int) -> float:
        """How far ahead the wall clocks of a generation's node are."""
        return self.skews.get(generation, 0.0)

    def launch(self) -> int:
        """Start another generation of the service beside those there are; says its number."""
        number = len(self.generations)
        configs = [
            ShardConfig(self.settings, Path("/simulated"), Path("/simulated"), "test", DIM, shard)
            for shard in range(self.settings.shards)
        ]
        self.generations.append([Slot(self, number, config) for config in configs])
        return number

    def memory(self, generation: int, by: str) -> ShardedMemory:
        """The service, as a client of a generation has it."""
        slots = self.generations[generation]
        return ShardedMemory(self.embedder, slots, [slot.config for slot in slots], by)

    def slots(self) -> list[Slot]:
        """All that are not ended."""
        return [slot for slots in self.generations for slot in slots if not slot.ended]

    def close(self) -> None:
        """End all processes, so that no thread is left."""
        self.kernel.closing = True
        for slot in self.slots():
            slot.end()

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let the product run in this world."""
        kernel = self.kernel

        def monotonic() -> float:
            return kernel.now

        time = SimpleNamespace(monotonic=monotonic, time_ns=kernel.wall_ns)
        locks = Locks(kernel)

        class Clock(calendar.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return calendar.datetime.fromtimestamp(kernel.wall_ns() / 1e9, calendar.UTC)

        def client(uri: str, **_: Any) -> Client:
            assert kernel.current is not None
            backend = self.server or self.folders[int(uri)]
            return Client(backend, kernel.current)

        def engine(path: Path) -> Engine:
            number = int(path.name)
            made = Engine(self.folders[number])
            made.uri = str(number)
            return made

        def opened(config: ShardConfig) -> UpkeepStore:
            location: Path | str = path_of(str(config.shard)) if self.lite else URI
            return UpkeepStore(location, config.identity, collection=collection_of(config.memory))

        def check_disk(path: Path, needed: int = 0) -> None:
            if self.weather.full:
                raise StoreError("the disk has 0 MB left; free some space, then try again")

        replaced: list[Patch] = [
            (actors.memory.shard, "time", time),
            (actors.memory.shard_upkeep, "time", time),
            (actors.memory.shard_store, "AuditLog", lambda *_: Audit(self)),
            (actors.memory.shard_store, "open_store", opened),
            (actors.memory.shard_upkeep, "check_disk", check_disk),
            (actors.memory.shard_store, "Tenure", partial(Tenure, clock=monotonic)),
            (actors.memory.active_users, "time", time),
            (actors.memory.remote_shard, "time", time),
            (actors.milvus.lite, "threading", locks),
            (actors.milvus.connection, "threading", locks),
            (actors.milvus.connection, "MilvusClient", client),
            (actors.milvus.connection, "LiteEngine", engine),
            (actors.milvus.connection, "check_disk", check_disk),
            (actors.milvus.rows, "BODY_BYTES", self.body_bytes),
            (actors.milvus.milvus_store, "UserCounts", partial(UserCounts, clock=monotonic)),
            (actors.memory.expiry, "utc_now", lambda: Clock.now()),
            (personaagent.memory.changes, "time", time),
            (personaagent.memory.changes, "datetime", Clock),
            (uuid, "uuid4", lambda: uuid.UUID(int=kernel.random.getrandbits(128), version=4)),
        ]
        logging.disable(logging.CRITICAL)
        try:
            with patched(replaced):
                yield
        finally:
            logging.disable(logging.NOTSET)

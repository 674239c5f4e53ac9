"""Milvus as the real client knows it: a server that several processes use, and the engine of a Lite folder with its files.

What a call did when it returned is durable. A call that fails did nothing, everything, or a part of it, and does not say which.
A query with a limit returns any of the rows it could. Deleted and replaced rows of a Lite folder stay in its log until a flush
and in its segments until a purge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from pymilvus.exceptions import MilvusException

from actors.milvus.lite_files import KEY, Owners
from personaagent.errors import StoreError
from tests.simulation.kernel import Kernel, Process

__all__ = ["Client", "Engine", "Folder", "Server", "Stored", "Weather"]

Entity = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """One entity as it was written: when and by which process; no entity: a deletion."""

    pk: str
    entity: Entity | None
    seq: int
    written: float
    by: str


@dataclass
class Weather:
    """What the network and the store do to calls. `countdown`: so many calls until `strike` hits the process that makes one."""

    kernel: Kernel
    refused: float = 0.0  # of calls: nothing was done
    lost: float = 0.0  # of calls: done, but nobody is told
    partly: float = 0.0  # of writes of several entities: some were done
    slow: float = 0.0  # of calls: take seconds
    away: bool = False  # the server is down
    full: bool = False  # the disk of a Lite folder
    strikes: list[tuple[int, Callable[[Process, str], None], bool]] = field(default_factory=list)
    calls: int = 0

    def latency(self) -> float:
        random = self.kernel.random
        if self.slow and random.random() < self.slow:
            return random.uniform(0.2, 4.0)
        return random.random() * 0.004

    def calm(self) -> None:
        """No faults from here on."""
        self.refused = self.lost = self.partly = self.slow = 0.0
        self.away = self.full = False
        self.strikes.clear()


@lru_cache(4096)
def _compiled(where: str) -> CodeType:
    return compile(where, "<filter>", "eval")  # what the product writes of Milvus's language is Python too


NO_BUILTINS: dict[str, Any] = {"__builtins__": {}}


def _matching(entities: Iterator[Entity], where: str) -> list[Entity]:
    code = _compiled(where)
    return [e for e in entities if eval(code, NO_BUILTINS, e)]


class _Table:
    """The live rows of a collection."""

    def __init__(self) -> None:
        self.rows: dict[str, Stored] = {}

    def live(self) -> dict[str, Stored]:
        return self.rows


class _Backend:
    """What a server and a folder have in common: collections by name."""

    def __init__(self, kernel: Kernel, weather: Weather, version: str) -> None:
        self.kernel, self.weather, self.version = kernel, weather, version
        self.tables: dict[str, Any] = {}
        self.loaded = True  # a restart may forget that
        self._seq = 0

    def table(self, name: str) -> Any:
        if name not in self.tables:
            raise MilvusException(message=f"collection {name} not found")
        return self.tables[name]

    def live(self, name: str) -> dict[str, Stored]:
        return dict(self.table(name).live())


class Server(_Backend):
    """A Milvus server."""

    lite = False

    def put(self, name: str, pk: str, entity: Entity | None, by: str) -> None:
        self._seq += 1
        rows = self.table(name).rows
        if entity is None:
            rows.pop(pk, None)
        else:
            rows[pk] = Stored(pk, entity, self._seq, self.kernel.now, by)

    def raw(self) -> Iterator[Stored]:
        """Whatever somebody finds who looks into the store, or into its files."""
        for table in self.tables.values():
            yield from table.rows.values()

    def flush(self, name: str) -> None:
        pass


class _Files:
    """One collection of a Lite folder: its log, and the data files that its manifest names."""

    def __init__(self) -> None:
        self.log: list[Stored] = []
        self.segments: list[list[Stored]] = []

    def live(self) -> dict[str, Stored]:
        newest: dict[str, Stored] = {}
        for one in [*(s for segment in self.segments for s in segment), *self.log]:
            if one.pk not in newest or newest[one.pk].seq < one.seq:
                newest[one.pk] = one
        return {pk: one for pk, one in newest.items() if one.entity is not None}


class Folder(_Backend):
    """A folder of Milvus Lite on a disk. Its lock ends with the process that holds it."""

    lite = True

    def __init__(self, kernel: Kernel, weather: Weather) -> None:
        super().__init__(kernel, weather, "milvus_lite-3.2.2")
        self.holder: Process | None = None
        self.lost_log = False  # a flush broke off: what is in the log comes back with the next opening only

    def put(self, name: str, pk: str, entity: Entity | None, by: str) -> None:
        self._seq += 1
        self.table(name).log.append(Stored(pk, entity, self._seq, self.kernel.now, by))

    def raw(self) -> Iterator[Stored]:
        for table in self.tables.values():
            yield from (s for segment in table.segments for s in segment if s.entity is not None)
            yield from (s for s in table.log if s.entity is not None)

    def flush(self, name: str) -> None:
        """The newest of each row in the log becomes a data file; then the log ends."""
        table = self.table(name)
        if not table.log:
            return
        newest = {one.pk: one for one in table.log}
        self.kernel.sleep(0.002)  # a kill here leaves a file that no manifest names, which the next opening removes
        if self.weather.full:
            self.lost_log = True
            raise MilvusException(message="No space left on device")
        table.segments.append(list(newest.values()))
        table.log = []


class Engine:
    """`actors.milvus.lite.LiteEngine` on a simulated folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        process = folder.kernel.current
        assert process is not None
        holder = folder.holder
        if holder is not None and not holder.dead:
            raise StoreError("the folder is in use by another process; stop it or choose another home")
        folder.holder = self._process = process
        folder.lost_log = False
        self.uri = "lite"

    def scan(self, collection: str, fields: Sequence[str]) -> list[tuple[Any, ...]]:
        assert self._folder.kernel.worker is not None
        self._folder.kernel.sleep(0.0005)
        rows = self._folder.live(collection).values()
        return [tuple((s.entity or {})[f] for f in fields) for s in sorted(rows, key=lambda s: s.seq)]

    def purge(self, collection: str, owners: Collection[str]) -> int:
        """Rewrite the segments that hold what is out of date of these owners, one after the other."""
        folder, table = self._folder, self._folder.tables[collection]
        wanted = set(owners)
        for number in range(len(table.segments)):
            live = table.live()
            segment = table.segments[number]
            kept = [s for s in segment if s.pk[:KEY] not in wanted or (s.entity is None or live.get(s.pk) is s)]
            if len(kept) < len(segment):
                folder.kernel.sleep(0.002)
                if folder.weather.full:
                    raise StoreError("the store's files could not be rewritten (disk full); free some space")
                table.segments[number] = kept
        live = table.live()
        found = [s for segment in table.segments for s in segment if s.entity is not None and s.pk[:KEY] in wanted]
        return sum(live.get(s.pk) is not s for s in found)

    def owners(self, collection: str) -> Owners:
        table = self._folder.tables[collection]
        live = table.live()
        found = Owners(live={s.pk[:KEY] for s in live.values()})
        for segment in table.segments:
            found.outdated |= {s.pk[:KEY] for s in segment if s.entity is not None and live.get(s.pk) is not s}
        return found

    def close(self) -> None:
        try:
            for name in self._folder.tables:
                self._folder.flush(name)
        finally:
            self.abandon()

    def abandon(self) -> None:
        if self._folder.holder is self._process:
            self._folder.holder = None


class Client:
    """`pymilvus.MilvusClient`, as far as the product uses it, for one process."""

    def __init__(self, backend: Server | Folder, process: Process) -> None:
        self._backend, self._process = backend, process
        self._kernel, self._weather = backend.kernel, backend.weather

    def close(self) -> None:
        pass

    # Collections

    def get_server_version(self, timeout: float) -> str:
        return self._call("version", lambda: self._backend.version)

    def has_collection(self, name: str, timeout: float) -> bool:
        return self._call("has", lambda: name in self._backend.tables)

    def prepare_index_params(self) -> Client:
        return self

    def add_index(self, *_: Any, **__: Any) -> None:
        pass

    def create_collection(self, name: str, **_: Any) -> None:
        def create() -> None:
            if name in self._backend.tables:
                raise MilvusException(message="collection exists already")
            self._backend.tables[name] = _Files() if self._backend.lite else _Table()  # type: ignore[assignment]

        self._call("create", create)

    def describe_collection(self, name: str, timeout: float) -> dict[str, Any]:
        return self._call("describe", lambda: {"fields": []})

    def load_collection(self, name: str, timeout: float) -> None:
        def load() -> None:
            self._backend.loaded = True

        self._call("load", load)

    def get_collection_stats(self, name: str, timeout: float) -> dict[str, int]:
        return self._call("stats", lambda: {"row_count": len(self._backend.live(name))})

    # Reads

    def query(
        self, name: str, filter: str, output_fields: list[str], timeout: float, consistency_level: str, limit: int = 0
    ) -> list[Entity]:
        def read() -> list[Entity]:
            if not self._backend.loaded:
                raise MilvusException(message="collection not loaded")
            live = self._backend.live(name)
            if filter.startswith("pk in ["):
                found = [s.entity for pk in eval(filter[6:], NO_BUILTINS) if (s := live.get(pk)) is not None]
            else:
                found = _matching((s.entity for s in live.values()), filter)  # type: ignore[misc]
            if output_fields == ["count(*)"]:
                return [{"count(*)": len(found)}]
            if limit and len(found) > limit:
                found = self._kernel.random.sample(found, limit)
            return [{f: e[f] for f in output_fields} for e in found if e is not None]

        return self._call("query", read)

    def search(
        self, name: str, data: Any, anns_field: str, filter: str, limit: int, output_fields: list[str], **_: Any
    ) -> list[list[dict[str, Any]]]:
        def read() -> list[list[dict[str, Any]]]:
            found = _matching((s.entity for s in self._backend.live(name).values()), filter)  # type: ignore[misc]
            target = np.asarray(data[0])
            found.sort(key=lambda e: -float(np.asarray(e["vector"]) @ target))
            return [[{"pk": e["pk"], "entity": {f: e[f] for f in output_fields}} for e in found[:limit]]]

        return self._call("search", read)

    # Writes

    def upsert(self, name: str, batch: list[Entity], timeout: float) -> None:
        copies = [{**e} for e in batch]
        self._write("write", name, [(e["pk"], e) for e in copies])

    insert = upsert

    def delete(self, name: str, ids: list[str], timeout: float) -> None:
        self._write("delete", name, [(pk, None) for pk in ids])

    def flush(self, name: str) -> None:
        self._call("flush", lambda: None)
        self._backend.flush(name)

    def compact(self, name: str, timeout: float) -> None:
        self._call("compact", lambda: None)

    # Inside

    def _write(self, what: str, name: str, items: list[tuple[str, Entity | None]]) -> None:
        def write(items: list[tuple[str, Entity | None]] = items) -> None:
            for pk, entity in items:
                self._backend.put(name, pk, entity, self._process.name)

        random, weather = self._kernel.random, self._weather
        if not self._backend.lite and len(items) > 1 and weather.partly and random.random() < weather.partly:
            some = random.sample(sorted(items, key=lambda item: item[0]), random.randint(1, len(items) - 1))
            self._call(f"{what} partly", lambda: write(some))
            raise MilvusException(message="deadline_exceeded after a part of the rows")
        self._call(what, write, sorted(pk for pk, _ in items))

    def _call(self, what: str, effect: Callable[[], Any], about: object = "") -> Any:
        kernel, weather = self._kernel, self._weather
        weather.calls += 1
        if kernel.trace is not None:
            kernel.note("  store", self._process.name, what, about or "")
        struck = self._strike(what)
        outcome: list[Any] = []

        def arrives() -> None:  # on its way it needs the process no more
            try:
                if weather.away and not self._backend.lite:
                    raise MilvusException(message="server unavailable")
                if weather.full and self._backend.lite and what in ("write", "delete"):
                    raise MilvusException(message="No space left on device")
                if weather.refused and kernel.random.random() < weather.refused:
                    raise MilvusException(message="server unavailable" if not self._backend.lite else "refused")
                outcome.append(effect())
            except MilvusException as e:
                outcome[:] = [None, e]
            if struck is not None:
                struck()
            kernel.after(0.0, worker.process, lambda: kernel.resume(worker))

        worker = kernel.waiting()
        lite = self._backend.lite  # is in this process, and dies with it
        kernel.after(weather.latency(), worker.process if lite else None, arrives)
        kernel.block()
        if len(outcome) == 2:
            raise outcome[1]
        if weather.lost and kernel.random.random() < weather.lost:
            kernel.sleep(0.5)
            raise MilvusException(message="deadline_exceeded" if not self._backend.lite else "refused")
        return outcome[0]

    def _strike(self, what: str) -> Callable[[], None] | None:
        """Whether one of the prepared faults hits this call, before or after it has its effect."""
        due = next((one for one in self._weather.strikes if self._weather.calls >= one[0]), None)
        if due is None:
            return None
        self._weather.strikes.remove(due)
        _, strike, after = due

        def hit() -> None:
            self._kernel.after(0.0, None, lambda: strike(self._process, what))

        if after:
            return hit
        hit()
        self._kernel.sleep(0.0)
        return None


def path_of(name: str) -> Path:
    """Where a folder would be, if there were one."""
    return Path("/simulated") / name

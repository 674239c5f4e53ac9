"""A connection to Milvus, an embedded Lite folder or a server, with the calls a store needs and errors as ours.

It knows collections, primary keys and filters, but not what they stand for. Reads may come from many threads at once and
never wait for writes; writes run one after the other; in Milvus Lite a flush waits for reads and holds them off.

Of a server it uses only what every version since `OLDEST` does in the same way: queries, upserts and deletes at strong
consistency. `query_iterator` is not among them: with some versions it reads at a time that the client chose and misses what
was just written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from actors.milvus import rows
from actors.milvus.lite import FlushGate, LiteEngine, check_disk
from actors.milvus.rows import Entity, chunked
from actors.milvus.servers import PARTITIONED, dotted, is_away, is_unloaded, line_of, version_of
from personaagent.errors import StoreError, UnavailableError
from personaagent.memory.store import Vector

__all__ = ["MilvusConnection"]

READ_ROWS = 500  # of one call; with vectors and texts of 64 KB they fit what a server sends
DIRTY_BYTES = 48 * 2**20  # flush before Milvus Lite does so by itself at 128 MB, which would not wait for readers
DIRTY_ROWS = 20_000
# A server that was away is tried again soon; by default the wait grows to two minutes.
RECONNECT = {f"grpc.{name}_reconnect_backoff_ms": ms for name, ms in {"initial": 200, "min": 200, "max": 2_000}.items()}
# Milvus Lite's server takes the client's keep-alive pings for abuse and hangs up; in one process nobody needs them.
NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": False}
LOAD_TIMEOUT_S = 120.0  # a large collection takes a server a while to load, and it answers others meanwhile
LITE_TIMEOUT_S = 300.0  # it is in this process: slow means that the machine is busy, not that it is away
STRONG = "Strong"  # said with every read: the default of a collection is whoever's who made it
AWAY = "the Milvus server does not answer; check memory.uri and that it runs"

T = TypeVar("T")


class MilvusConnection:
    """Connect.

    Args:
        location: folder of Milvus Lite (a path), or URI of a server.
        collections: names of the collections in use; they are flushed and loaded together.
        token: of the server.
        timeout: seconds after which a server counts as away.

    Raises (every method too):
        StoreError: the folder is damaged or in use, the server is older than `OLDEST`, or Milvus refused.
        UnavailableError: the server does not answer.
    """

    def __init__(self, location: Path | str, collections: Sequence[str], token: str, timeout: float) -> None:
        self._collections = list(collections)
        self._path = location if isinstance(location, Path) else None
        self._timeout = timeout if self._path is None else LITE_TIMEOUT_S
        self._lite = LiteEngine(self._path) if self._path is not None else None
        self._client: MilvusClient | None = None
        self._version: tuple[int, ...] | None = None  # of a server that tells it
        self.writing = threading.RLock()  # held by whoever needs several writes in a row
        self.guard: Callable[[], None] | None = None  # called right before every call that changes a server
        self._gate = FlushGate()
        self._dirty_rows = self._dirty_bytes = 0
        self._broken: str | None = None
        self._closed = False
        try:
            with self._errors():
                uri = self._lite.uri if self._lite else str(location)
                options = {**RECONNECT, **(NO_PINGS if self._lite else {})}
                self._client = MilvusClient(
                    uri=uri, token=token, timeout=self._timeout, dedicated=True, grpc_options=options
                )
                if self._lite is None:
                    self._version = version_of(str(self._client.get_server_version(timeout=self._timeout)))
        except BaseException:
            self.close()
            raise

    @property
    def is_lite(self) -> bool:
        """Whether this is an embedded folder that no other process has open."""
        return self._path is not None

    @property
    def partitions(self) -> bool:
        """Whether a collection may have a partition key here: upserts of older servers get it wrong."""
        return self._version is not None and self._version >= PARTITIONED

    @property
    def unflushed(self) -> int:
        """Rows written since the last flush."""
        return self._dirty_rows

    @property
    def broken(self) -> str | None:
        """Why this connection is of no use until it is closed and opened again, or None."""
        return self._broken

    # Collections

    def has(self, collection: str) -> bool:
        """Whether a collection exists."""
        return bool(self._read(lambda client: client.has_collection(collection, timeout=self._timeout)))

    def create(self, collection: str, schema: Any) -> None:
        """Create a collection; harmless if another shard was quicker."""
        with self._changing() as client:
            index = None
            if not self.is_lite:
                index = client.prepare_index_params()
                index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
            try:
                client.create_collection(
                    collection,
                    schema=schema,
                    index_params=index,
                    consistency_level=STRONG,
                    timeout=max(self._timeout, LOAD_TIMEOUT_S),
                )
            except MilvusException:
                if not client.has_collection(collection, timeout=self._timeout):
                    raise

    def load(self, collection: str) -> None:
        """Make a server's collection searchable. Raises StoreError if this server cannot work with it."""
        if not self.is_lite:
            with self._errors():
                described = self._usable().describe_collection(collection, timeout=self._timeout)
                old = self._version is not None and self._version < PARTITIONED
                if old and any(field.get("is_partition_key") for field in described["fields"]):
                    raise StoreError(
                        f"collection {collection} has a partition key, which servers before {dotted(PARTITIONED)} get"
                        " wrong; update the Milvus server, or choose another memory.collection"
                    )
                self._usable().load_collection(collection, timeout=max(self._timeout, LOAD_TIMEOUT_S))

    def scan(self, collection: str, fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """Scalar fields of all rows of an embedded collection."""
        with self._gate.reading():
            return self._lite.scan(collection, fields) if self._lite is not None else []

    # Reads

    def by_pk(self, collection: str, pks: Sequence[str], fields: list[str]) -> list[Entity]:
        """The entities with these primary keys, in no particular order."""
        found: list[Entity] = []
        for batch in chunked(pks, READ_ROWS):
            found += self.query(collection, rows.any_of("pk", batch), fields)
        return found

    def query(self, collection: str, where: str, fields: list[str], **options: Any) -> list[Entity]:
        """The entities a filter matches."""
        return self._read(
            lambda client: list(
                client.query(
                    collection,
                    filter=where,
                    output_fields=fields,
                    timeout=self._timeout,
                    consistency_level=STRONG,
                    **options,
                )
            )
        )

    def pages(
        self, collection: str, where: str, fields: list[str], *, after: str = "", size: int = READ_ROWS
    ) -> Iterator[Entity]:
        """The entities of a server that a filter matches, by primary key, fetched as they are asked for.

        No version promises which rows a query with a limit returns: real servers send the first by primary key, Milvus
        Lite's the first that were written. So a page that is full counts only if no other row lies in its range of keys;
        otherwise a smaller range is asked for. A page that is not full is whole whatever its order.

        Args:
            collection: where to look.
            where: the filter; "" for all.
            fields: which fields; "pk" has to be among them.
            after: only primary keys greater than that.
            size: rows of one call.
        """
        bounds: list[str] = []  # ends of the ranges to be read, the nearest last; behind them the range is open
        while True:
            span = [rows.greater("pk", after), *([rows.at_most("pk", bounds[-1])] if bounds else [])]
            page = self.query(collection, rows.both(*filter(None, [where, *span])), fields, limit=size)
            page.sort(key=_pk)
            if len(page) >= size:
                last = _pk(page[-1])
                span = [rows.greater("pk", after), rows.at_most("pk", last)]
                if self.count(collection, rows.both(*filter(None, [where, *span]))) > len(page):
                    bounds.append(_pk(page[(len(page) - 1) // 2]))
                    continue
            elif bounds:
                last = bounds.pop()
            else:
                yield from page
                return
            yield from page
            after = last

    def count(self, collection: str, where: str) -> int:
        """How many entities a filter matches."""
        return int(self.query(collection, where, ["count(*)"])[0]["count(*)"])

    def total(self, collection: str) -> int:
        """About how many entities a collection has."""
        stats = self._read(lambda client: client.get_collection_stats(collection, timeout=self._timeout))
        return int(stats["row_count"])

    def nearest(self, collection: str, vector: Vector, where: str, fields: list[str], limit: int) -> list[Entity]:
        """The entities of highest cosine with `vector` that a filter matches, best first."""
        found = self._read(
            lambda client: client.search(
                collection,
                data=[vector.tolist()],
                anns_field="vector",
                filter=where,
                limit=limit,
                output_fields=fields,
                search_params={"metric_type": "COSINE"},
                timeout=self._timeout,
                consistency_level=STRONG,
            )
        )
        return [{**hit["entity"], "pk": hit["pk"]} for hit in found[0]]

    # Writes

    def write(
        self,
        collection: str,
        entities: Sequence[Entity],
        written: Callable[[Sequence[Entity]], None] | None = None,
    ) -> None:
        """Write entities, replacing those of the same primary key, in calls of a size that a server takes.

        `written` is told of each part that is in the store, also if a later one fails.
        """
        for batch, size in rows.batches(entities):
            if self._path is not None:
                check_disk(self._path, 4 * size)
            with self._changing() as client:
                # In Milvus Lite the last insert of a key wins; its upsert would read the old row first, for nothing.
                write = client.insert if self.is_lite else client.upsert
                write(collection, batch, timeout=self._timeout)
            if written is not None:
                written(batch)
            self._dirty_rows += len(batch)
            self._dirty_bytes += size
            if self.is_lite and (self._dirty_bytes > DIRTY_BYTES or self._dirty_rows > DIRTY_ROWS):
                self.flush(force=True)

    def delete(self, collection: str, pks: Sequence[str]) -> None:
        """Delete entities by primary key."""
        for batch in chunked(pks, rows.WRITE_ROWS):
            with self._changing() as client:
                client.delete(collection, ids=list(batch), timeout=self._timeout)
            self._dirty_rows += len(batch)

    def delete_where(self, collection: str, where: str) -> None:
        """Delete what a filter matches on a server, by primary key: the first servers of 2.3 take no other filter."""
        with self.writing:
            self.delete(collection, [_pk(e) for e in self.pages(collection, where, ["pk"], size=rows.SCALARS)])

    def flush(self, force: bool = False) -> None:
        """Move what was written into data files; `force` even if nothing is known to be unflushed.

        A server flushes by itself, and all the better for not being asked to every few seconds.
        """
        with self.writing:
            if not self._dirty_rows and not force:
                return
            client = self._usable()
            if self._path is not None:
                with self._gate.flushing(), self._errors():
                    check_disk(self._path, self._dirty_bytes)
                    try:
                        for name in self._collections:
                            client.flush(name)
                    except BaseException as e:
                        # What it was writing is now neither in memory nor in a data file, only in its log; a later flush
                        # would delete the log. Only a start from the log mends that.
                        said = line_of(e)
                        self._broken = (
                            f"the store could not be flushed ({said}); free some space, it then recovers by itself"
                        )
                        raise
            self._dirty_rows = self._dirty_bytes = 0

    def scrub(self, owners: Collection[str]) -> tuple[int, str]:
        """Get what was deleted or replaced out of the files, of all entities whose keys begin with one of `owners`.

        Returns:
            How many such entities a look at the files still finds, and what remains on the disk until when.
        """
        if self._lite is None:
            with self._changing() as client:
                for name in self._collections:
                    client.compact(name, timeout=self._timeout)
            return 0, "deleted rows leave the Milvus server's files when its compaction and garbage collection have run"
        with self.writing:
            self.flush(force=True)
            with self._gate.flushing(), self._errors():
                left = sum(self._lite.purge(name, owners) for name in self._collections)
        return left, (
            "the store's files were rewritten without the user and searched, and hold nothing of theirs; blocks freed on the"
            " disk are the file system's"
        )

    def outdated(self, gone: bool) -> set[str]:
        """Whose deleted or replaced rows an embedded store has in its files; `gone`: only of who has no live row."""
        if self._lite is None:
            return set()
        with self._gate.reading():
            found = [self._lite.owners(name) for name in self._collections]
        outdated = set().union(*(f.outdated for f in found))
        return outdated.difference(*(f.live for f in found)) if gone else outdated

    def close(self) -> None:
        """Give up files and connections; harmless when closed already."""
        with self.writing:
            if self._closed:
                return
            self._closed = True
            if self._client is not None:
                self._client.close()
            if self._lite is not None and self._can_save():
                self._lite.close()
            elif self._lite is not None:
                self._lite.abandon()

    # Inside

    def _can_save(self) -> bool:
        """Whether an embedded store can be saved when it is closed; if not, the next opening finds everything in its log."""
        if self._broken is not None or self._path is None:
            return False
        try:
            check_disk(self._path, self._dirty_bytes)
        except (StoreError, OSError):
            return False
        return True

    def _read(self, call: Callable[[MilvusClient], T]) -> T:
        with self._gate.reading(), self._errors():
            client = self._usable()
            try:
                return call(client)
            except MilvusException as e:
                if self.is_lite or not is_unloaded(line_of(e)):
                    raise
                # A server that was restarted may have to be told to load its collections.
                for name in self._collections:
                    client.load_collection(name, timeout=self._timeout)
                return call(client)

    @contextmanager
    def _changing(self) -> Iterator[MilvusClient]:
        with self.writing:
            client = self._usable()
            if self.guard is not None:
                self.guard()
            try:
                with self._errors():
                    yield client
            except StoreError:
                if self.is_lite and self._broken is None:
                    # A write that broke off leaves a torn record in the log, behind which nothing would be found again.
                    # A flush starts a new log; if that fails too, the store says so from then on.
                    self.flush(force=True)
                raise

    def _usable(self) -> MilvusClient:
        if self._client is None or self._closed:
            raise StoreError("the store is closed")
        if self._broken is not None:
            raise StoreError(self._broken)
        return self._client

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Milvus's errors as ours."""
        try:
            yield
        except (MilvusException, grpc.RpcError) as e:
            text = line_of(e)
            if not self.is_lite and (isinstance(e, grpc.RpcError) or is_away(text)):
                raise UnavailableError(AWAY) from e
            if "No space left" in text:
                raise StoreError("the disk is full; free some space, then try again") from e
            raise StoreError(f"Milvus refused: {text}") from e


def _pk(entity: Entity) -> str:
    return str(entity["pk"])

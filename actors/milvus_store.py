"""`personaagent.store.Store` on Milvus: an embedded Milvus Lite folder or a server, with the same behaviour.

Both are driven through `MilvusClient`; three things differ. Milvus Lite looks at every row for any filter but
`pk in [...]`, so for it the store keeps a directory of primary keys in RAM (one process owns the folder, so the directory
is exact). Its flushes must not run beside reads, see `actors.lite`. And a server, which several shards may write to, gets
the user key as partition key and strong consistency.

Durability: a write is in the operating system's hands when a method returns, so it survives the death of this process at
any moment. It is on the disk after the next `flush`.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from actors import milvus_rows as rows
from actors.lite import Gate, LiteEngine, check_disk
from personaagent.errors import ConflictError, StoreError, UnavailableError
from personaagent.store import Erased, Ledger, Row, RowKey, StoredUser, Vector, row_key, summarise
from personaagent.types import Persona, Profile, UserSummary, user_key

__all__ = ["SCHEMA", "MilvusStore", "StoreIdentity", "shard_of"]

SCHEMA = 1  # version of what is written; a store of a newer one is refused
BATCH_ROWS = 1_000  # of one insert
BATCH_BYTES = 8 * 2**20  # of one insert; servers take 64 MB
READ_ROWS = 500  # of one read
LITE_DIRTY_BYTES = 48 * 2**20  # flush before Milvus Lite does so by itself at 128 MB, which would not wait for readers
LITE_DIRTY_ROWS = 20_000
# A server that was away is tried again soon; by default the wait grows to two minutes.
RECONNECT = {f"grpc.{name}_reconnect_backoff_ms": ms for name, ms in {"initial": 200, "min": 200, "max": 2_000}.items()}
META = "store"  # stands where a user key would

Entity = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class StoreIdentity:
    """What a store must agree with to be opened."""

    embedder: str
    dim: int
    shards: int
    tenant: str
    shard: int
    schema: int = SCHEMA

    def description(self, shared: bool) -> dict[str, Any]:
        """What the store says of itself; in one that all shards share (a server's) no shard is named."""
        return {**asdict(self), "shard": None if shared else self.shard}

    def check(self, stored: dict[str, Any]) -> None:
        """Compare with what the store says of itself.

        Raises:
            StoreError: they differ; the message says what to do.
        """
        if stored.get("schema") != self.schema:
            raise StoreError(f"this store is of version {stored.get('schema')}, not {self.schema}; update personaagent")
        if (stored.get("embedder"), stored.get("dim")) != (self.embedder, self.dim):
            raise StoreError(
                f"this store was made with embedder {stored.get('embedder')!r} ({stored.get('dim')} numbers), the settings"
                f" say {self.embedder!r} ({self.dim}); set embedder.model back or use a new home"
            )
        if stored.get("shards") != self.shards:
            raise StoreError(
                f"this store has {stored.get('shards')} shards, the settings say {self.shards}; set memory.shards to"
                f" {stored.get('shards')} or run `personaagent reshard`"
            )
        if stored.get("tenant") != self.tenant or stored.get("shard") not in (None, self.shard):
            raise StoreError(
                f"this is shard {stored.get('shard')} of tenant {stored.get('tenant')!r}, not {self.shard} of"
                f" {self.tenant!r}; put the folders back where they belong"
            )


def shard_of(key: str, shards: int) -> int:
    """Which of `shards` shards holds the user with this key."""
    return int(key[:12], 16) % shards


class MilvusStore:
    """Open a store, creating it if it is not there.

    Args:
        location: folder of Milvus Lite (a path), or URI of a server.
        identity: what the store must be.
        collection: prefix of the names of its two collections.
        token: of the server.
        timeout: seconds after which a server counts as away.

    Raises:
        StoreError: it is damaged, in use, or another one than `identity` says.
        UnavailableError: the server does not answer.
    """

    def __init__(
        self,
        location: Path | str,
        identity: StoreIdentity,
        *,
        collection: str = "personaagent",
        token: str = "",
        timeout: float = 10.0,
    ) -> None:
        self._identity = identity
        self._timeout = timeout
        self._episodes, self._records = f"{collection}_episodes", f"{collection}_records"
        self._path = location if isinstance(location, Path) else None
        self._writing = threading.RLock()
        self._gate = Gate()
        self._dirty_rows = self._dirty_bytes = 0
        self._broken: str | None = None
        self._closed = False
        self._named: set[str] = set()  # users whose name is known to be stored
        self._ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)  # by user key; Milvus Lite only
        self._record_keys: defaultdict[str, set[str]] = defaultdict(set)  # the same for records
        self._lite = LiteEngine(self._path) if self._path is not None else None
        self._client: MilvusClient | None = None
        try:
            with self._errors():
                uri = self._lite.uri if self._lite else str(location)
                self._client = MilvusClient(
                    uri=uri, token=token, timeout=timeout, dedicated=True, grpc_options=RECONNECT
                )
                self._prepare()
        except BaseException:
            self.close()
            raise

    # Store protocol

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._identity.dim

    @property
    def unflushed(self) -> int:
        """Rows written since the last flush."""
        return self._dirty_rows

    @property
    def episodes(self) -> int:
        """Interactions of all users in the store (a server's count covers all shards and is approximate)."""
        if self._lite is not None:
            return sum(len(ledger) for ledger in list(self._ledgers.values()))
        return int(self._read(lambda client: client.get_collection_stats(self._episodes))["row_count"])

    @property
    def broken(self) -> str | None:
        """Why this store is of no use until it is closed and opened again, or None."""
        return self._broken

    def put(self, items: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id."""
        with self._writing:
            for user in {row.user for row in items}:
                self._name(user)
            batch: list[Entity] = []
            rest: list[Entity] = []
            size = 0
            for row in items:
                entity, parts = rows.episode(row)
                batch.append(entity)
                rest.extend(parts)
                size += _bytes(entity) + sum(_bytes(p) for p in parts)
                if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                    self._put_episodes(batch, rest, size)
                    batch, rest, size = [], [], 0
            self._put_episodes(batch, rest, size)

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        if self._lite is not None:
            keys = [(user, digest) for user, digest in keys if digest in self._ledger_of(user_key(user))]
        found = self._rows(self._by_pk(self._episodes, [rows.pk_of(*key) for key in keys], rows.EPISODE_FIELDS))
        return {row_key(row.user, row.id): row for row in found}

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        if self._lite is not None:
            return len(self._ledger_of(user_key(user)))
        return self._count(self._episodes, user_key(user))

    def load(self, user: str, rows: bool = True) -> StoredUser:
        """Everything of the user, or only personas and profile; empty for an unknown user."""
        key = user_key(user)
        personas, profiles = self._versions(key, "persona"), self._versions(key, "profile")
        return StoredUser(
            rows=self._load_rows(user, key) if rows else (),
            personas=tuple(Persona.model_validate(content["persona"]) for content in personas),
            profile=Profile.model_validate(profiles[-1]["profile"]) if profiles else None,
        )

    def ledger(self, user: str) -> Ledger:
        """When the user's interactions happened and arrived."""
        key = user_key(user)
        if self._lite is not None:
            return self._ledger_of(key).copy()
        ledger = Ledger()
        for e in self._pages(self._episodes, rows.equals("user_key", key), rows.EPISODE_SCALARS):
            ledger.put(bytes.fromhex(e["pk"][32:]), e["time"], e["arrived"], e["truth_arrived"])
        return ledger

    def search(
        self, user: str, vector: Vector, limit: int, *, since: int, until: int, before: tuple[int, int], truth: bool
    ) -> list[Row]:
        """The user's rows by cosine with `vector`."""
        time, arrived = before
        tied = rows.both(rows.equals("time", time), rows.compare("arrived", "<", arrived))
        filters = [
            rows.equals("user_key", user_key(user)),
            rows.compare("time", ">=", since),
            rows.compare("time", "<", until),
            rows.either(rows.compare("time", "<", time), tied),
        ]
        if truth:
            filters.append(rows.compare("truth_arrived", ">", 0))
        found = self._read(
            lambda client: client.search(
                self._episodes,
                data=[vector.tolist()],
                anns_field="vector",
                filter=rows.both(*filters),
                limit=limit,
                output_fields=rows.EPISODE_FIELDS,
                search_params={"metric_type": "COSINE"},
                timeout=self._timeout,
            )
        )
        return self._rows([{**hit["entity"], "pk": hit["pk"]} for hit in found[0]])

    def put_persona(self, user: str, persona: Persona, token: str) -> None:
        """Add a version. Raises ConflictError if another attempt added that number."""
        content = {"token": token, "persona": persona.model_dump(mode="json")}
        self._claim(user, "persona", persona.number, content)

    def put_profile(self, user: str, profile: Profile, expected: int, token: str) -> None:
        """Replace the profile of version `expected`. Raises ConflictError if another one is stored."""
        key = user_key(user)
        with self._writing:
            stored = self._versions(key, "profile")
            current = stored[-1] if stored else None
            if current is not None and current["token"] == token:
                return
            if (current["profile"]["version"] if current else 0) != expected:
                raise ConflictError("the profile was replaced meanwhile; read it and try again")
            content = {"token": token, "profile": profile.model_dump(mode="json")}
            self._claim(user, "profile", profile.version, content)
            self._delete_records(key, [e for e in self._records_of(key, "profile") if e["number"] < profile.version])

    def erase(self, user: str) -> Erased:
        """Delete everything of the user, then read back."""
        key = user_key(user)
        with self._writing:
            personas, profiles = self._versions(key, "persona"), self._versions(key, "profile")
            interactions = self.count(user)
            gone = {name: self._delete_user(name, key) for name in (self._episodes, self._records)}
            self._named.discard(user)
            note = self._scrub(gone)
        return Erased(
            interactions=interactions,
            personas=len(personas),
            facts=len(profiles[-1]["profile"]["facts"]) if profiles else 0,
            remaining=self._count(self._episodes, key) + self._count(self._records, key),
            note=note,
        )

    def users(self) -> Iterator[UserSummary]:
        """All users of this shard, read in pages."""
        if self._lite is not None:
            ledgers = self._ledgers
        else:
            ledgers = defaultdict(Ledger)
            for e in self._pages(self._episodes, "", rows.EPISODE_SCALARS):
                if self._mine(e["user_key"]):
                    ledgers[e["user_key"]].put(bytes.fromhex(e["pk"][32:]), e["time"], e["arrived"], e["truth_arrived"])
        for key, records in self._by_user(["user", "persona", "profile"]):
            names = [json.loads(e["text"])["user"] for e in records if e["kind"] == "user"]
            personas = [Persona.model_validate(c["persona"]) for c in _numbered(records, "persona")]
            ledger = ledgers.get(key, Ledger())
            if names and (len(ledger) or len(records) > 1):
                yield summarise(names[0], ledger, personas)

    def flush(self) -> None:
        """Move what was written into data files. Reads of this store wait meanwhile."""
        with self._writing:
            if not self._dirty_rows:
                return
            self._usable()
            if self._lite is None:
                # A server flushes by itself, and all the better for not being asked to every few seconds.
                self._dirty_rows = self._dirty_bytes = 0
                return
            self._flush_lite()

    def close(self) -> None:
        """Give up files and connections; harmless when closed already."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            if self._client is not None:
                self._client.close()
            if self._lite is not None and self._broken is None:
                self._lite.close()
            elif self._lite is not None:
                self._lite.abandon()

    # Opening

    def _prepare(self) -> None:
        client = self._connection()
        has = [client.has_collection(name, timeout=self._timeout) for name in (self._records, self._episodes)]
        if has == [False, True]:
            raise StoreError(f"collection {self._episodes} is there without {self._records}; restore it or drop it")
        if not has[0]:
            self._create(self._records, rows.records_schema(self._lite is None))
        self._load_collection(self._records)
        stored = self._by_pk(self._records, [f"{META}/meta"], rows.RECORD_FIELDS)
        if stored:
            self._identity.check(json.loads(stored[0]["body"]))
        if not has[1]:
            self._create(self._episodes, rows.episodes_schema(self.dim, self._lite is None))
        self._load_collection(self._episodes)
        if not stored:
            # Written last: a store without it was not finished, so nothing can be in it.
            if has[1] and self._query(self._episodes, rows.anything("pk"), ["pk"], limit=1):
                raise StoreError(
                    f"collection {self._episodes} is not of this program; choose another memory.collection"
                )
            entity, _ = rows.record(META, "meta", "meta", 0, json.dumps(self._identity.description(not self._lite)))
            self._upsert(self._records, [entity])
        if self._lite is not None:
            self._flush_lite()  # what a crash left unflushed counts towards Milvus Lite's own limit
            self._read_directory(self._lite)

    def _create(self, name: str, schema: Any) -> None:
        client = self._connection()
        index = None
        if self._lite is None:
            index = client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        try:
            client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong", timeout=self._timeout
            )
        except MilvusException:
            # Another shard may have been quicker.
            if not client.has_collection(name, timeout=self._timeout):
                raise

    def _load_collection(self, name: str) -> None:
        if self._lite is None:
            self._connection().load_collection(name, timeout=self._timeout)

    def _read_directory(self, lite: LiteEngine) -> None:
        for pk, time, arrived, known in lite.scan(self._episodes, ["pk", "time", "arrived", "truth_arrived"]):
            self._ledgers[pk[:32]].put(bytes.fromhex(pk[32:]), time, arrived, known)
        for pk, key in lite.scan(self._records, ["pk", "user_key"]):
            self._record_keys[key].add(pk)

    # Episodes

    def _put_episodes(self, batch: list[Entity], rest: list[Entity], size: int) -> None:
        if not batch:
            return
        if self._path is not None:
            check_disk(self._path, 4 * size)
        if rest:
            self._put_records(rest)
        self._upsert(self._episodes, batch)
        if self._lite is not None:
            for e in batch:
                self._ledgers[e["user_key"]].put(
                    bytes.fromhex(e["pk"][32:]), e["time"], e["arrived"], e["truth_arrived"]
                )
        self._drop_stale_parts(batch, {e["pk"] for e in rest})
        self._dirty_bytes += size
        if self._lite is not None and (self._dirty_bytes > LITE_DIRTY_BYTES or self._dirty_rows > LITE_DIRTY_ROWS):
            self._flush_lite()

    def _drop_stale_parts(self, batch: list[Entity], fresh: set[str]) -> None:
        """Parts of what a long text was before it was replaced."""
        stale: list[str] = []
        for entity in batch:
            key, prefix = entity["user_key"], entity["pk"] + "/"
            if self._lite is not None:
                parts: Iterable[str] = list(self._record_keys.get(key, ()))
            elif entity["parts"]:
                parts = [e["pk"] for e in self._records_of(key, "part", text=False)]
            else:
                parts = ()
            stale += [pk for pk in parts if pk.startswith(prefix) and pk not in fresh]
        self._delete(self._records, stale)

    def _load_rows(self, user: str, key: str) -> tuple[Row, ...]:
        if self._lite is not None:
            keys = [rows.pk_of(user, digest) for digest in self._ledger_of(key).digests()]
            found = self._rows(self._by_pk(self._episodes, keys, rows.EPISODE_FIELDS))
        else:
            found = self._rows(self._pages(self._episodes, rows.equals("user_key", key), rows.EPISODE_FIELDS))
        return tuple(sorted(found, key=lambda row: row.arrived))

    def _rows(self, entities: Iterable[Entity]) -> list[Row]:
        entities = list(entities)
        parts = self._parts(entities)
        return [rows.row_of(e, rows.join_body(e, parts.get)) for e in entities]

    def _parts(self, entities: Sequence[Entity]) -> dict[str, str]:
        keys = [key for e in entities if e["parts"] for key in rows.part_keys(e["pk"], e["body"], e["parts"])]
        return {e["pk"]: e["body"] for e in self._by_pk(self._records, keys, rows.RECORD_FIELDS)}

    def _ledger_of(self, key: str) -> Ledger:
        return self._ledgers[key] if key in self._ledgers else Ledger()

    def _mine(self, key: str) -> bool:
        """Whether this shard holds the user; a server's collections hold those of all shards."""
        return key != META and shard_of(key, self._identity.shards) == self._identity.shard

    # Records

    def _name(self, user: str) -> None:
        """Store what the user is called, which digests do not tell."""
        if user in self._named:
            return
        key = user_key(user)
        entity, rest = rows.record(key, "user", "user", 0, json.dumps({"user": user}))
        if self._lite is None or entity["pk"] not in self._record_keys.get(key, ()):
            self._put_records([*rest, entity])
        self._named.add(user)

    def _claim(self, user: str, kind: str, number: int, content: dict[str, Any]) -> None:
        """Add a numbered record unless there is one of that number.

        Milvus has no compare-and-set, and on a server another shard may believe in the same user for a moment. So every
        attempt has a key of its own, is written and read back: whoever finds company withdraws. Two at once may both
        withdraw; that two succeed cannot happen.
        """
        key, token = user_key(user), content["token"]
        with self._writing:
            self._name(user)
            if not self._claimed(key, kind, number, token):
                name = f"{kind}/{number:08d}/{token}"
                entity, rest = rows.record(key, name, kind, number, json.dumps(content))
                self._put_records([*rest, entity])
                try:
                    self._claimed(key, kind, number, token)
                except ConflictError:
                    self._delete_records(key, [entity])
                    raise

    def _claimed(self, key: str, kind: str, number: int, token: str) -> bool:
        """Whether this attempt has the number. Raises ConflictError if another one has."""
        prefix = f"{key}/{kind}/{number:08d}/"
        holders = [e["pk"] for e in self._records_of(key, kind, text=False) if e["pk"].startswith(prefix)]
        if any(pk != prefix + token for pk in holders):
            raise ConflictError(f"{kind} version {number} exists already; read it and try again")
        return bool(holders)

    def _versions(self, key: str, kind: str) -> list[dict[str, Any]]:
        """Contents of a user's numbered records of a kind, by number."""
        return _numbered(self._records_of(key, kind), kind)

    def _by_user(self, kinds: Sequence[str]) -> Iterator[tuple[str, list[Entity]]]:
        """The records of these kinds of all users of this shard, user by user."""
        if self._lite is not None:
            for keys in rows.chunked(sorted(k for k in list(self._record_keys) if k != META), 100):
                pks = [pk for key in keys for pk in list(self._record_keys.get(key, ())) if _kind(pk) in kinds]
                yield from self._grouped(self._by_pk(self._records, pks, rows.RECORD_FIELDS))
        else:
            found = self._pages(self._records, rows.any_of("kind", kinds), rows.RECORD_FIELDS)
            yield from self._grouped([e for e in found if self._mine(e["user_key"])])

    def _grouped(self, entities: list[Entity]) -> Iterator[tuple[str, list[Entity]]]:
        groups: defaultdict[str, list[Entity]] = defaultdict(list)
        for entity in self._with_text(entities):
            groups[entity["user_key"]].append(entity)
        yield from groups.items()

    def _records_of(self, key: str, kind: str, text: bool = True) -> list[Entity]:
        """A user's records of a kind, with their whole text unless that is not needed."""
        if self._lite is not None:
            pks = sorted(pk for pk in list(self._record_keys.get(key, ())) if _kind(pk) == kind)
            if not text:
                return [{"pk": pk} for pk in pks]
            found = self._by_pk(self._records, pks, rows.RECORD_FIELDS)
        else:
            where = rows.both(rows.equals("user_key", key), rows.equals("kind", kind))
            found = list(self._pages(self._records, where, rows.RECORD_FIELDS))
        return self._with_text(found) if text else found

    def _with_text(self, entities: list[Entity]) -> list[Entity]:
        parts = self._parts(entities)
        return [{**e, "text": rows.join_body(e, parts.get)} for e in entities]

    def _put_records(self, entities: list[Entity]) -> None:
        for batch in rows.chunked(entities, 64):
            if self._path is not None:
                check_disk(self._path, sum(_bytes(e) for e in batch))
            self._upsert(self._records, list(batch))
            self._dirty_bytes += sum(_bytes(e) for e in batch)
            for e in batch:
                self._record_keys[e["user_key"]].add(e["pk"])

    def _delete_records(self, key: str, entities: Sequence[Entity]) -> None:
        parts = [pk for e in entities if e["parts"] for pk in rows.part_keys(e["pk"], e["body"], e["parts"])]
        self._delete(self._records, [*(e["pk"] for e in entities), *parts])

    # Deletion

    def _delete_user(self, collection: str, key: str) -> list[str]:
        """Delete all of a user's entities of a collection; returns their primary keys (Milvus Lite only)."""
        if self._lite is None:
            with self._errors():
                self._connection().delete(collection, filter=rows.equals("user_key", key), timeout=self._timeout)
            self._record_keys.pop(key, None)
            return []
        if collection == self._episodes:
            pks = [key + digest.hex() for digest in self._ledger_of(key).digests()]
        else:
            pks = sorted(
                self._record_keys.get(key, ()), key=lambda pk: _kind(pk) == "user"
            )  # the name, last, lists him
        self._delete(collection, pks)
        (self._ledgers if collection == self._episodes else self._record_keys).pop(key, None)
        return pks

    def _delete(self, collection: str, pks: Sequence[str]) -> None:
        for batch in rows.chunked(pks, BATCH_ROWS):
            with self._changing() as client:
                client.delete(collection, ids=list(batch), timeout=self._timeout)
            self._dirty_rows += len(batch)
            for pk in batch:
                self._record_keys.get(pk[:32], set()).discard(pk)

    def _scrub(self, gone: dict[str, list[str]]) -> str:
        """Get deleted bytes out of the files; says what is left where and until when."""
        if self._lite is None:
            with self._errors():
                for name in gone:
                    self._connection().compact(name, timeout=self._timeout)
            return "deleted rows leave the Milvus server's files when its compaction and garbage collection have run"
        self._flush_lite()
        with self._gate.flushing(), self._errors():
            purged = [self._lite.purge(name, pks) for name, pks in gone.items()]
        if all(purged):
            return "the store's files were rewritten without the user; blocks freed on the disk are the file system's"
        return "deleted rows leave the store's files when Milvus Lite next compacts them"

    # Calls

    def _by_pk(self, collection: str, pks: Sequence[str], fields: list[str]) -> list[Entity]:
        found: list[Entity] = []
        for batch in rows.chunked(pks, READ_ROWS):
            found += self._query(collection, rows.any_of("pk", batch), fields)
        return found

    def _query(self, collection: str, where: str, fields: list[str], **options: Any) -> list[Entity]:
        return self._read(
            lambda client: list(
                client.query(collection, filter=where, output_fields=fields, timeout=self._timeout, **options)
            )
        )

    def _pages(self, collection: str, where: str, fields: list[str]) -> Iterator[Entity]:
        """Rows of a server's collection, page by page."""
        pages = self._read(
            lambda client: client.query_iterator(
                collection, filter=where, output_fields=fields, batch_size=READ_ROWS, timeout=self._timeout
            )
        )
        try:
            while True:
                with self._errors():
                    page = pages.next()
                if not page:
                    return
                yield from page
        finally:
            pages.close()

    def _count(self, collection: str, key: str) -> int:
        return int(self._query(collection, rows.equals("user_key", key), ["count(*)"])[0]["count(*)"])

    def _upsert(self, collection: str, entities: list[Entity]) -> None:
        with self._changing() as client:
            client.upsert(collection, entities, timeout=self._timeout)
        self._dirty_rows += len(entities)

    def _flush_lite(self) -> None:
        with self._gate.flushing(), self._errors():
            if self._path is not None:
                check_disk(self._path, self._dirty_bytes)
            try:
                for name in (self._episodes, self._records):
                    self._connection().flush(name)
            except BaseException as e:
                # What it was writing is now neither in memory nor in a data file, only in its log; a later flush would
                # delete the log. Only a start from the log mends that.
                self._broken = (
                    f"the store could not be flushed ({_line(e)}); free some space, it then recovers by itself"
                )
                raise
        self._dirty_rows = self._dirty_bytes = 0

    def _read(self, call: Callable[[MilvusClient], T]) -> T:
        with self._gate.reading(), self._errors():
            self._usable()
            try:
                return call(self._connection())
            except MilvusException as e:
                if self._lite is not None or not _unloaded(_line(e)):
                    raise
                # A server that was restarted may have to be told to load its collections.
                for name in (self._records, self._episodes):
                    self._load_collection(name)
                return call(self._connection())

    @contextmanager
    def _changing(self) -> Iterator[MilvusClient]:
        with self._writing:
            self._usable()
            try:
                with self._errors():
                    yield self._connection()
            except StoreError:
                if self._lite is not None:
                    # A write that broke off leaves a torn record in the log, behind which nothing would be found again.
                    # A flush starts a new log; if that fails too, the store says so from then on.
                    self._flush_lite()
                raise

    def _connection(self) -> MilvusClient:
        if self._client is None or self._closed:
            raise StoreError("the store is closed")
        return self._client

    def _usable(self) -> None:
        if self._broken is not None:
            raise StoreError(self._broken)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Milvus's errors as ours."""
        try:
            yield
        except MilvusException as e:
            text = _line(e)
            if self._lite is None and _away(text):
                raise UnavailableError("the Milvus server does not answer; check memory.uri and that it runs") from e
            if "No space left" in text:
                raise StoreError("the disk is full; free some space, then try again") from e
            raise StoreError(f"Milvus refused: {text}") from e
        except grpc.RpcError as e:
            if self._lite is None:
                raise UnavailableError("the Milvus server does not answer; check memory.uri and that it runs") from e
            raise StoreError(f"Milvus Lite failed: {_line(e)}") from e


def _numbered(records: Iterable[Entity], kind: str) -> list[dict[str, Any]]:
    """Contents of numbered records, by number; of two of a number, which only a crash amid a conflict leaves, the earlier."""
    numbered: dict[int, dict[str, Any]] = {}
    for entity in records:
        if entity["kind"] != kind:
            continue
        content = json.loads(entity["text"])
        other = numbered.setdefault(entity["number"], content)
        if str(content[kind].get("time", "")) < str(other[kind].get("time", "")):
            numbered[entity["number"]] = content
    return [numbered[number] for number in sorted(numbered)]


def _unloaded(text: str) -> bool:
    return "released" in text or "not loaded" in text


def _away(text: str) -> bool:
    signs = (
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "Fail connecting",
        "failed to connect",
        "Retry",
        "closed channel",
        "timeout",
    )
    return any(sign.casefold() in text.casefold() for sign in signs)


def _bytes(entity: Entity) -> int:
    return 300 + 3 * len(entity["body"]) + len(entity.get("truth_vector", "")) + 4 * len(entity["vector"])


def _kind(pk: str) -> str:
    """Kind of a record by its primary key: <user key>/<kind>[/<number>/<token>], or <owner's key>/<digest>/<part>."""
    pieces = pk.split("/")
    return "part" if len(pieces) in (3, 6) else pieces[1]


def _line(error: BaseException) -> str:
    text = getattr(error, "message", None) or str(error)
    return " ".join(str(text).split())[:300] or type(error).__name__

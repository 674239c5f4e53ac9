"""`personaagent.memory.store.Store` on Milvus: an embedded Milvus Lite folder or a server, with the same behaviour.

Four things differ. Milvus Lite looks at every row for any filter but `pk in [...]`, so for it the store keeps a directory
of primary keys in RAM (one process owns the folder, so the directory is exact). Its flushes must not run beside reads, see
`actors.milvus.connection`. And a server, which several shards may write to, gets the user key as partition key and strong
consistency. There users are listed from records of counts, see `actors.milvus.counts`.

Durability: a write is in the operating system's hands when a method returns, so it survives the death of this process at
any moment. It is on the disk after the next `flush`.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from actors.milvus import rows
from actors.milvus.connection import READ_ROWS, MilvusConnection
from actors.milvus.counts import SEEN, UserCounts, enter, numbered, seen_in, without_texts
from actors.milvus.rows import META, Entity
from actors.milvus.store_identity import StoreIdentity, shard_of
from actors.milvus.tenure import Owner
from personaagent.errors import ConflictError, StoreError
from personaagent.evidence.commons import Population, replacing
from personaagent.memory.changes import clock
from personaagent.memory.privacy import Cipher
from personaagent.memory.store import (
    Erased,
    Held,
    Ledger,
    Row,
    RowKey,
    StoredUser,
    Tombstone,
    Vector,
    aligned_at,
    fitting,
    row_key,
    summarise,
)
from personaagent.types import AHEAD, Origin, Persona, Profile, UserSummary, user_key

__all__ = ["MilvusStore"]

logger = logging.getLogger(__name__)

FORGETTING, FORGOTTEN = "forgetting", "forgotten"  # kinds of tombstones
TOMBSTONE = "/tombstone"  # follows the user key in theirs
POPULATION = f"{META}/population"
READ_USERS = 100  # whose records one call reads
VERSIONS = 20  # persona versions that one call reads where not all are wanted
SUMMARIES = 100  # records that one call reads for summaries
PARTS = 200  # pieces of long texts held at a time, 60 kB each
_DAMAGED = (StoreError, ValueError, LookupError, TypeError, AttributeError, zlib.error)  # what a text raises that is
AHEAD_US = AHEAD // timedelta(microseconds=1)


class MilvusStore:
    """Open a store, creating it if it is not there.

    Args:
        location: folder of Milvus Lite (a path), or URI of a server.
        identity: what the store must be.
        collection: prefix of the names of its two collections.
        token: of the server.
        timeout: seconds after which a server counts as away.
        cipher: encrypts texts, if `identity` says that they are.

    Raises:
        StoreError: it is damaged, in use, another one than `identity` says, or encrypted with another key.
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
        cipher: Cipher | None = None,
    ) -> None:
        self._identity = identity
        self._folder = location.parent if isinstance(location, Path) else None  # of all shards of Milvus Lite
        self._cipher = cipher
        self._episodes, self._records = f"{collection}_episodes", f"{collection}_records"
        self._named: set[str] = set()  # keys of users whose name is known to be stored
        self._unfinished: set[str] = set()  # keys of users whose forgetting is not at its end, as far as is known
        self._ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)  # by user key; Milvus Lite only
        self._record_keys: defaultdict[str, set[str]] = defaultdict(set)  # the same for records
        self._owner: Owner | None = None  # the same
        self._issued = 0  # a server only: when the newest row or truth arrived that this process wrote
        self._ahead: dict[str, int] | None = (
            None  # and by user key, of those that were ahead of the clock; None: not looked
        )
        self._milvus = MilvusConnection(location, [self._episodes, self._records], token, timeout)
        self._lite = self._milvus.is_lite
        self._counts = UserCounts(  # used on a server only
            self._milvus, self._episodes, self._records, identity, self._with_text, self._record
        )
        try:
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
        """Rows written since the last flush; not 0 while `flush` has something to do."""
        return self._milvus.unflushed or int(self._counts.pending)

    @property
    def episodes(self) -> int:
        """Interactions of all users in the store (a server's count covers all shards and is approximate)."""
        if self._lite:
            return sum(len(ledger) for ledger in list(self._ledgers.values()))
        return self._milvus.total(self._episodes)

    @property
    def broken(self) -> str | None:
        """Why this store is of no use until it is closed and opened again, or None."""
        return self._milvus.broken

    def put(self, items: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id."""
        batch: list[Entity] = []
        rest: list[Entity] = []
        for row in items:
            entity, parts = rows.episode(row, self._sealed(rows.row_text(row)))
            batch.append(entity)
            rest += parts
        with self._milvus.writing:
            users = {row.user for row in items}
            self._name(users)
            with self._counted(users, doubt=False):
                self._put_records(rest)
                self._milvus.write(self._episodes, batch, self._entered)
            self._drop_stale_parts(batch, {e["pk"] for e in rest})

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        if self._lite:
            keys = [(user, digest) for user, digest in keys if digest in self._ledger_of(user_key(user))]
        found = self._milvus.by_pk(self._episodes, [rows.pk_of(*key) for key in keys], rows.EPISODE_FIELDS)
        return {row_key(row.user, row.id): row for row in self._decoded(found)}

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        if self._lite:
            return len(self._ledger_of(user_key(user)))
        return self._milvus.count(self._episodes, rows.equals("user_key", user_key(user)))

    def load(self, user: str, rows: bool = True, history: bool = True) -> StoredUser:
        """Everything of the user, see `Store`."""
        key = user_key(user)
        found = self._records_of(key, "profile", SEEN)
        profiles, seen = numbered(found, "profile"), seen_in(found)
        personas = self.personas(user, limit=None if history else 1)
        return StoredUser(
            rows=tuple(sorted(self.stream(user), key=lambda row: row.arrived)) if rows else (),
            personas=personas,
            profile=Profile.model_validate(profiles[-1]["profile"]) if profiles else None,
            seen=seen,
            aligned=0 if history or seen is not None or not personas else self._aligned(user, personas[-1]),
        )

    def stream(self, user: str) -> Iterator[Row]:
        """The user's rows, read in pages."""
        key = user_key(user)
        if self._lite:
            pks = [rows.pk_of(user, digest) for digest in self._ledger_of(key).digests()]
            for chunk in rows.chunked(pks, READ_ROWS):
                yield from self._decoded(self._milvus.by_pk(self._episodes, chunk, rows.EPISODE_FIELDS))
            return
        found = self._milvus.pages(self._episodes, rows.equals("user_key", key), rows.EPISODE_FIELDS)
        while page := list(islice(found, READ_ROWS)):
            yield from self._decoded(page)

    def personas(self, user: str, before: int | None = None, limit: int | None = None) -> tuple[Persona, ...]:
        """Versions by number, see `Store`."""
        key = user_key(user)
        pks = self._version_pks(key, before)
        if limit is not None:
            kept = set(sorted({number for number, _ in pks})[-limit:] if limit else ())
            pks = [(number, pk) for number, pk in pks if number in kept]
        found = self._with_text(self._milvus.by_pk(self._records, [pk for _, pk in pks], rows.RECORD_FIELDS))
        return tuple(Persona.model_validate(content["persona"]) for content in numbered(found, "persona"))

    def _version_pks(self, key: str, before: int | None) -> list[tuple[int, str]]:
        """Numbers and primary keys of a user's persona versions, without their texts."""
        if self._lite:
            mine = [pk for pk in list(self._record_keys.get(key, ())) if _kind(pk) == "persona"]
            found = [(int(pk.split("/")[2]), pk) for pk in mine]
        else:
            where = [rows.equals("user_key", key), rows.equals("kind", "persona")]
            listed = self._milvus.pages(self._records, rows.both(*where), ["pk", "number"], size=rows.SCALARS)
            found = [(int(e["number"]), str(e["pk"])) for e in listed]
        return [(number, pk) for number, pk in found if before is None or number < before]

    def _aligned(self, user: str, newest: Persona) -> int:
        """`aligned_at` of all versions, read a few at a time."""
        page: tuple[Persona, ...] = (newest,)
        while page:
            if at := [p for p in page if p.origin is Origin.ALIGNED]:
                return aligned_at(at)
            page = self.personas(user, page[0].number, VERSIONS)
        return 0

    def held(self, user: str) -> Held:
        """How much there is of the user, by kinds of records; only facts are read, and none are counted where that fails."""
        key = user_key(user)
        pks = [str(e["pk"]) for e in self._records_of(key, "persona", "profile", "user", text=False)]
        facts = 0
        if profiles := [pk for pk in pks if _kind(pk) == "profile"]:
            try:
                facts = len(Profile.model_validate(self._versions(key, "profile")[-1]["profile"]).facts)
            except _DAMAGED as e:
                logger.warning(
                    "the profile of user %s is damaged, its facts are not counted: %s", key, type(e).__name__
                )
        return Held(
            interactions=self.count(user),
            personas=len({pk.split("/")[2] for pk in pks if _kind(pk) == "persona"}),
            profiles=len(profiles),
            facts=facts,
            named=any(_kind(pk) == "user" for pk in pks),
        )

    def ledger(self, user: str) -> Ledger:
        """When the user's interactions happened and arrived."""
        key = user_key(user)
        if self._lite:
            return self._ledger_of(key).copy()
        ledger = Ledger()
        where = rows.equals("user_key", key)
        for e in self._milvus.pages(self._episodes, where, rows.EPISODE_SCALARS, size=rows.SCALARS):
            enter(ledger, e)
        return ledger

    def arrivals(self, users: Collection[str], after: int) -> dict[str, int]:
        """Later than when new rows and truths of these users must arrive, where it is later than `after`."""
        keys = {user_key(user): user for user in users}
        if self._lite:
            latest = {user: self._ledgers[key].last_arrived for key, user in keys.items() if key in self._ledgers}
        else:
            ahead = self._looked_ahead(after)
            latest = {user: max(self._issued, ahead.get(key, 0)) for key, user in keys.items()}
        for key, mark in self._marks(list(keys)).items():
            latest[keys[key]] = max(latest.get(keys[key], 0), mark)
        return {user: arrived for user, arrived in latest.items() if arrived > after}

    def search(
        self,
        user: str,
        vector: Vector,
        limit: int,
        *,
        since: int,
        until: int,
        before: tuple[int, int],
        truth: bool,
        most: int | None = None,
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
        where = rows.both(*filters)
        if limit <= READ_ROWS:
            found = self._milvus.nearest(self._episodes, vector, where, rows.EPISODE_FIELDS, limit)
            return fitting(self._decoded(found), most)
        best = [str(e["pk"]) for e in self._milvus.nearest(self._episodes, vector, where, ["pk"], limit)]
        return fitting(self._in_order(best), most)

    def _in_order(self, pks: Sequence[str]) -> Iterator[Row]:
        """Episodes by primary key, in this order, read in pages."""
        for chunk in rows.chunked(pks, READ_ROWS):
            found = {e["pk"]: e for e in self._milvus.by_pk(self._episodes, chunk, rows.EPISODE_FIELDS)}
            yield from self._decoded([found[pk] for pk in chunk if pk in found])

    def put_persona(self, user: str, persona: Persona, token: str) -> None:
        """Add a version. Raises ConflictError if another attempt added that number."""
        content = {"token": token, "persona": persona.plain()}
        self._claim(user, "persona", persona.number, content)

    def put_profile(self, user: str, profile: Profile, expected: int, token: str) -> None:
        """Replace the profile of version `expected`. Raises ConflictError if another one is stored."""
        key = user_key(user)
        with self._milvus.writing:
            stored = self._versions(key, "profile")
            current = stored[-1] if stored else None
            if current is not None and current["token"] == token:
                return
            if (current["profile"]["version"] if current else 0) != expected:
                raise ConflictError("the profile was replaced meanwhile; read it and try again")
            content = {"token": token, "profile": profile.model_dump(mode="json")}
            self._claim(user, "profile", profile.version, content)
            self._delete_records(key, [e for e in self._records_of(key, "profile") if e["number"] < profile.version])

    def put_seen(self, user: str, seen: int) -> None:
        """Note that alignment has looked at the truths that arrived up to `seen`. A lower number changes nothing."""
        key = user_key(user)
        with self._milvus.writing:
            stored = seen_in(self._records_of(key, SEEN, text=False, numbers=True))
            if stored is not None and stored >= seen:
                return
            self._name({user})
            with self._counted({user}):
                self._put_records([rows.record(key, SEEN, SEEN, seen, "")[0]])  # no text, so nothing to encrypt

    def erase(self, key: str) -> Erased:
        """Delete everything of the user with this key but the tombstone, then look what is left. May be repeated."""
        with self._milvus.writing:
            # First: should this break off, counts and name are taken from the store again, and not from here.
            self._named.discard(key)
            self._counts.drop(key)
            for name in (self._episodes, self._records):
                self._delete_user(name, key)
            in_files, note = self._milvus.scrub([key])
        kept = rows.both(rows.differs("kind", FORGETTING), rows.differs("kind", FORGOTTEN))
        mine = rows.equals("user_key", key)
        found = self._milvus.count(self._episodes, mine) + self._milvus.count(self._records, rows.both(mine, kept))
        return Erased(remaining=in_files + found, note=note)

    def tombstone(self, key: str) -> Tombstone | None:
        """What is left of a user who was forgotten, by user key; None for one who never was."""
        return self.tombstones([key]).get(key)

    def tombstones(self, keys: Sequence[str]) -> dict[str, Tombstone]:
        """The tombstones there are of users with these keys."""
        pks = [key + TOMBSTONE for key in keys if not self._lite or key + TOMBSTONE in self._record_keys.get(key, ())]
        found = {e["user_key"]: _tombstone(e) for e in self._milvus.by_pk(self._records, pks, rows.RECORD_FIELDS)}
        for key in keys:
            begun = key in found and not found[key].done
            (self._unfinished.add if begun else self._unfinished.discard)(key)
        return found

    def bury(self, key: str, tombstone: Tombstone) -> None:
        """Write a tombstone in the place of an older one; it is durable when this returns."""
        content = {**asdict(tombstone)}
        kind = FORGOTTEN if content.pop("done") else FORGETTING
        entity, _ = rows.record(key, TOMBSTONE[1:], kind, content.pop("incarnation"), json.dumps(content))
        with self._milvus.writing:
            self._unfinished.add(key)  # should nobody hear whether it was written, the next call looks
            self._put_records([entity])
            if tombstone.done:
                self._unfinished.discard(key)

    def unfinished(self) -> list[str]:
        """Keys of the users of this shard whose forgetting was begun and did not come to its end."""
        if not self._lite:
            found = self._milvus.pages(
                self._records, rows.equals("kind", FORGETTING), ["pk", "user_key"], size=rows.SCALARS
            )
            self._unfinished = {e["user_key"] for e in found if self._mine(e["user_key"])}
        return sorted(self._unfinished)

    def is_unfinished(self, key: str) -> bool:
        """Whether the user with this key may be in the midst of being forgotten; `tombstone` looks."""
        return key in self._unfinished

    @property
    def is_shared(self) -> bool:
        """Whether other processes can have it open."""
        return not self._lite

    def owner(self) -> Owner | None:
        """Who owns this shard, as stored; None if nobody ever did."""
        if self._lite and self._owner is not None:  # nobody else can have written it
            return self._owner
        found = self._milvus.by_pk(self._records, [self._owner_key], rows.RECORD_FIELDS)
        return Owner(**json.loads(found[0]["body"])) if found else None

    def own(self, owner: Owner) -> None:
        """Write who owns this shard; durable when it returns."""
        name = self._owner_key.removeprefix(f"{META}/")
        entity, _ = rows.record(META, name, "owner", owner.epoch, json.dumps(asdict(owner)))
        with self._milvus.writing:
            self._milvus.guard = None  # of an owner before
            self._milvus.write(self._records, [entity])
            self._owner = owner
            self._ahead = None  # a former owner may have written since

    def guard_writes(self, guard: Callable[[], None]) -> None:
        """Have this called right before every call that changes a server; it raises where nothing may be changed any more."""
        if not self._lite:
            self._milvus.guard = guard

    def users(self, after: str = "", limit: int | None = None) -> Iterator[UserSummary]:
        """Users of this shard by user key, those after a key and at most `limit`, read in pages.

        Who is being forgotten is not among them, however far that has come.
        """
        hidden = {key for key, stone in self.tombstones(sorted(self._unfinished)).items() if not stone.done}
        if self._lite:
            keys = sorted(key for key in list(self._record_keys) if key > after and key != META and key not in hidden)
            listed = (summary for chunk in rows.chunked(keys, 100) for summary in self._summaries(chunk))
        else:
            found = self._counts.page(after, None if limit is None else limit + len(hidden))
            listed = (summary for summary in found if not hidden or user_key(summary.user) not in hidden)
        yield from islice(listed, limit)

    def population(self) -> Population | None:
        """What users have in common; None if it was never learned. On a server it is of all shards."""
        for last in (False, True):
            found = self._milvus.by_pk(self._records, [POPULATION], rows.RECORD_FIELDS)
            try:
                return Population.model_validate_json(self._with_text(found)[0]["text"]) if found else None
            except StoreError:  # another shard may have replaced it between the two reads
                if last:
                    raise
        return None

    def put_population(self, population: Population) -> None:
        """Replace what users have in common. Raises ConflictError if its number is not higher than the stored one's."""
        with self._milvus.writing:
            if not replacing(self.population(), population):
                return
            old = self._milvus.by_pk(self._records, [POPULATION], rows.RECORD_FIELDS)
            entity, rest = self._record(
                META, "population", "population", population.number, population.model_dump_json()
            )
            self._milvus.write(self._records, [*rest, entity])
            fresh = {part["pk"] for part in rest}
            parts = [pk for e in old if e["parts"] for pk in rows.part_keys(e["pk"], e["body"], e["parts"])]
            self._milvus.delete(self._records, [pk for pk in parts if pk not in fresh])

    def flush(self) -> None:
        """Move what was written into data files. Reads of this store wait meanwhile.

        A server does that by itself; there the users who were left alone for a while are counted.
        """
        if not self._lite:
            self._counts.settle()
        self._milvus.flush()

    def close(self) -> None:
        """Give up files and connections; harmless when closed already."""
        self._milvus.close()

    # Opening

    def _prepare(self) -> None:
        milvus = self._milvus
        found, known = milvus.has(self._episodes), milvus.has(self._records)
        if found and not known:
            raise StoreError(f"collection {self._episodes} is there without {self._records}; restore it or drop it")
        if not known:
            milvus.create(self._records, rows.records_schema(milvus.partitions))
        milvus.load(self._records)
        stored = milvus.by_pk(self._records, [f"{META}/meta"], rows.RECORD_FIELDS)
        if stored:
            description = json.loads(stored[0]["body"])
            self._identity.check(description)
            if self._cipher is not None:
                self._cipher.decrypt(description.get("sample", ""))  # another key is refused before anything is written
        if not found:
            milvus.create(self._episodes, rows.episodes_schema(self.dim, milvus.partitions))
        milvus.load(self._episodes)
        if not stored:
            # Written last: a store without it was not finished, so nothing can be in it.
            if found and milvus.query(self._episodes, rows.anything("pk"), ["pk"], limit=1):
                raise StoreError(
                    f"collection {self._episodes} is not of this program; choose another memory.collection"
                )
            description = self._identity.description(not self._lite)
            if self._cipher is not None:
                description["sample"] = self._cipher.encrypt(META)
            entity, _ = rows.record(META, "meta", "meta", 0, json.dumps(description))
            milvus.write(self._records, [entity])
        if self._lite:
            milvus.flush(force=True)  # what a crash left unflushed counts towards Milvus Lite's own limit
            self._read_directory()
        else:
            self._counts.adopt()

    def _read_directory(self) -> None:
        fields = rows.EPISODE_SCALARS
        self._entered([dict(zip(fields, row, strict=True)) for row in self._milvus.scan(self._episodes, fields)])
        for pk, key, kind in self._milvus.scan(self._records, ["pk", "user_key", "kind"]):
            self._record_keys[key].add(pk)
            if kind == FORGETTING:
                self._unfinished.add(key)

    @property
    def _owner_key(self) -> str:
        return f"{META}/owner-{self._identity.shard:04d}"

    # Episodes

    def _entered(self, entities: Sequence[Entity]) -> None:
        """Follow what was written into episodes."""
        if not self._lite:
            self._counts.entered(entities)
            for e in entities:
                self._follow(e, clock())
            return
        for e in entities:
            enter(self._ledgers[e["user_key"]], e)

    def _looked_ahead(self, now: int) -> dict[str, int]:
        """By user key, when the newest row or truth arrived, of users who have one from later than `now`.

        There are some if the clock was put back while no shard was open, or was ahead where they were written.
        """
        if self._ahead is None:
            self._ahead = {}
            later = rows.either(*(rows.compare(field, ">", now) for field in ("arrived", "truth_arrived")))
            try:
                for e in self._milvus.pages(self._episodes, later, rows.EPISODE_SCALARS, size=rows.SCALARS):
                    if self._mine(e["user_key"]):
                        self._follow(e, 0)
            except BaseException:
                self._ahead = None  # not all of it was seen
                raise
        return self._ahead

    def _marks(self, keys: Sequence[str]) -> dict[str, int]:
        """By user key, up to which arrival truths count as read, whether or not their rows are there still."""
        if self._lite:
            pks = [pk for key in keys for pk in list(self._record_keys.get(key, ())) if _kind(pk) in ("profile", SEEN)]
            found = self._milvus.by_pk(self._records, pks, rows.RECORD_FIELDS)
        else:
            kinds = rows.any_of("kind", ["profile", SEEN])
            found = [
                e
                for chunk in rows.chunked(keys, READ_USERS)
                for e in self._milvus.pages(
                    self._records, rows.both(rows.any_of("user_key", chunk), kinds), rows.RECORD_FIELDS
                )
            ]
        marks: dict[str, int] = {}
        for e in found:
            try:
                mark = e["number"] if e["kind"] == SEEN else self._profile_mark(e)
            except (
                _DAMAGED
            ) as fault:  # nothing can go on from this profile, and it must not hold up others' interactions
                logger.warning("the profile of user %s is damaged: %s", e["user_key"], type(fault).__name__)
                continue
            marks[e["user_key"]] = max(marks.get(e["user_key"], 0), mark)
        return marks

    def _profile_mark(self, e: Entity) -> int:
        return int(json.loads(self._with_text([e])[0]["text"])["profile"].get("mark") or 0)

    def _follow(self, e: Entity, now: int) -> None:
        """Note when an episode and its truth arrived: for all users, unless it is so far ahead that it would hurt the others."""
        arrived = max(e["arrived"], e["truth_arrived"])
        if arrived <= now + AHEAD_US:
            self._issued = max(self._issued, arrived)
        elif self._ahead is not None:
            self._ahead[e["user_key"]] = max(arrived, self._ahead.get(e["user_key"], 0))

    def _drop_stale_parts(self, batch: list[Entity], fresh: set[str]) -> None:
        """Delete what is left of long texts that were replaced."""
        owners: defaultdict[str, set[str]] = defaultdict(set)
        for entity in batch:
            # On a server a look costs a call, so there it is only done for texts that are long still.
            if self._lite or entity["parts"]:
                owners[entity["user_key"]].add(entity["pk"])
        stale = [
            e["pk"]
            for key, pks in owners.items()
            for e in self._records_of(key, "part", text=False)
            if e["pk"].split("/")[0] in pks and e["pk"] not in fresh
        ]
        self._delete(stale)

    def _decoded(self, entities: Sequence[Entity]) -> Iterator[Row]:
        """The rows of entities. The rest of long texts is read for a few at a time, as the rows are asked for."""
        first = pieces = 0
        for n, e in enumerate(entities, start=1):
            pieces += e["parts"]
            if pieces < PARTS and n < len(entities):
                continue
            group, first, pieces = entities[first:n], n, 0
            parts = self._parts(group)
            for entity in group:
                yield rows.row_of(entity, self._unsealed(rows.join_body(entity, parts.get)))

    def _parts(self, entities: Sequence[Entity]) -> dict[str, str]:
        keys = [key for e in entities if e["parts"] for key in rows.part_keys(e["pk"], e["body"], e["parts"])]
        return {e["pk"]: e["body"] for e in self._milvus.by_pk(self._records, keys, rows.RECORD_FIELDS)}

    def _ledger_of(self, key: str) -> Ledger:
        return self._ledgers[key] if key in self._ledgers else Ledger()

    def _mine(self, key: str) -> bool:
        """Whether this shard holds the user; a server's collections hold those of all shards."""
        return key != META and shard_of(key, self._identity.shards) == self._identity.shard

    # Records

    def _name(self, users: Collection[str]) -> None:
        """Store what users are called, which digests do not tell, before they are changed; on a server open their counts."""
        entities: list[Entity] = []
        keys = {user_key(user): user for user in users}
        for key, user in keys.items():
            if key not in self._named:
                entity, rest = self._record(key, "user", "user", 0, json.dumps({"user": user}))
                if not self._lite or entity["pk"] not in self._record_keys.get(key, ()):
                    entities += [*rest, entity]
        if not self._lite:
            entities += self._counts.opening(users)
        if entities:
            self._put_records(entities)
        self._named.update(keys)
        if not self._lite:
            self._counts.opened(users)

    @contextmanager
    def _counted(self, users: Collection[str], doubt: bool = True) -> Iterator[None]:
        """A change of users whose counts are open; `doubt`: of more than rows that `_entered` is told of."""
        try:
            yield
        except BaseException:
            self._counts.doubt(users)
            raise
        if doubt:
            self._counts.doubt(users)

    def _claim(self, user: str, kind: str, number: int, content: dict[str, Any]) -> None:
        """Add a numbered record unless there is one of that number.

        Milvus has no compare-and-set, and on a server another shard may believe in the same user for a moment. So every
        attempt has a key of its own, is written and read back: whoever finds company withdraws. Two at once may both
        withdraw; that two succeed cannot happen.
        """
        key, token = user_key(user), content["token"]
        with self._milvus.writing:
            self._name({user})
            if not self._claimed(key, kind, number, token):
                name = f"{kind}/{number:08d}/{token}"
                entity, rest = self._record(key, name, kind, number, json.dumps(content))
                with self._counted({user}):
                    self._put_records([*rest, entity])
                    try:
                        self._claimed(key, kind, number, token)
                    except ConflictError:
                        self._delete_records(key, [entity])
                        raise

    def _claimed(self, key: str, kind: str, number: int, token: str) -> bool:
        """Whether this attempt has the number. Raises ConflictError if another one has."""
        prefix = f"{key}/{kind}/{number:08d}/"
        if self._lite:
            found = self._records_of(key, kind, text=False)
        else:
            where = [rows.equals("user_key", key), rows.equals("kind", kind), rows.compare("number", "==", number)]
            found = list(self._milvus.pages(self._records, rows.both(*where), ["pk"], size=rows.SCALARS))
        holders = [e["pk"] for e in found if e["pk"].startswith(prefix)]
        if any(pk != prefix + token for pk in holders):
            raise ConflictError(f"{kind} version {number} exists already; read it and try again")
        return bool(holders)

    def _versions(self, key: str, kind: str) -> list[dict[str, Any]]:
        """Contents of a user's numbered records of a kind, by number."""
        return numbered(self._records_of(key, kind), kind)

    def _summaries(self, keys: Sequence[str]) -> list[UserSummary]:
        """The summaries of these users of Milvus Lite, in their order."""
        pks = {key: list(self._record_keys.get(key, ())) for key in keys}
        wanted = [pk for key in keys for pk in _summarised(pks[key])]
        groups: defaultdict[str, list[Entity]] = defaultdict(list)
        for chunk in rows.chunked(wanted, SUMMARIES):
            for entity in self._with_text(self._milvus.by_pk(self._records, chunk, rows.RECORD_FIELDS)):
                groups[entity["user_key"]].append(without_texts(entity))
        found = []
        for key in keys:
            names = [json.loads(e["text"])["user"] for e in groups[key] if e["kind"] == "user"]
            ledger = self._ledger_of(key)
            if names and (len(ledger) or any(_kind(pk) in ("persona", "profile") for pk in pks[key])):
                personas = [Persona.model_validate(c["persona"]) for c in numbered(groups[key], "persona")]
                found.append(summarise(names[0], ledger, personas, seen_in(groups[key])))
        return found

    def _records_of(self, key: str, *kinds: str, text: bool = True, numbers: bool = False) -> list[Entity]:
        """A user's records of these kinds, with their whole text unless that is not needed; `numbers`: but their numbers."""
        if self._lite:
            pks = sorted(pk for pk in list(self._record_keys.get(key, ())) if _kind(pk) in kinds)
            if not text and not numbers:
                return [{"pk": pk} for pk in pks]
            found = self._milvus.by_pk(self._records, pks, rows.RECORD_FIELDS)
        else:
            of_kind = rows.equals("kind", kinds[0]) if len(kinds) == 1 else rows.any_of("kind", kinds)
            where = rows.both(rows.equals("user_key", key), of_kind)
            found = list(self._milvus.pages(self._records, where, rows.RECORD_FIELDS))
        return self._with_text(found) if text else found

    def _with_text(self, entities: list[Entity]) -> list[Entity]:
        parts = self._parts(entities)
        return [
            {**e, "text": self._unsealed(rows.join_body(e, parts.get)) if e["kind"] != SEEN else b""} for e in entities
        ]

    def _record(self, key: str, name: str, kind: str, number: int, text: str) -> tuple[Entity, list[Entity]]:
        return rows.record(key, name, kind, number, self._sealed(text.encode("utf-8")).decode("utf-8"))

    def _sealed(self, text: bytes) -> bytes:
        return text if self._cipher is None else self._cipher.encrypt(text.decode("utf-8")).encode("ascii")

    def _unsealed(self, text: bytes) -> bytes:
        if self._cipher is None:
            return text
        return self._cipher.decrypt(text.decode("utf-8")).encode("utf-8")

    def _put_records(self, entities: list[Entity]) -> None:
        def written(batch: Sequence[Entity]) -> None:
            for e in batch:
                self._record_keys[e["user_key"]].add(e["pk"])

        self._milvus.write(self._records, entities, written if self._lite else None)

    def _delete_records(self, key: str, entities: Sequence[Entity]) -> None:
        parts = [pk for e in entities if e["parts"] for pk in rows.part_keys(e["pk"], e["body"], e["parts"])]
        self._delete([*(e["pk"] for e in entities), *parts])

    # Deletion

    def _delete_user(self, collection: str, key: str) -> None:
        """Delete all of a user's entities of a collection but the tombstone."""
        kept = {key + TOMBSTONE}
        if not self._lite:
            mine = rows.equals("user_key", key)
            but = (
                [rows.differs("kind", kind) for kind in (FORGETTING, FORGOTTEN)] if collection == self._records else []
            )
            self._milvus.delete_where(collection, rows.both(mine, *but))
        elif collection == self._episodes:
            self._milvus.delete(collection, [key + digest.hex() for digest in self._ledger_of(key).digests()])
            self._ledgers.pop(key, None)
        else:
            # The name goes last: as long as it is there the user is listed, and can be forgotten again.
            pks = sorted(self._record_keys.get(key, set()) - kept, key=lambda pk: _kind(pk) == "user")
            self._milvus.delete(collection, pks)
            self._record_keys[key] = self._record_keys.get(key, set()) & kept

    def _delete(self, pks: Sequence[str]) -> None:
        """Delete records."""
        self._milvus.delete(self._records, pks)
        for pk in pks:
            self._record_keys.get(pk[:32], set()).discard(pk)


def _tombstone(entity: Entity) -> Tombstone:
    """The tombstone of a record; never encrypted, since it tells no more than its key."""
    content = json.loads(entity["body"])
    return Tombstone(incarnation=int(entity["number"]), done=entity["kind"] == FORGOTTEN, **content)


def _summarised(pks: Sequence[str]) -> list[str]:
    """Those of a user's records that a summary is made from; older persona versions tell nothing where `seen` is stored."""
    personas = [pk for pk in pks if _kind(pk) == "persona"]
    if any(_kind(pk) == SEEN for pk in pks):
        newest = max((pk.split("/")[2] for pk in personas), default="")
        personas = [pk for pk in personas if pk.split("/")[2] == newest]
    return [*personas, *(pk for pk in pks if _kind(pk) in ("user", SEEN))]


def _kind(pk: str) -> str:
    """Kind of a record by its primary key: <user key>/<kind>[/<number>/<token>], or <owner's key>/<digest>/<part>."""
    pieces = pk.split("/")
    return "part" if len(pieces) in (3, 6) else pieces[1]

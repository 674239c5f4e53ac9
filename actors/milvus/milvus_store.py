"""`personaagent.memory.store.Store` on Milvus: an embedded Milvus Lite folder or a server, with the same behaviour.

Four things differ. Milvus Lite looks at every row for any filter but `pk in [...]`, so for it the store keeps a directory
of primary keys in RAM (one process owns the folder, so the directory is exact). Its flushes must not run beside reads, see
`actors.milvus.connection`. And a server, which several shards may write to, gets the user key as partition key and strong
consistency. There users are listed from records of counts, see `actors.milvus.counts`.

The two collections (`EpisodeRows`, `UserRecords`), `StoredArrivals` and `Tombstones` do the work. What is here is the whole of a
store's protocol, three dozen methods, and what needs several of them at once: that a user is named and counted before
anything of theirs changes, and that of two who claim a number one withdraws.

Durability: a write is in the operating system's hands when a method returns, so it survives the death of this process at
any moment. It is on the disk after the next `flush`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from actors.milvus import rows
from actors.milvus.arrivals import DAMAGED, StoredArrivals
from actors.milvus.connection import MilvusConnection
from actors.milvus.counts import SEEN, UserCounts, numbered, seen_in
from actors.milvus.episode_rows import EpisodeRows
from actors.milvus.rows import META, Entity
from actors.milvus.store_identity import StoreIdentity, shard_of
from actors.milvus.tenure import Owner
from actors.milvus.tombstones import KINDS, TOMBSTONE, Tombstones
from actors.milvus.user_records import UserRecords, kind_of
from personaagent.errors import ConflictError, StoreError
from personaagent.evidence.commons import Population, replacing
from personaagent.memory.privacy import Cipher
from personaagent.memory.store import Erased, Held, Ledger, Row, RowKey, StoredUser, Tombstone, Vector, aligned_at
from personaagent.types import Origin, Persona, Profile, UserSummary, user_key

__all__ = ["MilvusStore"]

logger = logging.getLogger(__name__)

POPULATION = f"{META}/population"
VERSIONS = 20  # persona versions that one call reads where not all are wanted


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
        self._owner: Owner | None = None  # Milvus Lite only
        self._milvus = MilvusConnection(location, [self._episodes, self._records], token, timeout)
        self._lite = self._milvus.is_lite
        self._user_records = UserRecords(self._milvus, self._records, cipher)
        self._episode_rows = EpisodeRows(self._milvus, self._episodes, self._user_records)
        self._arrivals = StoredArrivals(self._milvus, self._episode_rows, self._user_records, self._mine)
        self._tombstones = Tombstones(self._milvus, self._user_records, self._mine)
        self._counts = UserCounts(  # used on a server only
            self._milvus, self._episodes, self._records, identity, self._user_records.whole, self._user_records.make
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
        return self._episode_rows.total

    @property
    def broken(self) -> str | None:
        """Why this store is of no use until it is closed and opened again, or None."""
        return self._milvus.broken

    def put(self, items: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id."""
        batch, rest = self._episode_rows.entities(items)
        with self._milvus.writing:
            users = {row.user for row in items}
            self._name(users)
            with self._counted(users, doubt=False):
                self._user_records.put(rest)
                self._milvus.write(self._episodes, batch, self._entered)
            self._episode_rows.drop_stale_parts(batch, {e["pk"] for e in rest})

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        return self._episode_rows.get(keys)

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        return self._episode_rows.count(user_key(user))

    def load(self, user: str, rows: bool = True, history: bool = True) -> StoredUser:
        """Everything of the user, see `Store`."""
        found = self._user_records.of(user_key(user), "profile", SEEN)
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
        return self._episode_rows.stream(user)

    def personas(self, user: str, before: int | None = None, limit: int | None = None) -> tuple[Persona, ...]:
        """Versions by number, see `Store`."""
        pks = self._user_records.persona_keys(user_key(user), before)
        if limit is not None:
            kept = set(sorted({number for number, _ in pks})[-limit:] if limit else ())
            pks = [(number, pk) for number, pk in pks if number in kept]
        return self._user_records.personas([pk for _, pk in pks])

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
        pks = [str(e["pk"]) for e in self._user_records.of(key, "persona", "profile", "user", text=False)]
        facts = 0
        if profiles := [pk for pk in pks if kind_of(pk) == "profile"]:
            try:
                facts = len(Profile.model_validate(self._user_records.versions(key, "profile")[-1]["profile"]).facts)
            except DAMAGED as e:
                logger.warning(
                    "the profile of user %s is damaged, its facts are not counted: %s", key, type(e).__name__
                )
        return Held(
            interactions=self.count(user),
            personas=len({pk.split("/")[2] for pk in pks if kind_of(pk) == "persona"}),
            profiles=len(profiles),
            facts=facts,
            named=any(kind_of(pk) == "user" for pk in pks),
        )

    def ledger(self, user: str) -> Ledger:
        """When the user's interactions happened and arrived."""
        return self._episode_rows.ledger(user_key(user))

    def arrivals(self, users: Collection[str], after: int) -> dict[str, int]:
        """Later than when new rows and truths of these users must arrive, where it is later than `after`."""
        return self._arrivals.after(users, after)

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
        lessons: bool | None = None,
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
        if lessons is not None:
            filters.append(rows.lessons_of(user) if lessons else rows.no_lessons_of(user))
        if truth:
            filters.append(rows.compare("truth_arrived", ">", 0))
        return self._episode_rows.nearest(vector, rows.both(*filters), limit, most)

    def put_persona(self, user: str, persona: Persona, token: str) -> None:
        """Add a version. Raises ConflictError if another attempt added that number."""
        content = {"token": token, "persona": persona.plain()}
        self._claim(user, "persona", persona.number, content)

    def put_profile(self, user: str, profile: Profile, expected: int, token: str) -> None:
        """Replace the profile of version `expected`. Raises ConflictError if another one is stored."""
        key = user_key(user)
        with self._milvus.writing:
            stored = self._user_records.versions(key, "profile")
            current = stored[-1] if stored else None
            if current is not None and current["token"] == token:
                return
            if (current["profile"]["version"] if current else 0) != expected:
                raise ConflictError("the profile was replaced meanwhile; read it and try again")
            content = {"token": token, "profile": profile.model_dump(mode="json")}
            self._claim(user, "profile", profile.version, content)
            self._user_records.drop([e for e in self._user_records.of(key, "profile") if e["number"] < profile.version])

    def put_seen(self, user: str, seen: int) -> None:
        """Note that alignment has looked at the truths that arrived up to `seen`. A lower number changes nothing."""
        key = user_key(user)
        with self._milvus.writing:
            stored = seen_in(self._user_records.of(key, SEEN, text=False, numbers=True))
            if stored is not None and stored >= seen:
                return
            self._name({user})
            with self._counted({user}):
                self._user_records.put([rows.record(key, SEEN, SEEN, seen, "")[0]])  # no text, so nothing to encrypt

    def erase(self, key: str) -> Erased:
        """Delete everything of the user with this key but the tombstone, then look what is left. May be repeated."""
        with self._milvus.writing:
            # First: should this break off, counts and name are taken from the store again, and not from here.
            self._named.discard(key)
            self._counts.drop(key)
            for name in (self._episodes, self._records):
                self._delete_user(name, key)
            in_files, note = self._milvus.scrub([key])
        kept = rows.both(*(rows.differs("kind", kind) for kind in KINDS))
        mine = rows.equals("user_key", key)
        found = self._milvus.count(self._episodes, mine) + self._milvus.count(self._records, rows.both(mine, kept))
        return Erased(remaining=in_files + found, note=note)

    def tombstone(self, key: str) -> Tombstone | None:
        """What is left of a user who was forgotten, by user key; None for one who never was."""
        return self.tombstones([key]).get(key)

    def tombstones(self, keys: Sequence[str]) -> dict[str, Tombstone]:
        """The tombstones there are of users with these keys."""
        return self._tombstones.of(keys)

    def bury(self, key: str, tombstone: Tombstone) -> None:
        """Write a tombstone in the place of an older one; it is durable when this returns."""
        self._tombstones.put(key, tombstone)

    def unfinished(self) -> list[str]:
        """Keys of the users of this shard whose forgetting was begun and did not come to its end."""
        return self._tombstones.unfinished()

    def is_unfinished(self, key: str) -> bool:
        """Whether the user with this key may be in the midst of being forgotten; `tombstone` looks."""
        return self._tombstones.is_unfinished(key)

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
            self._arrivals.look_again()  # a former owner may have written since

    def guard_writes(self, guard: Callable[[], None]) -> None:
        """Have this called right before every call that changes a server; it raises where nothing may be changed any more."""
        if not self._lite:
            self._milvus.guard = guard

    def users(self, after: str = "", limit: int | None = None) -> Iterator[UserSummary]:
        """Users of this shard by user key, those after a key and at most `limit`, read in pages.

        Who is being forgotten is not among them, however far that has come.
        """
        hidden = self._tombstones.hidden()
        if self._lite:
            known, ledgers = self._user_records.keys, self._episode_rows.ledgers
            keys = sorted(key for key in list(known) if key > after and key != META and key not in hidden)
            chunks = rows.chunked(keys, 100)
            listed = (summary for chunk in chunks for summary in self._user_records.summaries(chunk, ledgers))
        else:
            found = self._counts.page(after, None if limit is None else limit + len(hidden))
            listed = (summary for summary in found if not hidden or user_key(summary.user) not in hidden)
        yield from islice(listed, limit)

    def population(self) -> Population | None:
        """What users have in common; None if it was never learned. On a server it is of all shards."""
        for last in (False, True):
            found = self._milvus.by_pk(self._records, [POPULATION], rows.RECORD_FIELDS)
            try:
                return Population.model_validate_json(self._user_records.whole(found)[0]["text"]) if found else None
            except StoreError:  # another shard may have replaced it between the two reads
                if last:
                    raise
        return None

    def put_population(self, population: Population) -> None:
        """Replace what users have in common. Raises ConflictError if its number is not higher than the stored one's."""
        with self._milvus.writing:
            if replacing(self.population(), population):
                content = population.model_dump_json()
                self._user_records.put_common("population", "population", population.number, content)

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
        """What Milvus Lite holds, which from now on is known without asking it."""
        fields = rows.EPISODE_SCALARS
        self._entered([dict(zip(fields, row, strict=True)) for row in self._milvus.scan(self._episodes, fields)])
        for pk, key, kind in self._milvus.scan(self._records, ["pk", "user_key", "kind"]):
            self._user_records.keys[key].add(pk)
            self._tombstones.found(key, kind)

    @property
    def _owner_key(self) -> str:
        return f"{META}/owner-{self._identity.shard:04d}"

    # Episodes

    def _entered(self, entities: Sequence[Entity]) -> None:
        """Follow what was written into episodes."""
        if self._lite:
            self._episode_rows.entered(entities)
        else:
            self._counts.entered(entities)
            self._arrivals.entered(entities)

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
                entity, rest = self._user_records.make(key, "user", "user", 0, json.dumps({"user": user}))
                if not self._lite or entity["pk"] not in self._user_records.keys.get(key, ()):
                    entities += [*rest, entity]
        if not self._lite:
            entities += self._counts.opening(users)
        if entities:
            self._user_records.put(entities)
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
                entity, rest = self._user_records.make(key, name, kind, number, json.dumps(content))
                with self._counted({user}):
                    self._user_records.put([*rest, entity])
                    try:
                        self._claimed(key, kind, number, token)
                    except ConflictError:
                        self._user_records.drop([entity])
                        raise

    def _claimed(self, key: str, kind: str, number: int, token: str) -> bool:
        """Whether this attempt has the number. Raises ConflictError if another one has."""
        holders = self._user_records.of_number(key, kind, number)
        if any(pk != f"{key}/{kind}/{number:08d}/{token}" for pk in holders):
            raise ConflictError(f"{kind} version {number} exists already; read it and try again")
        return bool(holders)

    # Deletion

    def _delete_user(self, collection: str, key: str) -> None:
        """Delete all of a user's entities of a collection but the tombstone."""
        if collection == self._episodes:
            self._episode_rows.delete_user(key)
        else:
            self._user_records.delete_user(key, KINDS, key + TOMBSTONE)

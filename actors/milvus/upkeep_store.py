"""What upkeep needs of a Milvus store beside reading and writing users' memories.

Deleting single interactions, amending what points to them, and looking at entities as they are, whole or broken.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from actors.milvus import rows
from actors.milvus.connection import MilvusConnection
from actors.milvus.leftovers import drop_copies, kept
from actors.milvus.milvus_store import MilvusStore
from actors.milvus.rows import META, Entity
from actors.milvus.tenure import Owner
from actors.milvus.tombstones import TOMBSTONE
from personaagent.errors import StoreError
from personaagent.memory.changes import clock
from personaagent.memory.store import Erased, Tombstone
from personaagent.memory.stored_row import AHEAD_US
from personaagent.types import Persona, Profile, user_key

__all__ = ["UpkeepStore", "server_description"]

INTENDED = f"{META}/purge"
LOOKED = f"{META}/looked"


class UpkeepStore(MilvusStore):
    """A Milvus store with the methods of upkeep."""

    def alone(self) -> UpkeepStore:
        """This store as the only shard of its users, so that what it lists is all of a server's users."""
        self._identity = replace(self._identity, shards=1, shard=0)
        if not self._lite:
            self._counts.everyone()
            self.unfinished()
        return self

    def erase(self, key: str) -> Erased:
        """Delete everything of the user with this key; see `MilvusStore.erase`. A copy that a reshard left goes with it."""
        if self._folder is None:
            return super().erase(key)
        drop_copies(self._folder)
        erased = super().erase(key)
        if not (old := kept(self._folder)):
            return erased
        names = ", ".join(path.name for path in old)
        return replace(erased, note=f"{erased.note}; the old store that was kept in {names} is as it was, delete it")

    # Single interactions

    def expired(self, cutoff: int) -> dict[str, list[bytes]]:
        """Digests of the interactions older than `cutoff` (microseconds since 1970), by user; this shard's users only."""
        by_key: defaultdict[str, list[bytes]] = defaultdict(list)
        if self._lite:
            for key, ledger in list(self._episode_rows.ledgers.items()):
                if old := ledger.older(cutoff):
                    by_key[key] = old
        else:
            # What claims to be of the far future counts as of when it arrived, see `ordering`.
            ahead = rows.both(rows.compare("time", ">", clock() + AHEAD_US), rows.compare("arrived", "<", cutoff))
            gone = rows.either(rows.compare("time", "<", cutoff), ahead)
            for e in self._milvus.pages(self._episodes, gone, ["pk", "user_key"], size=rows.SCALARS):
                if self._mine(e["user_key"]):
                    by_key[e["user_key"]].append(bytes.fromhex(e["pk"][32:]))
        names = self._milvus.by_pk(self._records, [f"{key}/user" for key in by_key], rows.RECORD_FIELDS)
        return {str(json.loads(e["text"])["user"]): by_key[e["user_key"]] for e in self._user_records.whole(names)}

    def remove(self, user: str, digests: Collection[bytes]) -> None:
        """Delete interactions of a user, and their name if that is all that is left. Bytes stay in the files until `scrub`."""
        key = user_key(user)
        pks = [rows.pk_of(user, digest) for digest in digests]
        with self._milvus.writing:
            owners = set(pks)
            parts = [
                e["pk"] for e in self._user_records.of(key, "part", text=False) if str(e["pk"]).split("/")[0] in owners
            ]
            if not self._lite:
                pks = [e["pk"] for e in self._milvus.by_pk(self._episodes, pks, ["pk"])]
                if pks:  # or the user was forgotten meanwhile, and not even the name may come back
                    self._name({user})
            with self._counted({user}):
                self._milvus.delete(self._episodes, pks)
            if self._lite:
                left = self._episode_rows.ledger_of(key).without(frozenset(digests))
                if len(left):
                    self._episode_rows.ledgers[key] = left
                else:
                    self._episode_rows.ledgers.pop(key, None)
            self._user_records.delete(
                parts
            )  # last: a row without its parts could not be read, parts without a row are only litter
            held = self.held(user)
            if held and not (held.interactions or held.personas or held.facts):
                self._named.discard(key)  # nothing is known of the user any more, so nor is their name
                self._counts.drop(key)
                self._delete_user(self._records, key)

    def intend(self, users: Iterable[str]) -> None:
        """Note durably that `scrub` must follow what is about to be deleted of these users (their keys).

        Only Milvus Lite's files need it: a process that is killed in between knows from it what is left to do.
        """
        if self._lite and not (keys := set(users)) <= (known := self.intended()):
            self._note_intended(known | keys)

    def intended(self) -> set[str]:
        """Keys of users of whom something deleted may still be in the files."""
        if not self._lite:
            return set()
        found = self._milvus.by_pk(self._records, [INTENDED], rows.RECORD_FIELDS)
        return set(json.loads(self._user_records.whole(found)[0]["text"])) if found else set()

    @property
    def looked_through(self) -> bool:
        """Whether Milvus Lite's files were rid of what a version before left, which noted nothing; always on a server."""
        return not self._lite or bool(self._milvus.by_pk(self._records, [LOOKED], ["pk"]))

    def note_looked_through(self) -> None:
        """Note that they were; durable when it returns."""
        if self._lite:
            entity, _ = rows.record(META, LOOKED.removeprefix(f"{META}/"), "looked", 0, "")
            self._milvus.write(self._records, [entity])

    def outdated(self, gone: bool = True) -> set[str]:
        """Keys of users of whom the files hold what was deleted or replaced; `gone`: only of who has nothing else left."""
        return self._milvus.outdated(gone)

    def scrub(self, users: Iterable[str]) -> str:
        """Get what was deleted or replaced out of the files, of users with these keys and of those intended earlier.

        Says what is left until when. Reads of this store wait meanwhile.

        Raises:
            StoreError: something is left in the files; the next scrub tries again.
        """
        if self._folder is not None:
            drop_copies(self._folder)
        intended = self.intended()
        left, note = self._milvus.scrub(intended.union(users))
        if left:
            raise StoreError(f"{left} deleted rows are still in the store's files; they leave with the next attempt")
        if intended:
            self._note_intended(set())
        return note

    def _note_intended(self, keys: set[str]) -> None:
        self._user_records.put_common(INTENDED.removeprefix(f"{META}/"), "purge", 0, json.dumps(sorted(keys)))

    def replace_profile(self, user: str, profile: Profile, expected: int) -> None:
        """Put a profile in the place of version `expected`. Raises ConflictError."""
        self.put_profile(user, profile, expected, uuid.uuid4().hex)

    def amend_persona(self, user: str, persona: Persona) -> None:
        """Store a version again with other `sources`. Raises StoreError if there is no such version."""
        key = user_key(user)
        with self._milvus.writing:
            found = [e for e in self._user_records.of(key, "persona") if e["number"] == persona.number]
            if not found:
                raise StoreError(f"persona version {persona.number} is not in the store")
            for e in found:
                content = {**json.loads(e["text"]), "persona": persona.plain()}
                fresh = self._user_records.make(key, e["pk"][33:], "persona", persona.number, json.dumps(content))
                self._user_records.replace(e, *fresh)

    # Entities as they are

    def directory(self) -> dict[str, tuple[list[str], list[str]]]:
        """Primary keys of all episodes and of all records, by user key; on a server of all shards."""
        listed: defaultdict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for which, collection in enumerate((self._episodes, self._records)):
            if self._lite:
                pks = [str(row[0]) for row in self._milvus.scan(collection, ["pk"])]
            else:
                pks = [
                    str(e["pk"]) for e in self._milvus.pages(collection, rows.anything("pk"), ["pk"], size=rows.SCALARS)
                ]
            for pk in pks:
                if not pk.startswith(f"{META}/") and not pk.endswith(TOMBSTONE):  # neither belongs to a user there is
                    listed[pk[:32]][which].append(pk)
        return dict(listed)

    def entities(self, pks: Sequence[str], records: bool) -> list[Entity]:
        """Episodes or records by primary key, as they are stored."""
        if records:
            return self._milvus.by_pk(self._records, pks, rows.RECORD_FIELDS)
        return self._milvus.by_pk(self._episodes, pks, rows.EPISODE_FIELDS)

    def text_of(self, entity: Entity, parts: Mapping[str, str]) -> bytes:
        """The whole text of an entity, given the bodies of its parts. Raises StoreError if it cannot be had."""
        try:
            return self._user_records.unsealed(rows.join_body(entity, parts.get))
        except ValueError as e:  # not base64, not zlib's, not UTF-8
            raise StoreError("a stored text is damaged") from e

    def drop_records(self, pks: Sequence[str]) -> None:
        """Delete records by primary key. Their bytes stay in the files until `scrub`."""
        with self._milvus.writing:
            self._user_records.delete(pks)

    def name(self, user: str) -> None:
        """Store what the user is called."""
        with self._milvus.writing:
            self._named.discard(user_key(user))
            self._name({user})

    def recount(self, user: str) -> None:
        """Have the user's interactions counted anew when they are next listed; Milvus Lite counts them at any time."""
        if not self._lite:
            with self._milvus.writing:
                self._counts.drop(user_key(user))
                self._name({user})

    def buried(self) -> Iterator[tuple[str, Tombstone]]:
        """All tombstones, with the keys of their users; on a server of all shards."""
        return self._tombstones.all()

    def epoch(self) -> int:
        """The highest epoch that any shard of this store was owned in."""
        if self._lite:
            owner = self.owner()
            return owner.epoch if owner is not None else 0
        owners = [e["pk"] for e in self._milvus.query(self._records, rows.equals("kind", "owner"), ["pk"])]
        return max((e["number"] for e in self._milvus.by_pk(self._records, owners, rows.RECORD_FIELDS)), default=0)

    def go_on_above(self, epoch: int, shards: int | None = None) -> None:
        """Let the epochs of all shards of this store go on above one: users were forgotten in it."""
        here = self._identity
        every = range(max(shards or 0, here.shards)) if not self._lite else [here.shard]
        for shard in every:
            self._identity = replace(here, shard=shard)
            present = self.owner()
            if epoch > (present.epoch if present is not None else 0):
                self.own(Owner(epoch, "moved", released=True))
        self._identity = here

    def restamp_shards(self, shards: int) -> None:
        """Change the number of shards that the store says it has."""
        self.go_on_above(self.epoch(), shards)
        if not self._lite:
            self._counts.unstamp()
        stored = self._milvus.by_pk(self._records, [f"{META}/meta"], rows.RECORD_FIELDS)
        content = {**json.loads(stored[0]["body"]), "shards": shards}
        entity, _ = rows.record(META, "meta", "meta", 0, json.dumps(content))
        self._milvus.write(self._records, [entity])


def server_description(uri: str, collection: str, token: str, timeout: float = 10.0) -> dict[str, Any]:
    """What the store on a server says of itself.

    Raises:
        StoreError: there is none.
        UnavailableError: the server does not answer.
    """
    records = f"{collection}_records"
    milvus = MilvusConnection(uri, [records], token, timeout)
    try:
        if not milvus.has(records):
            raise StoreError(f"there is no store at {uri}; check memory.uri, memory.collection and memory.tenant")
        milvus.load(records)
        stored = milvus.by_pk(records, [f"{META}/meta"], rows.RECORD_FIELDS)
        if not stored:
            raise StoreError(f"the store at {uri} was not finished; start the service on it once")
        content: dict[str, Any] = json.loads(stored[0]["body"])
        return content
    finally:
        milvus.close()

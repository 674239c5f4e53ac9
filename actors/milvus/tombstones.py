"""What is left of users who were forgotten: a record each, which is never encrypted since it tells no more than its key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from actors.milvus import rows
from actors.milvus.connection import MilvusConnection
from actors.milvus.rows import Entity
from actors.milvus.user_records import UserRecords
from personaagent.memory.store import Tombstone

__all__ = ["KINDS", "TOMBSTONE", "Tombstones"]

FORGETTING, FORGOTTEN = KINDS = ("forgetting", "forgotten")  # kinds of tombstones
TOMBSTONE = "/tombstone"  # follows the user key in theirs
READ = 500  # that one call reads


class Tombstones:
    """The tombstones of a store.

    Args:
        milvus: the connection.
        records: hold them.
        mine: whether the user with a key is of this shard.
    """

    def __init__(self, milvus: MilvusConnection, records: UserRecords, mine: Callable[[str], bool]) -> None:
        self._milvus, self._records, self._mine = milvus, records, mine
        self._unfinished: set[str] = set()  # keys of users whose forgetting is not at its end, as far as is known

    def of(self, keys: Sequence[str]) -> dict[str, Tombstone]:
        """Those there are of users with these keys."""
        known = self._records.keys
        pks = [key + TOMBSTONE for key in keys if not self._milvus.is_lite or key + TOMBSTONE in known.get(key, ())]
        found = {e["user_key"]: _tombstone(e) for e in self._milvus.by_pk(self._records.name, pks, rows.RECORD_FIELDS)}
        for key in keys:
            begun = key in found and not found[key].done
            (self._unfinished.add if begun else self._unfinished.discard)(key)
        return found

    def put(self, key: str, tombstone: Tombstone) -> None:
        """Write one in the place of an older one; it is durable when this returns."""
        content = {**asdict(tombstone)}
        kind = FORGOTTEN if content.pop("done") else FORGETTING
        entity, _ = rows.record(key, TOMBSTONE[1:], kind, content.pop("incarnation"), json.dumps(content))
        with self._milvus.writing:
            self._unfinished.add(key)  # should nobody hear whether it was written, the next call looks
            self._records.put([entity])
            if tombstone.done:
                self._unfinished.discard(key)

    def found(self, key: str, kind: str) -> None:
        """A record of this kind was there when the store was opened."""
        if kind == FORGETTING:
            self._unfinished.add(key)

    def unfinished(self) -> list[str]:
        """Keys of the users of this shard whose forgetting was begun and did not come to its end."""
        if not self._milvus.is_lite:
            found = self._milvus.pages(
                self._records.name, rows.equals("kind", FORGETTING), ["pk", "user_key"], size=rows.SCALARS
            )
            self._unfinished = {e["user_key"] for e in found if self._mine(e["user_key"])}
        return sorted(self._unfinished)

    def is_unfinished(self, key: str) -> bool:
        """Whether the user with this key may be in the midst of being forgotten; `of` looks."""
        return key in self._unfinished

    def hidden(self) -> set[str]:
        """Keys of the users who are being forgotten, of those known to be: they are not listed, however far that has come."""
        return {key for key, stone in self.of(sorted(self._unfinished)).items() if not stone.done}

    def all(self) -> Iterator[tuple[str, Tombstone]]:
        """Every tombstone with the key of its user; on a server of all shards."""
        if self._milvus.is_lite:
            keys = [key for key, pks in list(self._records.keys.items()) if key + TOMBSTONE in pks]
        else:
            found = self._milvus.pages(
                self._records.name, rows.any_of("kind", KINDS), ["pk", "user_key"], size=rows.SCALARS
            )
            keys = [e["user_key"] for e in found]
        for chunk in rows.chunked(sorted(keys), READ):
            yield from self.of(chunk).items()


def _tombstone(entity: Entity) -> Tombstone:
    content = json.loads(entity["body"])
    return Tombstone(incarnation=int(entity["number"]), done=entity["kind"] == FORGOTTEN, **content)

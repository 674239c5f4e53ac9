"""The collection of interactions, one row each, with what a text has beyond its row in the collection of records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

from actors.milvus import rows
from actors.milvus.connection import READ_ROWS, MilvusConnection
from actors.milvus.counts import enter
from actors.milvus.rows import Entity
from actors.milvus.user_records import UserRecords
from personaagent.memory.store import Ledger, Row, RowKey, Vector, fitting, row_key
from personaagent.types import user_key

__all__ = ["EpisodeRows"]

PARTS = 200  # pieces of long texts held at a time, 60 kB each


class EpisodeRows:
    """The interactions of a store.

    Args:
        milvus: the connection.
        name: of the collection.
        records: hold the rest of long texts, and encrypt all of them.
    """

    def __init__(self, milvus: MilvusConnection, name: str, records: UserRecords) -> None:
        self.name = name
        self.ledgers: defaultdict[str, Ledger] = defaultdict(Ledger)  # by user key; Milvus Lite only
        self._milvus = milvus
        self._lite = milvus.is_lite
        self._records = records

    @property
    def total(self) -> int:
        """How many of all users there are; a server's count covers all shards and is approximate."""
        if self._lite:
            return sum(len(ledger) for ledger in list(self.ledgers.values()))
        return self._milvus.total(self.name)

    def entities(self, items: Sequence[Row]) -> tuple[list[Entity], list[Entity]]:
        """Rows as they are stored, and the parts of their texts that did not fit into them."""
        batch: list[Entity] = []
        rest: list[Entity] = []
        for row in items:
            entity, parts = rows.episode(row, self._records.sealed(rows.row_text(row)))
            batch.append(entity)
            rest += parts
        return batch, rest

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        if self._lite:
            keys = [(user, digest) for user, digest in keys if digest in self.ledger_of(user_key(user))]
        found = self._milvus.by_pk(self.name, [rows.pk_of(*key) for key in keys], rows.EPISODE_FIELDS)
        return {row_key(row.user, row.id): row for row in self._decoded(found)}

    def count(self, key: str) -> int:
        """How many a user has."""
        if self._lite:
            return len(self.ledger_of(key))
        return self._milvus.count(self.name, rows.equals("user_key", key))

    def stream(self, user: str) -> Iterator[Row]:
        """The user's rows, read in pages."""
        key = user_key(user)
        if self._lite:
            pks = [rows.pk_of(user, digest) for digest in self.ledger_of(key).digests()]
            for chunk in rows.chunked(pks, READ_ROWS):
                yield from self._decoded(self._milvus.by_pk(self.name, chunk, rows.EPISODE_FIELDS))
            return
        found = self._milvus.pages(self.name, rows.equals("user_key", key), rows.EPISODE_FIELDS)
        while page := list(islice(found, READ_ROWS)):
            yield from self._decoded(page)

    def nearest(self, vector: Vector, where: str, limit: int, most: int | None) -> list[Row]:
        """The rows that a filter matches, by cosine with `vector`; of their texts at most `most` bytes."""
        if limit <= READ_ROWS:
            found = self._milvus.nearest(self.name, vector, where, rows.EPISODE_FIELDS, limit)
            return fitting(self._decoded(found), most)
        best = [str(e["pk"]) for e in self._milvus.nearest(self.name, vector, where, ["pk"], limit)]
        return fitting(self._in_order(best), most)

    def ledger(self, key: str) -> Ledger:
        """When a user's interactions happened and arrived; the caller's own."""
        if self._lite:
            return self.ledger_of(key).copy()
        ledger = Ledger()
        where = rows.equals("user_key", key)
        for e in self._milvus.pages(self.name, where, rows.EPISODE_SCALARS, size=rows.SCALARS):
            enter(ledger, e)
        return ledger

    def ledger_of(self, key: str) -> Ledger:
        """A user's ledger of Milvus Lite; an empty one of who has none."""
        return self.ledgers[key] if key in self.ledgers else Ledger()

    def entered(self, entities: Sequence[Entity]) -> None:
        """Follow what was written into Milvus Lite."""
        for e in entities:
            enter(self.ledgers[e["user_key"]], e)

    def drop_stale_parts(self, batch: list[Entity], fresh: set[str]) -> None:
        """Delete what is left of long texts that were replaced."""
        owners: defaultdict[str, set[str]] = defaultdict(set)
        for entity in batch:
            # On a server a look costs a call, so there it is only done for texts that are long still.
            if self._lite or entity["parts"]:
                owners[entity["user_key"]].add(entity["pk"])
        stale = [
            e["pk"]
            for key, pks in owners.items()
            for e in self._records.of(key, "part", text=False)
            if e["pk"].split("/")[0] in pks and e["pk"] not in fresh
        ]
        self._records.delete(stale)

    def delete_user(self, key: str) -> None:
        """Delete all of a user's rows; their parts are records."""
        if not self._lite:
            self._milvus.delete_where(self.name, rows.equals("user_key", key))
            return
        self._milvus.delete(self.name, [key + digest.hex() for digest in self.ledger_of(key).digests()])
        self.ledgers.pop(key, None)

    def _in_order(self, pks: Sequence[str]) -> Iterator[Row]:
        """Rows by primary key, in this order, read in pages."""
        for chunk in rows.chunked(pks, READ_ROWS):
            found = {e["pk"]: e for e in self._milvus.by_pk(self.name, chunk, rows.EPISODE_FIELDS)}
            yield from self._decoded([found[pk] for pk in chunk if pk in found])

    def _decoded(self, entities: Sequence[Entity]) -> Iterator[Row]:
        """The rows of entities. The rest of long texts is read for a few at a time, as the rows are asked for."""
        first = pieces = 0
        for n, e in enumerate(entities, start=1):
            pieces += e["parts"]
            if pieces < PARTS and n < len(entities):
                continue
            group, first, pieces = entities[first:n], n, 0
            parts = self._records.parts(group)
            for entity in group:
                yield rows.row_of(entity, self._records.unsealed(rows.join_body(entity, parts.get)))

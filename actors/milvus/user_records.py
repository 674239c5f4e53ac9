"""The collection of records: all that a store keeps of users beside interactions, and what is too long for one row.

Everything goes through here as text, which is where it is encrypted, and cut into parts that Milvus takes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from actors.milvus import rows
from actors.milvus.connection import MilvusConnection
from actors.milvus.counts import SEEN, numbered, seen_in, without_texts
from actors.milvus.rows import META, Entity
from personaagent.memory.privacy import Cipher
from personaagent.memory.store import Ledger, summarise
from personaagent.types import Persona, UserSummary

__all__ = ["UserRecords", "kind_of"]

SUMMARIES = 100  # records that one call reads for summaries


class UserRecords:
    """The records of a store.

    Args:
        milvus: the connection.
        name: of the collection.
        cipher: encrypts texts; None: they are stored as they are.
    """

    def __init__(self, milvus: MilvusConnection, name: str, cipher: Cipher | None) -> None:
        self.name = name
        self.keys: defaultdict[str, set[str]] = defaultdict(set)  # primary keys by user key; Milvus Lite only
        self._milvus = milvus
        self._lite = milvus.is_lite
        self._cipher = cipher

    # Texts

    def sealed(self, text: bytes) -> bytes:
        """A text as it is stored."""
        return text if self._cipher is None else self._cipher.encrypt(text.decode("utf-8")).encode("ascii")

    def unsealed(self, text: bytes) -> bytes:
        """A stored text as it was. Raises StoreError if the key is another one."""
        if self._cipher is None:
            return text
        return self._cipher.decrypt(text.decode("utf-8")).encode("utf-8")

    def parts(self, entities: Sequence[Entity]) -> dict[str, str]:
        """The pieces of long texts of episodes or records, by primary key."""
        keys = [key for e in entities for key in _parts_of(e)]
        return {e["pk"]: e["body"] for e in self._milvus.by_pk(self.name, keys, rows.RECORD_FIELDS)}

    def whole(self, entities: list[Entity]) -> list[Entity]:
        """Records with their whole text, as `text`."""
        parts = self.parts(entities)
        return [
            {**e, "text": self.unsealed(rows.join_body(e, parts.get)) if e["kind"] != SEEN else b""} for e in entities
        ]

    def make(self, key: str, name: str, kind: str, number: int, text: str) -> tuple[Entity, list[Entity]]:
        """A record of a user, and the parts of its text that did not fit into it."""
        return rows.record(key, name, kind, number, self.sealed(text.encode("utf-8")).decode("utf-8"))

    # Reads

    def of(self, key: str, *kinds: str, text: bool = True, numbers: bool = False) -> list[Entity]:
        """A user's records of these kinds, with their whole text unless that is not needed; `numbers`: but their numbers."""
        if self._lite:
            pks = sorted(pk for pk in list(self.keys.get(key, ())) if kind_of(pk) in kinds)
            if not text and not numbers:
                return [{"pk": pk} for pk in pks]
            found = self._milvus.by_pk(self.name, pks, rows.RECORD_FIELDS)
        else:
            of_kind = rows.equals("kind", kinds[0]) if len(kinds) == 1 else rows.any_of("kind", kinds)
            where = rows.both(rows.equals("user_key", key), of_kind)
            found = list(self._milvus.pages(self.name, where, rows.RECORD_FIELDS))
        return self.whole(found) if text else found

    def of_number(self, key: str, kind: str, number: int) -> list[str]:
        """Primary keys of the attempts at a user's record of that number."""
        if self._lite:
            found = self.of(key, kind, text=False)
        else:
            where = [rows.equals("user_key", key), rows.equals("kind", kind), rows.compare("number", "==", number)]
            found = list(self._milvus.pages(self.name, rows.both(*where), ["pk"], size=rows.SCALARS))
        return [e["pk"] for e in found if e["pk"].startswith(f"{key}/{kind}/{number:08d}/")]

    def versions(self, key: str, kind: str) -> list[dict[str, Any]]:
        """Contents of a user's numbered records of a kind, by number."""
        return numbered(self.of(key, kind), kind)

    def persona_keys(self, key: str, before: int | None) -> list[tuple[int, str]]:
        """Numbers and primary keys of a user's persona versions, without their texts."""
        if self._lite:
            mine = [pk for pk in list(self.keys.get(key, ())) if kind_of(pk) == "persona"]
            found = [(int(pk.split("/")[2]), pk) for pk in mine]
        else:
            where = [rows.equals("user_key", key), rows.equals("kind", "persona")]
            listed = self._milvus.pages(self.name, rows.both(*where), ["pk", "number"], size=rows.SCALARS)
            found = [(int(e["number"]), str(e["pk"])) for e in listed]
        return [(number, pk) for number, pk in found if before is None or number < before]

    def personas(self, pks: Sequence[str]) -> tuple[Persona, ...]:
        """Persona versions by primary key, in the order of their numbers."""
        found = self.whole(self._milvus.by_pk(self.name, pks, rows.RECORD_FIELDS))
        return tuple(Persona.model_validate(content["persona"]) for content in numbered(found, "persona"))

    def summaries(self, keys: Sequence[str], ledgers: Mapping[str, Ledger]) -> list[UserSummary]:
        """The summaries of these users of Milvus Lite, in their order; `ledgers` may lack who has no interactions."""
        pks = {key: list(self.keys.get(key, ())) for key in keys}
        wanted = [pk for key in keys for pk in _summarised(pks[key])]
        groups: defaultdict[str, list[Entity]] = defaultdict(list)
        for chunk in rows.chunked(wanted, SUMMARIES):
            for entity in self.whole(self._milvus.by_pk(self.name, chunk, rows.RECORD_FIELDS)):
                groups[entity["user_key"]].append(without_texts(entity))
        found = []
        for key in keys:
            names = [json.loads(e["text"])["user"] for e in groups[key] if e["kind"] == "user"]
            ledger = ledgers[key] if key in ledgers else Ledger()
            if names and (len(ledger) or any(kind_of(pk) in ("persona", "profile") for pk in pks[key])):
                personas = [Persona.model_validate(c["persona"]) for c in numbered(groups[key], "persona")]
                found.append(summarise(names[0], ledger, personas, seen_in(groups[key])))
        return found

    # Writes

    def put(self, entities: list[Entity]) -> None:
        """Write records of users, replacing those of the same primary key."""

        def written(batch: Sequence[Entity]) -> None:
            for e in batch:
                self.keys[e["user_key"]].add(e["pk"])

        self._milvus.write(self.name, entities, written if self._lite else None)

    def put_common(self, name: str, kind: str, number: int, text: str) -> None:
        """Write the one record of that name which belongs to no user, and drop what is left of the one it replaces."""
        entity, rest = self.make(META, name, kind, number, text)
        with self._milvus.writing:
            old = self._milvus.by_pk(self.name, [entity["pk"]], rows.RECORD_FIELDS)
            self._milvus.write(self.name, [*rest, entity])
            self._milvus.delete(self.name, _stale(old, rest))

    def replace(self, old: Entity, fresh: Entity, rest: list[Entity]) -> None:
        """Write a record of the same primary key in the place of an older one, and drop what is left of that."""
        self.put([*rest, fresh])
        self.delete(_stale([old], rest))

    def drop(self, entities: Sequence[Entity]) -> None:
        """Delete records with all their parts."""
        self.delete([*(e["pk"] for e in entities), *(pk for e in entities for pk in _parts_of(e))])

    def delete(self, pks: Sequence[str]) -> None:
        """Delete records by primary key."""
        self._milvus.delete(self.name, pks)
        for pk in pks:
            self.keys.get(pk[:32], set()).discard(pk)

    def delete_user(self, key: str, kinds: Collection[str], kept: str) -> None:
        """Delete all of a user's records but one, which has the primary key `kept` and one of these kinds."""
        if not self._lite:
            but = [rows.differs("kind", kind) for kind in kinds]
            self._milvus.delete_where(self.name, rows.both(rows.equals("user_key", key), *but))
            return
        # The name goes last: as long as it is there the user is listed, and can be forgotten again.
        pks = sorted(self.keys.get(key, set()) - {kept}, key=lambda pk: kind_of(pk) == "user")
        self._milvus.delete(self.name, pks)
        self.keys[key] = self.keys.get(key, set()) & {kept}


def kind_of(pk: str) -> str:
    """Kind of a record by its primary key: <user key>/<kind>[/<number>/<token>], or <owner's key>/<digest>/<part>."""
    pieces = pk.split("/")
    return "part" if len(pieces) in (3, 6) else pieces[1]


def _parts_of(entity: Entity) -> list[str]:
    """Primary keys of the parts that a text has beside its first piece."""
    return rows.part_keys(entity["pk"], entity["body"], entity["parts"]) if entity["parts"] else []


def _stale(old: Sequence[Entity], rest: Sequence[Entity]) -> list[str]:
    """Parts of replaced texts that were not replaced themselves."""
    fresh = {part["pk"] for part in rest}
    return [pk for e in old for pk in _parts_of(e) if pk not in fresh]


def _summarised(pks: Sequence[str]) -> list[str]:
    """Those of a user's records that a summary is made from; older persona versions tell nothing where `seen` is stored."""
    personas = [pk for pk in pks if kind_of(pk) == "persona"]
    if any(kind_of(pk) == SEEN for pk in pks):
        newest = max((pk.split("/")[2] for pk in personas), default="")
        personas = [pk for pk in personas if pk.split("/")[2] == newest]
    return [*personas, *(pk for pk in pks if kind_of(pk) in ("user", SEEN))]

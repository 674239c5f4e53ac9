"""What a Milvus server is asked when users are listed: one small record per user, instead of all rows of all users.

A record is either counted, with the user's summary in it, or open: then the summary has to be counted from the user's rows.
Before a user is changed their record is opened, durably, unless this process did so already; so whenever a process dies, a
record that is counted is right, and an open one is counted by whoever lists the user next. A user who was left alone for
a while is counted and the record closed again. Counts are always derived from the rows in the store. Only between listings
does this process follow a user's rows in RAM, so that listing again does not read them again.

A record names its user's shard, by which a shard finds the records of its own users. A store of a version without these
records is brought up to date at its first opening, shard by shard: every user gets an open one.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from actors.milvus import rows
from actors.milvus.connection import MilvusConnection
from actors.milvus.rows import Entity
from actors.milvus.store_identity import StoreIdentity, shard_of
from personaagent.memory.store import Ledger, summarise
from personaagent.types import Persona, UserSummary, user_key

__all__ = ["KIND", "SEEN", "UserCounts", "enter", "numbered", "seen_in", "without_texts"]

KIND = "counts"
SEEN = "seen"  # kind of the record that says in its number up to which arrival alignment has looked at a user's truths
VERSION = 1  # of what is counted; records of another one are counted anew
IDLE_S = 60.0  # without a change, after which a user's record is closed
TOGETHER = 100  # users counted in one go
AT_A_TIME = 500  # users whose records one call of `settle` closes; the next call goes on
PERSONAS = 100  # persona versions read at a time for that
SUMMARISED = ("origin", "number", "parent", "time", "pinned", "dropped")  # what a summary may tell of a persona
HELD_ROWS = 300_000  # of users followed in RAM, 150 bytes each

Texts = Callable[[list[Entity]], list[Entity]]
Record = Callable[[str, str, str, int, str], tuple[Entity, list[Entity]]]


@dataclass
class _Tally:
    """What a summary is made of."""

    ledger: Ledger = field(default_factory=Ledger)
    personas: list[Persona] = field(default_factory=list)
    profile: bool = False
    seen: int | None = None

    def summary(self, user: str) -> UserSummary | None:
        """The summary, None if nothing is stored of the user."""
        if not (len(self.ledger) or self.personas or self.profile):
            return None
        return summarise(user, self.ledger, self.personas, self.seen)


@dataclass
class _Open:
    """A user whose record this process has opened."""

    user: str
    changes: int = 0  # tells whether what was read of the user is still all there is
    changed: float = 0.0
    tally: _Tally | None = None


class UserCounts:
    """The records of counts of a server's users.

    Whatever changes a user calls `opening` before, and `entered` or `doubt` afterwards, holding the connection's `writing`
    all the while.

    Args:
        milvus: the server.
        episodes, records: names of the collections.
        identity: of the store; its shard is whose users are listed.
        texts: the whole texts of records.
        record: makes a record.
        clock: seconds.
    """

    def __init__(
        self,
        milvus: MilvusConnection,
        episodes: str,
        records: str,
        identity: StoreIdentity,
        texts: Texts,
        record: Record,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._milvus, self._episodes, self._records = milvus, episodes, records
        self._shards = identity.shards
        self._shard: int | None = identity.shard
        self._texts, self._record, self._clock = texts, record, clock
        self._open: dict[str, _Open] = {}  # by user key
        self._held = 0

    @property
    def pending(self) -> bool:
        """Whether `settle` has or will have something to do."""
        return bool(self._open)

    # Changes; the caller holds `writing`

    def opening(self, users: Iterable[str]) -> list[Entity]:
        """The records to be written before these users are changed; then tell `opened`."""
        return [self._opened(user) for user in users if user_key(user) not in self._open]

    def opened(self, users: Iterable[str]) -> None:
        """What `opening` gave is in the store."""
        for user in users:
            self._open.setdefault(user_key(user), _Open(user)).changed = self._clock()

    def entered(self, entities: Sequence[Entity]) -> None:
        """These rows were written."""
        for e in entities:
            known = self._open[e["user_key"]]
            known.changes += 1
            if known.tally is not None:
                enter(known.tally.ledger, e)

    def doubt(self, users: Iterable[str]) -> None:
        """More than rows was written, or not all of it: count anew."""
        for user in users:
            if (known := self._open.get(user_key(user))) is not None:
                known.changes += 1
                known.tally = None

    def drop(self, key: str) -> None:
        """The user was erased, with their record."""
        self._open.pop(key, None)

    # Listing

    def page(self, after: str, limit: int | None) -> Iterator[UserSummary]:
        """Summaries by user key, those after a key; reads as many records as it yields, and the rows of open users."""
        left = limit
        found = self._milvus.pages(
            self._records,
            self._mine(),
            rows.RECORD_FIELDS,
            after=f"{after}/{KIND}" if after else "",
            size=rows.SCALARS if limit is None else max(2, min(rows.SCALARS, limit)),
        )
        while left is None or left > 0:
            chunk = list(islice(found, TOGETHER if left is None else min(TOGETHER, left)))
            if not chunk:
                return
            listed = self._summaries(chunk)
            if left is not None:
                left -= len(listed)
            yield from listed

    def settle(self, idle: float = IDLE_S) -> None:
        """Count the users who were not changed for `idle` seconds, and close their records."""
        now = self._clock()
        quiet = {key: known.changes for key, known in list(self._open.items()) if now - known.changed >= idle}
        for keys in rows.chunked(list(quiet)[:AT_A_TIME], TOGETHER):
            tallies = self._count(keys)
            with self._milvus.writing:
                same = [key for key in keys if key in self._open and self._open[key].changes == quiet[key]]
                self._close({key: tallies[key].summary(self._open[key].user) for key in same})
                for key in same:
                    self.drop(key)

    # A store of a version without counts

    def adopt(self) -> None:
        """Give every user of this shard a record that names it, unless that was done; may be interrupted and repeated."""
        shards = [self._shard] if self._shard is not None else list(range(self._shards))
        stamps = {f"{rows.META}/{KIND}-{shard:04d}": shard for shard in shards}
        done = {
            e["pk"]
            for e in self._milvus.by_pk(self._records, list(stamps), rows.RECORD_FIELDS)
            if e["number"] == self._shards
        }
        missing = {shard for pk, shard in stamps.items() if pk not in done}
        if not missing:
            return
        names = self._milvus.pages(self._records, rows.equals("kind", "user"), rows.RECORD_FIELDS)
        mine = (e for e in names if shard_of(e["user_key"], self._shards) in missing)
        while chunk := list(islice(mine, TOGETHER)):
            self._restamp(chunk)
        self._milvus.write(
            self._records,
            [rows.record(rows.META, f"{KIND}-{shard:04d}", "stamp", self._shards, "")[0] for shard in sorted(missing)],
        )

    def unstamp(self) -> None:
        """Have every shard name its users' records anew, since the number of shards is about to change."""
        self._milvus.delete(self._records, [f"{rows.META}/{KIND}-{shard:04d}" for shard in range(self._shards)])

    def everyone(self) -> None:
        """List the users of all shards from now on."""
        self._shard = None
        self.adopt()

    # Inside

    def _mine(self) -> str:
        kind = rows.equals("kind", KIND)
        return kind if self._shard is None else rows.both(kind, rows.equals("number", self._shard))

    def _entity(self, key: str, content: dict[str, Any]) -> Entity:
        number = shard_of(key, self._shards)
        return self._record(key, KIND, KIND, number, json.dumps({"version": VERSION, **content}))[0]

    def _opened(self, user: str) -> Entity:
        return self._entity(user_key(user), {"user": user})

    def _restamp(self, names: list[Entity]) -> None:
        pks = [f"{e['user_key']}/{KIND}" for e in names]
        there = {e["user_key"]: e for e in self._milvus.by_pk(self._records, pks, rows.RECORD_FIELDS)}
        entities = []
        for e in self._texts(names):
            key = e["user_key"]
            if key not in there:
                entities.append(self._opened(json.loads(e["text"])["user"]))
            elif there[key]["number"] != shard_of(key, self._shards):
                entities.append({**there[key], "number": shard_of(key, self._shards), "vector": rows.DUMMY})
        self._milvus.write(self._records, entities)

    def _summaries(self, chunk: list[Entity]) -> list[UserSummary]:
        """The summaries in these records, in their order, after counting those that are open."""
        found: dict[str, UserSummary | None] = {}
        ours: dict[str, int] = {}  # open by this process: what is counted is kept in RAM
        others: dict[str, str] = {}  # left open by another one: what is counted is stored
        for e in self._texts(chunk):
            key, content = e["user_key"], json.loads(e["text"])
            if (known := self._open.get(key)) is not None:
                if (tally := known.tally) is not None:
                    found[key] = tally.summary(known.user)
                else:
                    ours[key] = known.changes
                    others[key] = known.user
            elif content["version"] == VERSION and "summary" in content:
                found[key] = UserSummary.model_validate(content["summary"])
            else:
                others[key] = content["user"] if "user" in content else content["summary"]["user"]
        if others:
            tallies = self._count(list(others))
            counted = {key: tallies[key].summary(user) for key, user in others.items()}
            with self._milvus.writing:
                self._keep({key: tallies[key] for key in ours}, ours)
                self._close({key: summary for key, summary in counted.items() if key not in ours}, unless_erased=True)
            found |= counted
        return [summary for e in chunk if (summary := found[e["user_key"]]) is not None]

    def _count(self, keys: Sequence[str]) -> dict[str, _Tally]:
        """Count users from the store."""
        tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        theirs = rows.any_of("user_key", keys)
        for e in self._milvus.pages(self._episodes, theirs, rows.EPISODE_SCALARS, size=rows.SCALARS):
            enter(tallies[e["user_key"]].ledger, e)
        records = rows.both(theirs, rows.any_of("kind", ["persona", SEEN]))
        found = self._milvus.pages(self._records, records, rows.RECORD_FIELDS)
        versions: defaultdict[str, list[Entity]] = defaultdict(list)
        while page := list(islice(found, PERSONAS)):
            for e in self._texts(page):
                versions[e["user_key"]].append(without_texts(e))
        for key, entities in versions.items():
            tallies[key].personas = [Persona.model_validate(c["persona"]) for c in numbered(entities, "persona")]
            tallies[key].seen = seen_in(entities)
        for e in self._milvus.pages(
            self._records, rows.both(theirs, rows.equals("kind", "profile")), ["pk", "user_key"], size=rows.SCALARS
        ):
            tallies[e["user_key"]].profile = True
        return tallies

    def _keep(self, tallies: dict[str, _Tally], read: dict[str, int]) -> None:
        """Follow users in RAM, unless they were changed while they were counted."""
        for key, tally in tallies.items():
            known = self._open.get(key)
            if known is None or known.changes != read[key]:
                continue
            if self._held > HELD_ROWS:
                for other in self._open.values():
                    other.tally = None
                self._held = 0
            known.tally = tally
            self._held += len(tally.ledger)

    def _close(self, counted: dict[str, UserSummary | None], unless_erased: bool = False) -> None:
        """Store what was counted; a user of whom nothing is stored loses the record."""
        if unless_erased and counted:
            pks = [f"{key}/{KIND}" for key in counted if key not in self._open]
            there = {e["user_key"] for e in self._milvus.by_pk(self._records, pks, ["pk", "user_key"])}
            counted = {key: summary for key, summary in counted.items() if key in there}
        self._milvus.delete(self._records, [f"{key}/{KIND}" for key, summary in counted.items() if summary is None])
        entities = [
            self._entity(key, {"summary": summary.model_dump(mode="json")})
            for key, summary in counted.items()
            if summary is not None
        ]
        self._milvus.write(self._records, entities)


def enter(ledger: Ledger, e: Entity) -> None:
    """Note an episode in a ledger."""
    ledger.put(bytes.fromhex(e["pk"][32:]), e["time"], e["arrived"], e["truth_arrived"])


def without_texts(entity: Entity) -> Entity:
    """A record with its text, of personas with what a summary tells of them: there may be many, and long ones."""
    if entity["kind"] != "persona":
        return entity
    content = json.loads(entity["text"])
    kept = {"text": "", **{name: content["persona"][name] for name in SUMMARISED if name in content["persona"]}}
    return {**entity, "body": "", "text": json.dumps({"persona": kept})}


def numbered(records: Iterable[Entity], kind: str) -> list[dict[str, Any]]:
    """Contents of numbered records, by number; of two of a number, which only a crash amid a conflict leaves, the earlier."""
    found: dict[int, dict[str, Any]] = {}
    for entity in records:
        if entity["kind"] != kind:
            continue
        content = json.loads(entity["text"])
        other = found.setdefault(entity["number"], content)
        if str(content[kind].get("time", "")) < str(other[kind].get("time", "")):
            found[entity["number"]] = content
    return [found[number] for number in sorted(found)]


def seen_in(records: Iterable[Entity]) -> int | None:
    """Up to which arrival alignment has looked, as these records say; None if none does."""
    return max((int(e["number"]) for e in records if e["kind"] == SEEN), default=None)

"""Until when the rows and truths of a store's users have arrived, so that new ones can arrive later.

Milvus Lite knows it of every user from the ledgers. Of a server's users this process knows when it wrote last, which is one
number for all of them, and by name those few whose rows are far ahead of the clock.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Collection, Sequence

from actors.milvus import rows
from actors.milvus.connection import MilvusConnection
from actors.milvus.counts import SEEN
from actors.milvus.episode_rows import EpisodeRows
from actors.milvus.rows import Entity
from actors.milvus.user_records import UserRecords, kind_of
from personaagent.errors import StoreError
from personaagent.memory.changes import clock
from personaagent.memory.stored_row import AHEAD_US
from personaagent.types import user_key

__all__ = ["DAMAGED", "StoredArrivals"]

logger = logging.getLogger(__name__)

READ_USERS = 100  # whose records one call reads
# What reading a damaged text raises.
DAMAGED = (StoreError, ValueError, LookupError, TypeError, AttributeError, zlib.error)


class StoredArrivals:
    """When the newest row or truth of users arrived.

    Args:
        milvus: the connection.
        episodes, records: its collections.
        mine: whether the user with a key is of this shard.
    """

    def __init__(
        self, milvus: MilvusConnection, episodes: EpisodeRows, records: UserRecords, mine: Callable[[str], bool]
    ) -> None:
        self._milvus, self._episodes, self._records, self._mine = milvus, episodes, records, mine
        self._lite = milvus.is_lite
        self._issued = 0  # a server only: when the newest row or truth arrived that this process wrote
        # And by user key, of those that were ahead of the clock; None: not looked.
        self._ahead: dict[str, int] | None = None

    def after(self, users: Collection[str], after: int) -> dict[str, int]:
        """Later than when new rows and truths of these users must arrive, where it is later than `after`."""
        keys = {user_key(user): user for user in users}
        if self._lite:
            ledgers = self._episodes.ledgers
            latest = {user: ledgers[key].last_arrived for key, user in keys.items() if key in ledgers}
        else:
            ahead = self._looked_ahead(after)
            latest = {user: max(self._issued, ahead.get(key, 0)) for key, user in keys.items()}
        for key, mark in self._marks(list(keys)).items():
            latest[keys[key]] = max(latest.get(keys[key], 0), mark)
        return {user: arrived for user, arrived in latest.items() if arrived > after}

    def entered(self, entities: Sequence[Entity]) -> None:
        """Follow what was written to a server."""
        for e in entities:
            self._follow(e, clock())

    def look_again(self) -> None:
        """Another process may have written since."""
        self._ahead = None

    def _looked_ahead(self, now: int) -> dict[str, int]:
        """By user key, when the newest row or truth arrived, of users who have one from later than `now`.

        There are some if the clock was put back while no shard was open, or was ahead where they were written.
        """
        if self._ahead is None:
            self._ahead = {}
            later = rows.either(*(rows.compare(field, ">", now) for field in ("arrived", "truth_arrived")))
            try:
                for e in self._milvus.pages(self._episodes.name, later, rows.EPISODE_SCALARS, size=rows.SCALARS):
                    if self._mine(e["user_key"]):
                        self._follow(e, 0)
            except BaseException:
                self._ahead = None  # not all of it was seen
                raise
        return self._ahead

    def _follow(self, e: Entity, now: int) -> None:
        """Note when an episode and its truth arrived: for all users, unless it is so far ahead that it would hurt the others."""
        arrived = max(e["arrived"], e["truth_arrived"])
        if arrived <= now + AHEAD_US:
            self._issued = max(self._issued, arrived)
        elif self._ahead is not None:
            self._ahead[e["user_key"]] = max(arrived, self._ahead.get(e["user_key"], 0))

    def _marks(self, keys: Sequence[str]) -> dict[str, int]:
        """By user key, up to which arrival truths count as read, whether or not their rows are there still."""
        records = self._records
        if self._lite:
            pks = [pk for key in keys for pk in list(records.keys.get(key, ())) if kind_of(pk) in ("profile", SEEN)]
            found = self._milvus.by_pk(records.name, pks, rows.RECORD_FIELDS)
        else:
            kinds = rows.any_of("kind", ["profile", SEEN])
            found = [
                e
                for chunk in rows.chunked(keys, READ_USERS)
                for e in self._milvus.pages(
                    records.name, rows.both(rows.any_of("user_key", chunk), kinds), rows.RECORD_FIELDS
                )
            ]
        marks: dict[str, int] = {}
        for e in found:
            try:
                mark = e["number"] if e["kind"] == SEEN else self._profile_mark(e)
            except (
                DAMAGED
            ) as fault:  # nothing can go on from this profile, and it must not hold up others' interactions
                logger.warning("the profile of user %s is damaged: %s", e["user_key"], type(fault).__name__)
                continue
            marks[e["user_key"]] = max(marks.get(e["user_key"], 0), mark)
        return marks

    def _profile_mark(self, e: Entity) -> int:
        return int(json.loads(self._records.whole([e])[0]["text"])["profile"].get("mark") or 0)

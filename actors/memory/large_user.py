"""A user who needs more RAM than one user may: searched in the store, with only the times of episodes in RAM.

It answers as `personaagent.memory.user_memory.UserMemory` does, but may block on the store. Recall differs in one point:
candidates are the nearest by meaning (`POOL` of them, or as many as take `POOL_BYTES`), and words, recency and metadata
filters choose among these. However large its rows are, no call holds more of them than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from actors.memory.stored_size import StoredSize
from personaagent.errors import NotFoundError
from personaagent.evidence.commons import Commons
from personaagent.memory.changes import Change, Clock, Incoming, clock
from personaagent.memory.index import EpisodeIndex
from personaagent.memory.one_user import OneUser
from personaagent.memory.store import Ledger, Row, RowKey, Store, Vector, fitting, microseconds, ordering, row_key
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.types import OF, Interaction, Recall, RecallQuery, Truths

__all__ = ["LargeUser"]

POOL = 400  # rows fetched for one recall ...
POOL_BYTES = 8 * 2**20  # ... or so many bytes of them
TOGETHER = 100  # rows read at a time where not all are wanted
END = (2**62, 0)  # later than any interaction


class LargeUser(OneUser):
    """One user on a store. Personas and profile are in RAM as for any other user."""

    def __init__(self, user: str, store: Store, settings: MemorySettings | None = None, clock: Clock = clock) -> None:
        self._store = store
        self._settings = settings or MemorySettings()
        self._ledger: Ledger = store.ledger(user)
        stored = store.load(user, rows=False, history=False)
        super().__init__(user, self._ledger, stored, self._settings, clock, partial(store.personas, user))
        self._size = StoredSize(store, user, self._limits, len(self._ledger))

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return 180 * len(self._ledger) + self._own_bytes

    def recall(
        self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix, commons: Commons | None = None
    ) -> Recall:
        """Episodes and evidence for a request. Raises NotFoundError if `before` does not exist."""
        end, later = END, 0
        if query.before is not None:
            anchor = self._anchor(query.before)
            end = _moment(anchor)
            later = self._ledger.newer(*end, query.lessons) + (anchor.lesson == query.lessons)
        left_out = self._store.get([row_key(self.user, i) for i in query.exclude]).values()
        excluded = [_moment(r) for r in left_out if _moment(r) < end and r.lesson == query.lessons]
        found = self._store.search(
            self.user,
            query_vector,
            max(POOL, 4 * query.k) + len(excluded),
            since=microseconds(query.since) if query.since else -END[0],
            until=microseconds(query.until) if query.until else END[0],
            before=end,
            truth=query.with_truth,
            most=POOL_BYTES,
            lessons=query.lessons if query.lessons or self._ledger.lessons else None,
        )
        pool = EpisodeIndex(self._store.dim, self._settings)
        times: dict[str, tuple[int, int]] = {}
        for row in sorted(found, key=lambda r: r.arrived):
            if row.id not in query.exclude:
                pool.put(row)
                times[row.id] = _moment(row)
        among = query.model_copy(update={"before": None, "exclude": ()})
        recall = pool.recall(among, query_vector, choice_vectors, commons)
        episodes = []
        for episode in recall.episodes:
            moment = times[episode.interaction.id]
            age = self._ledger.newer(*moment, query.lessons) - later - sum(1 for e in excluded if e > moment)
            episodes.append(episode.model_copy(update={"age": age}))
        every = self._ledger.lessons if query.lessons else len(self._ledger) - self._ledger.lessons
        known = every - later - len(excluded)
        told = {"episodes": tuple(episodes), "known": known, "lessons": self._ledger.lessons}
        return recall.model_copy(update=told)

    def latest(
        self, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The newest n interactions, or lessons, oldest first; fewer if these take more than `POOL_BYTES`.

        Raises:
            NotFoundError: `before` does not exist.
        """
        end = None if before is None else self._anchor(before).key[1]
        newest = [(self.user, digest) for digest in reversed(self._ledger.newest(n, with_truth, end, lessons))]
        return tuple(row.interaction for row in reversed(fitting(self._in_order(newest), POOL_BYTES)))

    def truths(self, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, see `UserMemory.truths`."""
        told = self._ledger.told(after, n)
        when = {(self.user, digest): arrived for digest, arrived in told}
        found: list[tuple[Interaction, int]] = []
        mark, left = told[-1][1] if told else after, POOL_BYTES
        for row in self._in_order(list(when)):
            arrived = when[row.key]
            left -= row.nbytes
            if left < 0 and found and found[-1][1] != arrived:  # the next page begins with it
                mark = found[-1][1]
                break
            found.append((row.interaction, arrived))
        return Truths(
            interactions=tuple(interaction for interaction, _ in found),
            arrived=tuple(arrived for _, arrived in found),
            mark=mark,
            newest=self._ledger.last_truth,
            taught=self._ledger.last_lesson,
        )

    def rows_after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first, read a few at a time."""
        return self._in_order([(self.user, digest) for when, digest in self._ledger.arrivals() if when > arrived])

    def lessons(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Ids of the lessons of these interactions; all of the user's lessons are read for it, a few at a time."""
        wanted = set(ids)
        if not wanted or not self._ledger.lessons:
            return ()
        keys = [(self.user, digest) for digest in self._ledger.newest(self._ledger.lessons, lessons=True)]
        return tuple(row.id for row in self._in_order(keys) if str(row.interaction.metadata.get(OF)) in wanted)

    def _anchor(self, interaction: str) -> Row:
        """The row that `before` names; of a lesson the one of the interaction that it is about, if that is there."""
        row = self._find([interaction])(interaction)
        if row is None:
            raise NotFoundError(f"interaction {interaction!r} does not exist; `before` must name a stored one")
        if not row.lesson:
            return row
        about = str(row.interaction.metadata.get(OF))
        return self._find([about])(about) or row

    def _find(self, ids: Sequence[str]) -> Callable[[str], Row | None]:
        stored = self._store.get([row_key(self.user, i) for i in ids])
        return lambda i: stored.get(row_key(self.user, i))

    def _bytes_before(self, items: Sequence[Incoming]) -> int:
        return self._size.before(items)

    def _told(self) -> Iterable[tuple[bytes, int]]:
        return self._ledger.truth_arrivals()

    def _take(self, change: Change) -> None:
        for row in change.rows:
            self._ledger.put(row.key[1], row.time, row.arrived, row.truth_arrived)
        self._size.grow(change)

    def _in_order(self, keys: Sequence[RowKey]) -> Iterator[Row]:
        """Rows in the order of their keys, read a few at a time as they are asked for."""
        for first in range(0, len(keys), TOGETHER):
            chunk = keys[first : first + TOGETHER]
            found = self._store.get(chunk)
            yield from (found[key] for key in chunk if key in found)


def _moment(row: Row) -> tuple[int, int]:
    """Where a row stands in the user's order."""
    return ordering(row.time, row.arrived), row.arrived

"""A user who needs more RAM than one user may: searched in the store, with only the times of episodes in RAM.

It has the methods of `personaagent.memory.user_memory.UserMemory`, but they may block on the store. Recall differs in one point:
candidates are the nearest by meaning (`POOL` of them, or as many as take `POOL_BYTES`), and words, recency and metadata
filters choose among these. However large its rows are, no call holds more of them than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from actors.memory.stored_size import StoredSize
from personaagent.errors import NotFoundError
from personaagent.evidence.commons import Commons
from personaagent.memory.changes import Change, Clock, Incoming, clock, plan_append, plan_feedback, plan_seen
from personaagent.memory.export import Exported
from personaagent.memory.index import EpisodeIndex
from personaagent.memory.persona_chain import PersonaChain
from personaagent.memory.store import (
    Ledger,
    Row,
    RowKey,
    Store,
    Vector,
    fitting,
    microseconds,
    ordering,
    row_key,
    summarise,
)
from personaagent.memory.user_memory import UserMemory
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.types import Interaction, Persona, PersonaDraft, Profile, Recall, RecallQuery, Truths, UserSummary

__all__ = ["LargeUser"]

POOL = 400  # rows fetched for one recall ...
POOL_BYTES = 8 * 2**20  # ... or so many bytes of them
TOGETHER = 100  # rows read at a time where not all are wanted
END = (2**62, 0)  # later than any interaction


class LargeUser:
    """One user on a store. Personas and profile are in RAM as for any other user."""

    def __init__(self, user: str, store: Store, settings: MemorySettings | None = None, clock: Clock = clock) -> None:
        self.user = user
        self._store = store
        self._settings = settings or MemorySettings()
        self._clock = clock
        self._ledger: Ledger = store.ledger(user)
        # Everything but the episodes, which its index never holds.
        stored = store.load(user, rows=False, history=False)
        self._rest = UserMemory(user, store.dim, stored, settings, clock, partial(store.personas, user))
        self._size = StoredSize(store, user, self._settings.limits, len(self._ledger))

    def __len__(self) -> int:
        return len(self._ledger)

    @property
    def exists(self) -> bool:
        """Whether anything is stored of this user."""
        return bool(len(self._ledger)) or self._rest.exists

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return 180 * len(self._ledger) + self._rest.ram_bytes

    def recall(
        self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix, commons: Commons | None = None
    ) -> Recall:
        """Episodes and evidence for a request. Raises NotFoundError if `before` does not exist."""
        end, later = END, 0
        if query.before is not None:
            anchor = self._store.get([row_key(self.user, query.before)]).get(row_key(self.user, query.before))
            if anchor is None:
                raise NotFoundError(f"interaction {query.before!r} does not exist; `before` must name a stored one")
            end = _moment(anchor)
            later = self._ledger.newer(*end) + 1
        left_out = self._store.get([row_key(self.user, i) for i in query.exclude]).values()
        excluded = [_moment(r) for r in left_out if _moment(r) < end]
        found = self._store.search(
            self.user,
            query_vector,
            max(POOL, 4 * query.k) + len(excluded),
            since=microseconds(query.since) if query.since else -END[0],
            until=microseconds(query.until) if query.until else END[0],
            before=end,
            truth=query.with_truth,
            most=POOL_BYTES,
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
            age = self._ledger.newer(*moment) - later - sum(1 for e in excluded if e > moment)
            episodes.append(episode.model_copy(update={"age": age}))
        known = len(self._ledger) - later - len(excluded)
        return recall.model_copy(update={"episodes": tuple(episodes), "known": known})

    def latest(self, n: int, with_truth: bool = False) -> tuple[Interaction, ...]:
        """The newest n interactions, oldest first; fewer if these take more than `POOL_BYTES`."""
        newest = [(self.user, digest) for digest in reversed(self._ledger.newest(n, with_truth))]
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
        )

    def interaction(self, interaction: str) -> Interaction:
        """One interaction. Raises NotFoundError if it does not exist."""
        return self._row(interaction).interaction

    def interactions(self, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        keys = [row_key(self.user, i) for i in ids]
        rows = self._store.get(keys)
        return tuple(rows[key].interaction for key in keys if key in rows)

    def persona(self, number: int | None = None) -> Persona | None:
        """The current persona, or version `number`; None if there is none."""
        return self._rest.persona(number)

    def personas(self) -> tuple[Persona, ...]:
        """All versions, oldest first."""
        return self._rest.personas()

    def profile(self) -> Profile:
        """The semantic memory; version 0 if there is none."""
        return self._rest.profile()

    def summary(self) -> UserSummary | None:
        """Counts, or None if nothing is stored."""
        if not self.exists:
            return None
        head = self.chain.head
        seen = self.chain.aligned if self.seen is None else self.seen
        return summarise(self.user, self._ledger, [head] if head else [], seen)

    @property
    def seen(self) -> int | None:
        """Alignment has looked at the truths that arrived up to here; None if it never has."""
        return self._rest.seen

    @property
    def chain(self) -> PersonaChain:
        """The persona versions."""
        return self._rest.chain

    def rows_after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first, read a few at a time."""
        return self._in_order([(self.user, digest) for when, digest in self._ledger.arrivals() if when > arrived])

    def append(self, items: Sequence[Incoming], skip: bool = False) -> Change:
        """Plan to add interactions; `skip` leaves out those that are too large. Raises as `plan_append`."""
        stored = self._store.get([row_key(self.user, item.interaction.id) for item in items])
        used = self._size.before(items)
        return plan_append(
            self.user,
            items,
            lambda i: stored.get(row_key(self.user, i)),
            self.last_arrived,
            self._clock(),
            self._settings.limits,
            used,
            skip,
        )

    def feedback(
        self, interaction: str, truth: str | None, truth_vector: Vector | None, rating: int | None = None
    ) -> Change:
        """Plan to set what the user really answered, or their thumb. Raises NotFoundError for an unknown interaction."""
        old = self._row(interaction)
        limits = self._settings.limits
        return plan_feedback(old, interaction, truth, truth_vector, self.last_arrived, self._clock(), limits, rating)

    def commit_persona(self, draft: PersonaDraft, expected: int | None) -> Change:
        """Plan a new version if the current number is `expected`. Raises ConflictError otherwise."""
        return self._rest.commit_persona(draft, expected)

    def commit_profile(self, profile: Profile, expected: int) -> Change:
        """Plan a new profile if the current version is `expected`. Raises ConflictError otherwise."""
        return self._rest.commit_profile(profile, expected)

    def note_alignment(self, seen: int) -> Change:
        """Plan to note that alignment has looked at the truths that arrived up to `seen`."""
        return plan_seen(self.user, self._rest.seen, seen) if self.exists else Change(user=self.user)

    def restore(self, exported: Exported, added: Change) -> Change:
        """Plan to take over an export beside `added`; see `UserMemory.restore`."""
        return self._rest.restore(exported, added, self._ledger.told(0, len(self._ledger)))

    def apply(self, change: Change) -> None:
        """Follow a change that the store has."""
        for row in change.rows:
            self._ledger.put(row.key[1], row.time, row.arrived, row.truth_arrived)
        self._size.grow(change)
        self._rest.follow(change)

    @property
    def last_arrived(self) -> int:
        """When the newest row or truth arrived, or up to where somebody has read if that is later."""
        return max(self._ledger.last_arrived, self._rest.marked)

    def _in_order(self, keys: Sequence[RowKey]) -> Iterator[Row]:
        """Rows in the order of their keys, read a few at a time as they are asked for."""
        for first in range(0, len(keys), TOGETHER):
            chunk = keys[first : first + TOGETHER]
            found = self._store.get(chunk)
            yield from (found[key] for key in chunk if key in found)

    def _row(self, interaction: str) -> Row:
        key = row_key(self.user, interaction)
        row = self._store.get([key]).get(key)
        if row is None:
            raise NotFoundError(f"interaction {interaction!r} does not exist")
        return row


def _moment(row: Row) -> tuple[int, int]:
    """Where a row stands in the user's order."""
    return ordering(row.time, row.arrived), row.arrived

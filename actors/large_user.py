"""A user with more episodes than RAM should hold: searched in the store, with only their times in RAM.

It has the methods of `personaagent.user_memory.UserMemory`, but they may block on the store. Recall differs in one point:
candidates are the nearest by meaning (`POOL` of them), and words, recency and metadata filters choose among these.
"""

from __future__ import annotations

from collections.abc import Sequence

from personaagent.changes import Change, Clock, Incoming, clock, plan_append, plan_feedback, plan_seen
from personaagent.errors import NotFoundError
from personaagent.index import EpisodeIndex
from personaagent.population import Commons
from personaagent.portable import Exported, export_lines
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.store import Ledger, Row, Store, Vector, microseconds, ordering, row_key, summarise
from personaagent.types import (
    Interaction,
    Persona,
    PersonaDraft,
    Profile,
    Recall,
    RecallQuery,
    Truths,
    UserSummary,
)
from personaagent.user_memory import UserMemory

__all__ = ["LargeUser"]

POOL = 400  # rows fetched for one recall
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
        self._rest = UserMemory(user, store.dim, store.load(user, rows=False), settings, clock)

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
            anchor = self._row(query.before)
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
        """The newest n interactions, oldest first."""
        keys = [(self.user, digest) for digest in self._ledger.newest(n, with_truth)]
        rows = self._store.get(keys)
        return tuple(rows[key].interaction for key in keys if key in rows)

    def truths(self, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, see `UserMemory.truths`."""
        told = self._ledger.told(after, n)
        rows = self._store.get([(self.user, digest) for digest, _ in told])
        found = [(row, arrived) for digest, arrived in told if (row := rows.get((self.user, digest))) is not None]
        return Truths(
            interactions=tuple(row.interaction for row, _ in found),
            arrived=tuple(arrived for _, arrived in found),
            mark=told[-1][1] if told else after,
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
        return summarise(self.user, self._ledger, self.personas(), self._rest.seen) if self.exists else None

    def export(self) -> tuple[str, ...]:
        """Everything stored, see `personaagent.portable`."""
        rows = self._store.load(self.user).rows
        return export_lines(self.user, rows, self.personas(), self.profile(), self._rest.seen)

    def append(self, items: Sequence[Incoming]) -> Change:
        """Plan to add interactions. Raises InvalidInput if one belongs to another user."""
        stored = self._store.get([row_key(self.user, item.interaction.id) for item in items])
        return plan_append(
            self.user, items, lambda i: stored.get(row_key(self.user, i)), self._last_arrived, self._clock()
        )

    def feedback(
        self, interaction: str, truth: str | None, truth_vector: Vector | None, rating: int | None = None
    ) -> Change:
        """Plan to set what the user really answered, or their thumb. Raises NotFoundError for an unknown interaction."""
        old = self._row(interaction)
        return plan_feedback(old, interaction, truth, truth_vector, self._last_arrived, self._clock(), rating)

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
        self._rest.follow(change)

    @property
    def _last_arrived(self) -> int:
        return max(self._ledger.last_arrived, self._rest.marked)

    def _row(self, interaction: str) -> Row:
        key = row_key(self.user, interaction)
        row = self._store.get([key]).get(key)
        if row is None:
            raise NotFoundError(f"interaction {interaction!r} does not exist")
        return row


def _moment(row: Row) -> tuple[int, int]:
    """Where a row stands in the user's order."""
    return ordering(row.time, row.arrived), row.arrived

"""One user's memory as a virtual actor's state: episodes, persona versions and semantic profile, all in RAM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from personaagent.evidence.commons import Commons
from personaagent.memory.changes import Change, Clock, Incoming, clock
from personaagent.memory.episodes import Episodes
from personaagent.memory.one_user import OneUser
from personaagent.memory.persona_chain import Versions
from personaagent.memory.store import Row, StoredUser, Vector
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.types import Interaction, Recall, RecallQuery, Truths

__all__ = ["UserMemory"]


class UserMemory(OneUser):
    """The active memory of one user. Not thread-safe: reads and `apply` run on one thread."""

    def __init__(
        self,
        user: str,
        dim: int,
        stored: StoredUser | None = None,
        settings: MemorySettings | None = None,
        clock: Clock = clock,
        versions: Versions | None = None,
    ) -> None:
        """`stored`: what the store has of the user; `versions`: where persona versions but the newest are, see `PersonaChain`."""
        stored = stored or StoredUser()
        self._index = Episodes(dim, settings)
        for row in stored.rows:
            self._index.put(row)
        super().__init__(user, self._index, stored, settings or MemorySettings(), clock, versions)

    def warm(self) -> None:
        """Build now what the first recall would have to."""
        self._index.warm()

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self._index.ram_bytes + self._own_bytes

    def row(self, interaction: str) -> Row | None:
        """The row of an interaction; None if it does not exist."""
        return self._index.get(interaction)

    def recall(
        self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix, commons: Commons | None = None
    ) -> Recall:
        """Episodes and evidence for a request; see `Episodes.recall`."""
        return self._index.recall(query, query_vector, choice_vectors, commons)

    def latest(
        self, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The newest n interactions, or lessons, oldest first; before one of them, if that is named. Raises NotFoundError."""
        return self._index.latest(n, with_truth, before, lessons)

    def truths(self, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, at most n or as many as arrived with the last of these."""
        found = self._index.told(after, n)
        return Truths(
            interactions=tuple(interaction for interaction, _ in found),
            arrived=tuple(arrived for _, arrived in found),
            mark=found[-1][1] if found else after,
            newest=self._index.last_truth,
            taught=self._index.last_lesson,
        )

    def rows_after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first."""
        return self._index.after(arrived)

    def lessons(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Ids of the lessons of these interactions."""
        return tuple(lesson for i in ids for lesson in self._index.about(i))

    def _find(self, ids: Sequence[str]) -> Callable[[str], Row | None]:
        return self._index.get

    def _bytes_before(self, items: Sequence[Incoming]) -> int:
        return self._index.payload_bytes

    def _told(self) -> Iterable[tuple[bytes, int]]:
        return ((row.key[1], row.truth_arrived) for row in self._index.rows())

    def _take(self, change: Change) -> None:
        for row in change.rows:
            self._index.put(row)

"""One user's interactions in RAM: what was asked and answered, and beside it the lessons on tools, each ranked by itself.

A lesson is an interaction like others but for what it is about: which tool, or which argument, was right at another one. So it
is kept and ranked in the same way, in an index of its own: what is recalled of one kind is what it would be without the other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from personaagent.errors import NotFoundError
from personaagent.evidence.commons import Commons
from personaagent.memory.index import EpisodeIndex
from personaagent.memory.ledger import learned
from personaagent.memory.store import Row, Vector
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.types import OF, TOOL_LESSON, Interaction, Recall, RecallQuery

__all__ = ["Episodes"]


class Episodes:
    """All interactions of a user; what is not said to be of lessons leaves them out."""

    def __init__(self, dim: int, settings: MemorySettings | None = None) -> None:
        self._asked = EpisodeIndex(dim, settings)
        self._lessons = EpisodeIndex(dim, settings)

    def __len__(self) -> int:
        return len(self._asked) + len(self._lessons)

    @property
    def lessons(self) -> int:
        """How many of the interactions are lessons."""
        return len(self._lessons)

    @property
    def taught(self) -> int:
        """How many lessons tell which tool was right."""
        return self._tools_after(0)

    @property
    def truths(self) -> int:
        """How many have a known truth."""
        return self._asked.truths

    @property
    def last_arrived(self) -> int:
        """When the newest row or truth of all arrived, 0 if there is none."""
        return max(self._asked.last_arrived, self._lessons.last_arrived)

    @property
    def last_truth(self) -> int:
        """When the newest truth arrived, 0 if there is none."""
        return self._asked.last_truth

    @property
    def last_lesson(self) -> int:
        """When the newest lesson arrived, 0 if there is none."""
        return self._lessons.last_truth

    @property
    def last_time(self) -> int | None:
        """Time of the newest interaction of all, microseconds since 1970."""
        return max((t for i in (self._asked, self._lessons) if (t := i.last_time) is not None), default=None)

    @property
    def payload_bytes(self) -> int:
        """Bytes of all interactions as they are stored."""
        return self._asked.payload_bytes + self._lessons.payload_bytes

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self._asked.ram_bytes + (self._lessons.ram_bytes if len(self._lessons) else 0)

    def truths_after(self, arrived: int) -> int:
        """Of how many requests it became known later than that what was right, see `learned`."""
        return learned(self._asked.truths_after(arrived), self._tools_after(arrived))

    def warm(self) -> None:
        """Build now what the first recall would have to."""
        self._asked.warm()

    def put(self, row: Row) -> None:
        """Add a row, or replace the one with its id (whose query must be the same)."""
        (self._lessons if row.lesson else self._asked).put(row)

    def get(self, interaction: str) -> Row | None:
        """The row of an interaction or lesson."""
        return self._asked.get(interaction) or self._lessons.get(interaction)

    def rows(self) -> Iterator[Row]:
        """All rows, lessons too, in order of arrival."""
        return heapq.merge(self._asked.rows(), self._lessons.rows(), key=lambda row: row.arrived)

    def after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, lessons too, oldest arrival first."""
        return heapq.merge(self._asked.after(arrived), self._lessons.after(arrived), key=lambda row: row.arrived)

    def latest(
        self, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The newest n interactions, or lessons, oldest first; before one of them, if that is named. Raises NotFoundError.

        What is before a lesson is what is before the interaction that it is about, as in `recall`.
        """
        end = None if before is None else self._end(before)
        return (self._lessons if lessons else self._asked).latest(n, with_truth, end)

    def about(self, interaction: str) -> list[str]:
        """Ids of the lessons of an interaction."""
        return self._lessons.about(interaction)

    def told(self, after: int, n: int) -> list[tuple[Interaction, int]]:
        """Interactions whose truth arrived later than `after`, and when, see `EpisodeIndex.told`."""
        return self._asked.told(after, n)

    def recall(
        self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix, commons: Commons | None = None
    ) -> Recall:
        """Rank the interactions, or the lessons, that are in reach for a request; see `EpisodeIndex.recall`.

        What is before a lesson is what is before the interaction that it is about: that one tells what became of the request.
        """
        index, before = self._lessons if query.lessons else self._asked, None
        if query.before is not None and (query.lessons or query.before not in index):
            before = self._end(query.before)
        found = index.recall(query, query_vector, choice_vectors, commons, before)
        return found.model_copy(update={"lessons": self.lessons})

    def _tools_after(self, arrived: int) -> int:
        tools = (row for row in self._lessons.rows() if row.id.startswith(TOOL_LESSON))
        return sum(row.truth_arrived > arrived for row in tools)

    def _end(self, before: str) -> tuple[int, int]:
        """Where what is before an interaction ends in the user's order. Raises NotFoundError."""
        row = self._lessons.get(before)
        about = None if row is None else self._asked.moment(str(row.interaction.metadata.get(OF)))
        moment = about or self._asked.moment(before) or self._lessons.moment(before)
        if moment is None:
            raise NotFoundError(f"interaction {before!r} does not exist; `before` must name a stored one")
        return moment

"""When a user's interactions happened and arrived, without what they say."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from personaagent.memory.stored_row import is_lesson, is_tool_lesson, ordering

__all__ = ["Column", "Ledger", "learned", "page_of"]

Column = npt.NDArray[np.int64]
ORDINARY, TOOL, ARGUMENT = 0, 1, 2  # of rows: no lesson, one on a tool, one on an argument


class Ledger:
    """When each of a user's interactions happened and arrived: all of them in RAM, 150 bytes each, without any text.

    Lessons are among them, but are asked for by themselves. Safe to read while another thread adds to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[bytes, int] = {}
        self._times = array("q")
        self._arrived = array("q")
        self._truth_arrived = array("q")
        self._kinds = array("b")  # ORDINARY, TOOL or ARGUMENT
        self._last = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slots

    def put(self, digest: bytes, time: int, arrived: int, truth_arrived: int) -> None:
        """Add a row, or note that a known one has its truth now."""
        with self._lock:
            slot = self._slots.setdefault(digest, len(self._times))
            if slot == len(self._times):
                self._times.append(ordering(time, arrived))
                self._arrived.append(arrived)
                self._truth_arrived.append(truth_arrived)
                self._kinds.append(_kind(digest))
            else:
                self._truth_arrived[slot] = truth_arrived
            self._last = max(self._last, arrived, truth_arrived)

    def copy(self) -> Ledger:
        """An independent ledger of the same rows."""
        other = Ledger()
        with self._lock:
            other._slots = dict(self._slots)
            other._times = self._times[:]
            other._arrived = self._arrived[:]
            other._truth_arrived = self._truth_arrived[:]
            other._kinds = self._kinds[:]
            other._last = self._last
        return other

    def older(self, time: int) -> list[bytes]:
        """Keys of the rows from before `time` (microseconds since 1970)."""
        with self._lock:
            return [digest for digest, slot in self._slots.items() if self._times[slot] < time]

    def without(self, digests: Collection[bytes]) -> Ledger:
        """An independent ledger of the other rows."""
        other = Ledger()
        with self._lock:
            for digest, slot in self._slots.items():
                if digest not in digests:
                    other.put(digest, self._times[slot], self._arrived[slot], self._truth_arrived[slot])
            other._last = self._last
        return other

    def digests(self) -> list[bytes]:
        """Keys of all rows."""
        with self._lock:
            return list(self._slots)

    @property
    def lessons(self) -> int:
        """How many rows are lessons."""
        return int(np.count_nonzero(self._columns()[3]))

    @property
    def taught(self) -> int:
        """How many lessons tell which tool was right."""
        _, _, known, kinds = self._columns()
        return int(np.count_nonzero((known > 0) & (kinds == TOOL)))

    @property
    def truths(self) -> int:
        """How many rows have a truth, lessons aside."""
        _, _, known, kinds = self._columns()
        return int(np.count_nonzero((known > 0) & (kinds == ORDINARY)))

    @property
    def last_time(self) -> int | None:
        """Time of the newest interaction, microseconds since 1970."""
        return max(self._times[:], default=None)

    @property
    def last_arrived(self) -> int:
        """When the newest interaction or truth arrived; 0 if there was none. Removing rows changes nothing."""
        return self._last

    @property
    def last_truth(self) -> int:
        """When the newest truth arrived, lessons aside; 0 if there is none."""
        _, _, known, kinds = self._columns()
        return int(known[kinds == ORDINARY].max(initial=0))

    @property
    def last_lesson(self) -> int:
        """When the newest lesson arrived; 0 if there is none."""
        _, _, known, kinds = self._columns()
        return int(known[kinds != ORDINARY].max(initial=0))

    def truths_after(self, arrived: int) -> int:
        """Of how many requests it became known later than that (microseconds since 1970) what was right, see `learned`."""
        _, _, known, kinds = self._columns()
        newer = known > arrived
        return learned(
            int(np.count_nonzero(newer & (kinds == ORDINARY))), int(np.count_nonzero(newer & (kinds == TOOL)))
        )

    def told(self, after: int, n: int) -> list[tuple[bytes, int]]:
        """Keys of the rows whose truth arrived later than `after`, lessons aside, and when, oldest first: see `page_of`."""
        keys = self.digests()
        _, _, known, kinds = (column[: len(keys)] for column in self._columns())
        known = np.where(kinds == ORDINARY, known, 0)
        return [(keys[slot], int(known[slot])) for slot in page_of(known, after, n)]

    def truth_arrivals(self) -> list[tuple[bytes, int]]:
        """Keys of all rows, and when their truths arrived, 0 for those without."""
        keys = self.digests()
        return list(zip(keys, map(int, self._columns()[2][: len(keys)]), strict=True))

    def arrivals(self) -> list[tuple[int, bytes]]:
        """When the rows arrived, and their keys, oldest arrival first."""
        keys = self.digests()
        arrived = self._columns()[1][: len(keys)]
        return [(int(arrived[slot]), keys[slot]) for slot in np.argsort(arrived, kind="stable")]

    def newest(
        self, n: int, with_truth: bool = False, before: bytes | None = None, lessons: bool = False
    ) -> list[bytes]:
        """Keys of the newest n rows in the user's order, oldest first: of lessons, or of all others.

        `before`: only of those before this row, which may be of either kind.
        """
        keys = self.digests()
        times, arrived, known, kinds = (column[: len(keys)] for column in self._columns())
        order = np.lexsort((arrived, times))
        if before is not None:
            order = order[: int(np.flatnonzero(order == keys.index(before))[0])]
        order = order[(kinds[order] != ORDINARY) == lessons]
        if with_truth:
            order = order[known[order] > 0]
        return [keys[slot] for slot in order[max(0, len(order) - n) :]]

    def newer(self, time: int, arrived: int, lessons: bool = False) -> int:
        """How many rows come after that moment in the user's order: lessons, or all others."""
        times, arrivals, _, kinds = self._columns()
        later = (times > time) | ((times == time) & (arrivals > arrived))
        return int(np.count_nonzero(later & ((kinds != ORDINARY) == lessons)))

    def _columns(self) -> tuple[Column, Column, Column, Column]:
        with self._lock:  # numpy may let other threads run while it copies, and an array that is read cannot grow
            times, arrived, known, kinds = (
                np.array(column, dtype=np.int64)
                for column in (self._times, self._arrived, self._truth_arrived, self._kinds)
            )
        return times, arrived, known, kinds


def _kind(digest: bytes) -> int:
    if not is_lesson(digest):
        return ORDINARY
    return TOOL if is_tool_lesson(digest) else ARGUMENT


def learned(truths: int, tools: int) -> int:
    """Of how many requests something was learned, given how many truths and how many lessons on tools there are.

    A request may have both, and counts once then; nobody counts which have, so it is this many at least.
    """
    return max(truths, tools)


def page_of(arrived: Column, after: int, n: int) -> list[int]:
    """Positions of the n smallest numbers above `after`, ascending, and of those that equal the last of them.

    Older stores have truths that arrived at the same moment: a page that ended between two would lose the second.
    """
    slots = np.flatnonzero(arrived > after)
    slots = slots[np.argsort(arrived[slots], kind="stable")]
    if 0 < n < len(slots):
        n = int(np.searchsorted(arrived[slots], arrived[slots[n - 1]], side="right"))
    return [int(slot) for slot in slots[:n]]

"""Which episodes repeat each other: of those with the same query and truth a recall returns only the newest."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from personaagent.evidence.columns import Column
from personaagent.features import normalised
from personaagent.types import Interaction

__all__ = ["Repeats"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Repeats:
    """Groups of episodes with the same query and truth. Episodes are slots 0, 1, ... in order of arrival."""

    def __init__(self) -> None:
        self._group = Column(np.int32)
        self._codes: dict[int, int] = {}
        self._newest = Column(np.bool_)  # whether a slot is the newest of its group
        self._newest_of = array("i")  # slot of a group's newest episode, by code; -1 for a group that all have left

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self._group.nbytes + self._newest.nbytes + 4 * len(self._newest_of) + 100 * len(self._codes)

    def put(self, slot: int, interaction: Interaction) -> None:
        """Add the episode of the next slot, or see to which group one belongs that has changed."""
        if slot == len(self._group):
            self._group.append(-1)
            self._newest.append(False)
        truth = interaction.truth
        key = hash((normalised(interaction.query), truth and normalised(truth)))
        self._regroup(slot, self._codes.setdefault(key, len(self._codes)))

    def newest(self, allowed: Mask) -> Ints:
        """Slots of the allowed episodes that are the newest of their group."""
        return np.flatnonzero(allowed & self._newest.view)

    def newest_among(self, allowed: Mask) -> Ints:
        """Slots of the newest allowed episode of every group."""
        slots = np.flatnonzero(allowed)
        newest = np.full(len(self._codes), -1, dtype=np.int64)
        newest[self._group.view[slots]] = slots  # the last of equal indices wins
        distinct: Ints = slots[newest[self._group.view[slots]] == slots]
        return distinct

    def _regroup(self, slot: int, code: int) -> None:
        """Put a slot into a group, and keep up with which is the newest there and in the group it leaves."""
        old = int(self._group.view[slot])
        if old == code:
            return
        self._group.view[slot] = code
        newest = self._newest.view
        if old >= 0 and self._newest_of[old] == slot:
            left = np.flatnonzero(self._group.view == old)
            self._newest_of[old] = int(left[-1]) if len(left) else -1
            newest[left[-1:]] = True
        if code == len(self._newest_of):
            self._newest_of.append(-1)
        before = self._newest_of[code]
        newest[slot] = slot > before
        if slot > before:
            self._newest_of[code] = slot
            if before >= 0:
                newest[before] = False

"""How many bytes of interactions the store has of a user whom RAM does not hold, as exactly as the limit asks for."""

from __future__ import annotations

from collections.abc import Sequence

from personaagent.memory.changes import Change, Incoming
from personaagent.memory.limits import KB, MB, rough_bytes
from personaagent.memory.store import Store
from personaagent.settings import LimitsSettings

__all__ = ["StoredSize"]


class StoredSize:
    """One user's. Most users are so far from the limit that a count of their interactions tells; others are read once.

    Args:
        store: of the user.
        user: whose interactions.
        limits: none of them is larger than these allow, but for those that older versions took in.
        count: how many there are.
    """

    def __init__(self, store: Store, user: str, limits: LimitsSettings, count: int) -> None:
        self._store = store
        self._user = user
        self._limit = limits.user_mb * MB
        self._most = limits.interaction_kb * KB
        self._bytes = int(count * self._most)
        self._exact = False

    def before(self, items: Sequence[Incoming]) -> int:
        """Bytes that the user has before these are added: at most so many, and exactly so many where it matters."""
        # JSON escapes take up to six bytes for one; what is only known to be at most so large is read if it could be too much.
        if not self._exact and self._bytes + sum(6 * rough_bytes(i.interaction) for i in items) > self._limit:
            self._bytes = sum(len(row.payload) for row in self._store.stream(self._user))
            self._exact = True
        return self._bytes

    def grow(self, change: Change) -> None:
        """Follow a change that the store has. A row that took another's place counts beside it until the next look."""
        self._bytes += sum(len(row.payload) for row in change.rows)
        if change.added.updated:
            self._exact = False

"""A memory shard whose callers may go away: what must not stop halfway runs on without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.memory.shard import MemoryShard

if TYPE_CHECKING:
    from actors.milvus.upkeep_store import UpkeepStore
    from personaagent.memory.one_user import OneUser

__all__ = ["MemoryShardActor"]


class MemoryShardActor(MemoryShard):
    """The class of the Ray actor. Ray cancels a call in it where that is awaited.

    Changes are brought to their end in any case. So is here what a cancelled read would leave undone: a store that is open
    and that nobody knows of, or a user whose lock is free while a thread still loads what the lock protects.
    """

    async def export(self, user: str, by: str = "service") -> tuple[str, ...]:
        """See `MemoryShard.export`."""
        return await self._finish(super().export(user, by))

    async def _opened(self) -> UpkeepStore:
        if self._store is not None and self._tenure is not None and self._tenure.store is self._store:
            return self._store
        return await self._finish(super()._opened())

    async def _loaded(self, user: str) -> OneUser:
        return await self._finish(super()._loaded(user))

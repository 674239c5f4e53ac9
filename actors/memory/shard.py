"""A memory shard: one process that hosts the virtual actors of its users, and is the only writer of their memories.

A user becomes active at the first call, is changed by one call at a time, and is dropped from RAM when idle or when RAM is
short; nothing is lost by that, since a change is in the store before it is in RAM. Reads of an active user need neither
the store nor a lock: they go on while another user is loaded, while a change is written and while a Milvus server is away.

`MemoryShard` knows nothing of Ray: it is made an actor by `actors.memory.startup`, and tested without.
"""

from __future__ import annotations

import os
import time
from typing import Any

from actors.memory.shard_changes import ShardChanges
from actors.memory.shard_reads import ShardReads
from actors.memory.shard_upkeep import ShardUpkeep
from actors.milvus.open import ShardConfig
from personaagent.errors import StoreError
from personaagent.evidence.commons import Commons, Population, replacing
from personaagent.types import UserSummary

__all__ = ["MemoryShard"]


class MemoryShard(ShardReads, ShardChanges, ShardUpkeep):
    """Users' memories of one shard. All methods run on one event loop.

    Raises (every method that needs the store):
        StoreError: the store cannot be opened, read or written.
        UnavailableError: the Milvus server is away.
    """

    def __init__(self, config: ShardConfig) -> None:
        super().__init__(config)
        self._started = time.monotonic()

    async def ready(self, config: ShardConfig) -> dict[str, Any]:
        """Open the store if it is not open yet; says what this shard is.

        Raises:
            StoreError: this shard was created for another store than `config` says.
        """
        if config.place != self.config.place:
            raise StoreError(
                f"this cluster already runs a memory service of tenant {self._settings.tenant!r} on another store; stop it or"
                " set another memory.tenant"
            )
        await self._opened()
        return await self.stats()

    async def stats(self) -> dict[str, Any]:
        """Numbers for health checks and dashboards; no user's name or text."""
        store = self._store
        return {
            "shard": self.config.shard,
            "pid": os.getpid(),
            "open": store is not None,
            "broken": store.broken if store else None,
            **self._active.stats(),
            "episodes": await self._run(lambda: store.episodes) if store else 0,
            "unflushed": store.unflushed if store else 0,
            "uptime_s": round(time.monotonic() - self._started, 1),
            **self._counts,
        }

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        """Counts of this shard's users by user key, those after a key and at most `limit`, read from the store."""
        store = await self._current()
        return await self._run(lambda: tuple(store.users(after, limit)))

    async def population(self) -> Population | None:
        """What users have in common, read from the store; None if it was never learned."""
        store = await self._current()
        return await self._run(store.population)

    async def commit_population(self, population: Population, by: str) -> None:
        """Replace what users have in common; the same one again changes nothing. Raises ConflictError."""
        await self._finish(self._commit_population(population, by))

    async def incarnation(self) -> int:
        """Where forgetting stands in this shard: a number that grows when one of its users is forgotten."""
        return self._tenure_of(await self._current()).incarnation

    # Inside

    async def _commit_population(self, population: Population, by: str) -> None:
        store = await self._current()
        details = {"number": population.number, "users": population.users}

        def write() -> None:
            replacing(store.population(), population)  # raises before anything is logged
            self._audit.write("population", "", by, details)
            store.put_population(population)

        await self._run(write)
        self._commons = Commons(population)

"""The users of a memory shard in RAM: each is loaded at the first call, and has one change or activation at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from actors.memory.active_users import ActiveUsers
from actors.memory.large_user import LargeUser
from actors.memory.shard_store import ShardStore
from actors.memory.stored_size import StoredSize
from actors.milvus.open import ShardConfig
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.memory.one_user import OneUser
from personaagent.memory.store import Row
from personaagent.memory.user_memory import UserMemory
from personaagent.types import user_key

__all__ = ["ShardUsers"]

T = TypeVar("T")


class ShardUsers(ShardStore):
    """A shard's users, active or not."""

    def __init__(self, config: ShardConfig) -> None:
        super().__init__(config)
        self._active = ActiveUsers(config.memory)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._doubted: set[str] = set()  # users of whom the store may have more than RAM
        self._sizes: dict[str, StoredSize] = {}  # of users who are not active
        self._counts = {"recalls": 0, "appends": 0, "expired": 0}

    def _let_go(self) -> int:
        return self._active.clear()

    async def passivate(self) -> int:
        """Drop all users from RAM; returns how many there were."""
        return self._let_go()

    async def _found(self, user: str) -> OneUser:
        """The user's memory, for reading."""
        await self._current()
        memory = self._active.get(user)
        if memory is None:
            memory = await self._loaded(user)
        return memory

    async def _read(self, user: str, read: Callable[[OneUser], T]) -> T:
        memory = await self._found(user)
        return await self._run(lambda: read(memory)) if isinstance(memory, LargeUser) else read(memory)

    async def _loaded(self, user: str) -> OneUser:
        async with self._exclusive(user):
            return await self._activated(user)

    @asynccontextmanager
    async def _exclusive(self, user: str) -> AsyncIterator[None]:
        """One change or activation of a user at a time, in the order of the calls."""
        lock = self._locks.get(user)
        if lock is None:
            lock = self._locks[user] = asyncio.Lock()
        async with lock:
            yield

    async def _activated(self, user: str) -> OneUser:
        """The user's memory, loaded if need be. The caller holds the user's lock."""
        memory = self._active.get(user)
        if memory is not None:
            return memory
        store = await self._current()

        def load() -> OneUser:
            if store.is_unfinished(user_key(user)):  # nothing of the user may be seen any more
                self._writer(store).finish_forgetting(user_key(user))
            count = store.count(user)
            if not self._active.is_large(user, count) and (small := self._small(store, user)) is not None:
                return small
            return LargeUser(user, store, self._settings)

        memory = await self._run(load)
        if isinstance(memory, LargeUser) and not self._active.is_large(user, len(memory)):
            self._active.outgrown(user, len(memory))
        self._active.put(user, memory)
        return memory

    def _small(self, store: UpkeepStore, user: str) -> UserMemory | None:
        """A user whose memory fits into the RAM that one user may take; None as soon as it is seen that it does not."""
        rows: list[Row] = []
        left = self._settings.user_ram_bytes
        for row in store.stream(user):
            left -= row.nbytes
            if left < 0:
                return None
            rows.append(row)
        rows.sort(key=lambda row: row.arrived)
        rest = store.load(user, rows=False, history=False)
        stored = replace(rest, rows=tuple(rows))
        memory = UserMemory(user, store.dim, stored, self._settings, versions=partial(store.personas, user))
        memory.warm()
        return None if self._active.outgrows(memory) else memory

    def _doubt(self, memory: OneUser) -> None:
        """Nobody knows whether a change of this user is in the store; what is in RAM was in it before.

        While the store is away, RAM is all there is to answer reads with. Once it is back the user is loaded again.
        """
        if isinstance(memory, LargeUser):
            self._active.drop(memory.user)  # without the store it cannot answer anyway
        else:
            self._doubted.add(memory.user)

    def _log_read(self, action: str, user: str, by: str) -> None:
        """A line per read, if asked for; it costs the read some 50 microseconds."""
        if self._settings.audit_reads:
            self._audit.write(action, user_key(user), by, {})

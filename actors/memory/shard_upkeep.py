"""What a memory shard does by itself: idle users leave, rows are flushed, the lease is renewed, old interactions deleted."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from actors.memory.expiry import cutoff, expire_user
from actors.memory.shard_users import ShardUsers
from actors.milvus.lite import check_disk
from actors.milvus.tenure import DeposedError, Tenure
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import PersonaAgentError, StoreError
from personaagent.types import user_key

__all__ = ["ShardUpkeep"]

logger = logging.getLogger(__name__)

FLUSH_ROWS = 2_000  # not flushed yet, at which a Lite store is flushed before its time
TICK_S = 0.5  # between looks at what is idle or unflushed
EXPIRE_S = 600.0  # between looks at what is older than retention allows


class ShardUpkeep(ShardUsers):
    """Upkeep of a shard, from the opening of its store on."""

    async def flush(self) -> None:
        """Flush the store now."""
        await self._run((await self._current()).flush)

    async def expire(self, days: float) -> int:
        """Delete interactions older than `days`, and what points to them; returns how many."""
        store = await self._current()
        expired = await self._run(lambda: store.expired(cutoff(days)))
        keys = {user_key(user) for user in expired}
        if keys:
            await self._run(lambda: store.intend(keys))
        for user, digests in expired.items():
            async with self._exclusive(user):
                await self._current()
                try:
                    await self._run(partial(expire_user, store, user, digests, self._audit, "retention"))
                finally:
                    self._active.drop(user)
                    self._sizes.pop(user, None)
            self._counts["expired"] += len(digests)
        if keys:
            await self._run(lambda: store.scrub(keys))
        return sum(map(len, expired.values()))

    # Inside

    def _begin_upkeep(self) -> None:
        self._spawn(self._housekeeping(), "housekeeping")
        if self._settings.retention_days is not None:
            self._spawn(self._expiring(self._settings.retention_days), "housekeeping")

    async def _housekeeping(self) -> None:
        """Passivate idle users and flush, for as long as the shard lives."""
        flushed = time.monotonic()
        while True:
            await asyncio.sleep(min(TICK_S, self._settings.flush_s))
            now = time.monotonic()
            self._active.drop_idle()
            store, tenure = self._store, self._tenure
            if store is None:
                return
            if tenure is not None and (tenure.aging or self._doubted):  # so that no read has to wait for it
                await self._renew(tenure)
            if store.broken is not None:
                if await self._reopen(store):
                    return  # the next opening starts another one of this
            elif store.is_shared and (tenure is None or tenure.lapsed):
                continue  # on a server a flush writes counts of users, which only their owner may
            elif store.unflushed >= FLUSH_ROWS or (store.unflushed and now - flushed >= self._settings.flush_s):
                try:
                    await self._run(store.flush)
                except PersonaAgentError as e:
                    logger.warning("memory shard %d could not flush: %s", self.config.shard, e.message)
                flushed = time.monotonic()

    async def _renew(self, tenure: Tenure) -> None:
        """Compare the tenure with the store before the lease is over, and drop users that are in doubt if it answers."""
        doubted = set(self._doubted)
        try:
            await self._run(tenure.check)
            for user in doubted:
                self._active.drop(user)
            self._doubted -= doubted
        except DeposedError as e:
            self._active.clear()
            logger.error("memory shard %d: %s", self.config.shard, e.message)
        except PersonaAgentError as e:  # the next tick tries again; when the lease is over, reads say what is wrong
            logger.debug("memory shard %d cannot tell whether it is still in charge: %s", self.config.shard, e.message)

    async def _expiring(self, days: float) -> None:
        """Delete what is too old, from the opening of the store on and for as long as it is open."""
        store = self._store
        while store is not None and self._store is store:
            try:
                await self.expire(days)
            except PersonaAgentError as e:
                logger.warning("memory shard %d could not expire interactions: %s", self.config.shard, e.message)
            await asyncio.sleep(EXPIRE_S)

    async def _reopen(self, store: UpkeepStore) -> bool:
        """Close a broken store once the disk has room again; the next call opens it, and it recovers from its log."""
        try:
            check_disk(self.config.store_dir)
        except StoreError:
            return False
        logger.error("memory shard %d opens its store again: %s", self.config.shard, store.broken)
        async with self._opening:
            self._store = self._tenure = None
            await self._run(store.close)
        return True

"""The store of a memory shard: opened when it is first needed, owned by one process at a time, worked with on threads."""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from actors.memory.audit import AuditLog
from actors.memory.writer import Writer
from actors.milvus.open import ShardConfig, open_store
from actors.milvus.tenure import DeposedError, Tenure
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import PersonaAgentError, StoreError, UnavailableError
from personaagent.evidence.commons import Commons

__all__ = ["ShardStore"]

logger = logging.getLogger(__name__)

THREADS = 8  # that wait for the store
SWITCH_S = 0.0005  # between turns of Python threads

T = TypeVar("T")


class ShardStore(ABC):
    """What a shard stands on: its store, its ownership of that, its threads and tasks. All methods run on one event loop."""

    def __init__(self, config: ShardConfig) -> None:
        self.config = config
        self._settings = config.memory
        self._audit = AuditLog(config.audit_dir, config.actor_name)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._store: UpkeepStore | None = None
        self._tenure: Tenure | None = None  # this shard's ownership of that store
        self._commons: Commons | None = None  # what users have in common, if that was learned
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        # Flushes of Milvus Lite are long loops in Python; a recall beside one must not wait 5 ms each time it wants its turn.
        sys.setswitchinterval(SWITCH_S)
        # Every failed call to Milvus is raised as an error of ours; its own log repeats each with three tracebacks.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

    @abstractmethod
    def _let_go(self) -> int:
        """Drop all users from RAM; returns how many there were."""

    @abstractmethod
    def _begin_upkeep(self) -> None:
        """Start what runs for as long as the store is open."""

    async def close(self) -> None:
        """Finish what is under way, flush and close the store. The next call opens it again."""
        for task in list(self._tasks):
            if task.get_name() == "housekeeping":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._opening:
            store, tenure = self._store, self._tenure
            self._store = self._tenure = None
            self._let_go()
            if store is not None:
                await self._run(lambda: _end(store, tenure))

    # Opening and owning

    async def _opened(self) -> UpkeepStore:
        """The store, open and owned by this shard."""
        if self._store is not None and self._tenure is not None and self._tenure.store is self._store:
            return self._store
        async with self._opening:
            store = self._store
            if store is None:
                opened, self._commons = await self._run(self._open)
                self._store = store = opened
                self._begin_upkeep()
            if self._tenure is None or self._tenure.store is not store:
                self._tenure = await self._taken(store)
            return store

    def _open(self) -> tuple[UpkeepStore, Commons | None]:
        store = open_store(self.config)
        try:
            population = store.population()
        except BaseException:
            store.close()
            raise
        return store, None if population is None else Commons(population)

    async def _taken(self, store: UpkeepStore) -> Tenure:
        """Ownership of the store, once no former owner can serve it any more and what that one left is finished."""
        tenure = Tenure(store, self._settings.lease_s)
        wait = await self._run(tenure.take)
        store.guard_writes(tenure.guard)
        await asyncio.sleep(wait)
        self._let_go()
        await self._run(Writer(store, tenure, self._audit, self._settings.limits).recover)
        return tenure

    async def _current(self) -> UpkeepStore:
        """The store, if this shard still owns it. Raises DeposedError if another one has taken over."""
        store = await self._opened()
        tenure = self._tenure
        if tenure is not None and tenure.lapsed:
            try:
                if store.is_shared:
                    await self._run(tenure.check)
                else:
                    tenure.check()
            except DeposedError:
                self._let_go()
                raise
        self._tenure_of(store)
        return store

    def _tenure_of(self, store: UpkeepStore) -> Tenure:
        """This shard's ownership of the store. Raises UnavailableError if it was closed while a call waited."""
        if self._tenure is None or self._tenure.store is not store:
            raise UnavailableError("this memory shard has just closed its store; try again")
        return self._tenure

    def _writer(self, store: UpkeepStore) -> Writer:
        return Writer(store, self._tenure_of(store), self._audit, self._settings.limits)

    # Threads and tasks

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something that must run to its end even if the caller goes away, or RAM would miss what the store has."""
        return await asyncio.shield(self._spawn(work, f"change-{uuid.uuid4().hex[:8]}"))

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, PersonaAgentError):
                logger.debug("memory shard %d: %s", self.config.shard, error.message)
            else:
                logger.error("memory shard %d failed", self.config.shard, exc_info=error)


def _end(store: UpkeepStore, tenure: Tenure | None) -> None:
    """Give a store up and close it."""
    try:
        if tenure is not None and store.is_shared:
            tenure.release()
    except (StoreError, UnavailableError) as e:
        logger.warning("a memory shard was not given up, so the next one waits for its lease: %s", e.message)
    finally:
        store.close()

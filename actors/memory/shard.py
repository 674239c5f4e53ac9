"""A memory shard: one process that hosts the virtual actors of its users, and is the only writer of their memories.

A user becomes active at the first call, is changed by one call at a time, and is dropped from RAM when idle or when RAM is
short; nothing is lost by that, since a change is in the store before it is in RAM. Reads of an active user need neither
the store nor a lock: they go on while another user is loaded, while a change is written and while a Milvus server is away.

`MemoryShard` knows nothing of Ray: it is made an actor by `actors.memory.client`, and tested without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from actors.memory.active_users import ActiveUsers, User
from actors.memory.audit import AuditLog
from actors.memory.expiry import cutoff, expire_user
from actors.memory.large_user import LargeUser
from actors.memory.stored_size import StoredSize
from actors.memory.wire import Batch
from actors.memory.writer import StaleError, Writer
from actors.milvus.lite import check_disk
from actors.milvus.open import ShardConfig, open_store
from actors.milvus.tenure import DeposedError, Tenure
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import ConflictError, PersonaAgentError, StoreError, UnavailableError
from personaagent.evidence.commons import Commons, Population, replacing
from personaagent.memory.changes import Change, Incoming, clock, plan_append, undisputed
from personaagent.memory.export import Exported, export_page
from personaagent.memory.forgetting import admit
from personaagent.memory.store import Row, Vector, row_key
from personaagent.memory.user_memory import UserMemory
from personaagent.protocols import Matrix
from personaagent.types import (
    AppendResult,
    ExportCursor,
    ExportPage,
    ForgetReceipt,
    Interaction,
    Persona,
    PersonaDraft,
    PersonaPage,
    Profile,
    Recall,
    RecallQuery,
    Truths,
    UserSummary,
    user_key,
)

__all__ = ["MemoryShard"]

logger = logging.getLogger(__name__)

THREADS = 8  # that wait for the store
SWITCH_S = 0.0005  # between turns of Python threads
FLUSH_ROWS = 2_000  # not flushed yet, at which a Lite store is flushed before its time
TICK_S = 0.5  # between looks at what is idle or unflushed
SIZES = 10_000  # users who are not active, whose bytes in the store are kept in mind
EXPIRE_S = 600.0  # between looks at what is older than retention allows

T = TypeVar("T")


class MemoryShard:
    """Users' memories of one shard. All methods run on one event loop.

    Raises (every method that needs the store):
        StoreError: the store cannot be opened, read or written.
        UnavailableError: the Milvus server is away.
    """

    def __init__(self, config: ShardConfig) -> None:
        self._config = config
        self._settings = config.memory
        self._audit = AuditLog(config.audit_dir, config.actor_name)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._store: UpkeepStore | None = None
        self._tenure: Tenure | None = None  # this shard's ownership of that store
        self._commons: Commons | None = None  # what users have in common, if that was learned
        self._opening = asyncio.Lock()
        self._active = ActiveUsers(config.memory)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._doubted: set[str] = set()  # users of whom the store may have more than RAM
        self._sizes: dict[str, StoredSize] = {}  # of users who are not active
        self._counts = {"recalls": 0, "appends": 0, "expired": 0}
        self._started = time.monotonic()
        # Flushes of Milvus Lite are long loops in Python; a recall beside one must not wait 5 ms each time it wants its turn.
        sys.setswitchinterval(SWITCH_S)
        # Every failed call to Milvus is raised as an error of ours; its own log repeats each with three tracebacks.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

    # Life of the shard

    async def ready(self, config: ShardConfig) -> dict[str, Any]:
        """Open the store if it is not open yet; says what this shard is.

        Raises:
            StoreError: this shard was created for another store than `config` says.
        """
        if config.place != self._config.place:
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
            "shard": self._config.shard,
            "pid": os.getpid(),
            "open": store is not None,
            "broken": store.broken if store else None,
            **self._active.stats(),
            "episodes": await self._run(lambda: store.episodes) if store else 0,
            "unflushed": store.unflushed if store else 0,
            "uptime_s": round(time.monotonic() - self._started, 1),
            **self._counts,
        }

    async def passivate(self) -> int:
        """Drop all users from RAM; returns how many there were."""
        return self._active.clear()

    async def flush(self) -> None:
        """Flush the store now."""
        await self._run((await self._current()).flush)

    async def close(self) -> None:
        """Finish what is under way, flush and close the store. The shard opens it again if it is called again."""
        for task in list(self._tasks):
            if task.get_name() == "housekeeping":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._opening:
            store, tenure = self._store, self._tenure
            self._store = self._tenure = None
            await self.passivate()
            if store is not None:
                await self._run(lambda: _end(store, tenure))

    # Reads

    async def recall(
        self, user: str, requests: Sequence[tuple[RecallQuery, Vector, Matrix]], by: str = "service"
    ) -> tuple[Recall, ...]:
        """Episodes for requests (with the vectors of text and choices), in their order; empty for an unknown user."""
        self._log_read("recall", user, by)
        found = []
        for n, (query, vector, choices) in enumerate(requests):
            if n:
                await asyncio.sleep(0)  # other users' calls get in between
            self._counts["recalls"] += 1
            found.append(await self._recall(user, query, vector, choices))
        return tuple(found)

    async def recall_packed(self, asked: bytes) -> bytes:
        """`recall` with its arguments pickled, a tuple, and its result too."""
        return pickle.dumps(await self.recall(*pickle.loads(asked)), pickle.HIGHEST_PROTOCOL)

    async def latest(self, user: str, n: int, with_truth: bool, by: str = "service") -> tuple[Interaction, ...]:
        """The user's newest n interactions, oldest first."""
        self._log_read("latest", user, by)
        return await self._read(user, lambda memory: memory.latest(n, with_truth))

    async def truths(self, user: str, after: int, n: int, by: str = "service") -> Truths:
        """Interactions whose truth arrived later than `after`, oldest arrival first: a page of at most n."""
        self._log_read("read truths", user, by)
        return await self._read(user, lambda memory: memory.truths(after, n))

    async def interaction(self, user: str, interaction: str) -> Interaction:
        """One interaction. Raises NotFoundError if it does not exist."""
        return await self._read(user, lambda memory: memory.interaction(interaction))

    async def interactions(self, user: str, ids: Sequence[str], by: str = "service") -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        self._log_read("read interactions", user, by)
        return await self._read(user, lambda memory: memory.interactions(ids))

    async def persona(self, user: str, number: int | None, by: str = "service") -> Persona | None:
        """The current persona, or version `number`."""
        self._log_read("read persona", user, by)
        memory = await self._found(user)
        head = memory.persona()
        if number is None or head is None or head.number == number:
            return head
        return await self._run(lambda: memory.persona(number))  # older ones are in the store only

    async def personas(self, user: str, by: str = "service") -> tuple[Persona, ...]:
        """All versions, oldest first. They are read from the store and may be many: see `persona_page`."""
        self._log_read("read personas", user, by)
        memory = await self._found(user)
        return await self._run(memory.personas)

    async def persona_page(self, user: str, before: int | None, limit: int, by: str = "service") -> PersonaPage:
        """The newest versions before number `before` (None: of all), at most `limit`, oldest first."""
        self._log_read("read personas", user, by)
        memory = await self._found(user)
        return await self._run(lambda: memory.chain.page(before, limit))

    async def profile(self, user: str, by: str = "service") -> Profile:
        """The semantic memory."""
        self._log_read("read profile", user, by)
        return await self._read(user, lambda memory: memory.profile())

    async def summary(self, user: str) -> UserSummary | None:
        """Counts, or None for an unknown user."""
        return await self._read(user, lambda memory: memory.summary())

    async def export_page(self, user: str, cursor: ExportCursor | None, by: str = "service") -> ExportPage:
        """Lines of everything that is stored of the user, from a cursor on; None for the beginning.

        An export of one page is of one moment. Of a longer one, pages that are read later may tell of truths and personas
        that came meanwhile.

        Raises:
            NotFoundError: nothing is stored of the user.
            ForgottenError: the user was forgotten since the first page.
        """
        if cursor is None:
            self._log_read("export", user, by)
        async with self._exclusive(user):  # it takes a while, and no change may come in between
            store = await self._current()
            tenure = self._tenure_of(store)
            incarnation = tenure.incarnation if cursor is None else cursor.incarnation
            memory = await self._activated(user)

            def read() -> ExportPage:
                if cursor is not None:
                    admit(store.tombstone(user_key(user)), incarnation)
                return export_page(memory, cursor, incarnation)

            return await self._run(read)

    async def export(self, user: str, by: str = "service") -> tuple[str, ...]:
        """All of it at once. Raises as `export_page`."""
        page = await self.export_page(user, None, by)
        lines = list(page.lines)
        while page.next is not None:
            page = await self.export_page(user, page.next, by)
            lines += page.lines
        return tuple(lines)

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        """Counts of this shard's users by user key, those after a key and at most `limit`, read from the store."""
        store = await self._current()
        return await self._run(lambda: tuple(store.users(after, limit)))

    async def population(self) -> Population | None:
        """What users have in common, read from the store; None if it was never learned."""
        store = await self._current()
        return await self._run(store.population)

    async def incarnation(self) -> int:
        """Where forgetting stands in this shard: a number that grows when one of its users is forgotten."""
        return self._tenure_of(await self._current()).incarnation

    # Changes

    async def commit_population(self, population: Population, by: str) -> None:
        """Replace what users have in common; the same one again changes nothing. Raises ConflictError."""
        await self._finish(self._commit_population(population, by))

    async def append(self, user: str, batch: Batch, by: str, incarnation: int | None = None) -> AppendResult:
        """Add one user's interactions. Raises ConflictError if an id is another question's already."""
        items = batch.items()
        change = await self._change(user, "append", by, lambda memory: undisputed(memory.append(items)), incarnation)
        return change.added

    async def append_many(self, batch: Batch, by: str, incarnation: int | None = None) -> AppendResult:
        """Add interactions of many users in one write. Users that are not active stay so.

        Those of users who were forgotten since the incarnation are counted as refused, and so are those of users who are
        being forgotten while that cannot be finished: they hold up nobody else.
        """
        groups: dict[str, list[Incoming]] = {}
        for item in batch.items():
            groups.setdefault(item.interaction.user, []).append(item)
        return await self._finish(self._append_groups(groups, by, incarnation))

    async def feedback(
        self,
        user: str,
        interaction: str,
        truth: str | None,
        vector: Vector | None,
        by: str,
        incarnation: int | None = None,
        rating: int | None = None,
    ) -> Interaction:
        """Set what the user really answered, or their thumb. Raises NotFoundError for an unknown interaction."""
        change = await self._change(
            user, "feedback", by, lambda memory: memory.feedback(interaction, truth, vector, rating), incarnation
        )
        # What was written is the answer: by now others may have changed it, or forgotten the user.
        if change.rows:
            return change.rows[-1].interaction
        return await self._read(user, lambda memory: memory.interaction(interaction))

    async def commit_persona(
        self,
        user: str,
        draft: PersonaDraft,
        expected: int | None,
        token: str,
        by: str,
        incarnation: int | None = None,
    ) -> Persona:
        """Add a version if the current one is `expected`; repeating a `token` is harmless. Raises ConflictError."""
        number = (expected or 0) + 1
        known: list[Persona] = []  # what an earlier try of this call wrote

        def plan(memory: User) -> Change:
            try:
                return replace(memory.commit_persona(draft, expected), token=token)
            except ConflictError:
                stored = memory.persona(number)  # others may have added versions since
                if stored is None or self._store is None:
                    raise
                self._store.put_persona(user, stored, token)  # raises unless an earlier try of this call wrote it
                known.append(stored)
                return Change(user=user)

        change = await self._change(user, "persona", by, plan, incarnation)
        return (*known, *change.personas)[-1]

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, token: str, by: str, incarnation: int | None = None
    ) -> Profile:
        """Replace the profile of version `expected`; repeating a `token` is harmless. Raises ConflictError.

        A profile that is replaced is gone. So a call that is repeated, because its shard died, hears of a conflict too if its
        first try was stored and has been replaced since.
        """

        known: list[Profile] = []  # what an earlier try of this call wrote

        def plan(memory: User) -> Change:
            try:
                return replace(memory.commit_profile(profile, expected), token=token)
            except ConflictError:
                current = memory.profile()
                if current.version != expected + 1 or self._store is None:
                    raise
                self._store.put_profile(user, current, expected, token)
                known.append(current)
                return Change(user=user)

        change = await self._change(user, "profile", by, plan, incarnation)
        return known[-1] if change.profile is None else change.profile

    async def note_alignment(self, user: str, seen: int, by: str, incarnation: int | None = None) -> None:
        """Note that alignment has looked at the truths that arrived up to `seen`; repeating it is harmless."""
        await self._change(user, "alignment", by, lambda memory: memory.note_alignment(seen), incarnation)

    async def restore(self, exported: Exported, batch: Batch, by: str, incarnation: int | None = None) -> AppendResult:
        """Take over an export, or a part of one; interactions that are too large are left out and told of.

        Raises:
            ConflictError: the user has another persona or profile.
            TooLarge: a persona version is larger than limits allow.
        """
        items = exported.stamp(batch.items())
        change = await self._change(
            exported.user,
            "restore",
            by,
            lambda memory: memory.restore(exported, memory.append(items, skip=True)),
            incarnation,
        )
        return change.added

    async def forget(self, user: str, by: str, audit_id: str) -> ForgetReceipt:
        """Remove every trace of the user; what broke off is finished by any further call. See `personaagent.memory.forgetting`.

        The audit entry is written before anything is deleted.

        Raises:
            NotFoundError: nothing is stored of this user.
        """
        return await self._finish(self._forget(user, by, audit_id))

    # Inside

    async def _opened(self) -> UpkeepStore:
        """The store, open and owned by this shard."""
        if self._store is not None and self._tenure is not None and self._tenure.store is self._store:
            return self._store
        async with self._opening:
            store = self._store
            if store is None:
                opened, self._commons = await self._run(self._open)
                self._store = store = opened
                self._spawn(self._housekeeping(), "housekeeping")
                if self._settings.retention_days is not None:
                    self._spawn(self._expiring(self._settings.retention_days), "housekeeping")
            if self._tenure is None or self._tenure.store is not store:
                self._tenure = await self._taken(store)
            return store

    def _open(self) -> tuple[UpkeepStore, Commons | None]:
        store = open_store(self._config)
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
        self._active.clear()
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
                self._active.clear()
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

    async def _recall(self, user: str, query: RecallQuery, vector: Vector, choices: Matrix) -> Recall:
        # Looked up late: to load the user the store may have to be opened first, which says what users have in common.
        return await self._read(user, lambda memory: memory.recall(query, vector, choices, self._commons))

    async def _commit_population(self, population: Population, by: str) -> None:
        store = await self._current()
        details = {"number": population.number, "users": population.users}

        def write() -> None:
            replacing(store.population(), population)  # raises before anything is logged
            self._audit.write("population", "", by, details)
            store.put_population(population)

        await self._run(write)
        self._commons = Commons(population)

    async def _found(self, user: str) -> User:
        """The user's memory, for reading."""
        await self._current()
        memory = self._active.get(user)
        if memory is None:
            memory = await self._loaded(user)
        return memory

    async def _read(self, user: str, read: Callable[[User], T]) -> T:
        memory = await self._found(user)
        return await self._run(lambda: read(memory)) if isinstance(memory, LargeUser) else read(memory)

    async def _loaded(self, user: str) -> User:
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

    async def _activated(self, user: str) -> User:
        """The user's memory, loaded if need be. The caller holds the user's lock."""
        memory = self._active.get(user)
        if memory is not None:
            return memory
        store = await self._current()

        def load() -> User:
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

    async def _change(
        self, user: str, action: str, by: str, plan: Callable[[User], Change], incarnation: int | None
    ) -> Change:
        return await self._finish(self._changed(user, action, by, plan, incarnation))

    async def _changed(
        self, user: str, action: str, by: str, plan: Callable[[User], Change], incarnation: int | None
    ) -> Change:
        store = await self._current()
        async with self._exclusive(user):
            for last in (False, True):
                memory = await self._activated(user)
                write = partial(self._written, self._writer(store), memory, action, by, plan, incarnation)
                try:
                    change = await self._run(write)
                except StaleError:
                    self._active.drop(user)
                    if last:
                        raise
                    continue
                except UnavailableError:
                    self._doubt(memory)
                    raise
                except DeposedError:
                    self._active.clear()
                    raise
                except BaseException:  # among others a conflict: another shard wrote this user
                    self._active.drop(user)
                    raise
                memory.apply(change)
                break
            self._sizes.pop(user, None)
            self._counts["appends"] += len(change.rows)
            if change.personas:
                await self._shorten(store, memory)
            self._active.changed(user)
            return change

    async def _shorten(self, store: UpkeepStore, memory: User) -> None:
        """Have the oldest persona versions lose their texts if all together have become too large.

        The change that made them so is durable. What fails here is done with the next one.
        """
        try:
            await self._run(lambda: self._writer(store).shorten(memory.user, memory.chain))
        except PersonaAgentError as e:
            logger.warning("memory shard %d could not shorten a user's versions: %s", self._config.shard, e.message)

    @staticmethod
    def _written(
        writer: Writer, memory: User, action: str, by: str, plan: Callable[[User], Change], incarnation: int | None
    ) -> Change:
        writer.admit(memory.user, incarnation)
        change = plan(memory)
        writer.write([change], action, by, _held([memory]))
        return change

    def _doubt(self, memory: User) -> None:
        """Nobody knows whether a change of this user is in the store; what is in RAM was in it before.

        While the store is away, RAM is all there is to answer reads with. Once it is back the user is loaded again.
        """
        if isinstance(memory, LargeUser):
            self._active.drop(memory.user)  # without the store it cannot answer anyway
        else:
            self._doubted.add(memory.user)

    async def _append_groups(self, groups: dict[str, list[Incoming]], by: str, incarnation: int | None) -> AppendResult:
        store = await self._current()
        async with AsyncExitStack() as locks:
            for user in sorted(groups):  # in one order everywhere, or two calls could wait for each other
                await locks.enter_async_context(self._exclusive(user))
            for last in (False, True):
                active = {user: memory for user in groups if (memory := self._active.get(user)) is not None}
                try:
                    changes = await self._run(
                        partial(_append, store, self._writer(store), groups, active, by, incarnation, self._sized)
                    )
                    break
                except UnavailableError:
                    for memory in active.values():
                        self._doubt(memory)
                    raise
                except DeposedError:
                    self._active.clear()
                    raise
                except BaseException as e:
                    for user in active:
                        self._active.drop(user)
                    if last or not isinstance(e, StaleError):
                        raise
            for change in changes:
                if change.user in active:
                    self._sizes.pop(change.user, None)
                    active[change.user].apply(change)
                    self._active.changed(change.user)
                elif change.user in self._sizes:
                    self._sizes[change.user].grow(change)
                self._counts["appends"] += len(change.rows)
        added = {change.user for change in changes}
        refused = sum(len(items) for user, items in groups.items() if user not in added)
        return sum((c.added for c in changes), AppendResult(added=0, repeated=0, refused=refused))

    def _sized(self, store: UpkeepStore, user: str) -> StoredSize:
        """The size of a user who is not active. Called on threads, for a user whose lock is held."""
        size = self._sizes.get(user)
        if size is None:
            size = StoredSize(store, user, self._settings.limits, store.count(user))
            while len(self._sizes) >= SIZES:
                self._sizes.pop(next(iter(self._sizes)), None)
            self._sizes[user] = size
        return size

    async def _forget(self, user: str, by: str, audit_id: str) -> ForgetReceipt:
        store = await self._current()
        async with self._exclusive(user):
            self._active.drop(user)
            self._sizes.pop(user, None)
            try:
                return await self._run(lambda: self._writer(store).forget(user, by, audit_id))
            finally:
                self._active.drop(user)

    def _log_read(self, action: str, user: str, by: str) -> None:
        """A line per read, if asked for; it costs the read some 50 microseconds."""
        if self._settings.audit_reads:
            self._audit.write(action, user_key(user), by, {})

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
                    logger.warning("memory shard %d could not flush: %s", self._config.shard, e.message)
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
            logger.error("memory shard %d: %s", self._config.shard, e.message)
        except PersonaAgentError as e:  # the next tick tries again; when the lease is over, reads say what is wrong
            logger.debug("memory shard %d cannot tell whether it is still in charge: %s", self._config.shard, e.message)

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

    async def _expiring(self, days: float) -> None:
        """Delete what is too old, from the opening of the store on and for as long as it is open."""
        store = self._store
        while store is not None and self._store is store:
            try:
                await self.expire(days)
            except PersonaAgentError as e:
                logger.warning("memory shard %d could not expire interactions: %s", self._config.shard, e.message)
            await asyncio.sleep(EXPIRE_S)

    async def _reopen(self, store: UpkeepStore) -> bool:
        """Close a broken store once the disk has room again; the next call opens it, and it recovers from its log."""
        try:
            check_disk(self._config.store_dir)
        except StoreError:
            return False
        logger.error("memory shard %d opens its store again: %s", self._config.shard, store.broken)
        async with self._opening:
            self._store = self._tenure = None
            await self._run(store.close)
        return True

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
                logger.debug("memory shard %d: %s", self._config.shard, error.message)
            else:
                logger.error("memory shard %d failed", self._config.shard, exc_info=error)


def _append(
    store: UpkeepStore,
    writer: Writer,
    groups: Mapping[str, Sequence[Incoming]],
    active: Mapping[str, User],
    by: str,
    incarnation: int | None,
    sized: Callable[[UpkeepStore, str], StoredSize],
) -> list[Change]:
    """Append interactions of many users in one write; users who were forgotten since, and what is too large, are left out."""
    users = writer.admitted(list(groups), incarnation)
    keys = [row_key(u, i.interaction.id) for u in users if u not in active for i in groups[u]]
    stored = store.get(keys)
    now = clock()
    last = store.arrivals([user for user in users if user not in active], now)
    limits = writer.limits

    def planned(user: str) -> Change:
        items = groups[user]
        if user in active:
            return active[user].append(items, skip=True)
        used = sized(store, user).before(items)
        return plan_append(user, items, _finder(user, stored), last.get(user, 0), now, limits, used, skip=True)

    changes = [planned(user) for user in users]
    writer.write(changes, "append", by, _held(active.values()))
    return changes


def _held(memories: Iterable[User]) -> dict[str, Callable[[Row], Row | None]]:
    """What RAM has of users' rows. Of a large user it has none: their changes are planned from what the store has."""
    return {m.user: partial(_row_in, m) for m in memories if isinstance(m, UserMemory)}


def _row_in(memory: UserMemory, row: Row) -> Row | None:
    return memory.row(row.id)


def _end(store: UpkeepStore, tenure: Tenure | None) -> None:
    """Give a store up and close it."""
    try:
        if tenure is not None and store.is_shared:
            tenure.release()
    except (StoreError, UnavailableError) as e:
        logger.warning("a memory shard was not given up, so the next one waits for its lease: %s", e.message)
    finally:
        store.close()


def _finder(user: str, stored: dict[Any, Row]) -> Callable[[str], Row | None]:
    return lambda interaction: stored.get(row_key(user, interaction))

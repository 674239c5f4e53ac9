"""Changes of the users of a memory shard: planned from what is known, written, and only then followed in RAM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from actors.memory.shard_users import ShardUsers
from actors.memory.stored_size import StoredSize
from actors.memory.wire import Batch
from actors.memory.writer import StaleError, Writer
from actors.milvus.tenure import DeposedError
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import ConflictError, PersonaAgentError, UnavailableError
from personaagent.memory.changes import Change, Incoming, clock, plan_append, undisputed
from personaagent.memory.export import Exported
from personaagent.memory.one_user import OneUser
from personaagent.memory.store import Row, Vector, row_key
from personaagent.memory.user_memory import UserMemory
from personaagent.types import AppendResult, ForgetReceipt, Interaction, Persona, PersonaDraft, Profile, user_key

__all__ = ["ShardChanges"]

logger = logging.getLogger(__name__)

SIZES = 10_000  # users who are not active, whose bytes in the store are kept in mind


class ShardChanges(ShardUsers):
    """Changes of one user each, and appends of many. Each is brought to its end, even if the caller goes away."""

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

        def plan(memory: OneUser) -> Change:
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

        def plan(memory: OneUser) -> Change:
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

    async def note_call(self, user: str, tool: str, failed: bool, by: str) -> None:
        """Log that a tool is called for a user, or that its call failed; what it is told and answers is not said.

        Raises:
            StoreError: it cannot be logged.
        """
        details = {"what": "call", "tool": tool} if failed else {"tool": tool}
        await self._run(lambda: self._audit.write("failed" if failed else "call", user_key(user), by, details))

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

    async def delete(self, user: str, ids: Sequence[str], by: str, incarnation: int | None = None) -> int:
        """Delete interactions, with what was learned from them alone; how many there were. See `Writer.delete`."""
        return await self._finish(self._delete(user, ids, by, incarnation))

    async def forget(self, user: str, by: str, audit_id: str) -> ForgetReceipt:
        """Remove every trace of the user; what broke off is finished by any further call. See `personaagent.memory.forgetting`.

        The audit entry is written before anything is deleted.

        Raises:
            NotFoundError: nothing is stored of this user.
        """
        return await self._finish(self._forget(user, by, audit_id))

    # Inside

    async def _change(
        self, user: str, action: str, by: str, plan: Callable[[OneUser], Change], incarnation: int | None
    ) -> Change:
        return await self._finish(self._changed(user, action, by, plan, incarnation))

    async def _changed(
        self, user: str, action: str, by: str, plan: Callable[[OneUser], Change], incarnation: int | None
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

    async def _shorten(self, store: UpkeepStore, memory: OneUser) -> None:
        """Have the oldest persona versions lose their texts if all together have become too large.

        The change that made them so is durable. What fails here is done with the next one.
        """
        try:
            await self._run(lambda: self._writer(store).shorten(memory.user, memory.chain))
        except PersonaAgentError as e:
            logger.warning("memory shard %d could not shorten a user's versions: %s", self.config.shard, e.message)

    @staticmethod
    def _written(
        writer: Writer,
        memory: OneUser,
        action: str,
        by: str,
        plan: Callable[[OneUser], Change],
        incarnation: int | None,
    ) -> Change:
        writer.admit(memory.user, incarnation)
        change = plan(memory)
        writer.write([change], action, by, _held([memory]))
        return change

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

    async def _delete(self, user: str, ids: Sequence[str], by: str, incarnation: int | None) -> int:
        store = await self._current()
        async with self._exclusive(user):
            if user in self._doubted:  # the store may have lessons that RAM has not
                self._active.drop(user)
            memory = await self._activated(user)
            try:
                return await self._run(lambda: self._writer(store).delete(memory, ids, by, incarnation))
            except DeposedError:
                self._active.clear()
                raise
            finally:
                self._active.drop(user)
                self._sizes.pop(user, None)

    async def _forget(self, user: str, by: str, audit_id: str) -> ForgetReceipt:
        store = await self._current()
        async with self._exclusive(user):
            self._active.drop(user)
            self._sizes.pop(user, None)
            try:
                return await self._run(lambda: self._writer(store).forget(user, by, audit_id))
            finally:
                self._active.drop(user)


def _append(
    store: UpkeepStore,
    writer: Writer,
    groups: Mapping[str, Sequence[Incoming]],
    active: Mapping[str, OneUser],
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


def _held(memories: Iterable[OneUser]) -> dict[str, Callable[[Row], Row | None]]:
    """What RAM has of users' rows. Of a large user it has none: their changes are planned from what the store has."""
    return {m.user: partial(_row_in, m) for m in memories if isinstance(m, UserMemory)}


def _row_in(memory: UserMemory, row: Row) -> Row | None:
    return memory.row(row.id)


def _finder(user: str, stored: dict[Any, Row]) -> Callable[[str], Row | None]:
    return lambda interaction: stored.get(row_key(user, interaction))

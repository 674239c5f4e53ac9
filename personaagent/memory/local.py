"""All users' memories in this process, for evaluation and tests: the shards' behaviour without Ray."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from personaagent.errors import ForgottenError
from personaagent.evidence.commons import Commons, Population
from personaagent.memory.changes import Change, commit, confirmed, embed_interactions, embed_recalls, undisputed
from personaagent.memory.deletion import delete_interactions
from personaagent.memory.export import export_page, parse_export
from personaagent.memory.forgetting import admit, forget_user
from personaagent.memory.incoming import meant_by
from personaagent.memory.ram_store import VolatileStore
from personaagent.memory.store import Store, row_key
from personaagent.memory.user_memory import UserMemory
from personaagent.protocols import Embedder, Memory
from personaagent.settings import MemorySettings
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

__all__ = ["LocalMemory"]


class LocalMemory(Memory):
    """`protocols.Memory` in RAM, on a `VolatileStore` unless another store is given.

    The vectors' length is the embedder's, seen at the first call.
    """

    def __init__(self, embedder: Embedder, settings: MemorySettings | None = None, store: Store | None = None) -> None:
        self._embedder = embedder
        self._settings = settings or MemorySettings()
        self._store = store
        stored = store.population() if store is not None else None
        self._commons = Commons(stored) if stored is not None else None
        self._users: dict[str, UserMemory] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._incarnation = 0

    async def incarnation(self, user: str) -> int:
        """Where forgetting stands: a number that grows when a user is forgotten."""
        return self._incarnation

    async def incarnations(self) -> tuple[int, ...]:
        """`incarnation` for work on any number of users."""
        return (self._incarnation,)

    async def append(
        self, user: str, interactions: Sequence[Interaction], incarnation: int | None = None
    ) -> AppendResult:
        """Add interactions; repeats (same id) change nothing, except that a truth or response may become known.

        Raises ConflictError if an id is another question's already.
        """
        items = await embed_interactions(self._embedder, interactions)
        async with self._locks[user]:
            memory = await self._user(user)
            return self._apply(memory, undisputed(memory.append(items)), incarnation).added

    async def append_many(
        self, interactions: Sequence[Interaction], incarnations: Sequence[int] | None = None
    ) -> AppendResult:
        """Add interactions of many users; those of users who were forgotten since are refused, and counted."""
        by_user: dict[str, list[Interaction]] = {}
        for interaction in interactions:
            by_user.setdefault(interaction.user, []).append(interaction)
        incarnation = incarnations[0] if incarnations else None
        result = AppendResult(added=0, repeated=0)
        for user, items in by_user.items():
            incoming = await embed_interactions(self._embedder, items)
            try:
                async with self._locks[user]:
                    memory = await self._user(user)
                    result += self._apply(memory, memory.append(incoming), incarnation).added
            except ForgottenError:
                result += AppendResult(added=0, repeated=0, refused=len(items))
        return result

    async def feedback(
        self,
        user: str,
        interaction: str,
        truth: str | None,
        incarnation: int | None = None,
        rating: Literal[1, -1] | None = None,
    ) -> Interaction:
        """Set what the user really answered, or their thumb; see `Memory.feedback`."""
        if truth is not None:
            truth = await meant_by(self, user, interaction, truth)
        if rating == 1:
            truth = confirmed((await self._user(user)).interaction(interaction), truth, rating)
        vector = None if truth is None else np.asarray(await self._embedder.embed([truth]), dtype=np.float32)[0]
        async with self._locks[user]:
            memory = await self._user(user)
            self._apply(memory, memory.feedback(interaction, truth, vector, rating), incarnation)
            return memory.interaction(interaction)

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        """`recall` for many requests of one user, in their order."""
        vectors = await embed_recalls(self._embedder, queries)
        memory = await self._user(user)
        return tuple(
            memory.recall(query, *needed, self._commons) for query, needed in zip(queries, vectors, strict=True)
        )

    async def latest(
        self, user: str, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The user's newest n interactions, or lessons, oldest first; before one of them, if that is named. See `Memory`."""
        return (await self._user(user)).latest(n, with_truth, before, lessons)

    async def truths(self, user: str, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, oldest arrival first: a page of at most n."""
        return (await self._user(user)).truths(after, n)

    async def interactions(self, user: str, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        return (await self._user(user)).interactions(ids)

    async def persona(self, user: str, number: int | None = None) -> Persona | None:
        """The current persona, or version `number`; None if there is none."""
        return (await self._user(user)).persona(number)

    async def personas(self, user: str) -> tuple[Persona, ...]:
        """All versions, oldest first."""
        return (await self._user(user)).personas()

    async def persona_page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        """The newest versions before number `before` (None: of all), at most `limit`, oldest first."""
        return (await self._user(user)).chain.page(before, limit)

    async def commit_persona(
        self, user: str, draft: PersonaDraft, expected: int | None, incarnation: int | None = None
    ) -> Persona:
        """Compare-and-set of the persona. Raises ConflictError if the current number is not `expected`."""
        async with self._locks[user]:
            memory = await self._user(user)
            self._admit(user, incarnation)
            self._apply(memory, memory.commit_persona(draft, expected))
            persona = memory.persona()
            assert persona is not None
            return persona

    async def profile(self, user: str) -> Profile:
        """The semantic memory; an empty profile of version 0 if there is none."""
        return (await self._user(user)).profile()

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, incarnation: int | None = None
    ) -> Profile:
        """Compare-and-set of the profile. Raises ConflictError if the current version is not `expected`."""
        async with self._locks[user]:
            memory = await self._user(user)
            self._admit(user, incarnation)
            self._apply(memory, memory.commit_profile(profile, expected))
            return memory.profile()

    async def note_alignment(self, user: str, seen: int, incarnation: int | None = None) -> None:
        """An alignment has come to its end that looked at the truths that arrived up to `seen`."""
        async with self._locks[user]:
            memory = await self._user(user)
            self._apply(memory, memory.note_alignment(seen), incarnation)

    async def delete(self, user: str, ids: Sequence[str], by: str = "user", incarnation: int | None = None) -> int:
        """Delete these interactions, with what was learned from them alone; how many of them there were."""
        async with self._locks[user]:
            memory = await self._user(user)
            self._admit(user, incarnation)
            store = await self._open()
            there = store.get([row_key(user, i) for i in ids])
            lost = {digest for _, digest in there} | {row_key(user, i)[1] for i in memory.lessons(ids)}
            if lost:
                delete_interactions(store, user, lost)
                self._users.pop(user, None)  # as a shard does: what is left is read from the store
            return len(there)

    async def forget(self, user: str, by: str = "user") -> ForgetReceipt:
        """Remove every trace of the user. Raises NotFoundError for an unknown user."""
        async with self._locks[user]:
            store = await self._open()
            try:
                return forget_user(store, user, uuid.uuid4().hex, self._next_incarnation, lambda *_: None)
            finally:
                self._users.pop(user, None)

    async def export_page(self, user: str, cursor: ExportCursor | None = None) -> ExportPage:
        """Some lines of an export: the first ones, or those from a cursor on. Raises NotFoundError and ForgottenError."""
        if cursor is not None:
            self._admit(user, cursor.incarnation)
        return export_page(await self._user(user), cursor, self._incarnation)

    async def restore(self, lines: Sequence[str], incarnations: Sequence[int] | None = None) -> AppendResult:
        """Read an export back into a memory equal to the exported one.

        Raises:
            InvalidInput: a line is not of the export's format.
            ForgottenError: the user was forgotten since the incarnations.
            ConflictError: the user has another persona or profile already.
        """
        exported = parse_export(lines)
        items = await embed_interactions(self._embedder, exported.interactions)
        async with self._locks[exported.user]:
            memory = await self._user(exported.user)
            change = memory.restore(exported, memory.append(exported.stamp(items)))
            self._apply(memory, change, incarnations[0] if incarnations else None)
            return change.added

    async def summary(self, user: str) -> UserSummary | None:
        """Counts of one user, or None for an unknown one."""
        return (await self._user(user)).summary()

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        """Counts of users by user key, those after a key and at most `limit`."""
        return tuple((await self._open()).users(after, limit))

    async def population(self) -> Population | None:
        """What users have in common; None if it was never learned."""
        return (await self._open()).population()

    async def commit_population(self, population: Population) -> None:
        """Replace what users have in common. Raises ConflictError if its number is not higher than the stored one's."""
        (await self._open()).put_population(population)
        self._commons = Commons(population)

    async def _open(self) -> Store:
        if self._store is None:
            self._store = VolatileStore((await self._embedder.embed(["dimension"])).shape[1])
        return self._store

    async def _user(self, user: str) -> UserMemory:
        store = await self._open()
        if user not in self._users:
            self._users[user] = UserMemory(user, store.dim, store.load(user), self._settings)
        return self._users[user]

    def _next_incarnation(self) -> int:
        self._incarnation += 1
        return self._incarnation

    def _admit(self, user: str, incarnation: int | None) -> None:
        assert self._store is not None
        admit(self._store.tombstone(user_key(user)), incarnation)

    def _apply(self, memory: UserMemory, change: Change, incarnation: int | None = None) -> Change:
        assert self._store is not None
        self._admit(memory.user, incarnation)
        commit(self._store, [change])
        memory.apply(change)
        return change

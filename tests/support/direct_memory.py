"""`protocols.Memory` over one memory shard in this process: what `ShardedMemory` does, without Ray."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.memory.shard import MemoryShard
from actors.memory.wire import Batch
from personaagent.memory.changes import confirmed, embed_interactions, embed_recalls
from personaagent.memory.export import parse_export
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
)
from tests.support.doubles import HashEmbedder


class DirectMemory:
    """One shard's users."""

    def __init__(self, shard: MemoryShard, dim: int = 16) -> None:
        self.shard = shard
        self._embedder = HashEmbedder(dim)

    async def incarnation(self, user: str) -> int:
        return await self.shard.incarnation()

    async def incarnations(self) -> tuple[int, ...]:
        return (await self.shard.incarnation(),)

    async def append(
        self, user: str, interactions: Sequence[Interaction], incarnation: int | None = None
    ) -> AppendResult:
        return await self.shard.append(user, await self._batch(interactions), "test", incarnation)

    async def append_many(
        self, interactions: Sequence[Interaction], incarnations: Sequence[int] | None = None
    ) -> AppendResult:
        began = incarnations[0] if incarnations else None
        return await self.shard.append_many(await self._batch(interactions), "test", began)

    async def feedback(
        self, user: str, interaction: str, truth: str | None, incarnation: int | None = None, rating: Any = None
    ) -> Interaction:
        if rating == 1:
            truth = confirmed(await self.shard.interaction(user, interaction), truth, rating)
        vector = None if truth is None else np.asarray(await self._embedder.embed([truth]), dtype=np.float32)[0]
        return await self.shard.feedback(user, interaction, truth, vector, "test", incarnation, rating)

    async def recall(self, user: str, query: RecallQuery) -> Recall:
        return (await self.recall_many(user, [query]))[0]

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        vectors = await embed_recalls(self._embedder, queries)
        return await self.shard.recall(user, [(q, *needed) for q, needed in zip(queries, vectors, strict=True)])

    async def latest(self, user: str, n: int, with_truth: bool = False) -> tuple[Interaction, ...]:
        return await self.shard.latest(user, n, with_truth)

    async def truths(self, user: str, after: int, n: int) -> Truths:
        return await self.shard.truths(user, after, n)

    async def interactions(self, user: str, ids: Sequence[str]) -> tuple[Interaction, ...]:
        return await self.shard.interactions(user, ids)

    async def persona(self, user: str, number: int | None = None) -> Persona | None:
        return await self.shard.persona(user, number)

    async def personas(self, user: str) -> tuple[Persona, ...]:
        return await self.shard.personas(user)

    async def persona_page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        return await self.shard.persona_page(user, before, limit)

    async def commit_persona(
        self, user: str, draft: PersonaDraft, expected: int | None, incarnation: int | None = None
    ) -> Persona:
        return await self.shard.commit_persona(user, draft, expected, uuid.uuid4().hex, "test", incarnation)

    async def profile(self, user: str) -> Profile:
        return await self.shard.profile(user)

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, incarnation: int | None = None
    ) -> Profile:
        return await self.shard.commit_profile(user, profile, expected, uuid.uuid4().hex, "test", incarnation)

    async def note_alignment(self, user: str, seen: int, incarnation: int | None = None) -> None:
        await self.shard.note_alignment(user, seen, "test", incarnation)

    async def forget(self, user: str, by: str = "user") -> ForgetReceipt:
        return await self.shard.forget(user, by, uuid.uuid4().hex)

    async def export_page(self, user: str, cursor: ExportCursor | None = None) -> ExportPage:
        return await self.shard.export_page(user, cursor)

    async def export(self, user: str) -> tuple[str, ...]:
        return await self.shard.export(user)

    async def restore(self, lines: Sequence[str], incarnations: Sequence[int] | None = None) -> AppendResult:
        exported = parse_export(lines)
        began = incarnations[0] if incarnations else None
        return await self.shard.restore(exported, await self._batch(exported.interactions), "test", began)

    async def summary(self, user: str) -> UserSummary | None:
        return await self.shard.summary(user)

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        return await self.shard.users(after, limit)

    async def population(self) -> Any:
        return await self.shard.population()

    async def commit_population(self, population: Any) -> None:
        await self.shard.commit_population(population, "test")

    async def _batch(self, interactions: Sequence[Interaction]) -> Batch:
        return Batch.of(await embed_interactions(self._embedder, interactions))

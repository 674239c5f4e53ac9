"""A memory in front of another one. It forwards every verb, so that a subclass writes only what it does otherwise."""

# ruff: noqa: D102 - each method says what the one of `Memory` says

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from personaagent.evidence.commons import Population
from personaagent.protocols import Memory
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

__all__ = ["ForwardingMemory"]


class ForwardingMemory(Memory):
    """A memory that asks another one. `recall` and `export` rest on `recall_many` and `export_page`, see `Memory`."""

    def __init__(self, base: Memory) -> None:
        """`base`: the memory that is asked."""
        self._base = base

    async def _behind(self, user: str) -> tuple[Memory, str]:
        """The memory that answers for a user, and who the user is there. A subclass may send users elsewhere."""
        return self._base, user

    async def incarnation(self, user: str) -> int:
        memory, whose = await self._behind(user)
        return await memory.incarnation(whose)

    async def append(
        self, user: str, interactions: Sequence[Interaction], incarnation: int | None = None
    ) -> AppendResult:
        memory, whose = await self._behind(user)
        return await memory.append(whose, interactions, incarnation)

    async def feedback(
        self,
        user: str,
        interaction: str,
        truth: str | None,
        incarnation: int | None = None,
        rating: Literal[1, -1] | None = None,
    ) -> Interaction:
        memory, whose = await self._behind(user)
        return await memory.feedback(whose, interaction, truth, incarnation, rating)

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        memory, whose = await self._behind(user)
        return await memory.recall_many(whose, queries)

    async def latest(
        self, user: str, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        memory, whose = await self._behind(user)
        return await memory.latest(whose, n, with_truth, before, lessons)

    async def interactions(self, user: str, ids: Sequence[str]) -> tuple[Interaction, ...]:
        memory, whose = await self._behind(user)
        return await memory.interactions(whose, ids)

    async def truths(self, user: str, after: int, n: int) -> Truths:
        memory, whose = await self._behind(user)
        return await memory.truths(whose, after, n)

    async def persona(self, user: str, number: int | None = None) -> Persona | None:
        memory, whose = await self._behind(user)
        return await memory.persona(whose, number)

    async def personas(self, user: str) -> tuple[Persona, ...]:
        memory, whose = await self._behind(user)
        return await memory.personas(whose)

    async def persona_page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        memory, whose = await self._behind(user)
        return await memory.persona_page(whose, before, limit)

    async def commit_persona(
        self, user: str, draft: PersonaDraft, expected: int | None, incarnation: int | None = None
    ) -> Persona:
        memory, whose = await self._behind(user)
        return await memory.commit_persona(whose, draft, expected, incarnation)

    async def profile(self, user: str) -> Profile:
        memory, whose = await self._behind(user)
        return await memory.profile(whose)

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, incarnation: int | None = None
    ) -> Profile:
        memory, whose = await self._behind(user)
        return await memory.commit_profile(whose, profile, expected, incarnation)

    async def note_alignment(self, user: str, seen: int, incarnation: int | None = None) -> None:
        memory, whose = await self._behind(user)
        await memory.note_alignment(whose, seen, incarnation)

    async def delete(self, user: str, ids: Sequence[str], by: str = "user", incarnation: int | None = None) -> int:
        memory, whose = await self._behind(user)
        return await memory.delete(whose, ids, by, incarnation)

    async def forget(self, user: str, by: str = "user") -> ForgetReceipt:
        memory, whose = await self._behind(user)
        return await memory.forget(whose, by)

    async def export_page(self, user: str, cursor: ExportCursor | None = None) -> ExportPage:
        memory, whose = await self._behind(user)
        return await memory.export_page(whose, cursor)

    async def summary(self, user: str) -> UserSummary | None:
        memory, whose = await self._behind(user)
        return await memory.summary(whose)

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        return await self._base.users(after, limit)

    async def population(self) -> Population | None:
        return await self._base.population()

    async def commit_population(self, population: Population) -> None:
        await self._base.commit_population(population)

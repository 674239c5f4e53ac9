"""What can be done with one user's memory through MCP. Each tool is a use case over our protocols; none knows MCP."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from personaagent.errors import InvalidInput, NotFoundError, UnknownUserError
from personaagent.memory.incoming import InteractionLine, Reading
from personaagent.persona.versions import PersonaVersions
from personaagent.protocols import Memory
from personaagent.types import ACTION, Interaction, RecallQuery
from serve.mcp.user_answers import (
    AddedMemory,
    DeletedMemory,
    FoundMemories,
    MemoryItem,
    MemoryList,
    PersonaWhy,
    TruthNoted,
)
from serve.mcp.user_asks import AddMemory, DeleteMemory, GetMemories, GetPersona, RecordTruth, SearchMemories

__all__ = ["UserVerbs"]

SOURCE = "mcp"  # of what comes in this way, as `metadata.source`, and who the audit log says did it


class UserVerbs:
    """The tools' use cases. The user is always the connection's, and never among what is asked.

    Every one raises what memory raises, and InvalidInput for what cannot be stored.
    """

    def __init__(
        self, memory: Memory, personas: PersonaVersions, told: Callable[[str], None] = lambda user: None
    ) -> None:
        """`told`: is told the user where a truth became known."""
        self._memory = memory
        self._personas = personas
        self._told = told

    async def add_memory(self, user: str, asked: AddMemory) -> AddedMemory:
        """Store what the user states, as an interaction without an answer. The same words again are the same memory."""
        incarnation = await self._memory.incarnation(user)
        stated = _read(user, {"query": asked.text, "metadata": {"source": SOURCE}})
        result = await self._memory.append(user, [stated], incarnation)
        return AddedMemory(id=stated.id, known=not result.added)

    async def search_memories(self, user: str, asked: SearchMemories) -> FoundMemories:
        """The memories nearest to a query, best first."""
        recalled = await self._memory.recall(user, RecallQuery(text=asked.query, k=asked.limit))
        found = tuple(MemoryItem.of(e.interaction, e.similarity) for e in recalled.episodes)
        return FoundMemories(memories=found, known=recalled.known)

    async def get_memories(self, user: str, asked: GetMemories) -> MemoryList:
        """A page of memories, newest first.

        Raises:
            NotFoundError: the memory that the cursor names was deleted.
        """
        try:
            page = await self._memory.latest(user, asked.limit + 1, before=asked.cursor)
        except NotFoundError as e:
            raise NotFoundError("there is no page behind this cursor any more; begin again without one") from e
        shown = page[-asked.limit :]
        memories = tuple(MemoryItem.of(i) for i in reversed(shown) if ACTION not in i.metadata)
        return MemoryList(memories=memories, next=shown[0].id if len(page) > len(shown) else None)

    async def delete_memory(self, user: str, asked: DeleteMemory) -> DeletedMemory:
        """Delete a memory, with what was learned from it alone. Raises NotFoundError."""
        incarnation = await self._memory.incarnation(user)
        if not await self._memory.delete(user, [asked.memory_id], SOURCE, incarnation):
            raise NotFoundError(f"there is no memory {asked.memory_id!r}; get_memories lists those there are")
        return DeletedMemory(id=asked.memory_id)

    async def get_persona(self, user: str, asked: GetPersona) -> PersonaWhy:
        """What is said of the user and why; what they would start with, if nothing is stored yet. Nothing is stored."""
        try:
            persona = await self._personas.shown(user)
        except UnknownUserError:
            return PersonaWhy(version=0, text="")
        behind = await self._memory.interactions(user, PersonaWhy.behind(persona))
        return PersonaWhy.of(persona, {i.id: i for i in behind})

    async def record_truth(self, user: str, asked: RecordTruth) -> TruthNoted:
        """Store what the user really wanted: of a memory there is, or of a request with it.

        Raises:
            NotFoundError: there is no such memory.
        """
        incarnation = await self._memory.incarnation(user)
        if asked.interaction_id is not None:
            known = await self._memory.feedback(user, asked.interaction_id, asked.truth, incarnation)
        else:
            content = {"query": asked.query, "truth": asked.truth, "choices": asked.choices}
            known = _read(user, {**content, "metadata": {"source": SOURCE}})
            await self._memory.append(user, [known], incarnation)
        self._told(user)
        return TruthNoted(id=known.id, truth=known.truth or asked.truth)


def _read(user: str, content: dict[str, object]) -> Interaction:
    """An interaction as every door of the system reads it."""
    try:
        return Reading().interaction(InteractionLine.model_validate(content), 0, user)
    except ValidationError as e:
        raise InvalidInput(fault(e)) from e


def fault(error: ValidationError) -> str:
    """What is wrong first, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "nullable")
    message = str(first["msg"]).removeprefix("Value error, ").splitlines()[0]
    return f"{where[:100]}: {message}" if where else message

"""What can be read of the users of a memory shard."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence

from actors.memory.shard_users import ShardUsers
from personaagent.memory.export import export_page
from personaagent.memory.forgetting import admit
from personaagent.memory.store import Vector
from personaagent.protocols import Matrix
from personaagent.types import (
    ExportCursor,
    ExportPage,
    Interaction,
    Persona,
    PersonaPage,
    Profile,
    Recall,
    RecallQuery,
    Truths,
    UserSummary,
    user_key,
)

__all__ = ["ShardReads"]


class ShardReads(ShardUsers):
    """Reads of one user each. Of an active user they need neither the store nor a lock."""

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

    async def latest(
        self,
        user: str,
        n: int,
        with_truth: bool,
        by: str = "service",
        before: str | None = None,
        lessons: bool = False,
    ) -> tuple[Interaction, ...]:
        """The user's newest n interactions, or lessons, oldest first; before one of them, if that is named."""
        self._log_read("latest", user, by)
        return await self._read(user, lambda memory: memory.latest(n, with_truth, before, lessons))

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

    # Inside

    async def _recall(self, user: str, query: RecallQuery, vector: Vector, choices: Matrix) -> Recall:
        # Looked up late: to load the user the store may have to be opened first, which says what users have in common.
        return await self._read(user, lambda memory: memory.recall(query, vector, choices, self._commons))

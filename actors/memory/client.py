"""`personaagent.protocols.Memory` over the memory shards: embeds texts, and sends each user's calls to the user's shard."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import ray
from ray.exceptions import RayActorError

from actors.memory.redaction import Redaction
from actors.memory.remote_shard import remote_shard
from actors.memory.shard import MemoryShard
from actors.memory.wire import Batch
from actors.milvus.open import ShardConfig
from actors.milvus.store_identity import shard_of
from personaagent.evidence.commons import Population
from personaagent.memory.changes import confirmed, embed_interactions, embed_recalls
from personaagent.memory.export import parse_export
from personaagent.memory.incoming import meant_by
from personaagent.memory.limits import check_interactions, chunks
from personaagent.protocols import Embedder, Memory
from personaagent.settings import LimitsSettings
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

__all__ = ["ShardedMemory"]

logger = logging.getLogger(__name__)

CHUNK = 500  # interactions of one call; small enough that a shard stays responsive
CHUNK_BYTES = 8 * 2**20  # of them
PAGE = 100  # persona versions of one call
LONGEST_TOOL = 64  # characters of a tool's name that are logged


class ShardedMemory(Memory):
    """All users' memories in the cluster. It can be sent to other processes of the cluster.

    Every method raises UnavailableError if a shard does not come back, and StoreError if its store cannot be used.
    """

    def __init__(
        self,
        embedder: Embedder,
        shards: Sequence[Any],
        configs: Sequence[ShardConfig],
        by: str = "service",
        redaction: Redaction | None = None,
    ):
        """`shards`: handles of the actors, in order; `by`: who the audit log says made the changes."""
        self._redaction = redaction or Redaction(configs[0].memory.redact if configs else False)
        self._embedder = embedder
        self._handles = list(shards)
        self._shards = [remote_shard(handle, number) for number, handle in enumerate(shards)]
        self._configs = list(configs)
        self._by = by

    # Memory

    async def incarnation(self, user: str) -> int:
        """Where forgetting stands: a number that grows when a user is forgotten."""
        return await self._of(user).incarnation()

    async def incarnations(self) -> tuple[int, ...]:
        """`incarnation` for work on any number of users: one number per shard."""
        return tuple(await asyncio.gather(*(shard.incarnation() for shard in self._shards)))

    async def append(
        self, user: str, interactions: Sequence[Interaction], incarnation: int | None = None
    ) -> AppendResult:
        """Add interactions; repeats (same id) change nothing, except that a truth or response may become known.

        Raises:
            ConflictError: an id is another question's already.
            TooLarge: one is larger than `memory.limits` allow; then none is added.
        """
        check_interactions(interactions, self._limits)
        result = AppendResult(added=0, repeated=0)
        for chunk in _chunks(await self._redaction.interactions(interactions)):
            batch = Batch.of(await embed_interactions(self._embedder, chunk))
            result += await self._of(user).append(user, batch, self._by, incarnation)
        return result

    async def append_many(
        self, interactions: Sequence[Interaction], incarnations: Sequence[int] | None = None
    ) -> AppendResult:
        """Add interactions of many users, shard by shard in few large writes; the order within a user is kept.

        Those of users who were forgotten since the incarnations are refused, and counted; those that are too large are told.
        """
        by_shard: dict[int, list[Interaction]] = {}
        for interaction in await self._redaction.interactions(interactions):
            by_shard.setdefault(self._shard(interaction.user), []).append(interaction)

        async def send(shard: int) -> AppendResult:
            result = AppendResult(added=0, repeated=0)
            began = None if incarnations is None else incarnations[shard]
            for chunk in _chunks(by_shard[shard]):
                batch = Batch.of(await embed_interactions(self._embedder, chunk))
                result += await self._shards[shard].append_many(batch, self._by, began)
            return result

        return sum(await asyncio.gather(*map(send, by_shard)), AppendResult(added=0, repeated=0))

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
        if self._redaction.enabled or rating == 1:
            about = await self._of(user).interaction(user, interaction)
            truth = None if truth is None else await self._redaction.truth(about, truth)
            truth = confirmed(about, truth, rating)
        vector = None if truth is None else np.asarray(await self._embedder.embed([truth]), dtype=np.float32)[0]
        return await self._of(user).feedback(user, interaction, truth, vector, self._by, incarnation, rating)

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        """`recall` for many requests of one user, in their order."""
        vectors = await embed_recalls(self._embedder, queries)
        requests = [(query, *needed) for query, needed in zip(queries, vectors, strict=True)]
        # One argument of bytes: Ray serialises each of several by itself, in three times the time.
        asked = pickle.dumps((user, requests, self._by), pickle.HIGHEST_PROTOCOL)
        answer: tuple[Recall, ...] = pickle.loads(await self._of(user).recall_packed(asked))
        return answer

    async def latest(
        self, user: str, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The user's newest n interactions, or lessons, oldest first; before one of them, if that is named. See `Memory`."""
        return await self._of(user).latest(user, n, with_truth, self._by, before, lessons)

    async def truths(self, user: str, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, oldest arrival first: a page of at most n."""
        return await self._of(user).truths(user, after, n, self._by)

    async def interactions(self, user: str, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        return await self._of(user).interactions(user, tuple(ids), self._by)

    async def persona(self, user: str, number: int | None = None) -> Persona | None:
        """The current persona, or version `number`; None if there is none."""
        return await self._of(user).persona(user, number, self._by)

    async def personas(self, user: str) -> tuple[Persona, ...]:
        """All versions, oldest first."""
        found: tuple[Persona, ...] = ()
        page = await self.persona_page(user, None, PAGE)
        while page.versions:
            found = (*page.versions, *found)
            if page.next is None:
                break
            page = await self.persona_page(user, page.next, PAGE)
        return found

    async def persona_page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        """The newest versions before number `before` (None: of all), at most `limit`, oldest first."""
        return await self._of(user).persona_page(user, before, limit, self._by)

    async def commit_persona(
        self, user: str, draft: PersonaDraft, expected: int | None, incarnation: int | None = None
    ) -> Persona:
        """Compare-and-set of the persona. Raises ConflictError if the current number is not `expected`."""
        token = uuid.uuid4().hex
        return await self._of(user).commit_persona(user, draft, expected, token, self._by, incarnation)

    async def profile(self, user: str) -> Profile:
        """The semantic memory; an empty profile of version 0 if there is none."""
        return await self._of(user).profile(user, self._by)

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, incarnation: int | None = None
    ) -> Profile:
        """Compare-and-set of the profile. Raises ConflictError if the current version is not `expected`."""
        token = uuid.uuid4().hex
        return await self._of(user).commit_profile(user, profile, expected, token, self._by, incarnation)

    async def note_alignment(self, user: str, seen: int, incarnation: int | None = None) -> None:
        """An alignment has come to its end that looked at the truths that arrived up to `seen`."""
        await self._of(user).note_alignment(user, seen, self._by, incarnation)

    async def delete(self, user: str, ids: Sequence[str], by: str = "user", incarnation: int | None = None) -> int:
        """Delete these interactions, with what was learned from them alone; how many of them there were."""
        return await self._of(user).delete(user, tuple(ids), by, incarnation)

    async def forget(self, user: str, by: str = "user") -> ForgetReceipt:
        """Remove every trace of the user from memory; see `actors.forget` for everything else.

        After an error the same call goes on where it broke off. Raises NotFoundError for an unknown user.
        """
        return await self._of(user).forget(user, by, uuid.uuid4().hex)

    async def export_page(self, user: str, cursor: ExportCursor | None = None) -> ExportPage:
        """Some of the lines of an export, see `MemoryShard.export_page`. Raises NotFoundError and ForgottenError."""
        return await self._of(user).export_page(user, cursor, self._by)

    async def restore(self, lines: Sequence[str], incarnations: Sequence[int] | None = None) -> AppendResult:
        """Read an export back into a memory equal to the exported one.

        Raises:
            InvalidInput: a line is not of the export's format.
            ForgottenError: the user was forgotten since the incarnations.
            ConflictError: the user has another persona or profile already.
        """
        exported = await self._redaction.exported(parse_export(lines))
        began = None if incarnations is None else incarnations[self._shard(exported.user)]
        result = AppendResult(added=0, repeated=0)
        for part in exported.parts(CHUNK, CHUNK_BYTES):
            batch = Batch.of(await embed_interactions(self._embedder, part.interactions))
            result += await self._of(exported.user).restore(part, batch, self._by, began)
        return result

    async def summary(self, user: str) -> UserSummary | None:
        """Counts of one user, or None for an unknown one."""
        return await self._of(user).summary(user)

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        """Counts of users, shard by shard and within each by user key; those after a key and at most `limit`.

        A key tells its shard, so that a page is asked of one shard, or of two where one ends.
        """
        if limit is None and not after:
            listed = await asyncio.gather(*(shard.users() for shard in self._shards))
            return tuple(summary for users in listed for summary in users)
        first = shard_of(after, len(self._shards)) if after else 0
        found: list[UserSummary] = []
        for shard in range(first, len(self._shards)):
            left = None if limit is None else limit - len(found)
            if left is not None and left <= 0:
                break
            found += await self._shards[shard].users(after if shard == first else "", left)
        return tuple(found)

    async def population(self) -> Population | None:
        """What users have in common; None if it was never learned."""
        return await self._shards[0].population()

    async def commit_population(self, population: Population) -> None:
        """Replace what users have in common. Raises ConflictError if its number is not higher than the stored one's."""
        await self._shards[0].commit_population(population, self._by)  # whether it may be is decided there
        await asyncio.gather(*(shard.commit_population(population, self._by) for shard in self._shards[1:]))

    # Operation

    def with_embedder(self, embedder: Embedder) -> ShardedMemory:
        """The same memories with another embedder in front; its vectors must be of the same kind."""
        return ShardedMemory(embedder, self._handles, self._configs, self._by, self._redaction)

    def acting_as(self, by: str) -> ShardedMemory:
        """The same memories; the audit log names `by` for changes made through it."""
        return ShardedMemory(self._embedder, self._handles, self._configs, by, self._redaction)

    async def note_call(self, user: str, tool: str, failed: bool) -> None:
        """Log that a tool is called for a user, or that its call failed: its name, and nothing of what it is told or answers."""
        await self._of(user).note_call(user, tool[:LONGEST_TOOL], failed, self._by)

    async def stats(self) -> list[dict[str, Any]]:
        """Numbers of every shard, see `MemoryShard.stats`."""
        return list(await asyncio.gather(*(shard.stats() for shard in self._shards)))

    async def flush(self) -> None:
        """Flush all stores now."""
        await asyncio.gather(*(shard.flush() for shard in self._shards))

    async def restart_shard(self, shard: int) -> float:
        """Kill a shard's process without warning and wait until it serves again; returns seconds."""
        former = (await self._shards[shard].stats())["pid"]
        started = time.monotonic()
        ray.kill(self._handles[shard], no_restart=False)
        while (await self._shards[shard].ready(self._configs[shard]))["pid"] == former:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # Ray kills in its own time, and has no event for it
        return time.monotonic() - started

    async def shutdown(self) -> None:
        """Flush and close the stores and end the shards, for everyone in the cluster. Harmless if they are gone."""

        async def end(shard: Any) -> None:
            try:
                await shard.close.remote()
            except RayActorError:
                logger.debug("a memory shard was gone already")
            ray.kill(shard, no_restart=True)

        await asyncio.gather(*map(end, self._handles))

    # Inside

    @property
    def _limits(self) -> LimitsSettings:
        return self._configs[0].memory.limits if self._configs else LimitsSettings()

    def _shard(self, user: str) -> int:
        return shard_of(user_key(user), len(self._shards))

    def _of(self, user: str) -> MemoryShard:
        return self._shards[self._shard(user)]


def _chunks(interactions: Sequence[Interaction]) -> list[Sequence[Interaction]]:
    return list(chunks(interactions, CHUNK, CHUNK_BYTES))

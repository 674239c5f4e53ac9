"""The three things an agent needs from outside, as protocols: a language model, an embedder and a memory.

Production binds them to Ray Serve handles and memory shards; evaluation binds memory to RAM; tests bind doubles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from personaagent.evidence.commons import Population
from personaagent.types import (
    AppendResult,
    ChatRequest,
    ChatResult,
    ExportCursor,
    ExportPage,
    ForgetReceipt,
    Interaction,
    Likelihood,
    LikelihoodRequest,
    Persona,
    PersonaDraft,
    PersonaPage,
    Profile,
    Recall,
    RecallQuery,
    Truths,
    UserSummary,
)

__all__ = ["LLM", "Embedder", "Likely", "Matrix", "Memory", "Wrapper", "export_pages", "likely"]

Matrix = npt.NDArray[np.float32]  # (n, dim), rows of unit length


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """One row per text, float32, L2-normalised; shape (len(texts), dim)."""
        ...


@runtime_checkable
class Likely(Protocol):
    """A model that also tells how likely it would have given an answer. Not every server does: ask `likely`."""

    async def likelihoods(self, requests: Sequence[LikelihoodRequest]) -> tuple[Likelihood, ...]:
        """log p(answer | conversation) of each request, in their order: one prefill each and no generation.

        Raises:
            ContextLengthExceeded: conversation and answer of one of them do not fit the context.
            InvalidInput: an answer is empty.
            LLMError, UnavailableError: as `LLM.chat`.
        """
        ...


class Exporting(Protocol):
    """A memory that exports users page by page."""

    async def export_page(self, user: str, cursor: ExportCursor | None = None) -> ExportPage:
        """See `Memory`."""
        ...


async def export_pages(memory: Exporting, user: str) -> AsyncIterator[tuple[str, ...]]:
    """The lines of an export, so many at a time as are fit to be held at once. Raises as `Memory.export_page`."""
    cursor: ExportCursor | None = None
    while True:
        page = await memory.export_page(user, cursor)
        yield page.lines
        cursor = page.next
        if cursor is None:
            return


class LLM(Protocol):
    """A chat model. Errors are raised as `personaagent.errors` types, never returned as text."""

    async def chat(self, request: ChatRequest) -> ChatResult:
        """The whole answer.

        Raises:
            ContextLengthExceeded: prompt and answer do not fit the context.
            LLMError: the engine refused the request or answered with nothing usable.
            UnavailableError: the engine is down.
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        """The answer's text in pieces, as it is generated, then one ChatResult with all of it. Raises as `chat` does."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may take together."""
        ...


@runtime_checkable
class Wrapper(Protocol):
    """A model around another one, which can do what that one can."""

    @property
    def inner(self) -> LLM:
        """The model inside."""
        ...


def likely(llm: LLM) -> Likely | None:
    """The model, if it tells likelihoods. A wrapper has the method whatever it wraps, so what is inside decides."""
    if isinstance(llm, Wrapper) and likely(llm.inner) is None:
        return None
    return llm if isinstance(llm, Likely) else None


class Memory(Protocol):
    """All users' memories. Every call touches one user only, but for what users have in common and their listing; a write
    returns when the store has it.

    Work that reads first and writes later (a turn, a build, an alignment) asks for `incarnation` before it reads anything, and
    gives it to its writes. They raise ForgottenError if the user was forgotten since, even if the user has come back.

    Who implements it inherits from it, and so has the verbs that rest on others. Who only forwards inherits from
    `personaagent.memory.forwarding.ForwardingMemory`.
    """

    async def incarnation(self, user: str) -> int:
        """Where forgetting stands: a number that grows when a user is forgotten."""
        ...

    async def append(
        self, user: str, interactions: Sequence[Interaction], incarnation: int | None = None
    ) -> AppendResult:
        """Add interactions; repeats (same id) change nothing, except that a truth or response may become known.

        Raises ConflictError, and adds none, if an id is another question's already. Of more than one thousand, those before may
        be stored.
        """
        ...

    async def feedback(
        self,
        user: str,
        interaction: str,
        truth: str | None,
        incarnation: int | None = None,
        rating: Literal[1, -1] | None = None,
    ) -> Interaction:
        """Set what the user really answered, or their thumb on the answer.

        A `rating` of 1 makes the answer the truth. One of -1 notes that it was refused, and takes back a truth that says
        the same; nothing learns from a refused answer. With -1 a truth can be told as well.

        Raises:
            NotFoundError: the interaction is unknown.
            InvalidInput: a rating of 1 where there is no answer to confirm, or for another truth than the answer.
        """
        ...

    async def recall(self, user: str, query: RecallQuery) -> Recall:
        """Episodes for a request, best first; empty for an unknown user."""
        return (await self.recall_many(user, [query]))[0]

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        """`recall` for many requests of one user, in their order: one round trip where memory is elsewhere."""
        ...

    async def latest(
        self, user: str, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The user's newest n interactions, or newest n lessons, oldest first; empty for an unknown user.

        `before`: only those before this interaction in the user's order; NotFoundError if it does not exist.
        """
        ...

    async def interactions(self, user: str, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        ...

    async def truths(self, user: str, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, oldest arrival first: a page of at most n, see `Truths`.

        Who goes on at each page's `mark` reads every truth, however late it came, and none twice. Of truths that older
        stores have at one moment a page holds all.
        """
        ...

    async def persona(self, user: str, number: int | None = None) -> Persona | None:
        """The current persona, or version `number`; None if there is none."""
        ...

    async def personas(self, user: str) -> tuple[Persona, ...]:
        """All versions, oldest first; they may be many, see `persona_page`."""
        ...

    async def persona_page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        """The newest versions before number `before` (None: of all), oldest first: at most `limit`, and no more than are fit
        to be held at once."""
        ...

    async def commit_persona(
        self, user: str, draft: PersonaDraft, expected: int | None, incarnation: int | None = None
    ) -> Persona:
        """Compare-and-set: becomes the current persona if the current number is `expected` (None: no persona yet).

        Raises ConflictError otherwise.
        """
        ...

    async def profile(self, user: str) -> Profile:
        """The semantic memory; an empty profile of version 0 if there is none."""
        ...

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, incarnation: int | None = None
    ) -> Profile:
        """Compare-and-set on the version; returns the stored profile with version expected + 1."""
        ...

    async def note_alignment(self, user: str, seen: int, incarnation: int | None = None) -> None:
        """An alignment has come to its end, whatever came of it, that looked at the truths that arrived up to `seen`.

        A lower number than the one that is stored changes nothing. Of an unknown user nothing is noted.
        """
        ...

    async def delete(self, user: str, ids: Sequence[str], by: str = "user", incarnation: int | None = None) -> int:
        """Delete these interactions, with what was learned from them alone; how many of them there were.

        Facts and claims that other interactions support too stay, without these as evidence; so does what a person wrote or
        pinned. Exemplars and lessons of them go. After an error the same call goes on where it broke off, and counts what it
        still finds. What results of alignment runs hold on disk stays until `actors.forget`.
        """
        ...

    async def forget(self, user: str, by: str = "user") -> ForgetReceipt:
        """Remove every trace of the user from memory; see `actors.forget` for everything else.

        After an error the same call goes on where it broke off. Raises NotFoundError for an unknown user.
        """
        ...

    async def export_page(self, user: str, cursor: ExportCursor | None = None) -> ExportPage:
        """Some lines of an export: the first ones, or those from a cursor on; see `export_pages`.

        Raises:
            NotFoundError: nothing is stored of the user.
            ForgottenError: the user was forgotten since the first page.
        """
        ...

    async def export(self, user: str) -> tuple[str, ...]:
        """Everything stored of the user as JSON Lines, which `import` reads back. Raises as `export_page`."""
        return tuple([line async for page in export_pages(self, user) for line in page])

    async def summary(self, user: str) -> UserSummary | None:
        """Counts of one user, or None for an unknown one."""
        ...

    async def users(self, after: str = "", limit: int | None = None) -> tuple[UserSummary, ...]:
        """Counts of users, in an order that stays.

        Args:
            after: only users behind this one in the order: the key (`types.user_key`) of the last user of a page.
            limit: how many at most; None for all. A page of fewer is the last one.
        """
        ...

    async def population(self) -> Population | None:
        """What users have in common, from which evidence starts; None if it was never learned."""
        ...

    async def commit_population(self, population: Population) -> None:
        """Replace what users have in common. The same one again changes nothing.

        Raises ConflictError if its number is not higher than that of another one that is stored.
        """
        ...

"""What a method may see of the users' memories, with personas and profiles of its own that touch nobody else's.

A baseline is the same agent over less memory; so methods differ in what they know, not in how they are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn

from personaagent.errors import ConflictError, InvalidInput
from personaagent.evidence.commons import Population
from personaagent.evidence.evidence import uniform
from personaagent.memory.forwarding import ForwardingMemory
from personaagent.memory.index import episode_tokens
from personaagent.memory.persona_chain import PersonaChain
from personaagent.protocols import Memory
from personaagent.types import (
    AppendResult,
    Episode,
    ForgetReceipt,
    Interaction,
    Persona,
    PersonaDraft,
    PersonaPage,
    Profile,
    Recall,
    RecallQuery,
    utc_now,
)

__all__ = ["MemoryView", "Recalled"]


class MemoryView(ForwardingMemory):
    """A memory that reads another memory and never writes to it; personas and profiles are kept in the view.

    Args:
        base: the memory that is read.
        episodes: what a recall finds: what is similar (`retrieved`), the newest (`latest`) or nothing (`none`).
        profile: whether the profile can be read.
        fixed: a persona that everyone has instead of one of their own.
        personas_of: reads the personas of another memory, too, until the view has one of its own.
        text: stands in the place of every persona's text, claims and exemplars; what else a persona holds is kept.
        memory_as: whose memory is read instead of the user's own (a control).
        persona_as: whose persona is read instead of the user's own (a control).
    """

    def __init__(
        self,
        base: Memory,
        *,
        episodes: Literal["retrieved", "latest", "none"] = "retrieved",
        profile: bool = True,
        fixed: PersonaDraft | None = None,
        personas_of: Memory | None = None,
        text: str | None = None,
        memory_as: Mapping[str, str] | None = None,
        persona_as: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(base)
        self._episodes = episodes
        self._profile = profile
        self._fixed = fixed
        self._inherited = personas_of
        self._text = text
        self._memory_as = memory_as or {}
        self._persona_as = persona_as or {}
        self._personas: dict[str, list[Persona]] = {}
        self._profiles: dict[str, Profile] = {}

    async def _behind(self, user: str) -> tuple[Memory, str]:
        return self._base, self._memory_as.get(user, user)

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        """See `Memory`; what the view hides is not found, and gives no evidence."""
        whose = self._memory_as.get(user, user)
        # Of a query that asks for nothing the text need not even be embedded.
        asked = [query for query in queries if query.k or query.choices]
        if self._episodes == "retrieved":
            found = iter(await self._base.recall_many(whose, asked) if asked else ())
        else:
            found = iter([await self._shown(whose, query) for query in asked])
        return tuple(next(found) if query.k or query.choices else Recall() for query in queries)

    async def _shown(self, whose: str, query: RecallQuery) -> Recall:
        """What is found without looking for what is similar: the newest episodes, or none."""
        nothing = tuple(uniform(query.choices) for _ in query.decisions) if query.choices else ()
        if self._episodes == "none":
            return Recall(evidence=nothing)
        left = query.max_tokens
        newest: list[Episode] = []
        latest = await self._base.latest(whose, query.k, with_truth=True, lessons=query.lessons)
        if query.lessons:
            latest = tuple(i for i in latest if query.metadata.items() <= i.metadata.items())
        for age, past in enumerate(reversed(latest)):
            cost = episode_tokens(past)
            if left is not None and cost > left:
                break
            left = None if left is None else left - cost
            newest.append(Episode(interaction=past, similarity=0.0, score=0.0, age=age))
        return Recall(episodes=tuple(newest), evidence=nothing, known=len(newest))

    async def persona(self, user: str, number: int | None = None) -> Persona | None:
        """See `Memory`."""
        versions = await self.personas(user)
        if number is None:
            return versions[-1] if versions else None
        return next((p for p in versions if p.number == number), None)

    async def personas(self, user: str) -> tuple[Persona, ...]:
        """See `Memory`."""
        if self._fixed is not None:
            return (Persona(**self._fixed.model_dump(), number=1, parent=None, time=utc_now()),)
        whose = self._persona_as.get(user, user)
        versions = tuple(self._personas.get(whose, ()))
        if not versions and self._inherited is not None:
            versions = await self._inherited.personas(whose)
        if self._text is not None:
            versions = tuple(p.model_copy(update={"text": self._text, "claims": (), "exemplars": ()}) for p in versions)
        return versions

    async def persona_page(self, user: str, before: int | None, limit: int) -> PersonaPage:
        """See `Memory`."""
        return PersonaChain(await self.personas(user)).page(before, limit)

    async def commit_persona(
        self, user: str, draft: PersonaDraft, expected: int | None, incarnation: int | None = None
    ) -> Persona:
        """See `Memory`; the version is kept in this view only."""
        versions = list(await self.personas(user))
        current = versions[-1].number if versions else None
        if current != expected:
            raise ConflictError(f"the persona is at version {current}, not {expected}")
        persona = Persona(**draft.model_dump(), number=(current or 0) + 1, parent=current, time=utc_now())
        self._personas[self._persona_as.get(user, user)] = [*versions, persona]
        return persona

    def own_personas(self, user: str) -> tuple[Persona, ...]:
        """The versions that were committed in this view, oldest first."""
        return tuple(self._personas.get(user, ()))

    def restore(self, user: str, personas: Sequence[Persona]) -> None:
        """Put back what `own_personas` gave, instead of what the view has of the user."""
        self._personas[user] = list(personas)

    async def profile(self, user: str) -> Profile:
        """See `Memory`; it goes with the persona, which is first made from it."""
        whose = self._persona_as.get(user, user)
        if not self._profile or whose in self._profiles:
            return self._profiles.get(whose, Profile())
        return await self._base.profile(whose)

    async def commit_profile(
        self, user: str, profile: Profile, expected: int, incarnation: int | None = None
    ) -> Profile:
        """See `Memory`; the profile is kept in this view only."""
        current = (await self.profile(user)).version
        if current != expected:
            raise ConflictError(f"the profile is at version {current}, not {expected}")
        stored = profile.model_copy(update={"version": expected + 1})
        self._profiles[self._persona_as.get(user, user)] = stored
        return stored

    async def note_alignment(self, user: str, seen: int, incarnation: int | None = None) -> None:
        """See `Memory`; an alignment within a view is none of the memory behind it."""

    async def append(
        self, user: str, interactions: Sequence[Interaction], incarnation: int | None = None
    ) -> AppendResult:
        """Raises InvalidInput: what is asked in a test must not be remembered."""
        _refuse()

    async def feedback(
        self,
        user: str,
        interaction: str,
        truth: str | None,
        incarnation: int | None = None,
        rating: Literal[1, -1] | None = None,
    ) -> Interaction:
        """Raises InvalidInput, as `append`."""
        _refuse()

    async def delete(self, user: str, ids: Sequence[str], by: str = "user", incarnation: int | None = None) -> int:
        """Raises InvalidInput, as `append`."""
        _refuse()

    async def forget(self, user: str, by: str = "user") -> ForgetReceipt:
        """Raises InvalidInput, as `append`."""
        _refuse()

    async def commit_population(self, population: Population) -> None:
        """Raises InvalidInput, as `append`."""
        _refuse()


class Recalled(MemoryView):
    """A view that looks each request up once and keeps what was found, for as long as it lives: one user's alignment.

    So candidates are compared on the same recalled episodes, whatever is remembered meanwhile.
    """

    def __init__(self, base: Memory) -> None:
        super().__init__(base)
        self._found: dict[tuple[str, str], Recall] = {}

    async def recall_many(self, user: str, queries: Sequence[RecallQuery]) -> tuple[Recall, ...]:
        """See `Memory`."""
        # Its metadata keep a query from being hashed; JSON would refuse what a model's tool call may contain.
        keys = [(user, repr(query)) for query in queries]
        missing = {key: q for key, q in zip(keys, queries, strict=True) if key not in self._found}
        if missing:
            found = await super().recall_many(user, list(missing.values()))
            self._found.update(zip(missing, found, strict=True))
        return tuple(self._found[key] for key in keys)


def _refuse() -> NoReturn:
    raise InvalidInput("this view of memory is read-only; write to the memory behind it")

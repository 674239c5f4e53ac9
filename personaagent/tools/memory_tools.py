"""Tools over the user's own memory. They reach no other user: the model cannot name one.

While an interaction is replayed they see what was known before it, and nothing is written.
"""

# ruff: noqa: D102 - `call` does what the one of `Tool` says

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import JsonValue

from personaagent.errors import InvalidInput
from personaagent.features import normalised
from personaagent.persona.persona import clip, standing, tokens
from personaagent.persona.safety import danger
from personaagent.protocols import Memory
from personaagent.tools.stated import stated, subject_stated
from personaagent.tools.tool import Effect, Sees, Tool, ToolContext, ToolOutput, ToolSpec
from personaagent.types import NOTE, Interaction, RecallQuery, interaction_id, utc_now

__all__ = ["LastWanted", "NoteFact", "ReadProfile", "SearchEpisodes", "memory_specs", "memory_tools"]

NOTHING = "nothing known yet"
LONGEST = 500  # characters of a fact
LONGEST_SUBJECT = 80  # characters of what it is about
NOTES = 50  # newest ones that are read
CANDIDATES = 10  # past requests among which the newest is looked for
# Cosines. The embedded embedder gives the same wish in other words .52 to .77, other wishes of one form (the weather elsewhere)
# .37: the result says which request it was.
LIKE = 0.5  # a request that is less alike is another one
MARGIN = 0.1  # requests so much less alike than the nearest one count as alike, and the newest of them is meant

Name = Literal["search_episodes", "read_profile", "note_fact", "last_wanted"]


def memory_tools(memory: Memory, names: Sequence[Name], budget: int) -> tuple[Tool, ...]:
    """The tools of these names.

    Args:
        memory: of all users.
        names: in the order in which they are offered.
        budget: tokens of one result.
    """
    makers: dict[Name, Callable[[], Tool]] = {
        "search_episodes": lambda: SearchEpisodes(memory, budget),
        "read_profile": lambda: ReadProfile(memory, budget),
        "note_fact": lambda: NoteFact(memory),
        "last_wanted": lambda: LastWanted(memory, budget),
    }
    return tuple(makers[name]() for name in dict.fromkeys(names))


def memory_specs(names: Sequence[Name]) -> tuple[ToolSpec, ...]:
    """What the tools of these names say of themselves."""
    known = {kind.spec.name: kind.spec for kind in (SearchEpisodes, ReadProfile, NoteFact, LastWanted)}
    return tuple(known[name] for name in dict.fromkeys(names))


def _object(required: Sequence[str], **properties: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _text(description: str, longest: int) -> dict[str, JsonValue]:
    return {"type": "string", "description": description, "minLength": 1, "maxLength": longest, "pattern": r"\S"}


class SearchEpisodes:
    """Past requests of the user that are like a text, with what came of them."""

    spec = ToolSpec(
        name="search_episodes",
        description="Search this user's past requests and what they wanted then.",
        parameters=_object(
            ["query"],
            query=_text("what to look for", 1_000),
            k={"type": "integer", "description": "how many, 3 unless said", "minimum": 1, "maximum": 10},
        ),
        sees=Sees.MEMORY,
    )

    def __init__(self, memory: Memory, budget: int) -> None:
        """`budget`: tokens of one result, which the episodes share."""
        self._memory, self._budget = memory, budget

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        query = _asking(context, text=arguments["query"], k=int(arguments.get("k", 3)))
        found = (await self._memory.recall(context.user, query)).episodes
        if not found:
            return ToolOutput(text="nothing found")
        share = max(2, self._budget // len(found))
        return ToolOutput(text="\n".join(_exchange(e.interaction, share) for e in found))


class LastWanted:
    """What the user wanted the last time they asked for something like it."""

    spec = ToolSpec(
        name="last_wanted",
        description="What this user wanted the last time they made such a request.",
        parameters=_object(["request"], request=_text("the request, in the user's words", 1_000)),
        sees=Sees.MEMORY,
    )

    def __init__(self, memory: Memory, budget: int) -> None:
        """`budget`: tokens of one result."""
        self._memory, self._budget = memory, budget

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        query = _asking(context, text=arguments["request"], k=CANDIDATES, with_truth=True)
        found = (await self._memory.recall(context.user, query)).episodes
        found = tuple(e for e in found if e.similarity >= LIKE and not e.interaction.noted)
        if not found:
            return ToolOutput(text="no such request is known")
        nearest = max(e.similarity for e in found)
        last = min((e for e in found if e.similarity >= nearest - MARGIN), key=lambda e: e.age).interaction
        return ToolOutput(text=f"{last.time:%Y-%m-%d}: {_exchange(last, self._budget - 4)}")


class ReadProfile:
    """What is known about the user: the persona's claims, what they stated, and the facts of the profile."""

    spec = ToolSpec(
        name="read_profile",
        description="Read what is known about this user: habits, tastes, facts they stated.",
        parameters=_object([]),
        sees=Sees.MEMORY,
    )

    def __init__(self, memory: Memory, budget: int) -> None:
        """`budget`: tokens of one result."""
        self._memory, self._budget = memory, budget

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        # A replay must not see what rests on what came later, and neither claims nor facts record what they knew when.
        if context.before is not None:
            return ToolOutput(text=NOTHING)
        persona = await self._memory.persona(context.user)
        known = [c.text for c in standing(persona) if c.shown] if persona is not None else []
        known += [f"{n.query}: {n.truth}" for n in await _notes(self._memory, context.user, "about the user")]
        known += [f.text for f in (await self._memory.profile(context.user)).current]
        lines: dict[str, str] = {}
        for line in known:
            lines.setdefault(normalised(line), line)
        return ToolOutput(text=clip("\n".join(lines.values()), self._budget) or NOTHING)


class NoteFact:
    """Keeps a lasting fact that the user stated, as an interaction of its own: asked about a subject, they said this.

    So recall finds it, the profile learns it, export and forgetting know it. What is noted later on the same subject takes
    its place.
    """

    spec = ToolSpec(
        name="note_fact",
        description="Remember something lasting that the user has just said about themselves.",
        parameters=_object(
            ["about", "fact"],
            about=_text("the subject in a few words, as narrow as the fact: home town, nut allergy", LONGEST_SUBJECT),
            fact=_text("the fact in the user's own words, as they said it", LONGEST),
        ),
        effect=Effect.CHANGES,
        sees=Sees.MEMORY,
    )

    def __init__(self, memory: Memory) -> None:
        """`memory`: where it is kept."""
        self._memory = memory

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Store the fact; the same fact again changes nothing.

        Raises:
            InvalidInput: the user did not say so in this conversation, it is an order to the system or a secret, or the turn
                leaves nothing in memory, as replays do.
            ForgottenError: the user was forgotten meanwhile.
        """
        if context.before is not None:
            raise InvalidInput("nothing is noted while a past request is replayed")
        if not context.remember:
            raise InvalidInput("nothing is noted in a request that is not to be remembered")
        about, fact = (" ".join(str(arguments[name]).split()) for name in ("about", "fact"))
        # Whoever writes the page that a search finds could have anything noted; as in personas, orders are no facts.
        if (reason := danger(about) or danger(fact)) is not None:
            raise InvalidInput(f"this cannot be noted ({reason}); note what the user said about themselves")
        if not stated(fact, context.said):
            raise InvalidInput("the user has not said this here; note only what they said, in their own words")
        if not subject_stated(about, context.said):
            raise InvalidInput("name the subject in the user's own words, or in general ones such as diet or home town")
        before = [
            n for n in await _notes(self._memory, context.user, about) if normalised(n.query) == normalised(about)
        ]
        if any(normalised(n.truth or "") == normalised(fact) for n in before):
            return ToolOutput(text="this was noted before")
        note = Interaction(
            id=interaction_id(NOTE, context.user, context.interaction, about, fact),
            user=context.user,
            time=utc_now(),
            query=about,
            truth=fact,
            metadata={"source": NOTE, "of": context.interaction},
        )
        await self._memory.append(context.user, [note], context.incarnation)
        return ToolOutput(text=f"noted, in place of: {before[0].truth}" if before else "noted")


def _asking(context: ToolContext, **query: Any) -> RecallQuery:
    """A recall of what was known before this turn, or before the interaction that is replayed."""
    exclude = () if context.before is not None else (context.interaction,)
    return RecallQuery(before=context.before, exclude=exclude, **query)


async def _notes(memory: Memory, user: str, subject: str) -> list[Interaction]:
    """What the user stated, the newest of each subject, newest first; of a very long history what is near a subject."""
    query = RecallQuery(text=subject, k=NOTES, with_truth=True, metadata={"source": NOTE}, ranking="dense")
    newest: dict[str, Interaction] = {}
    for episode in sorted((await memory.recall(user, query)).episodes, key=lambda e: e.age):
        newest.setdefault(normalised(episode.interaction.query), episode.interaction)
    return list(newest.values())


def _exchange(past: Interaction, budget: int) -> str:
    """A past request and its outcome within so many tokens; of a long request the beginning, and the outcome before it."""
    unconfirmed = "an answer that the user refused" if past.refused else past.response or "no answer yet"
    outcome = clip(past.truth or unconfirmed, budget - budget // 4)
    return f"{clip(past.query, budget - tokens(outcome))} -> {outcome}"

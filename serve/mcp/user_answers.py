"""What the tools of the MCP server answer: for programs as JSON, for models as a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from personaagent.base import Frozen
from personaagent.claims import Claim
from personaagent.persona.persona import standing
from personaagent.types import Interaction, Persona

__all__ = ["AddedMemory", "DeletedMemory", "FoundMemories", "MemoryItem", "MemoryList", "PersonaWhy", "TruthNoted"]

LONGEST = 4_000  # characters of a text that are shown
OPTIONS = 100  # of a choice that are shown
NAMED = 5  # interactions that are shown behind a claim
LINE = 300  # characters of a text within the lines for models


class MemoryItem(Frozen):
    """An interaction: what the user stated or asked, what they were answered, and what they really wanted.

    `clipped`: a text is longer than what is shown of it.
    """

    id: str
    time: datetime
    query: str
    response: str | None = None
    truth: str | None = None
    choices: tuple[str, ...] | None = None
    similarity: float | None = None
    clipped: bool = False

    @classmethod
    def of(cls, interaction: Interaction, similarity: float | None = None) -> MemoryItem:
        """As it is shown."""
        choices = interaction.choices
        return cls(
            id=interaction.id,
            time=interaction.time,
            query=interaction.query[:LONGEST],
            response=_start(interaction.response),
            truth=_start(interaction.truth),
            choices=None if choices is None else tuple(choice[:LINE] for choice in choices[:OPTIONS]),
            similarity=None if similarity is None else round(similarity, 4),
            clipped=any(
                len(text or "") > LONGEST for text in (interaction.query, interaction.response, interaction.truth)
            )
            or any(len(choice) > LINE for choice in choices or ())
            or len(choices or ()) > OPTIONS,
        )

    def __str__(self) -> str:
        told = f"[{self.id}] {self.time:%Y-%m-%d}: {_line(self.query)}"
        if self.truth is not None:
            return f"{told} -> wanted: {_line(self.truth)}"
        return told if self.response is None else f"{told} -> answered: {_line(self.response)}"


class AddedMemory(Frozen):
    """What became of a statement. `known`: the same words were a memory already, and nothing changed."""

    id: str
    known: bool

    def __str__(self) -> str:
        return f"This is memory {self.id} {'already' if self.known else 'now'}."


class FoundMemories(Frozen):
    """Memories that a search found, best first, of so many as there are."""

    memories: tuple[MemoryItem, ...]
    known: int

    def __str__(self) -> str:
        return _listed(self.memories, "Nothing is remembered of this.")


class MemoryList(Frozen):
    """A page of memories, newest first. `next` is the cursor of the page behind; null on the last one."""

    memories: tuple[MemoryItem, ...]
    next: str | None = None

    def __str__(self) -> str:
        more = f"\nMore: cursor {self.next}" if self.next is not None else ""
        return _listed(self.memories, "Nothing is remembered here.") + more


class DeletedMemory(Frozen):
    """A memory that is no more."""

    id: str
    deleted: Literal[True] = True

    def __str__(self) -> str:
        return f"Memory {self.id} is deleted, with what was learned from it alone."


class TruthNoted(Frozen):
    """The memory that has the truth now."""

    id: str
    truth: str

    def __str__(self) -> str:
        return f"Noted with memory {self.id}: {_line(self.truth)}"


class SourceShown(Frozen):
    """An interaction that a claim rests on."""

    id: str
    time: datetime
    query: str
    truth: str | None = None


class ClaimWhy(Frozen):
    """A claim with why it is made: what it rests on, who made it, and what it was seen to be worth.

    `gain` is how much likelier it made what the user really said, in nats per token, and `error` its standard error; null
    where that was not measured. `rests_on` counts the interactions behind it, of which `sources` shows some.
    """

    number: int
    kind: str
    text: str
    note: str
    origin: Literal["counted", "model", "person"]
    pinned: bool
    since: datetime | None
    gain: float | None
    error: float | None
    rests_on: int
    sources: tuple[SourceShown, ...]

    def __str__(self) -> str:
        by = {"counted": "counted", "model": "written by the model", "person": "said by a person"}[self.origin]
        worth = "" if self.gain is None else f", {self.gain:+.2f} nats per token"
        behind = "".join(f"\n   because of {s.id}: {_line(s.query)}" for s in self.sources)
        told = f"{self.text} ({self.note})" if self.note else self.text
        return f"{self.number}. [{self.kind}] {_line(told)} ({by}{worth}, on {self.rests_on} memories){behind}"


class PersonaWhy(Frozen):
    """What is said of the user, and why. Version 0: nothing is known of them yet."""

    version: int
    text: str
    pinned: bool = False
    claims: tuple[ClaimWhy, ...] = ()

    @classmethod
    def of(cls, persona: Persona, about: Mapping[str, Interaction]) -> PersonaWhy:
        """`about`: the interactions behind its claims, by id, as far as they are there."""
        claims = tuple(_why(number, claim, about) for number, claim in enumerate(standing(persona), 1))
        return cls(version=persona.number, text=persona.text[:LONGEST], pinned=persona.pinned, claims=claims)

    @staticmethod
    def behind(persona: Persona) -> list[str]:
        """The interactions that are shown behind the claims."""
        return list(dict.fromkeys(i for claim in standing(persona) for i in claim.sources[:NAMED]))

    def __str__(self) -> str:
        if not self.version:
            return "Nothing is known of this user yet."
        return "\n".join(map(str, self.claims)) or self.text


def _why(number: int, claim: Claim, about: Mapping[str, Interaction]) -> ClaimWhy:
    return ClaimWhy(
        number=number,
        kind=claim.kind.value,
        text=claim.text[:LONGEST],
        note=claim.note,
        origin=claim.origin,
        pinned=claim.pinned,
        since=claim.since,
        gain=claim.gain,
        error=claim.error,
        rests_on=len(claim.sources),
        sources=tuple(_source(about[i]) for i in claim.sources[:NAMED] if i in about),
    )


def _source(interaction: Interaction) -> SourceShown:
    truth = None if interaction.truth is None else interaction.truth[:LINE]
    return SourceShown(id=interaction.id, time=interaction.time, query=interaction.query[:LINE], truth=truth)


def _listed(items: Sequence[MemoryItem], nothing: str) -> str:
    return "\n".join(_lines(items)) or nothing


def _lines(items: Iterable[MemoryItem]) -> list[str]:
    return [f"- {item}" for item in items]


def _start(text: str | None) -> str | None:
    return None if text is None else text[:LONGEST]


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LINE else f"{line[: LINE - 3]}..."

"""What keeps users' memories durable, as a protocol; the row it keeps stands in `stored_row`.

A store knows nothing of ranking, embedding or Ray. Its methods are blocking and may be called from several threads, but
only one writer at a time changes a user. Every method touches one user only, except `put` and `get`, whose rows and
keys name their user, the listing, and what users have in common, of which a store has one for all its users.
"""

from __future__ import annotations

import time as clocks
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from personaagent.evidence.commons import Population
from personaagent.memory.ledger import Ledger, page_of
from personaagent.memory.stored_row import (
    AHEAD_US,
    EPOCH,
    Quantised,
    Row,
    RowKey,
    Vector,
    dump_json,
    half,
    is_lesson,
    is_tool_lesson,
    microseconds,
    ordering,
    pack,
    quantised,
    restored,
    row_key,
    unpack,
)
from personaagent.types import Origin, Persona, Profile, UserSummary

__all__ = [
    "EpisodeCounts",
    "Erased",
    "Held",
    "Ledger",
    "Quantised",
    "Row",
    "RowKey",
    "Store",
    "StoredUser",
    "Tombstone",
    "Vector",
    "aligned_at",
    "dump_json",
    "fitting",
    "half",
    "is_lesson",
    "is_tool_lesson",
    "microseconds",
    "ordering",
    "pack",
    "page_of",
    "quantised",
    "restored",
    "row_key",
    "summarise",
    "unpack",
]


@dataclass(frozen=True, slots=True)
class StoredUser:
    """What a store has of one user; `rows` in order of arrival, `personas` by number: all, or only the newest."""

    rows: tuple[Row, ...] = ()
    personas: tuple[Persona, ...] = ()
    profile: Profile | None = None
    seen: int | None = None  # alignment has looked at truths that arrived up to here; None if it never has
    aligned: int = 0  # where that is None: what the newest aligned version says of it, see `aligned_at`


@dataclass(frozen=True, slots=True)
class Held:
    """How much a store has of one user, also where it cannot be read. A profile that is damaged has 0 facts."""

    interactions: int = 0
    personas: int = 0
    profiles: int = 0
    facts: int = 0
    named: bool = False  # their name is stored, be it by a write that got no further

    def __bool__(self) -> bool:
        return bool(self.interactions or self.personas or self.profiles or self.named)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What outlives a forgotten user: how far forgetting has come, and counts; no text and no name.

    `incarnation` orders work: what began before the user was forgotten has a lower number and is refused. As long as
    `done` is False something may be left, and forgetting goes on with the next opening of the store or the next call.
    `answered` is False as long as nobody was given a receipt, because the process died that was asked.
    """

    incarnation: int
    audit_id: str = ""
    interactions: int = 0
    personas: int = 0
    facts: int = 0
    done: bool = False
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Erased:
    """What a deletion left behind: `remaining` entities, by a look at the store and, where it has them, its files."""

    remaining: int
    note: str = ""


class Store(Protocol):
    """Durable home of users' memories.

    Raises (every method):
        StoreError: the store cannot be read or written.
        UnavailableError: a store server is away; the same call may work later.
    """

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id. They are durable when it returns."""
        ...

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        ...

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        ...

    def load(self, user: str, rows: bool = True, history: bool = True) -> StoredUser:
        """Everything of the user; empty for an unknown user.

        Args:
            user: who.
            rows: also the interactions.
            history: all persona versions; else only the newest.
        """
        ...

    def stream(self, user: str) -> Iterator[Row]:
        """The user's rows in any order, read in pages as they are asked for, so that many or large ones take little RAM."""
        ...

    def personas(self, user: str, before: int | None = None, limit: int | None = None) -> tuple[Persona, ...]:
        """Versions by number: of those before number `before` the newest, at most `limit`; None for all."""
        ...

    def held(self, user: str) -> Held:
        """How much there is of the user. Damaged texts are no hindrance, nor may they be: such a user can be forgotten too."""
        ...

    def ledger(self, user: str) -> Ledger:
        """When the user's interactions happened and arrived; the caller's own copy."""
        ...

    def arrivals(self, users: Collection[str], after: int) -> dict[str, int]:
        """Later than when new rows and truths of these users must arrive, where it is later than `after`.

        That is when their newest row or truth arrived, and up to where profile and alignment have read, be those rows gone.
        Of a server only that is read every time, and once which arrivals a clock that was put back has left behind.
        """
        ...

    def search(
        self,
        user: str,
        vector: Vector,
        limit: int,
        *,
        since: int,
        until: int,
        before: tuple[int, int],
        truth: bool,
        most: int | None = None,
        lessons: bool | None = None,
    ) -> list[Row]:
        """The user's rows by cosine with `vector`, for users too large for RAM.

        Args:
            user: whose rows.
            vector: (dim,), unit length.
            limit: how many rows at most.
            since: only rows of this time or later, microseconds since 1970.
            until: only rows before this time.
            before: (time, arrived); only rows earlier than that in the user's order.
            truth: only rows whose truth is known.
            most: bytes of the rows, but for a single one that is larger: of the best ones as many as fit.
            lessons: only rows that are lessons, or only others; None: all.
        """
        ...

    def put_persona(self, user: str, persona: Persona, token: str) -> None:
        """Add a version.

        `token` names the attempt: the same one again is a repeat and succeeds. Raises ConflictError if another attempt
        added that number.
        """
        ...

    def put_profile(self, user: str, profile: Profile, expected: int, token: str) -> None:
        """Replace the profile of version `expected`, 0 for none yet; `token` and ConflictError as for personas."""
        ...

    def put_seen(self, user: str, seen: int) -> None:
        """Note that alignment has looked at the truths that arrived up to `seen`. A lower number changes nothing."""
        ...

    def amend_persona(self, user: str, persona: Persona) -> None:
        """Store a version again with other sources, or without its texts. Raises StoreError if there is no such version."""
        ...

    def remove(self, user: str, digests: Collection[bytes]) -> None:
        """Delete interactions of the user (see `row_key`), and their name if that is all that is left.

        What points to them is the caller's to amend first, see `personaagent.memory.deletion`. A store may still have their
        bytes in its files.
        """
        ...

    def erase(self, key: str) -> Erased:
        """Delete everything of the user with this key but the tombstone, then look what is left. May be repeated."""
        ...

    def tombstone(self, key: str) -> Tombstone | None:
        """What is left of a user who was forgotten, by user key; None for one who never was."""
        ...

    def bury(self, key: str, tombstone: Tombstone) -> None:
        """Write a tombstone in the place of an older one; it is durable when this returns."""
        ...

    def unfinished(self) -> list[str]:
        """Keys of the users whose forgetting was begun and did not come to its end."""
        ...

    def users(self, after: str = "", limit: int | None = None) -> Iterator[UserSummary]:
        """Users in the order of their keys (`types.user_key`), read in pages.

        Args:
            after: only users whose key is greater: that of the last user of the page before.
            limit: how many at most; None for all.
        """
        ...

    def population(self) -> Population | None:
        """What users have in common; None if it was never learned."""
        ...

    def put_population(self, population: Population) -> None:
        """Replace what users have in common. The same one again changes nothing.

        Raises ConflictError if its number is not higher than that of another one that is stored.
        """
        ...

    def flush(self) -> None:
        """Do the slow part of earlier writes now. Nothing acknowledged depends on it."""
        ...

    @property
    def unflushed(self) -> int:
        """Rows written since the last flush."""
        ...

    def close(self) -> None:
        """Give up files and connections; harmless when closed already."""
        ...


class EpisodeCounts(Protocol):
    """A user's episodes, as a summary counts them. Lessons are about other interactions, and count only where it is said."""

    def __len__(self) -> int:
        """How many there are, lessons too."""
        ...

    @property
    def lessons(self) -> int:
        """How many of them are lessons."""
        ...

    @property
    def taught(self) -> int:
        """How many lessons tell which tool was right."""
        ...

    @property
    def truths(self) -> int:
        """How many have a truth."""
        ...

    @property
    def last_time(self) -> int | None:
        """When the newest happened, microseconds since 1970."""
        ...

    @property
    def last_arrived(self) -> int:
        """When the last episode or truth arrived, 0 if there is none."""
        ...

    def truths_after(self, arrived: int) -> int:
        """Of how many requests one has at least learned later than that what was right: see `ledger.learned`."""
        ...


def aligned_at(personas: Sequence[Persona]) -> int:
    """When the newest aligned persona was made, microseconds since 1970; 0 if there is none or a clock was ahead."""
    aligned = [microseconds(p.time) for p in personas if p.origin is Origin.ALIGNED]
    return aligned[-1] if aligned and aligned[-1] <= clocks.time_ns() // 1000 + AHEAD_US else 0


def fitting(rows: Iterable[Row], most: int | None) -> list[Row]:
    """The first rows that take at most so many bytes together, but at least one."""
    found: list[Row] = []
    left = most
    for row in rows:
        if left is not None:
            left -= row.nbytes
            if left < 0 and found:
                break
        found.append(row)
    return found


def summarise(user: str, rows: EpisodeCounts, personas: Sequence[Persona], seen: int | None) -> UserSummary:
    """A user's summary. Truths count as unaligned if they arrived after alignment last looked, up to `seen`.

    Stores of the version before have no `seen`. There the newest aligned persona tells when that was, unless the clock was
    far ahead when it was made.
    """
    if seen is None:
        seen = aligned_at(personas)
    current = personas[-1] if personas else None
    return UserSummary(
        user=user,
        interactions=len(rows) - rows.lessons,
        truths=rows.truths,
        persona=current.number if current else None,
        pinned=bool(current and current.pinned),
        last_time=None if rows.last_time is None else EPOCH + timedelta(microseconds=rows.last_time),
        truths_since_alignment=rows.truths_after(seen),
        taught=rows.taught,
    )

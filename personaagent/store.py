"""What keeps users' memories durable, as a protocol, and a store in RAM that keeps them as long as the process lives.

A store knows nothing of ranking, embedding or Ray. Its methods are blocking; whoever runs an event loop calls them from
a thread. Every method touches the rows of one user only, except `put` (rows name their user) and the listings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from personaagent.errors import ConflictError
from personaagent.types import Interaction, Persona, Profile, RecallQuery

__all__ = [
    "Erased",
    "Row",
    "Store",
    "StoredUser",
    "UserRecord",
    "Vector",
    "VolatileStore",
    "dump_json",
    "microseconds",
    "pack",
    "unpack",
]

Vector = npt.NDArray[np.float32]  # (dim,), unit length

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 UTC; exact, unlike `timestamp()`."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def dump_json(content: Any) -> str:
    """JSON text that is valid Unicode. NaN and lone surrogates in metadata come back as they were."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text if _encodable(text) else json.dumps(content, separators=(",", ":"))


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def pack(interaction: Interaction) -> bytes:
    """An interaction as UTF-8 JSON."""
    content = interaction.model_dump(mode="python")
    content["time"] = interaction.time.isoformat()
    return dump_json(content).encode("utf-8")


def unpack(payload: bytes) -> Interaction:
    """The interaction that `pack` wrote."""
    return Interaction.model_validate(json.loads(payload))


@dataclass(frozen=True, slots=True)
class Row:
    """One stored interaction with its vectors.

    `arrived` (microseconds since 1970) orders interactions of equal time and is unique within a user;
    `truth_arrived` is when the truth became known, 0 before that. The truth's vector is None as long.
    """

    user: str
    id: str
    time: int  # microseconds since 1970, of the interaction itself
    arrived: int
    truth_arrived: int
    payload: bytes  # the interaction, from `pack`
    query_vector: Vector
    truth_vector: Vector | None

    @property
    def interaction(self) -> Interaction:
        """The interaction itself."""
        return unpack(self.payload)


@dataclass(frozen=True, slots=True)
class StoredUser:
    """Everything a store has of one user; `rows` in order of arrival, `personas` by number."""

    rows: tuple[Row, ...] = ()
    personas: tuple[Persona, ...] = ()
    profile: Profile | None = None


@dataclass(frozen=True, slots=True)
class UserRecord:
    """One user in a listing: counts without any text."""

    user: str
    interactions: int
    truths: int
    last_time: int | None  # microseconds since 1970


@dataclass(frozen=True, slots=True)
class Erased:
    """What a deletion removed, and what a read afterwards still found."""

    interactions: int
    personas: int
    facts: int
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

    def get(self, user: str, ids: Sequence[str]) -> dict[str, Row]:
        """The rows with these ids; unknown ids are left out."""
        ...

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        ...

    def load(self, user: str, rows: bool = True) -> StoredUser:
        """Everything of the user, or only personas and profile; empty for an unknown user."""
        ...

    def search(self, user: str, vector: Vector | None, query: RecallQuery, limit: int) -> list[tuple[Row, float]]:
        """Rows by cosine with `vector` (None: newest first), for users too large for RAM.

        Filters of `query` on time and truth are applied; `before`, `exclude` and metadata are the caller's.
        """
        ...

    def put_persona(self, user: str, persona: Persona) -> None:
        """Add a version. Raises ConflictError if the store has that number already."""
        ...

    def put_profile(self, user: str, profile: Profile, expected: int) -> None:
        """Replace the profile of version `expected`, 0 for none yet. Raises ConflictError if another one is stored."""
        ...

    def erase(self, user: str) -> Erased:
        """Delete everything of the user, then read back."""
        ...

    def users(self) -> Iterator[UserRecord]:
        """All users with their counts, read in pages."""
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


@dataclass
class _Memory:
    rows: dict[str, Row] = field(default_factory=dict)
    personas: dict[int, Persona] = field(default_factory=dict)
    profile: Profile | None = None


class VolatileStore:
    """A `Store` in RAM, for evaluation and tests."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._users: dict[str, _Memory] = {}

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id."""
        for row in rows:
            self._users.setdefault(row.user, _Memory()).rows[row.id] = row

    def get(self, user: str, ids: Sequence[str]) -> dict[str, Row]:
        """The rows with these ids; unknown ids are left out."""
        rows = self._users[user].rows if user in self._users else {}
        return {i: rows[i] for i in ids if i in rows}

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        return len(self._users[user].rows) if user in self._users else 0

    def load(self, user: str, rows: bool = True) -> StoredUser:
        """Everything of the user, or only personas and profile; empty for an unknown user."""
        memory = self._users.get(user)
        if memory is None:
            return StoredUser()
        return StoredUser(
            rows=tuple(sorted(memory.rows.values(), key=lambda r: r.arrived)) if rows else (),
            personas=tuple(memory.personas[n] for n in sorted(memory.personas)),
            profile=memory.profile,
        )

    def search(self, user: str, vector: Vector | None, query: RecallQuery, limit: int) -> list[tuple[Row, float]]:
        """Rows by cosine with `vector` (None: newest first), filtered by time and truth."""
        since = microseconds(query.since) if query.since else None
        until = microseconds(query.until) if query.until else None
        found = [
            (row, float(row.query_vector @ vector) if vector is not None else 0.0)
            for row in self.load(user).rows
            if (since is None or row.time >= since)
            and (until is None or row.time < until)
            and (row.truth_arrived or not query.with_truth)
        ]
        if vector is None:
            found.sort(key=lambda pair: (pair[0].time, pair[0].arrived), reverse=True)
        else:
            found.sort(key=lambda pair: -pair[1])
        return found[:limit]

    def put_persona(self, user: str, persona: Persona) -> None:
        """Add a version. Raises ConflictError if the store has that number already."""
        personas = self._users.setdefault(user, _Memory()).personas
        if persona.number in personas:
            raise ConflictError(f"persona version {persona.number} exists already; read the current one and try again")
        personas[persona.number] = persona

    def put_profile(self, user: str, profile: Profile, expected: int) -> None:
        """Replace the profile of version `expected`, 0 for none yet. Raises ConflictError if another one is stored."""
        memory = self._users.setdefault(user, _Memory())
        if (memory.profile.version if memory.profile else 0) != expected:
            raise ConflictError("the profile was replaced meanwhile; read it and try again")
        memory.profile = profile

    def erase(self, user: str) -> Erased:
        """Delete everything of the user."""
        memory = self._users.pop(user, _Memory())
        facts = len(memory.profile.facts) if memory.profile else 0
        return Erased(len(memory.rows), len(memory.personas), facts, remaining=self.count(user))

    def users(self) -> Iterator[UserRecord]:
        """All users with their counts."""
        for user, memory in self._users.items():
            rows = memory.rows.values()
            yield UserRecord(
                user=user,
                interactions=len(rows),
                truths=sum(1 for r in rows if r.truth_arrived),
                last_time=max((r.time for r in rows), default=None),
            )

    def flush(self) -> None:
        """There is nothing to flush."""

    @property
    def unflushed(self) -> int:
        """Always 0."""
        return 0

    def close(self) -> None:
        """There is nothing to close."""

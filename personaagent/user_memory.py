"""One user's memory as a virtual actor's state: episodes, persona versions and semantic profile.

A change has three steps, so that nothing is visible before it is durable and reads never wait for a write:

    change = memory.append(...)      # decides, changes nothing
    commit(store, [change])          # blocking; may run in a thread
    memory.apply(change)             # RAM follows

The caller runs one change of a user at a time; reads may come at any moment between the steps.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from personaagent.errors import ConflictError, InvalidInput, NotFoundError
from personaagent.index import EpisodeIndex
from personaagent.portable import Exported, export_lines
from personaagent.protocols import Embedder, Matrix
from personaagent.settings import MemorySettings
from personaagent.store import Row, Store, StoredUser, Vector, half, microseconds, pack, summarise
from personaagent.types import (
    AppendResult,
    Interaction,
    Kind,
    Persona,
    PersonaDraft,
    Profile,
    Recall,
    RecallQuery,
    UserSummary,
    choice_kind,
)

__all__ = [
    "Change",
    "Incoming",
    "UserMemory",
    "clock",
    "commit",
    "embed_interactions",
    "embed_recall",
    "incoming",
    "plan_append",
    "plan_feedback",
    "plan_persona",
    "plan_profile",
]

Clock = Callable[[], int]  # microseconds since 1970


def clock() -> int:
    """The present moment in microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Incoming:
    """An interaction about to be appended, with its vectors; a restored one brings its arrival times too."""

    interaction: Interaction
    query_vector: Vector
    truth_vector: Vector | None
    arrived: int | None = None
    truth_arrived: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What one call writes, and what it answers once that is durable."""

    user: str
    rows: tuple[Row, ...] = ()
    personas: tuple[Persona, ...] = ()
    profile: Profile | None = None
    replaces: int = 0  # version of the profile that `profile` takes the place of
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # names this attempt, see `Store.put_persona`
    added: AppendResult = field(default_factory=lambda: AppendResult(added=0, repeated=0))


def commit(store: Store, changes: Sequence[Change]) -> None:
    """Make changes durable; rows of all of them in one write. Raises ConflictError as `Store` does."""
    rows = [row for change in changes for row in change.rows]
    if rows:
        store.put(rows)
    for change in changes:
        for persona in change.personas:
            store.put_persona(change.user, persona, change.token)
        if change.profile is not None:
            store.put_profile(change.user, change.profile, change.replaces, change.token)


def plan_append(
    user: str, items: Sequence[Incoming], existing: Callable[[str], Row | None], last_arrived: int, now: int
) -> Change:
    """What an append writes, given a way to look up rows that are there already.

    A repeated id changes nothing, except that a missing truth or response is filled in.

    Args:
        user: whose interactions these are.
        items: in order of arrival.
        existing: the stored row of an interaction id, or None.
        last_arrived: arrival of the user's newest row; new rows come later than it.
        now: microseconds since 1970.

    Raises:
        InvalidInput: an interaction belongs to another user.
    """
    rows: dict[str, Row] = {}
    added = updated = repeated = 0
    arrival = max(now, last_arrived + 1)
    for item in items:
        interaction = item.interaction
        if interaction.user != user:
            raise InvalidInput("an interaction of another user cannot be appended to this one's memory")
        old = rows.get(interaction.id) or existing(interaction.id)
        if old is None:
            arrived = arrival if item.arrived is None else item.arrived
            known = 0 if interaction.truth is None else item.truth_arrived or max(now, arrived)
            rows[interaction.id] = _row(interaction, item, arrived, known)
            arrival += 1
            added += 1
            continue
        stored = old.interaction
        fill = {
            name: value
            for name in ("truth", "response")
            if getattr(stored, name) is None and (value := getattr(interaction, name)) is not None
        }
        if not fill:
            repeated += 1
            continue
        merged = stored.model_copy(update=fill)
        known = old.truth_arrived or (0 if merged.truth is None else item.truth_arrived or now)
        rows[interaction.id] = Row(
            user=user,
            id=old.id,
            time=old.time,
            arrived=old.arrived,
            truth_arrived=known,
            payload=pack(merged),
            query_vector=old.query_vector,
            truth_vector=old.truth_vector if stored.truth is not None else _half(item.truth_vector),
        )
        updated += 1
    return Change(
        user=user,
        rows=tuple(rows.values()),
        added=AppendResult(added=added, repeated=repeated, updated=updated),
    )


def _row(interaction: Interaction, item: Incoming, arrived: int, truth_arrived: int) -> Row:
    return Row(
        user=interaction.user,
        id=interaction.id,
        time=microseconds(interaction.time),
        arrived=arrived,
        truth_arrived=truth_arrived,
        payload=pack(interaction),
        query_vector=item.query_vector,
        truth_vector=_half(item.truth_vector) if interaction.truth is not None else None,
    )


def _half(vector: Vector | None) -> Vector | None:
    return None if vector is None else half(vector)


class UserMemory:
    """The active memory of one user. Not thread-safe: reads and `apply` run on one thread."""

    def __init__(
        self,
        user: str,
        dim: int,
        stored: StoredUser | None = None,
        settings: MemorySettings | None = None,
        clock: Clock = clock,
    ) -> None:
        self.user = user
        self._clock = clock
        self._index = EpisodeIndex(dim, settings)
        self._personas: list[Persona] = []
        self._profile = Profile()
        if stored is not None:
            for row in stored.rows:
                self._index.put(row)
            self._personas = list(stored.personas)
            self._profile = stored.profile or Profile()

    # Reads

    def __len__(self) -> int:
        return len(self._index)

    @property
    def exists(self) -> bool:
        """Whether anything is stored of this user."""
        return bool(len(self._index) or self._personas or self._profile.version)

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        texts = sum(len(p.text) for p in self._personas) + sum(len(f.text) for f in self._profile.facts)
        return 2_000 + self._index.ram_bytes + 4 * texts + 1_000 * (len(self._personas) + len(self._profile.facts))

    def recall(self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix) -> Recall:
        """Episodes and evidence for a request; see `EpisodeIndex.recall`."""
        return self._index.recall(query, query_vector, choice_vectors)

    def interaction(self, interaction: str) -> Interaction:
        """One interaction. Raises NotFoundError if it does not exist."""
        row = self._index.get(interaction)
        if row is None:
            raise NotFoundError(f"interaction {interaction!r} does not exist")
        return row.interaction

    def latest(self, n: int, with_truth: bool = False) -> tuple[Interaction, ...]:
        """The newest n interactions, oldest first."""
        return self._index.latest(n, with_truth)

    def persona(self, number: int | None = None) -> Persona | None:
        """The current persona, or version `number`; None if there is none."""
        if number is None:
            return self._personas[-1] if self._personas else None
        return next((p for p in self._personas if p.number == number), None)

    def personas(self) -> tuple[Persona, ...]:
        """All versions, oldest first."""
        return tuple(self._personas)

    def profile(self) -> Profile:
        """The semantic memory; version 0 if there is none."""
        return self._profile

    def summary(self) -> UserSummary | None:
        """Counts, or None if nothing is stored."""
        if not self.exists:
            return None
        return summarise(self.user, self._index, self._personas)

    def export(self) -> tuple[str, ...]:
        """Everything stored, see `personaagent.portable`. Raises NotFoundError for a user of whom nothing is stored."""
        if not self.exists:
            raise NotFoundError("this user is unknown")
        return export_lines(self.user, list(self._index.rows()), self._personas, self._profile)

    # Changes

    def append(self, items: Sequence[Incoming]) -> Change:
        """Plan to add interactions. Raises InvalidInput if one belongs to another user."""
        return plan_append(self.user, items, self._index.get, self._index.last_arrived, self._clock())

    def feedback(self, interaction: str, truth: str, truth_vector: Vector) -> Change:
        """Plan to set what the user really answered. Raises NotFoundError for an unknown interaction."""
        return plan_feedback(self._index.get(interaction), interaction, truth, truth_vector, self._clock())

    def commit_persona(self, draft: PersonaDraft, expected: int | None) -> Change:
        """Plan a new version if the current number is `expected`. Raises ConflictError otherwise."""
        return Change(user=self.user, personas=(plan_persona(self.persona(), draft, expected),))

    def commit_profile(self, profile: Profile, expected: int) -> Change:
        """Plan a new profile if the current version is `expected`. Raises ConflictError otherwise."""
        return Change(user=self.user, profile=plan_profile(self._profile, profile, expected), replaces=expected)

    def restore(self, exported: Exported, items: Sequence[Incoming]) -> Change:
        """Plan to take over an export, given its interactions with vectors.

        Interactions are appended as always. Raises ConflictError if the user has another persona or profile.
        """
        added = self.append(
            [
                replace(item, arrived=arrived, truth_arrived=known)
                for item, arrived, known in zip(items, exported.arrived, exported.truth_arrived, strict=True)
            ]
        )
        personas, profile = exported.personas, exported.profile
        if self._personas and tuple(self._personas) != personas:
            raise ConflictError("this user has another persona already; forget the user before restoring the export")
        if self._profile.version and self._profile != profile:
            raise ConflictError("this user has another profile already; forget the user before restoring the export")
        return replace(
            added,
            personas=() if self._personas else personas,
            profile=None if self._profile.version else profile,
        )

    def apply(self, change: Change) -> None:
        """Follow a change that the store has."""
        for row in change.rows:
            self._index.put(row)
        self._personas.extend(change.personas)
        if change.profile is not None:
            self._profile = change.profile


def plan_feedback(old: Row | None, interaction: str, truth: str, truth_vector: Vector, now: int) -> Change:
    """What feedback on the stored row `old` writes. Raises NotFoundError if there is none."""
    if old is None:
        raise NotFoundError(f"interaction {interaction!r} does not exist")
    stored = old.interaction
    if stored.truth == truth:
        return Change(user=old.user)
    try:
        told = Interaction.model_validate({**dict(stored), "truth": truth})
    except ValidationError as e:
        raise InvalidInput(f"truth: {e.errors()[0]['msg']}") from e
    row = Row(
        user=old.user,
        id=old.id,
        time=old.time,
        arrived=old.arrived,
        truth_arrived=now,
        payload=pack(told),
        query_vector=old.query_vector,
        truth_vector=half(truth_vector),
    )
    return Change(user=old.user, rows=(row,), added=AppendResult(added=0, repeated=0, updated=1))


def plan_persona(current: Persona | None, draft: PersonaDraft, expected: int | None) -> Persona:
    """The version that follows `current`. Raises ConflictError if that is not version `expected`."""
    number = current.number if current else None
    if number != expected:
        raise ConflictError(f"the persona is at version {number or 'none'}, not {expected or 'none'}; read it again")
    fields = {name: getattr(draft, name) for name in PersonaDraft.model_fields}
    return Persona(**fields, number=(number or 0) + 1, parent=number, time=datetime.now(UTC))


def plan_profile(current: Profile, profile: Profile, expected: int) -> Profile:
    """The profile that follows `current`. Raises ConflictError if that is not version `expected`."""
    if current.version != expected:
        raise ConflictError(f"the profile is at version {current.version}, not {expected}; read it again")
    return profile.model_copy(update={"version": expected + 1})


# Embedding


async def embed_interactions(embedder: Embedder, interactions: Sequence[Interaction]) -> list[Incoming]:
    """Interactions with the vectors of their queries and truths; equal texts are embedded once."""
    texts = {i.query for i in interactions} | {i.truth for i in interactions if i.truth is not None}
    vectors = await _vectors(embedder, sorted(texts))
    return incoming(interactions, vectors)


def incoming(interactions: Sequence[Interaction], vectors: Mapping[str, Vector]) -> list[Incoming]:
    """Interactions with vectors that are known already, by text."""
    return [Incoming(i, vectors[i.query], None if i.truth is None else vectors[i.truth]) for i in interactions]


async def embed_recall(embedder: Embedder, query: RecallQuery) -> tuple[Vector, Matrix]:
    """The vectors a recall needs: (dim,) of its text and (m, dim) of its choices, (0, dim) where these are not read."""
    choices = query.choices if query.choices and query.decisions else ()
    if choice_kind(choices) is Kind.RATING:
        choices = ()
    matrix = np.asarray(await embedder.embed([query.text, *choices]), dtype=np.float32)
    return matrix[0], matrix[1:]


async def _vectors(embedder: Embedder, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    if not texts:
        return {}
    matrix = np.asarray(await embedder.embed(texts), dtype=np.float32)
    return dict(zip(texts, matrix, strict=True))

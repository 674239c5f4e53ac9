"""A store in RAM that keeps memories as long as the process lives, for evaluation and tests."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from personaagent.errors import ConflictError, StoreError
from personaagent.evidence.commons import Population, replacing
from personaagent.memory.store import (
    Erased,
    Held,
    Ledger,
    Row,
    RowKey,
    StoredUser,
    Tombstone,
    Vector,
    aligned_at,
    fitting,
    summarise,
)
from personaagent.types import Persona, Profile, UserSummary, user_key

__all__ = ["VolatileStore"]


@dataclass
class _User:
    rows: dict[bytes, Row] = field(default_factory=dict)
    personas: dict[int, tuple[str, Persona]] = field(default_factory=dict)  # token and version, by number
    profile: tuple[str, Profile] | None = None
    seen: int | None = None


class VolatileStore:
    """A `personaagent.memory.store.Store` in RAM."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._users: dict[str, _User] = {}
        self._tombstones: dict[str, Tombstone] = {}
        self._population: Population | None = None

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._dim

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows, replacing those of the same user and id."""
        for row in rows:
            self._users.setdefault(row.user, _User()).rows[row.key[1]] = row

    def get(self, keys: Sequence[RowKey]) -> dict[RowKey, Row]:
        """The rows with these keys; unknown keys are left out."""
        return {
            (user, digest): self._users[user].rows[digest]
            for user, digest in keys
            if user in self._users and digest in self._users[user].rows
        }

    def count(self, user: str) -> int:
        """How many interactions the user has."""
        return len(self._users[user].rows) if user in self._users else 0

    def load(self, user: str, rows: bool = True, history: bool = True) -> StoredUser:
        """Everything of the user, see `Store`."""
        stored = self._users.get(user, _User())
        personas = self.personas(user)
        return StoredUser(
            rows=tuple(sorted(stored.rows.values(), key=lambda r: r.arrived)) if rows else (),
            personas=personas if history else personas[-1:],
            profile=stored.profile[1] if stored.profile else None,
            seen=stored.seen,
            aligned=0 if history or stored.seen is not None else aligned_at(personas),
        )

    def stream(self, user: str) -> Iterator[Row]:
        """The user's rows."""
        return iter(list(self._users.get(user, _User()).rows.values()))

    def personas(self, user: str, before: int | None = None, limit: int | None = None) -> tuple[Persona, ...]:
        """Versions by number, see `Store`."""
        stored = self._users.get(user, _User()).personas
        numbers = sorted(n for n in list(stored) if before is None or n < before)
        return tuple(stored[n][1] for n in numbers[max(0, len(numbers) - limit) if limit is not None else 0 :])

    def held(self, user: str) -> Held:
        """How much there is of the user."""
        stored = self._users.get(user, _User())
        facts = len(stored.profile[1].facts) if stored.profile else 0
        return Held(len(stored.rows), len(stored.personas), int(stored.profile is not None), facts, user in self._users)

    def ledger(self, user: str) -> Ledger:
        """When the user's interactions happened and arrived."""
        ledger = Ledger()
        for row in self.load(user).rows:
            ledger.put(row.key[1], row.time, row.arrived, row.truth_arrived)
        return ledger

    def arrivals(self, users: Collection[str], after: int) -> dict[str, int]:
        """Later than when new rows and truths of these users must arrive, where it is later than `after`."""
        latest = {}
        for user in users:
            stored = self.load(user, rows=False)
            mark = stored.profile.mark if stored.profile is not None else None
            latest[user] = max(self.ledger(user).last_arrived, mark or 0, stored.seen or 0)
        return {user: arrived for user, arrived in latest.items() if arrived > after}

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
        """The user's rows by cosine with `vector`."""
        found = [
            row
            for row in self.load(user).rows
            if since <= row.time < until
            and (row.time, row.arrived) < before
            and (row.truth_arrived or not truth)
            and lessons in (None, row.lesson)
        ]
        return fitting(sorted(found, key=lambda row: -float(row.query_vector @ vector))[:limit], most)

    def put_persona(self, user: str, persona: Persona, token: str) -> None:
        """Add a version. Raises ConflictError if another attempt added that number."""
        personas = self._users.setdefault(user, _User()).personas
        if personas.setdefault(persona.number, (token, persona))[0] != token:
            raise ConflictError(f"persona version {persona.number} exists already; read it and try again")

    def put_profile(self, user: str, profile: Profile, expected: int, token: str) -> None:
        """Replace the profile of version `expected`. Raises ConflictError if another one is stored."""
        stored = self._users.setdefault(user, _User())
        if stored.profile is not None and stored.profile[0] == token:
            return
        if (stored.profile[1].version if stored.profile else 0) != expected:
            raise ConflictError("the profile was replaced meanwhile; read it and try again")
        stored.profile = (token, profile)

    def put_seen(self, user: str, seen: int) -> None:
        """Note that alignment has looked at the truths that arrived up to `seen`. A lower number changes nothing."""
        stored = self._users.setdefault(user, _User())
        stored.seen = seen if stored.seen is None else max(stored.seen, seen)

    def amend_persona(self, user: str, persona: Persona) -> None:
        """Store a version again. Raises StoreError if there is no such version."""
        personas = self._users.get(user, _User()).personas
        if persona.number not in personas:
            raise StoreError(f"persona version {persona.number} is not in the store")
        personas[persona.number] = (personas[persona.number][0], persona)

    def remove(self, user: str, digests: Collection[bytes]) -> None:
        """Delete interactions of the user, and their name if that is all that is left."""
        stored = self._users.get(user)
        if stored is None:
            return
        for digest in digests:
            stored.rows.pop(digest, None)
        held = self.held(user)
        if not (held.interactions or held.personas or held.facts):
            del self._users[user]

    def erase(self, key: str) -> Erased:
        """Delete everything of the user with this key but the tombstone."""
        for user in [u for u in self._users if user_key(u) == key]:
            del self._users[user]
        return Erased(remaining=0, note="memory of this process; nothing is on disk")

    def tombstone(self, key: str) -> Tombstone | None:
        """What is left of a user who was forgotten, by user key; None for one who never was."""
        return self._tombstones.get(key)

    def bury(self, key: str, tombstone: Tombstone) -> None:
        """Write a tombstone in the place of an older one."""
        self._tombstones[key] = tombstone

    def unfinished(self) -> list[str]:
        """Keys of the users whose forgetting was begun and did not come to its end."""
        return [key for key, tombstone in self._tombstones.items() if not tombstone.done]

    def users(self, after: str = "", limit: int | None = None) -> Iterator[UserSummary]:
        """Users with their counts by user key, those after a key and at most `limit`."""
        listed = sorted((user for user in list(self._users) if user_key(user) > after), key=user_key)
        for user in listed[:limit]:
            stored = self.load(user, rows=False)
            yield summarise(user, self.ledger(user), stored.personas, stored.seen)

    def population(self) -> Population | None:
        """What users have in common; None if it was never learned."""
        return self._population

    def put_population(self, population: Population) -> None:
        """Replace what users have in common. Raises ConflictError if its number is not higher than the stored one's."""
        if replacing(self._population, population):
            self._population = population

    def flush(self) -> None:
        """There is nothing to flush."""

    @property
    def unflushed(self) -> int:
        """Always 0."""
        return 0

    def close(self) -> None:
        """There is nothing to close."""

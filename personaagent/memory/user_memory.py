"""One user's memory as a virtual actor's state: episodes, persona versions and semantic profile, all in RAM.

How a change gets from a call to the store and into RAM is in `personaagent.memory.changes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from personaagent.errors import ConflictError, NotFoundError, TooLarge
from personaagent.evidence.commons import Commons
from personaagent.memory.changes import (
    Change,
    Clock,
    Incoming,
    clock,
    plan_append,
    plan_feedback,
    plan_persona,
    plan_profile,
    plan_seen,
)
from personaagent.memory.export import EPOCH, Exported, export_pages
from personaagent.memory.index import EpisodeIndex
from personaagent.memory.limits import persona_fault
from personaagent.memory.persona_chain import PersonaChain, Versions
from personaagent.memory.store import Row, StoredUser, Vector, row_key, summarise
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.types import Interaction, Persona, PersonaDraft, Profile, Recall, RecallQuery, Truths, UserSummary

__all__ = ["UserMemory"]


class UserMemory:
    """The active memory of one user. Not thread-safe: reads and `apply` run on one thread."""

    def __init__(
        self,
        user: str,
        dim: int,
        stored: StoredUser | None = None,
        settings: MemorySettings | None = None,
        clock: Clock = clock,
        versions: Versions | None = None,
    ) -> None:
        """`stored`: what the store has of the user; `versions`: where persona versions but the newest are, see `PersonaChain`."""
        self.user = user
        self._clock = clock
        self._limits = (settings or MemorySettings()).limits
        self._index = EpisodeIndex(dim, settings)
        self._profile = Profile()
        self._seen: int | None = None
        stored = stored or StoredUser()
        self.chain = PersonaChain(stored.personas, versions, stored.aligned)
        for row in stored.rows:
            self._index.put(row)
        self._profile = stored.profile or Profile()
        self._facts_bytes = _facts_bytes(self._profile)
        self._seen = stored.seen

    def warm(self) -> None:
        """Build now what the first recall would have to."""
        self._index.warm()

    # Reads

    def __len__(self) -> int:
        return len(self._index)

    @property
    def exists(self) -> bool:
        """Whether anything is stored of this user."""
        return bool(len(self._index) or len(self.chain) or self._profile.version)

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return 2_000 + self._index.ram_bytes + self.chain.ram_bytes + self._facts_bytes

    @property
    def payload_bytes(self) -> int:
        """Bytes of the interactions as they are stored."""
        return self._index.payload_bytes

    def recall(
        self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix, commons: Commons | None = None
    ) -> Recall:
        """Episodes and evidence for a request; see `EpisodeIndex.recall`."""
        return self._index.recall(query, query_vector, choice_vectors, commons)

    def interaction(self, interaction: str) -> Interaction:
        """One interaction. Raises NotFoundError if it does not exist."""
        row = self._index.get(interaction)
        if row is None:
            raise NotFoundError(f"interaction {interaction!r} does not exist")
        return row.interaction

    def row(self, interaction: str) -> Row | None:
        """The row of an interaction; None if it does not exist."""
        return self._index.get(interaction)

    def interactions(self, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        return tuple(row.interaction for i in ids if (row := self._index.get(i)) is not None)

    def latest(self, n: int, with_truth: bool = False) -> tuple[Interaction, ...]:
        """The newest n interactions, oldest first."""
        return self._index.latest(n, with_truth)

    def truths(self, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, at most n or as many as arrived with the last of these."""
        found = self._index.told(after, n)
        return Truths(
            interactions=tuple(interaction for interaction, _ in found),
            arrived=tuple(arrived for _, arrived in found),
            mark=found[-1][1] if found else after,
            newest=self._index.last_truth,
        )

    @property
    def seen(self) -> int | None:
        """Alignment has looked at the truths that arrived up to here; None if it never has."""
        return self._seen

    @property
    def marked(self) -> int:
        """Whatever arrives must arrive later than this: the truths up to it count as read."""
        return max(self._profile.mark or 0, self._seen or 0)

    def persona(self, number: int | None = None) -> Persona | None:
        """The current persona, or version `number`; None if there is none."""
        return self.chain.head if number is None else self.chain.version(number)

    def personas(self) -> tuple[Persona, ...]:
        """All versions, oldest first."""
        return self.chain.versions()

    def profile(self) -> Profile:
        """The semantic memory; version 0 if there is none."""
        return self._profile

    def summary(self) -> UserSummary | None:
        """Counts, or None if nothing is stored."""
        if not self.exists:
            return None
        head = self.chain.head
        seen = self.chain.aligned if self._seen is None else self._seen
        return summarise(self.user, self._index, [head] if head else [], seen)

    def export(self) -> tuple[str, ...]:
        """Everything stored, see `personaagent.memory.export`. Raises NotFoundError for a user of whom nothing is stored."""
        return tuple(line for page in export_pages(self) for line in page.lines)

    def rows_after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first."""
        return self._index.after(arrived)

    # Changes

    def append(self, items: Sequence[Incoming], skip: bool = False) -> Change:
        """Plan to add interactions; `skip` leaves out those that are too large. Raises as `plan_append`."""
        used = self._index.payload_bytes
        return plan_append(
            self.user, items, self._index.get, self.last_arrived, self._clock(), self._limits, used, skip
        )

    def feedback(
        self, interaction: str, truth: str | None, truth_vector: Vector | None, rating: int | None = None
    ) -> Change:
        """Plan to set what the user really answered, or their thumb. Raises NotFoundError for an unknown interaction."""
        old = self._index.get(interaction)
        return plan_feedback(
            old, interaction, truth, truth_vector, self.last_arrived, self._clock(), self._limits, rating
        )

    def commit_persona(self, draft: PersonaDraft, expected: int | None) -> Change:
        """Plan a new version if the current number is `expected`. Raises ConflictError otherwise."""
        return Change(user=self.user, personas=(plan_persona(self.persona(), draft, expected, self._limits),))

    def commit_profile(self, profile: Profile, expected: int) -> Change:
        """Plan a new profile if the current version is `expected`. Raises ConflictError otherwise."""
        return Change(user=self.user, profile=plan_profile(self._profile, profile, expected), replaces=expected)

    def note_alignment(self, seen: int) -> Change:
        """Plan to note that alignment has looked at the truths that arrived up to `seen`; of an unknown user nothing is."""
        return plan_seen(self.user, self._seen, seen) if self.exists else Change(user=self.user)

    def restore(self, exported: Exported, added: Change, told: Iterable[tuple[bytes, int]] | None = None) -> Change:
        """Plan to take over an export beside `added`, the change that appends its interactions.

        A restore that broke off is completed by the same one. No truth may come to lie behind a mark of somebody who has not
        read it: restored ones arrive anew where this memory's marks are past them, and marks are taken over only up to what
        this memory alone has.

        Args:
            exported: what to take over.
            added: the plan for its interactions.
            told: digests of this memory's interactions and when their truths arrived; by default those in RAM.

        Raises:
            ConflictError: the user has another persona or profile.
            TooLarge: a persona version is larger than limits allow.
        """
        personas, profile, seen = exported.personas, exported.profile, exported.seen
        here = len(self.chain)
        if personas is not None and not self._begins(personas):
            raise ConflictError("this user has another persona already; forget the user before restoring the export")
        for persona in (personas or ())[here:]:
            if fault := persona_fault(persona, self._limits):
                raise TooLarge(f"persona version {persona.number}: {fault}")
        if self._profile.version and (profile is None or _unmarked(self._profile) != _unmarked(profile)):
            raise ConflictError("this user has another profile already; forget the user before restoring the export")
        if exported.more:
            profile = seen = None
        if told is None:
            told = ((row.key[1], row.truth_arrived) for row in self._index.rows())
        theirs = {(row_key(self.user, i)[1], arrived) for i, arrived in exported.told}
        own = [arrived for digest, arrived in told if arrived and (digest, arrived) not in theirs]
        if profile is not None and profile.mark is not None:
            profile = profile.model_copy(update={"mark": min([profile.mark, *(a - 1 for a in own)])})
        if seen is not None:
            seen = min([seen, *(a - 1 for a in own if a > (self._seen or 0))])
        return replace(
            added,
            rows=self._unread(added.rows, exported),
            personas=() if personas is None else personas[here:],
            profile=None if self._profile.version else profile,
            seen=None if seen is None else plan_seen(self.user, self._seen, seen).seen,
        )

    def _unread(self, rows: Sequence[Row], exported: Exported) -> tuple[Row, ...]:
        """Rows about to be restored; truths that this memory's marks are past arrive later than all others."""
        latest = max([self.last_arrived, exported.seen or 0, *(max(r.arrived, r.truth_arrived) for r in rows)])
        late = sorted(r.truth_arrived for r in rows if 0 < r.truth_arrived <= self.marked)
        anew = {arrived: latest + n for n, arrived in enumerate(dict.fromkeys(late), start=1)}
        return tuple(replace(r, truth_arrived=anew.get(r.truth_arrived, r.truth_arrived)) for r in rows)

    def apply(self, change: Change) -> None:
        """Follow a change that the store has."""
        for row in change.rows:
            self._index.put(row)
        self.follow(change)

    def follow(self, change: Change) -> None:
        """Follow all of a change but its rows."""
        self.chain.extend(change.personas)
        if change.profile is not None:
            self._profile = change.profile
            self._facts_bytes = _facts_bytes(self._profile)
        if change.seen is not None:
            self._seen = change.seen

    @property
    def last_arrived(self) -> int:
        """When the newest row or truth arrived, or up to where somebody has read if that is later."""
        return max(self._index.last_arrived, self.marked)

    def _begins(self, personas: Sequence[Persona]) -> bool:
        """Whether the versions there are are the first of these; of one that is dropped here or there its texts do not count."""
        if len(self.chain) > len(personas):
            return False
        return all(_same(here, there) for here, there in zip(self.personas(), personas, strict=False))


def _same(one: Persona, other: Persona) -> bool:
    if one.dropped or other.dropped:
        one, other = one.without_texts(), other.without_texts()
    return _timeless(one) == _timeless(other)


def _facts_bytes(profile: Profile) -> int:
    """Estimated size of a profile in RAM."""
    return sum(1_000 + 4 * (len(f.text) + len(f.topic)) + 120 * len(f.evidence) for f in profile.facts)


def _timeless(persona: Persona) -> Persona:
    return persona.model_copy(
        update={"time": EPOCH}
    )  # one of the far future is put right at every reading of an export


def _unmarked(profile: Profile) -> Profile:
    """A profile without what a restore may have had to change."""
    untold = {"first_seen": EPOCH, "last_seen": EPOCH, "valid_until": None}
    facts = tuple(fact.model_copy(update=untold) for fact in profile.facts)
    return profile.model_copy(update={"mark": None, "facts": facts})

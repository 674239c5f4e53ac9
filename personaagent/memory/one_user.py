"""What is the same of every user's memory, wherever the episodes are: persona versions, semantic profile, and all changes.

How a change gets from a call to the store and into RAM is in `personaagent.memory.changes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
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
)
from personaagent.memory.export import EPOCH, Exported
from personaagent.memory.limits import persona_fault
from personaagent.memory.persona_chain import PersonaChain, Versions
from personaagent.memory.persona_changes import plan_persona, plan_profile, plan_seen
from personaagent.memory.store import EpisodeCounts, Row, StoredUser, Vector, row_key, summarise
from personaagent.protocols import Matrix
from personaagent.settings import MemorySettings
from personaagent.types import Interaction, Persona, PersonaDraft, Profile, Recall, RecallQuery, Truths, UserSummary

__all__ = ["OneUser"]


class OneUser(ABC):
    """The memory of one user. A change is planned, written by somebody else, and applied when the store has it.

    Subclasses say where the episodes are: `UserMemory` has them in RAM, `LargeUser` in the store.
    """

    def __init__(
        self,
        user: str,
        episodes: EpisodeCounts,
        stored: StoredUser,
        settings: MemorySettings,
        clock: Clock = clock,
        versions: Versions | None = None,
    ) -> None:
        """`stored`: what the store has of the user; `versions`: where persona versions but the newest are, see `PersonaChain`."""
        self.user = user
        self.chain = PersonaChain(stored.personas, versions, stored.aligned)
        self._episodes = episodes
        self._clock = clock
        self._limits = settings.limits
        self._profile = stored.profile or Profile()
        self._facts_bytes = _facts_bytes(self._profile)
        self._seen = stored.seen

    # Where the episodes are

    @property
    @abstractmethod
    def ram_bytes(self) -> int:
        """Estimated size."""

    @abstractmethod
    def recall(
        self, query: RecallQuery, query_vector: Vector, choice_vectors: Matrix, commons: Commons | None = None
    ) -> Recall:
        """Episodes and evidence for a request. Raises NotFoundError if `before` does not exist."""

    @abstractmethod
    def latest(
        self, n: int, with_truth: bool = False, before: str | None = None, lessons: bool = False
    ) -> tuple[Interaction, ...]:
        """The newest n interactions, or lessons, oldest first; before one of them, if that is named. Raises NotFoundError."""

    @abstractmethod
    def truths(self, after: int, n: int) -> Truths:
        """Interactions whose truth arrived later than `after`, at most n or as many as arrived with the last of these."""

    @abstractmethod
    def rows_after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first."""

    @abstractmethod
    def lessons(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Ids of the lessons of these interactions: those that tell what was right to do at them, see `ACTION` and `OF`."""

    @abstractmethod
    def _find(self, ids: Sequence[str]) -> Callable[[str], Row | None]:
        """A way to look up the rows of these interactions."""

    @abstractmethod
    def _bytes_before(self, items: Sequence[Incoming]) -> int:
        """Bytes of the interactions as they are stored, before these are added."""

    @abstractmethod
    def _told(self) -> Iterable[tuple[bytes, int]]:
        """Digests of the interactions and when their truths arrived, 0 for those without."""

    @abstractmethod
    def _take(self, change: Change) -> None:
        """Follow the rows of a change that the store has."""

    # Reads

    def __len__(self) -> int:
        return len(self._episodes)

    @property
    def exists(self) -> bool:
        """Whether anything is stored of this user."""
        return bool(len(self._episodes) or len(self.chain) or self._profile.version)

    @property
    def seen(self) -> int | None:
        """Alignment has looked at the truths that arrived up to here; None if it never has."""
        return self._seen

    @property
    def marked(self) -> int:
        """Whatever arrives must arrive later than this: the truths up to it count as read."""
        return max(self._profile.mark or 0, self._seen or 0)

    @property
    def last_arrived(self) -> int:
        """When the newest row or truth arrived, or up to where somebody has read if that is later."""
        return max(self._episodes.last_arrived, self.marked)

    def interaction(self, interaction: str) -> Interaction:
        """One interaction. Raises NotFoundError if it does not exist."""
        row = self._find([interaction])(interaction)
        if row is None:
            raise NotFoundError(f"interaction {interaction!r} does not exist")
        return row.interaction

    def interactions(self, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """Those of these interactions that exist, in the order of their ids."""
        find = self._find(ids)
        return tuple(row.interaction for i in ids if (row := find(i)) is not None)

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
        return summarise(self.user, self._episodes, [head] if head else [], seen)

    # Changes

    def append(self, items: Sequence[Incoming], skip: bool = False) -> Change:
        """Plan to add interactions; `skip` leaves out those that are too large. Raises as `plan_append`."""
        find = self._find([item.interaction.id for item in items])
        used = self._bytes_before(items)
        return plan_append(self.user, items, find, self.last_arrived, self._clock(), self._limits, used, skip)

    def feedback(
        self, interaction: str, truth: str | None, truth_vector: Vector | None, rating: int | None = None
    ) -> Change:
        """Plan to set what the user really answered, or their thumb. Raises NotFoundError for an unknown interaction."""
        old = self._find([interaction])(interaction)
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

    def restore(self, exported: Exported, added: Change) -> Change:
        """Plan to take over an export beside `added`, the change that appends its interactions.

        A restore that broke off is completed by the same one. No truth may come to lie behind a mark of somebody who has not
        read it: restored ones arrive anew where this memory's marks are past them, and marks are taken over only up to what
        this memory alone has.

        Args:
            exported: what to take over.
            added: the plan for its interactions.

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
        theirs = {(row_key(self.user, i)[1], arrived) for i, arrived in exported.told}
        own = [arrived for digest, arrived in self._told() if arrived and (digest, arrived) not in theirs]
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
        self._take(change)
        self.chain.extend(change.personas)
        if change.profile is not None:
            self._profile = change.profile
            self._facts_bytes = _facts_bytes(self._profile)
        if change.seen is not None:
            self._seen = change.seen

    @property
    def _own_bytes(self) -> int:
        """Estimated size of all but the episodes."""
        return 2_000 + self.chain.ram_bytes + self._facts_bytes

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

"""A user's persona versions: the newest in RAM, the others in the store, from where they are read a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from personaagent.memory.limits import persona_bytes
from personaagent.memory.store import aligned_at
from personaagent.types import Origin, Persona, PersonaPage

__all__ = ["PAGE_BYTES", "PersonaChain", "Versions"]

PAGE_BYTES = 4_000_000  # of persona versions, or of an export, that are handed out at once
STEP = 20  # versions read at a time

Versions = Callable[[int | None, int | None], tuple[Persona, ...]]  # `Store.personas` of one user: (before, limit)


class PersonaChain:
    """Versions 1, 2, 3 and so on.

    Args:
        personas: what is known of them, the newest last.
        read: where the others are; without it all are kept here.
        aligned: when the newest aligned version was made, see `aligned_at`.
    """

    def __init__(self, personas: Sequence[Persona] = (), read: Versions | None = None, aligned: int = 0) -> None:
        self._read = read
        self._kept: list[Persona] = []
        self._aligned = aligned
        self._bytes = 0  # of those kept
        self.size: int | None = None  # bytes of all versions, once somebody has counted them
        self.extend(personas)

    def __len__(self) -> int:
        return self._kept[-1].number if self._kept else 0

    @property
    def head(self) -> Persona | None:
        """The newest version."""
        return self._kept[-1] if self._kept else None

    @property
    def aligned(self) -> int:
        """When the newest aligned version was made, see `aligned_at`."""
        return self._aligned

    @property
    def ram_bytes(self) -> int:
        """Estimated size: Python holds a persona in about twice the bytes of its JSON."""
        return 2 * self._bytes + 1_000 * len(self._kept)

    def extend(self, personas: Sequence[Persona]) -> None:
        """Follow versions that the store has."""
        if not personas:
            return
        if aligned := [p for p in personas if p.origin is Origin.ALIGNED]:
            self._aligned = aligned_at(aligned)
        if self.size is not None:
            self.size += sum(map(persona_bytes, personas))
        self._kept = [*self._kept, *personas] if self._read is None else [personas[-1]]
        self._bytes = sum(map(persona_bytes, self._kept))

    def version(self, number: int) -> Persona | None:
        """One version. Reads the store, unless it is the newest."""
        if not 1 <= number <= len(self):
            return None
        if self._read is None or number == len(self):
            return next((p for p in self._kept if p.number == number), None)
        found = self._read(number + 1, 1)
        return found[0] if found and found[0].number == number else None

    def versions(self, before: int | None = None, limit: int | None = None) -> tuple[Persona, ...]:
        """Of those before number `before` the newest, at most `limit`; oldest first. Reads the store for all but the newest."""
        if limit == 0 or not self._kept:
            return ()
        newest = () if before is not None and before <= len(self) else (self._kept[-1],)
        end = min(len(self), before or len(self))  # the store may have a version of which nobody has heard yet
        left = None if limit is None else limit - len(newest)
        if self._read is not None:
            return (*(self._read(end, left) if left != 0 else ()), *newest)
        older = [p for p in self._kept[:-1] if p.number < end]
        return (*(older if left is None else older[len(older) - min(left, len(older)) :]), *newest)

    def page(self, before: int | None, limit: int) -> PersonaPage:
        """`versions`, but no more than `PAGE_BYTES` of them unless a single one is larger."""
        found: list[Persona] = []
        taken = 0
        while len(found) < limit:
            step = self.versions(found[0].number if found else before, min(STEP, limit - len(found)))
            for persona in reversed(step):
                taken += persona_bytes(persona)
                if found and taken > PAGE_BYTES:
                    return PersonaPage(versions=tuple(found), next=found[0].number)
                found.insert(0, persona)
            if len(step) < STEP:
                break
        more = bool(found) and found[0].number > 1
        return PersonaPage(versions=tuple(found), next=found[0].number if more else None)

    def excess(self, limit: int, largest: int) -> list[Persona]:
        """The oldest versions whose texts have to go for all to take at most `limit` bytes; neither the newest nor pinned ones.

        It counts all versions the first time, unless even the `largest` allowed ones would fit.
        """
        if self.size is None:
            if len(self) * largest <= limit:
                return []
            self.size = sum(persona_bytes(p) for p in self.each())
        if self.size <= limit:
            return []
        found, left = [], self.size
        for persona in self.each():
            if left <= limit or persona.number == len(self):
                break
            if not (persona.dropped or persona.pinned):
                found.append(persona)
                left -= persona_bytes(persona) - persona_bytes(persona.without_texts())
        return found

    def drop(self, persona: Persona) -> None:
        """Follow that a version of those kept in the store has lost its texts there."""
        gone = persona.without_texts()
        if self.size is not None:
            self.size -= persona_bytes(persona) - persona_bytes(gone)
        self._kept = [gone if p.number == gone.number else p for p in self._kept]

    def each(self, first: int = 1) -> Iterator[Persona]:
        """All versions from a number on, oldest first, read a few at a time."""
        for start in range(first, len(self) + 1, STEP):
            end = min(start + STEP, len(self) + 1)
            yield from (p for p in self.versions(end, end - start) if p.number >= start)

"""The users of a batch, who wait for each other once: what one's reading of memory gains is a prior for the others.

A user's own dozen interactions seldom tell a good reading from a lucky one; those of a whole batch may. It costs no model
calls: how memory is read shows in what memory alone foretells. What is made of it is in `alignment.prequential`.
"""

from __future__ import annotations

from collections.abc import Collection

from alignment.pooled import Pool
from alignment.prequential import Fitted, Foretold, Others
from alignment.waiting import Arrivals, Guest
from personaagent.types import Kind

__all__ = ["Cohort", "Group", "Member"]

Group = tuple[Kind, ...]  # kinds of requests that were foretold


class Cohort(Arrivals):
    """The users of a batch, who wait for each other once: until memory has foretold the past answers of all of them.

    Users are compared within a group that has the same kinds of requests.
    """

    def __init__(self, users: Collection[str], min_gain: float, caution: float) -> None:
        """Args:
        users: members; each must `join` or `leave`, or the others wait forever.
        min_gain: smallest mean gain of a fit that counts, in nats per interaction.
        caution: standard deviations of the gain it must exceed.
        """
        self.users = frozenset(users)
        super().__init__(len(self.users))
        self._min_gain = min_gain
        self._caution = caution
        self._entries: dict[Group, list[Foretold]] = {}
        self._others: dict[Group, Others] = {}
        # Words are selected by some interactions and judged by others; the users are each other's prior both times.
        self._selection, self._gate = Pool(self.size), Pool(self.size)
        # Rules on the use of tools are judged by lessons alone, and only by other users' lessons beside one's own.
        self._rules, self._rules_gate = Pool(self.size), Pool(self.size)

    def member(self) -> Member:
        """A place in the cohort."""
        return Member(self)

    def _add(self, group: Group, foretold: Foretold) -> None:
        self._entries.setdefault(group, []).append(foretold)

    async def _fitted(self, group: Group, foretold: Foretold) -> Fitted:
        await self.wait()
        if group not in self._others:
            self._others[group] = Others(self._entries.pop(group, []))
        return self._others[group].fit(foretold, self._min_gain, self._caution)


class Member(Guest):
    """One user's place in a cohort."""

    def __init__(self, cohort: Cohort) -> None:
        super().__init__(cohort)
        self._cohort = cohort
        self._place: tuple[Group, Foretold] | None = None
        self.selection = cohort._selection.place()
        self.gate = cohort._gate.place()
        self.rules = cohort._rules.place()
        self.rules_gate = cohort._rules_gate.place()
        self.others = cohort.users  # whom a persona of this user must not name

    def join(self, group: Group, foretold: Foretold) -> None:
        """Bring one's foretold answers. Who joins again, after a conflict, is fitted anew, but the others see no more of it;
        nor do they of who joins after leaving.
        """
        self._place = group, foretold
        if self.arrive():
            self._cohort._add(group, foretold)

    async def fitted(self) -> Fitted | None:
        """Wait for the others, and learn which reading foretells this user best, given theirs; None for who left."""
        return await self._cohort._fitted(*self._place) if self._place else None

    def leave(self) -> None:
        """Do without; the others need not wait."""
        self._place = None
        super().leave()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for place in (self.selection, self.gate, self.rules, self.rules_gate):
            place.leave()

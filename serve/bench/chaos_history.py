"""What clients saw in a run of `bench chaos`, and whether the system kept its promises. No clock, no network, no Ray.

A *mark* is a word that stands in one text and nowhere else: whoever sees it knows who wrote it, and when. An *operation* is one
call of a client, with what it wrote and what it saw as marks. It took effect at some moment between its beginning and its end,
or not at all if it failed; if nobody knows, at some moment after its beginning, or never. So a client's view decides: what two
operations do that overlap may be in either order, and only what no order explains is a violation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Broken", "Fault", "Operation", "Recovery", "Status", "Violation", "acknowledged", "check", "recoveries"]


class Status(StrEnum):
    """How an operation ended, as far as its client knows."""

    OK = "ok"  # done
    FAIL = "fail"  # refused, or never sent: not done
    UNKNOWN = "unknown"  # no answer, or one that does not say: done, or not, or still to be done


class Broken(StrEnum):
    """The promises, by what becomes of a text if they are broken."""

    LOST = "lost"  # acknowledged, and not there
    DOUBLED = "doubled"  # there twice
    RESURRECTED = "resurrected"  # of a forgotten user, and there or seen after the receipt
    CROSSED = "crossed"  # seen by another user
    REFUSED = "refused"  # there, although every client that wrote it was told no


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a client. Times are seconds of one clock.

    `whole`: it saw everything that is stored of the user. `doubled`: marks that it saw stored more than once. `started`: a
    moment by which the system had surely begun, such as the first piece of a streamed answer. `exists`: whether it found the
    user known, where it can tell. `makes`: it may store something of the user, if only a first persona. `run`: of the
    alignment run in whose stored results the user stands, a moment by which that run had chosen its users.
    """

    number: int
    kind: str
    user: str
    began: float
    ended: float
    status: Status
    wrote: frozenset[str] = frozenset()
    saw: frozenset[str] = frozenset()
    doubled: frozenset[str] = frozenset()
    whole: bool = False
    started: float | None = None
    exists: bool | None = None
    makes: bool = False
    forgets: bool = False
    needs: frozenset[str] = frozenset()
    run: float | None = None

    @property
    def surely_began(self) -> float:
        """The earliest moment by which it is known to have begun; infinity if it is not."""
        answered = math.inf if self.status is Status.UNKNOWN else self.ended
        return min(answered, math.inf if self.started is None else self.started)

    @property
    def surely_ended(self) -> float:
        """The latest moment at which it may have taken effect."""
        return math.inf if self.status is Status.UNKNOWN else self.ended


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken: which, of whom, and the operations that show it."""

    what: Broken
    user: str
    mark: str | None  # None: not a text, but that the user is known at all
    look: int  # the operation that saw it, or should have
    look_kind: str
    writers: tuple[int, ...]
    forget: int | None = None
    at: float = 0.0  # end of the look


@dataclass(frozen=True, slots=True)
class Fault:
    """A process that was killed or paused: its kind, what it was part of, and when."""

    kind: str
    part: str
    at: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long a fault was felt: until the first success of an operation, begun after it, that needs the part."""

    fault: Fault
    seconds: float | None  # None: there was no such success


def acknowledged(operations: Iterable[Operation]) -> set[str]:
    """The marks whose writing was acknowledged."""
    return {mark for o in operations if o.status is Status.OK for mark in o.wrote}


def check(operations: Sequence[Operation]) -> list[Violation]:
    """Every broken promise, once for each text (or user) and promise, in the order in which they were seen."""
    writers: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        for mark in operation.wrote:
            writers[mark].append(operation)
    owner = {mark: by[0].user for mark, by in writers.items()}
    users: dict[str, _User] = defaultdict(_User)
    for operation in operations:
        users[operation.user].add(operation)
    found: dict[tuple[Broken, str, str | None], Violation] = {}

    def note(what: Broken, look: Operation, mark: str | None, by: Iterable[Operation], forget: int | None) -> None:
        user = look.user if mark is None else owner[mark]
        violation = Violation(what, user, mark, look.number, look.kind, tuple(o.number for o in by), forget, look.ended)
        found.setdefault((what, user, mark), violation)

    for look in sorted(operations, key=lambda o: o.ended):
        if look.status is not Status.OK and not look.saw:
            continue
        user = users[look.user]
        for mark in sorted(look.saw & owner.keys()):
            by = writers[mark]
            if owner[mark] != look.user:
                note(Broken.CROSSED, look, mark, by, None)
                continue
            if mark in look.doubled:
                note(Broken.DOUBLED, look, mark, by, None)
            possible = [o for o in by if o.status is not Status.FAIL]
            if not possible:
                note(Broken.REFUSED, look, mark, by, None)
            elif (forget := user.forgotten_before(look, mark, possible)) is not None:
                note(Broken.RESURRECTED, look, mark, by, forget.number)
        if look.whole and look.status is Status.OK:
            for mark in sorted(user.marks - look.saw):
                if any(user.must_be_there(o, look) for o in writers[mark]):
                    note(Broken.LOST, look, mark, writers[mark], None)
        if look.exists and (forget := user.must_be_unknown(look)) is not None:
            note(Broken.RESURRECTED, look, None, (), forget.number)
        if look.run is not None and (forget := user.forgotten_since(look.run, look)) is not None:
            note(Broken.RESURRECTED, look, None, (), forget.number)
    return list(found.values())


class _User:
    """What clients did to one user, as `check` asks for it."""

    def __init__(self) -> None:
        self.marks: set[str] = set()  # of acknowledged writes
        self._forgets: list[Operation] = []  # that may have been done
        self._makers: list[Operation] = []
        self._first_seen: dict[str, float] = {}  # by mark: end of the first operation that saw it

    def add(self, operation: Operation) -> None:
        if operation.status is Status.OK:
            self.marks |= operation.wrote
        for mark in operation.saw:
            self._first_seen[mark] = min(operation.ended, self._first_seen.get(mark, math.inf))
        if (
            operation.makes
        ):  # a turn that is refused at its end, for its user was forgotten meanwhile, may have made one before
            self._makers.append(operation)
        if operation.forgets and operation.status is not Status.FAIL:
            self._forgets.append(operation)

    def must_be_there(self, write: Operation, look: Operation) -> bool:
        """Whether a look that began after an acknowledged write has to see it: no forgetting may lie between them."""
        return (
            write.status is Status.OK
            and write.ended < look.began
            and not any(f.surely_ended > write.began and f.began < look.ended for f in self._forgets if f is not look)
        )

    def forgotten_before(self, look: Operation, mark: str, writers: Sequence[Operation]) -> Operation | None:
        """A forgetting whose receipt was there before the look, and that all writers of this mark had begun before."""
        began = max(o.surely_began for o in writers)
        if len(writers) == 1:  # what is seen had begun; of several writers nobody knows whose it was
            began = min(began, self._first_seen[mark])
        return self._receipt(look, began)

    def must_be_unknown(self, look: Operation) -> Operation | None:
        """A forgetting whose receipt was there before the look, and after which nothing was begun that could store something.

        A turn that is refused, for its user is being forgotten, may have made a first persona. That is gone once it ended.
        """
        makers = (o for o in self._makers if o.began < look.ended)
        possible = (o for o in makers if o.status is not Status.FAIL or o.ended > look.began)
        began = max((o.surely_began for o in possible), default=-math.inf)
        return self._receipt(look, began)

    def forgotten_since(self, moment: float, look: Operation) -> Operation | None:
        """A forgetting that began after a moment, and whose receipt was there before the look."""
        return self._receipt(look, moment)

    def _receipt(self, look: Operation, began: float) -> Operation | None:
        done = (f for f in self._forgets if f.status is Status.OK and f.ended < look.began and began < f.began)
        return next(done, None)


def recoveries(operations: Iterable[Operation], faults: Sequence[Fault]) -> list[Recovery]:
    """How long each fault was felt."""
    successes: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.status is Status.OK:
            for part in operation.needs:
                successes[part].append(operation)

    def seconds(fault: Fault) -> float | None:
        ends = [o.ended for o in successes[fault.part] if o.began >= fault.at]
        return min(ends) - fault.at if ends else None

    return [Recovery(fault, seconds(fault)) for fault in faults]

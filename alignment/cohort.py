"""What the users of a batch have in common: a reading of memory that is chosen and judged on all their interactions.

A user's own dozen interactions seldom tell good decision parameters from lucky ones; those of a whole batch may. This is
the pooling half of an empirical-Bayes estimate (Robbins, 1956): the batch gives every user a better start, from which
their own interactions may still lead away. It costs no model calls: how memory is read (half-life, neighbours) shows in
what memory alone would have answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignment.candidates import Reading, readings_of
from alignment.gate import Acceptor, Table, Verdict, clearly_better
from personaagent.types import Kind

__all__ = ["MOST", "Cohort", "Common", "Entry", "Member"]

MOST = 40  # interactions of one user that are pooled

Group = tuple[tuple[Kind, ...], bool]  # kinds of requests, and whether the users change their mind


@dataclass(frozen=True)
class Common:
    """A reading of memory that is better for a batch as a whole, and the verdict on it over all its `users`."""

    reading: Reading
    users: int
    verdict: Verdict


@dataclass(frozen=True)
class Entry:
    """One user's interactions, answered by memory alone under `readings`, the first being the user's own."""

    user: str
    readings: tuple[Reading, ...]
    scores: Table  # (interactions, readings)

    def column(self, reading: Reading) -> Table:
        """Scores under one reading."""
        return self.scores.column(self.readings.index(reading))


class Cohort:
    """The users of a batch, who wait for each other once: until memory has answered for all of them.

    Users are compared within a group that has the same kinds of requests and does or does not change its mind
    (`changes_mind`), by the rules for single users: a challenger must be clearly better where it was selected, and pass
    the gate where it was not. What a user gets was selected on the interactions of all others of the group, and the gate
    judges all users at once; so every interaction counts in it, and none was seen by the selection it judges. Users bring
    at most `MOST` interactions each, so that nobody outweighs the others. Not thread-safe: it belongs to one event loop.
    """

    def __init__(self, size: int, acceptor: Acceptor, min_gain: float) -> None:
        """`size`: members; each must `join` or `leave`, or the others wait forever."""
        self._missing = size
        self._acceptor = acceptor
        self._min_gain = min_gain
        self._groups: dict[Group, list[Entry]] = {}
        self._found: dict[Group, dict[str, Common]] = {}
        self._complete = asyncio.Event()

    def member(self) -> Member:
        """A place in the cohort."""
        return Member(self)

    def _arrive(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()

    def _add(self, group: Group, entry: Entry) -> None:
        self._groups.setdefault(group, []).append(entry)
        self._arrive()

    async def _common(self, group: Group, user: str) -> Common | None:
        await self._complete.wait()
        if group not in self._found:
            # Popped: the tables of all users would otherwise live as long as the slowest of them.
            self._found[group] = pooled(group, self._groups.pop(group, []), self._acceptor, self._min_gain)
        return self._found[group].get(user)


class Member:
    """One user's place in a cohort; use it as a context manager, so that a user who fails does not keep the others."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._arrived = False
        self._place: tuple[Group, str] | None = None

    def join(self, group: Group, entry: Entry) -> None:
        """Bring one's entry. Joining again, after a conflict, adds nothing; nor does joining after leaving.

        Args:
            group: kinds of requests that decisions can be fitted on, and whether the user changes their mind.
            entry: of the user; its readings include `readings_of(*group)`.
        """
        self._place = group, entry.user
        if not self._arrived:
            self._arrived = True
            self._cohort._add(group, entry)

    async def common(self) -> Common | None:
        """Wait for the others, and learn what is better for all.

        Returns:
            None if there is nothing better than what everyone has, and for who left.
        """
        return await self._cohort._common(*self._place) if self._place else None

    def leave(self) -> None:
        """Do without; the others need not wait."""
        self._place = None
        if not self._arrived:
            self._arrived = True
            self._cohort._arrive()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def pooled(group: Group, entries: Sequence[Entry], acceptor: Acceptor, min_gain: float) -> dict[str, Common]:
    """What is better for each user than the reading they have, by user; nothing if it is not better for all together.

    Args:
        group: that all entries belong to.
        entries: of users; with fewer than two there is nothing to pool.
        acceptor: judges what was selected.
        min_gain: smallest mean difference that counts.
    """
    readings = readings_of(*group)
    if len(entries) < 2:
        return {}
    tried = _stack([e.scores.columns(np.asarray([e.readings.index(r) for r in readings])) for e in entries])
    own = _stack([e.scores.column(0) for e in entries])
    owner = np.repeat(np.arange(len(entries)), [len(e.scores.hard) for e in entries])
    chosen: list[tuple[Entry, Reading]] = []
    for n, entry in enumerate(entries):
        sure = clearly_better(tried.rows(owner != n), own.rows(owner != n), min_gain)
        if sure.max() > -np.inf:
            chosen.append((entry, readings[int(sure.argmax())]))
    if not chosen:
        return {}
    verdict = acceptor.judge(
        _stack([entry.scores.column(0) for entry, _ in chosen]),
        _stack([entry.column(reading) for entry, reading in chosen]),
    )
    if not verdict.accepted:
        return {}
    return {entry.user: Common(reading, len(chosen), verdict) for entry, reading in chosen}


def _stack(tables: Sequence[Table]) -> Table:
    return Table(*(np.concatenate([getattr(t, name) for t in tables]) for name in ("hard", "soft", "kept")))

"""Online alignment: a user is aligned again after every k new truths, by one process that finds due users in the store.

The queue is derived from the store, so it survives any crash: who is due is read off `UserSummary`. An alignment that came to
its end is noted in the store, whatever came of it; only failures are remembered here, so that these users wait a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from alignment.aligner import least_truths
from personaagent.errors import PersonaAgentError, UnavailableError
from personaagent.protocols import Memory
from personaagent.settings import AlignmentSettings
from personaagent.types import AlignmentResult, Outcome, UserSummary, user_key, utc_now

__all__ = ["DueQueue", "OnlineAligner", "OnlineStatus"]

log = logging.getLogger(__name__)

OUTAGE = f"error: {UnavailableError.code}"  # the reason of a result when a part of the system is down
QUEUED = 10_000  # users; further ones stay due and follow later
PATIENCE_S = (60.0, 3600.0)  # first and longest wait before a user that failed is tried again


@dataclass(frozen=True)
class OnlineStatus:
    """What an operator sees of online alignment; no user is named.

    `depth` users wait, the oldest for `oldest_age_s` seconds; `overflow` more are due but did not fit in the queue.
    """

    every: int
    depth: int
    overflow: int
    running: int
    oldest_age_s: float
    aligned: int
    accepted: int
    failed: int
    last_success: datetime | None
    healthy: bool
    error: str = ""


class DueQueue:
    """Who is due, oldest first. Pure logic: it is told what the store says and what came of the attempts."""

    def __init__(self, every: int, capacity: int, clock: Callable[[], float] = time.monotonic, least: int = 1) -> None:
        """`every`: new truths that make a user due; `capacity`: of the queue; `least`: truths without which nobody is."""
        self._every = every
        self._least = least
        self._capacity = capacity
        self._clock = clock
        self._since: dict[str, float] = {}  # queued users in order of arrival, and since when
        self._running: set[str] = set()
        self._failures: dict[str, tuple[int, float]] = {}  # how often in a row, and when to try again
        self.overflow = 0

    def __len__(self) -> int:
        return len(self._since)

    @property
    def running(self) -> int:
        """Users taken and not yet done."""
        return len(self._running)

    @property
    def oldest_age(self) -> float:
        """Seconds the first user has waited; 0 if nobody waits."""
        return self._clock() - next(iter(self._since.values())) if self._since else 0.0

    def refresh(self, summaries: Iterable[UserSummary]) -> None:
        """Take over what the store says of all users; whoever is gone from it is dropped everywhere."""
        known: set[str] = set()
        self.overflow = 0
        for summary in summaries:
            known.add(summary.user)
            self.see(summary)
        for book in (self._since, self._failures):
            for user in [u for u in book if u not in known]:
                del book[user]

    def drop(self, user: str) -> None:
        """Know nothing of a user any more, who was forgotten; what is running will be refused by memory."""
        for book in (self._since, self._failures):
            book.pop(user, None)
        self._running.discard(user)

    def see(self, summary: UserSummary) -> None:
        """Take over what the store says of one user."""
        user = summary.user
        if user in self._running:
            return
        if not self._due(summary):
            self._since.pop(user, None)
        elif user not in self._since:
            if len(self._since) >= self._capacity:
                self.overflow += 1
                return
            self._since[user] = self._clock()

    def take(self, most: int) -> list[str]:
        """The users that have waited longest; they count as running until `done`."""
        users = list(self._since)[:most]
        for user in users:
            del self._since[user]
        self._running.update(users)
        return users

    def done(self, users: Sequence[str], results: Iterable[AlignmentResult]) -> None:
        """Take over what came of users taken. Those without a result count as failed."""
        outcomes = {r.user: r.outcome for r in results}
        for user in users:
            if user not in self._running:  # dropped meanwhile
                continue
            self._running.discard(user)
            outcome = outcomes.get(user, Outcome.FAILED)
            if outcome in (Outcome.FAILED, Outcome.CONFLICT):
                times = self._failures.get(user, (0, 0.0))[0]
                wait = min(PATIENCE_S[0] * 2.0**times, PATIENCE_S[1])
                self._failures[user] = (times + 1, self._clock() + wait)
                continue
            self._failures.pop(user, None)

    def _due(self, summary: UserSummary) -> bool:
        if summary.pinned or summary.learned < self._least or summary.truths_since_alignment < self._every:
            return False
        return self._clock() >= self._failures.get(summary.user, (0, 0.0))[1]


class Aligns(Protocol):
    """What the online aligner needs of an alignment actor."""

    def stream(self, users: Sequence[str], run: str | None = None) -> AsyncIterator[AlignmentResult]:
        """One result per user, as they come."""
        ...


class OnlineAligner:
    """Looks for due users, aligns them in batches, and says how it is doing."""

    def __init__(
        self,
        memory: Memory,
        actor: Aligns,
        settings: AlignmentSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`run` must be awaited for anything to happen."""
        self._memory = memory
        self._actor = actor
        self._settings = settings
        self._clock = clock
        self._queue = DueQueue(settings.online_every, QUEUED, clock, least_truths(settings))
        self._wake = asyncio.Event()
        self._progress = clock()  # when a user was last finished, or nobody was due
        self._aligned = self._accepted = self._failed = 0
        self._last_success: datetime | None = None
        self._error = ""

    async def run(self) -> None:
        """Work until cancelled. An error of the store or the model is kept for `status`, and work goes on after a pause."""
        while True:
            self._wake.clear()
            try:
                await self.round()
            except PersonaAgentError as e:
                self._failed_round(e.message)
            except Exception as e:
                self._failed_round(type(e).__name__)
                log.debug("a round of online alignment failed", exc_info=True)
            try:
                async with asyncio.timeout(self._settings.online_poll_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def round(self) -> None:
        """Read from the store who is due, and align until nobody is."""
        self._queue.refresh(await self._memory.users())
        self._error = ""
        while len(self._queue):
            await self._batch(self._queue.take(self._settings.users_per_batch))
        if not self._error:
            self._progress = self._clock()

    async def notify(self, user: str) -> None:
        """A truth of this user became known, or the user is gone: no need to wait for the next look at the store."""
        summary = await self._memory.summary(user)
        if summary is None:
            self._queue.drop(user)
        else:
            before = len(self._queue)
            self._queue.see(summary)
            if len(self._queue) > before:
                self._wake.set()

    async def status(self) -> OnlineStatus:
        """How it is doing.

        It is unhealthy if for `online_stalled_s` seconds no user was finished and no look at the store found everybody
        served: work waits (or the store cannot say whether it does) and nothing gets done.
        """
        stalled = self._clock() - self._progress > self._settings.online_stalled_s
        return OnlineStatus(
            every=self._settings.online_every,
            depth=len(self._queue),
            overflow=self._queue.overflow,
            running=self._queue.running,
            oldest_age_s=round(self._queue.oldest_age, 1),
            aligned=self._aligned,
            accepted=self._accepted,
            failed=self._failed,
            last_success=self._last_success,
            healthy=not stalled,
            error=self._error,
        )

    async def check_health(self) -> None:
        """Raises UnavailableError if it is stalled; see `status`."""
        status = await self.status()
        if not status.healthy:
            why = f" ({status.error})" if status.error else ""
            raise UnavailableError(
                f"online alignment is stalled with {status.depth + status.running} users waiting{why}"
            )

    async def _batch(self, users: list[str]) -> None:
        results: list[AlignmentResult] = []
        try:
            async for result in self._actor.stream(users, f"online-{uuid.uuid4().hex[:12]}"):
                results.append(result)
                self._count(result)
        finally:
            self._queue.done(users, results)
        if results and all(r.reason == OUTAGE for r in results):
            self._error = "the model, the embedder or the store is down"

    def _count(self, result: AlignmentResult) -> None:
        self._aligned += 1
        self._accepted += result.outcome is Outcome.ACCEPTED
        self._failed += result.outcome is Outcome.FAILED
        if result.reason != OUTAGE:  # a user that fails for reasons of its own holds up nobody
            self._progress = self._clock()
        if result.outcome is not Outcome.FAILED:
            self._last_success = utc_now()
        log.debug("aligned user %s online: %s", user_key(result.user), result.outcome)

    def _failed_round(self, reason: str) -> None:
        self._error = reason
        log.warning("online alignment failed: %s; it goes on in %g s", reason, self._settings.online_poll_s)

"""When whoever is refused had better come again: once those who were refused lately could have been served.

A wait that is too short keeps the machine busy with refusing the same clients; one that is too long leaves places empty. So it
grows with the time that work takes at present and with the number of clients who were told to come again and have not yet
(Little's law: n waiting clients are served in n * seconds / places).
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable

__all__ = ["LONGEST_S", "Turnover"]

LONGEST_S = 30.0  # OpenAI's clients wait at most a minute
WEIGHT = 0.2  # of the newest piece of work in the running mean


class Turnover:
    """How quickly the places of one door become free, and how many clients wait for one."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        places: pieces of work that are under way at once.
        clock: seconds that only grow.
        """
        self.places = places
        self._clock = clock
        self._mean: float | None = None  # seconds of a piece of work
        self._begun: dict[int, float] = {}  # of what is under way, by number, oldest first
        self._refused: deque[float] = deque()  # when those who wait were to come again
        self._next = 0

    @property
    def inside(self) -> int:
        """Pieces of work that are under way."""
        return len(self._begun)

    def begin(self) -> int:
        """A piece of work has begun; its number."""
        self._next += 1
        self._begun[self._next] = self._clock()
        return self._next

    def end(self, number: int) -> None:
        """It has ended, whatever came of it."""
        seconds = self._clock() - self._begun.pop(number)
        self._mean = seconds if self._mean is None else self._mean + WEIGHT * (seconds - self._mean)

    def drop(self, number: int) -> None:
        """It came to nothing, so that its time says little."""
        self._begun.pop(number)

    def refuse(self) -> int:
        """One more is refused: in how many seconds it should come again, from 1 to `LONGEST_S`, spread at random."""
        now = self._clock()
        while self._refused and self._refused[0] <= now:
            self._refused.popleft()
        oldest = now - next(iter(self._begun.values()), now)
        seconds = max(self._mean or 0.0, oldest)
        wait = min(LONGEST_S, (len(self._refused) + 1) * seconds / self.places)
        # Spread, so that those who were refused together do not come together.
        after = max(1, math.ceil(wait * random.uniform(0.5, 1.0)))
        self._refused.append(now + after)
        return after

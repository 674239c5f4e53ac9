"""The users of a cohort wait for each other: what a kind of change gains others is the prior of what it gains one.

Three to eight interactions seldom tell a good wording from a lucky one; those of a whole cohort may. The estimate is
`alignment.prequential.posterior`: empirical Bayes over users, in whose prior one's own interactions have no say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from alignment.prequential import posterior
from alignment.waiting import Arrivals, Guest

__all__ = ["Place", "Pool", "PooledEstimate"]

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PooledEstimate:
    """What is known of a user's mean gain: nats, their standard deviation, and how many interactions and others it rests on.

    `own` and `own_error` are what the user's own interactions say by themselves, the latter with `freedom` degrees of freedom.
    """

    mean: float
    error: float
    items: int
    users: int
    own: float = 0.0
    own_error: float = math.inf
    freedom: int = 0

    def above(self, least: float, caution: float) -> bool:
        """Whether the gain exceeds `least` by more than `caution` standard deviations.

        Without others the deviation is estimated from a handful of numbers, and Student's distribution says how many of these
        are as improbable.
        """
        if not math.isfinite(self.error):
            return False
        if not self.users and self.freedom:
            return self.own + float(stdtrit(self.freedom, ndtr(-caution))) * self.own_error > least
        return self.mean - caution * self.error > least

    @property
    def denied(self) -> bool:
        """Whether the user's own interactions clearly say the opposite of a gain.

        A prior that many users agree on is narrow enough to drown what few interactions of somebody unlike them say.
        """
        return self.own + self.own_error < 0.0


class Pool(Arrivals):
    """Gains of a cohort's users under named changes."""

    def __init__(self, size: int) -> None:
        """`size`: members; each must join or leave, or the others wait forever."""
        super().__init__(size)
        self._gains: dict[str, dict[str, Float]] = {}  # by change and user
        self._shared: dict[str, object] = {}

    def place(self) -> Place:
        """A member's place; use it as a context manager."""
        return Place(self)

    def _estimate(self, user: str, change: str, own: Float) -> PooledEstimate:
        others = [g for name, g in sorted(self._gains.get(change, {}).items()) if name != user and len(g)]
        most = max((len(g) for g in others), default=0)
        table = np.full((len(others), most, 1), np.nan)
        for row, gains in zip(table, others, strict=True):
            row[: len(gains), 0] = gains
        found = posterior(own[:, None], table)
        return PooledEstimate(
            float(found.mean[0]),
            float(found.error[0]),
            len(own),
            int(found.users[0]),
            float(found.own[0]),
            float(found.own_error[0]),
            int(found.freedom[0]),
        )


class Place(Guest):
    """One user's place in a pool."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._pool = pool

    @property
    def members(self) -> int:
        """How many users the pool is for, this one among them."""
        return self._pool.size

    async def join(self, user: str, gains: Mapping[str, Float], shared: object = None) -> dict[str, PooledEstimate]:
        """Bring one's gains and wait for the others; who comes again is estimated anew, and the others see no more of it.

        Args:
            user: whose.
            gains: of each change, one gain per interaction, (n,).
            shared: what the others may be compared with; see `neighbour`.

        Returns:
            an estimate for each of `gains`.
        """
        if self.arrive():
            for change, values in gains.items():
                self._pool._gains.setdefault(change, {})[user] = np.asarray(values, dtype=np.float64)
            if shared is not None:
                self._pool._shared[user] = shared
        await self._pool.wait()
        return {change: self.estimate(user, change, values) for change, values in gains.items()}

    def estimate(self, user: str, change: str, own: Float) -> PooledEstimate:
        """What is known of the user's gain under a change given their own gains, (n,), once all have come."""
        return self._pool._estimate(user, change, np.asarray(own, dtype=np.float64))

    def neighbour(self, user: str) -> object | None:
        """What the next of the others, by name and in turn, has shared; None if nobody else has."""
        names = sorted(name for name in self._pool._shared if name != user)
        after = [name for name in names if name > user] or names
        return self._pool._shared[after[0]] if after else None

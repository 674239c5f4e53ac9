"""The two decisions of alignment: which candidate to put forward, and whether it may replace the persona."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ROUNDING", "Acceptor", "Gate", "ScoreTable", "Verdict", "clearly_better"]

Array = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]

ROUNDING = 1e-6  # means of equal scores may differ by so much


@dataclass(frozen=True)
class ScoreTable:
    """Scores of n interactions (rows) under d decisions (columns); `scorer.Scores` says what each one means."""

    hard: Array  # (n, d)
    soft: Array
    kept: Array

    @property
    def value(self) -> Array:
        """What candidates are compared by, (n, d).

        Score and soft score count half each: the probability given to the truth tells candidates apart that answer alike,
        which few interactions often cannot. `kept` counts as much as both together: the next requests are partly new
        ones, which replays stand for, and partly what was asked before, which they do not.
        """
        return np.asarray((self.hard + self.soft) / 2 + self.kept)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> ScoreTable:
        """Some interactions, chosen by a mask, (n,)."""
        return ScoreTable(self.hard[chosen], self.soft[chosen], self.kept[chosen])

    def columns(self, indices: npt.NDArray[np.intp]) -> ScoreTable:
        """Some decisions, d = len(indices)."""
        return ScoreTable(self.hard[:, indices], self.soft[:, indices], self.kept[:, indices])

    def column(self, index: int) -> ScoreTable:
        """One decision alone, d = 1."""
        return self.columns(np.asarray([index]))


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger replaces the incumbent, with both mean (hard) scores on the gate's interactions."""

    accepted: bool
    before: float
    after: float
    reason: str


class Acceptor(Protocol):
    """Decides on interactions that neither rewriting nor selection has seen.

    Both tables are (n, 1), n at least 1, of the same interactions in the same order. It never raises for bad scores and
    knows nothing of the persona's text.
    """

    def judge(self, before: ScoreTable, after: ScoreTable) -> Verdict:
        """Compare the incumbent's scores (`before`) with the challenger's (`after`)."""
        ...


class Gate:
    """Keeps a persona only if it is better where it counts, and no worse elsewhere.

    A challenger is accepted if its mean score beats the incumbent's by more than `min_gain` and by more than `caution`
    standard errors of the paired differences, so that luck alone seldom passes. What it would get wrong when
    the same things are asked again (`kept`) is taken off its gain: a persona that stops listening to memory looks better
    just when the user's wishes change, because memory is wrong then, once.

    It is also accepted if its score is no worse and it gets more of them right when they are asked again, by the same
    measure: a persona that keeps to old wishes is corrected although no replay of the change itself could be foreseen.
    """

    def __init__(self, min_gain: float, caution: float = 1.0) -> None:
        self._min_gain = min_gain
        self._caution = caution

    def judge(self, before: ScoreTable, after: ScoreTable) -> Verdict:
        """See `Acceptor`."""
        n = len(before.hard)
        old, new = float(before.hard.mean()), float(after.hard.mean())
        gain = (after.hard - before.hard).astype(np.float64)
        lost = float(before.kept.mean() - after.kept.mean())
        if self._clear(gain):
            if gain.mean() - lost <= self._min_gain + ROUNDING:
                return Verdict(False, old, new, f"better on {n} held-out interactions but forgets what was said before")
            return Verdict(True, old, new, f"better on {n} held-out interactions")
        again = (after.kept > 0.5).astype(np.float64) - (before.kept > 0.5)
        if new >= old - ROUNDING and self._clear(again):
            return Verdict(
                True, old, new, f"no worse on {n} held-out interactions, and right when they are asked again"
            )
        return Verdict(False, old, new, f"not better on {n} held-out interactions")

    def _clear(self, gain: Float) -> bool:
        """Whether a mean gain, (n, 1), exceeds `min_gain` and what luck would give."""
        luck = self._caution * float(_error(gain)[0])
        return float(gain.mean()) > max(self._min_gain, luck) + ROUNDING


def clearly_better(candidates: ScoreTable, incumbent: ScoreTable, min_gain: float) -> Array:
    """How surely each candidate beats the incumbent on the same n interactions; -inf where it does not clearly do so.

    Candidates are compared by paired differences of `ScoreTable.value`. One passes if its hard score is no worse and its mean
    difference is greater than `min_gain` and than one standard error of that mean. Among hundreds of candidates some look
    better by luck, and this is the rule's point: with a gain in exactly one of n interactions and none elsewhere, mean and
    standard error are equal, whatever the gain and n, so one lucky example never passes. Those that pass rank by mean less
    standard error, so many small gains outrank one big one.

    Args:
        candidates: d columns.
        incumbent: one column.
        min_gain: smallest mean difference that counts.

    Returns:
        (d,) mean less standard error, or -inf.
    """
    difference = (candidates.value - incumbent.value).astype(np.float64)
    mean, error = difference.mean(axis=0), _error(difference)
    no_worse = candidates.hard.mean(axis=0) >= incumbent.hard.mean() - ROUNDING
    passes = no_worse & (mean > np.maximum(min_gain, error) + ROUNDING)
    return np.where(passes, mean - error, -np.inf).astype(np.float32)


def _error(difference: Float) -> Float:
    """Standard error of the column means of (n, d); 0 where a single interaction leaves nothing to estimate it from."""
    n = len(difference)
    return difference.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(difference.shape[1])

"""The two decisions of alignment: which candidate to put forward, and whether it may replace the persona."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Acceptor", "Gate", "Verdict", "clearly_better"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger replaces the incumbent, with both mean scores on the gate's interactions."""

    accepted: bool
    before: float
    after: float
    reason: str


class Acceptor(Protocol):
    """Decides on interactions that neither rewriting nor selection has seen.

    Both lists hold the reported score, in [0, 1], of the same interactions in the same order; they are not empty.
    It never raises for bad scores and knows nothing of the persona's text.
    """

    def judge(self, before: Sequence[float], after: Sequence[float]) -> Verdict:
        """Compare the incumbent's scores (`before`) with the challenger's (`after`)."""
        ...


class Gate:
    """Accepts a challenger whose mean score beats the incumbent's by more than `min_gain`; a tie keeps the incumbent."""

    def __init__(self, min_gain: float) -> None:
        self._min_gain = min_gain

    def judge(self, before: Sequence[float], after: Sequence[float]) -> Verdict:
        """See `Acceptor`."""
        old, new = float(np.mean(before)), float(np.mean(after))
        # The tolerance keeps rounding in means of equal scores from passing as a gain.
        accepted = new - old > self._min_gain + 1e-6
        verb = "better" if accepted else "not better"
        return Verdict(accepted, old, new, f"{verb} on {len(before)} held-out interactions")


def clearly_better(hard: Array, soft: Array, own_hard: Array, own_soft: Array, min_gain: float) -> Array:
    """How surely each candidate beats the incumbent on the same n interactions; -inf where it does not clearly do so.

    A candidate is compared by paired differences of (score + soft score) / 2. The soft score of a closed choice, the
    probability given to the truth, tells candidates apart that answer alike, which few interactions often cannot. A
    candidate passes if its score is no worse and its mean difference is greater than `min_gain` and than one standard
    error of that mean. Among hundreds of candidates some look better by luck, and this is the rule's point: with a gain
    in exactly one of n interactions and none elsewhere, mean and standard error are equal, whatever the gain and n, so one
    lucky example never passes. Those that pass rank by mean less standard error, so many small gains outrank one big one.

    Args:
        hard: (n, d) reported scores of d candidates.
        soft: (n, d) their soft scores.
        own_hard: (n,) of the incumbent.
        own_soft: (n,) of the incumbent.
        min_gain: smallest mean difference that counts.

    Returns:
        (d,) mean less standard error, or -inf.
    """
    n = hard.shape[0]
    difference = ((hard + soft) - (own_hard + own_soft)[:, None]).astype(np.float64) / 2
    mean = difference.mean(axis=0)
    error = difference.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros_like(mean)
    no_worse = hard.mean(axis=0) >= own_hard.mean() - 1e-6
    passes = no_worse & (mean > np.maximum(min_gain, error) + 1e-6)
    return np.where(passes, mean - error, -np.inf).astype(np.float32)

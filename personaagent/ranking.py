"""The best of many scores, without sorting them all."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["best"]

Ints = npt.NDArray[np.int64]


def best(
    slots: Ints, score: npt.NDArray[np.floating], age: npt.NDArray[np.integer], size: int, least: float = -math.inf
) -> Ints:
    """The `size` slots that score highest, best first, ties to the newer.

    Args:
        slots: to choose among, all different.
        score: by slot.
        age: by slot; no two alike.
        size: how many at most, 1 or more.
        least: a slot that scores below it is not chosen.
    """
    values = score[slots]
    parts = max(2, len(slots) // (4 * size))
    width = len(slots) // parts
    if width >= size:
        # The maxima of `width` parts are scores too, so what is below the size-th of them is not among the best `size`.
        # That leaves few others to be sorted, with all that tie, and reads the scores twice only.
        tops = values[: parts * width].reshape(parts, width).max(axis=0)
        least = max(least, float(np.partition(tops, width - size)[width - size]))
    if least > -math.inf:
        kept = np.flatnonzero(values >= least)
        slots, values = slots[kept], values[kept]
    chosen: Ints = slots[np.lexsort((age[slots], -values))[:size]]
    return chosen

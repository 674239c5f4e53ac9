"""The best of many scores, without sorting them all, and scores of different kinds made comparable."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["best", "standardised", "untold"]

BLIND = 0.9995  # cosine from which two vectors are one
UNTOLD = 0.9  # what such a cosine counts as if the texts are different ones

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


def standardised(values: npt.NDArray[np.floating], among: int, least: float) -> npt.NDArray[np.float64]:
    """How many standard deviations each value stands above the mean of the best; those beyond count as the last of these.

    Sums of such scores keep how far the best stand out, which ranks lose: words that every second episode has say little,
    one that a single episode has says much. They find more than reciprocal rank fusion (`personaagent bench recall`; so do
    Bruch, Gai and Ingber, 2023, arXiv:2210.11934). Only the best are looked at, as many in a short history as in a long one,
    or what is rare would stand out the more the longer it is.

    Args:
        values: of one kind.
        among: how many best ones.
        least: a deviation smaller than that is taken for it, so that mere rounding is not blown up.
    """
    if not len(values):
        return np.zeros(0)
    top = np.partition(values, len(values) - among)[len(values) - among :] if len(values) > among else values
    top = np.sort(top).astype(np.float64)
    spread = max(float(top.std()), least)
    return np.asarray((np.maximum(values, top[0]) - top.mean()) / spread, dtype=np.float64)


def untold(cosine: npt.NDArray[np.float32], same: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Cosines between texts, where two different texts with one vector are no longer taken for the same.

    An embedder gives one vector to texts of a script that it does not know, or that differ only beyond what it reads. Newer
    vectors do not (`personaagent.models.embedding`), stored ones may.

    Args:
        cosine: of any shape.
        same: of that shape, whether the texts are the same.
    """
    return np.where((cosine > BLIND) & ~same, np.float32(UNTOLD), cosine)

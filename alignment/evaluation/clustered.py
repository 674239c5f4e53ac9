"""Means of values that go together by user."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["clustered_mean"]


def clustered_mean(groups: Sequence[Sequence[float]]) -> tuple[float, float | None, int, int] | None:
    """The mean over all finite values, and its standard error clustered by group (Liang and Zeger, 1986), times k / (k - 1).

    Args:
        groups: values of users, one sequence each.

    Returns:
        mean, standard error (None of a single group's values), values, groups that have any; None if there are none.
    """
    known = [own for group in groups if (own := [float(v) for v in group if math.isfinite(v)])]
    n, k = sum(map(len, known)), len(known)
    if not n:
        return None
    mean = math.fsum(v for own in known for v in own) / n
    if k < 2:
        return mean, None, n, k
    sums = np.asarray([math.fsum(v - mean for v in own) for own in known])
    return mean, float(np.sqrt(k / (k - 1) * (sums**2).sum()) / n), n, k

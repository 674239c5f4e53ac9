"""What a user would rate, learned from what they rated: an ordinal model with each user's own scale.

A Gaussian copula: a user's grades are the quantiles of a latent liking that is standard normal over what they rate. The
scale (how often each grade is given) is read off the user's own recent ratings, and the liking of an item is a Gaussian
process over the request's embedding and words, with a slowly drifting level (an Ornstein-Uhlenbeck process over the user's
ratings) and noise; its mean is what the population's prior says. The answer is a distribution over grades, whose median has
the smallest absolute error. Normal scores for ordinal data: van der Waerden (1952); the process: Rasmussen and Williams
(2006), chapter 2.

Arrays in, arrays out. It knows nothing of users, stores or language models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

__all__ = ["Graded", "Liking", "Rated", "RatingTaste", "Scale", "grade", "scale_of", "scaled_rating"]

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TINY = 1e-6  # of a probability, so that its normal quantile is finite


@dataclass(frozen=True, slots=True)
class RatingTaste:
    """Hyper-parameters; variances are shares of the liking's, which is 1 over all that a user rates."""

    level: float = 0.15  # of the drifting level
    vector: float = 0.5  # of the request's embedding, centred
    words: float = 0.5  # of its words together
    near: float = 0.25  # of what only requests very much like this one share
    noise: float = 0.5  # of a single rating
    width: float = 0.15  # of `near`, in cosine
    life: float = 200.0  # ratings after which half of the level is another one; inf: it never changes
    scale_life: float = 50.0  # ratings after which one counts half for the user's scale
    scale_prior: float = 0.5  # ratings that an even scale weighs as much as
    scale_common: float = 4.0  # and that the scale weighs which the population was found to have
    lapse: float = 0.02  # how often a grade has nothing to do with the item


def scaled_rating(taste: RatingTaste, prior_scale: float, change: float) -> RatingTaste:
    """The taste of a user whose liking differs `prior_scale` times as much (in variance) and changes `change` times as fast."""
    return replace(
        taste,
        vector=taste.vector * prior_scale,
        words=taste.words * prior_scale,
        near=taste.near * prior_scale,
        life=taste.life / change if change > 0 else float("inf"),
        scale_life=taste.scale_life / change if change > 0 else float("inf"),
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """How a user grades: the share of each of g grades, and the latent liking that stands for it, both (g,)."""

    shares: Float
    scores: Float


@dataclass(frozen=True, slots=True)
class Rated:
    """n past ratings, and the request to be rated as the last of n + 1."""

    grade: Ints  # (n,) index of the grade
    age: Float  # (n,) newer ratings of the user, at least 1
    cosine: Float  # (n + 1, n + 1) of the requests
    words: Float  # (n + 1, n + 1) Gram matrix of their words
    offset: Float  # (n + 1,) what the prior says of each


@dataclass(frozen=True, slots=True)
class Liking:
    """The posterior of the request's latent liking, and what each past rating adds to its mean, (n,)."""

    mean: float
    variance: float
    shares: Float


@dataclass(frozen=True, slots=True)
class Graded:
    """The answer: a distribution over grades, (g,), and how it came about."""

    probabilities: Float
    liking: Liking


def scale_of(grade: Ints, age: Float, prior: Float, taste: RatingTaste) -> Scale:
    """A user's scale from their past grades, newer ones counting more.

    Args:
        grade: (n,) indices of grades.
        age: (n,) newer ratings, at least 1.
        prior: (g,) shares of grades in the population, which sum to 1.
        taste: for `scale_life` and `scale_prior`.
    """
    counts = np.bincount(grade, weights=np.exp2(-(age - 1.0) / taste.scale_life), minlength=len(prior))
    counts = counts + taste.scale_prior * prior
    shares = counts / counts.sum()
    upto = np.cumsum(shares)
    return Scale(shares, ndtri(np.clip(upto - shares / 2, TINY, 1.0 - TINY)))


def grade(rated: Rated, scale: Scale, taste: RatingTaste) -> Graded:
    """The distribution over grades of the request."""
    liking = _liking(rated, scale.scores[rated.grade], taste)
    cuts = ndtri(np.clip(np.cumsum(scale.shares)[:-1], TINY, 1.0 - TINY))
    upto = np.r_[0.0, ndtr((cuts - liking.mean) / np.sqrt(liking.variance)), 1.0]
    p = np.maximum(np.diff(upto), 0.0)
    p = (1.0 - taste.lapse) * p / p.sum() + taste.lapse * scale.shares
    return Graded(p / p.sum(), liking)


def _liking(rated: Rated, scores: Float, taste: RatingTaste) -> Liking:
    n = len(scores)
    prior = taste.level + taste.near + taste.words * rated.words[n, n] + taste.noise
    # Embeddings of one user's requests have much in common; what tells them apart is the deviation from their mean.
    middle = rated.cosine[:n, :n].mean() if n else 0.0
    row = rated.cosine[:, :n].mean(axis=1) if n else np.zeros(n + 1)
    linear = rated.cosine - row[:, None] - row[None, :] + middle
    if not n:
        return Liking(float(rated.offset[n]), prior + taste.vector, np.zeros(0))
    at = np.r_[rated.age, 0.0]
    fade = np.exp2(-np.abs(at[:, None] - at[None, :]) / taste.life)
    near = np.exp(np.minimum((rated.cosine - 1.0) / taste.width, 0.0))
    kernel = taste.level * fade + taste.vector * linear + taste.words * rated.words + taste.near * near
    noisy = kernel[:n, :n] + taste.noise * np.eye(n)
    cross = kernel[n, :n]
    solved = np.linalg.solve(noisy, np.column_stack([scores - rated.offset[:n], cross]))
    shares = cross * solved[:, 0]
    variance = kernel[n, n] + taste.noise - cross @ solved[:, 1]
    return Liking(float(rated.offset[n] + shares.sum()), float(max(variance, taste.noise / 4)), shares)

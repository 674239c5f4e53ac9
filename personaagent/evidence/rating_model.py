"""What a user would rate, learned from what they rated: an ordinal model with each user's own scale.

A Gaussian copula: a user's grades are the quantiles of a latent liking that is standard normal over what they rate. The
scale (how often each grade is given) is read off the user's own recent ratings, and the liking of an item is a Gaussian
process over the request's embedding and words and over which past requests it is nearest to, with a slowly drifting level
(an Ornstein-Uhlenbeck process over the user's ratings) and noise; its mean is what the population's prior says. The answer
is a distribution over grades, whose median has the smallest absolute error. Normal scores for ordinal data: van der Waerden
(1952); the process: Rasmussen and Williams (2006), chapter 2; nearness that is relative to what else is near: Zelnik-Manor
and Perona (2004).

Arrays in, arrays out. It knows nothing of users, stores or language models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr, ndtri

__all__ = [
    "TASTES",
    "Graded",
    "Rated",
    "RatingTaste",
    "Scale",
    "company",
    "graded",
    "plausibility",
    "scale_of",
    "scaled_rating",
]

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NARROW = 0.05  # cosine by which one past request must be nearer than another to count e times as much as company
TINY = 1e-6  # of a probability, so that its normal quantile is finite


@dataclass(frozen=True, slots=True)
class RatingTaste:
    """Hyper-parameters; variances are relative to each other."""

    level: float = 0.15  # of the drifting level
    vector: float = 0.5  # of the request's embedding, centred
    words: float = 0.3  # of its words together
    phrases: float = 0.25  # of its phrases together
    near: float = 0.25  # of what only requests very much like this one share
    company: float = 2.0  # of what those share that are nearest to the same past requests, if these stand out
    noise: float = 0.5  # of a single rating
    width: float = 0.15  # of `near`, in cosine
    life: float = 200.0  # ratings after which half of the level is another one; inf: it never changes
    scale_life: float = 50.0  # ratings after which one counts half for the user's scale
    scale_prior: float = 8.0  # ratings that the population's scale weighs as much as
    scale_even: float = 4.0  # ratings that even grades weigh as much as, where no population's are known
    lapse: float = 0.02  # how often a grade has nothing to do with the item
    share: float = 1.0  # how common such people are


# Whose ratings they are is found out with them: some rate much as the mood takes them, some go by attributes, some rate what
# is alike alike.
TASTES = (
    RatingTaste(share=0.55),
    RatingTaste(phrases=2.5, noise=0.35, share=0.25),
    RatingTaste(vector=3.0, noise=0.2, share=0.2),
)


def scaled_rating(taste: RatingTaste, prior_scale: float, change: float) -> RatingTaste:
    """The taste of a user whose liking differs `prior_scale` times as much (in variance) and changes `change` times as fast."""
    return replace(
        taste,
        vector=taste.vector * prior_scale,
        words=taste.words * prior_scale,
        phrases=taste.phrases * prior_scale,
        near=taste.near * prior_scale,
        company=taste.company * prior_scale,
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
    phrases: Float  # (n + 1, n + 1) and of their phrases
    company: Float  # (n + 1, n + 1) as `company` has it
    offset: Float  # (n + 1,) what the prior says of each


@dataclass(frozen=True, slots=True)
class Graded:
    """The answer: a distribution over grades, (g,), and what each past rating adds to the latent liking's mean, (n,)."""

    probabilities: Float
    shares: Float


def company(cosine: Float) -> Float:
    """How far requests have the same past requests for their nearest, (n + 1, n + 1), the last being the one to be rated.

    Each request looks at the past ones as the softmax of its cosines with them, less an even look: two that look at the same
    one are close however low their cosine is, so long as others are lower still. With few ratings that is what tells;
    among many a look is spread over more and the covariance fades. A past request looks at itself as much as at what is
    nearest to it, the one to be rated included: more, and it would have nobody's company.
    """
    n = len(cosine) - 1
    if n < 2:
        return np.zeros((n + 1, n + 1))
    others = np.where(np.eye(n + 1, dtype=bool), -np.inf, cosine)
    look = cosine[:, :n].copy()
    np.fill_diagonal(look, others.max(axis=1)[:n])
    look = np.exp((look - look.max(axis=1, keepdims=True)) / NARROW)
    look = look / look.sum(axis=1, keepdims=True) - 1.0 / n
    return np.asarray(look @ look.T)


def scale_of(grades: Ints, age: Float, prior: Float, taste: RatingTaste, known: bool = False) -> Scale:
    """A user's scale from their past grades, newer ones counting more.

    Args:
        grades: (n,) indices of grades.
        age: (n,) newer ratings, at least 1.
        prior: (g,) shares of grades, which sum to 1.
        taste: for `scale_life`, `scale_prior` and `scale_even`.
        known: whether `prior` is how a population grades. What many people's grades say weighs more than ignorance does.
    """
    fresh = np.exp2(-(age - 1.0) / taste.scale_life)
    given = np.asarray(np.bincount(grades, weights=fresh, minlength=len(prior)), dtype=np.float64)
    counts = given + (taste.scale_prior if known else taste.scale_even) * prior
    shares = counts / counts.sum()
    upto = np.cumsum(shares)
    return Scale(shares, ndtri(np.clip(upto - shares / 2, TINY, 1.0 - TINY)))


def graded(rated: Rated, scale: Scale, taste: RatingTaste) -> Graded:
    """The distribution over grades of the request."""
    n = len(rated.grade)
    kernel, noise = _kernel(rated, taste)
    mean, variance, shares = rated.offset[n], kernel[n, n] + noise, np.zeros(n)
    if n:
        factor = cho_factor(kernel[:n, :n] + noise * np.eye(n), lower=True, check_finite=False)
        cross = kernel[n, :n]
        deviation = scale.scores[rated.grade] - rated.offset[:n]
        solved = cho_solve(factor, np.column_stack([deviation, cross]), check_finite=False)
        shares = cross * solved[:, 0]
        mean = mean + shares.sum()
        variance = max(float(variance - cross @ solved[:, 1]), noise / 4)
    cuts = ndtri(np.clip(np.cumsum(scale.shares)[:-1], TINY, 1.0 - TINY))
    upto = np.r_[0.0, ndtr((cuts - mean) / np.sqrt(variance)), 1.0]
    p = np.maximum(np.diff(upto), 0.0)
    p = (1.0 - taste.lapse) * p / p.sum() + taste.lapse * scale.shares
    return Graded(p / p.sum(), shares)


def plausibility(rated: Rated, scale: Scale, taste: RatingTaste) -> float:
    """Log marginal likelihood of the past ratings' normal scores under a taste."""
    n = len(rated.grade)
    if not n:
        return 0.0
    kernel, noise = _kernel(rated, taste)
    factor, lower = cho_factor(kernel[:n, :n] + noise * np.eye(n), lower=True, check_finite=False)
    deviation = scale.scores[rated.grade] - rated.offset[:n]
    fit = deviation @ cho_solve((factor, lower), deviation, check_finite=False)
    return float(-0.5 * fit - np.log(np.diag(factor)).sum())


def _kernel(rated: Rated, taste: RatingTaste) -> tuple[Float, float]:
    """Covariance of the latent liking of past requests and the one to be rated, (n + 1, n + 1), and the noise of a rating.

    Scaled so that, noise included, the mean variance is 1: a user's scale is made of likings of variance 1.
    """
    n = len(rated.grade)
    # Embeddings of one user's requests have much in common; what tells them apart is the deviation from their mean.
    linear = rated.cosine
    if n:
        row = rated.cosine[:, :n].mean(axis=1)
        linear = rated.cosine - row[:, None] - row[None, :] + row[:n].mean()
    at = np.r_[rated.age, 0.0]
    fade = np.exp2(-np.abs(at[:, None] - at[None, :]) / taste.life)
    near = np.exp(np.minimum((rated.cosine - 1.0) / taste.width, 0.0))
    told = taste.words * rated.words + taste.phrases * rated.phrases
    kernel = taste.level * fade + taste.vector * linear + told + taste.near * near + taste.company * rated.company
    total = float(np.diag(kernel).mean()) + taste.noise
    return np.asarray(kernel / total), taste.noise / total

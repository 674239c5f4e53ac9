"""What a user would choose, learned from what they chose: a conditional logit whose utilities are a Gaussian process.

The probability of taking option x of an offer is a softmax of utilities u(q, x) of the request q and the option
(McFadden, 1974). The utility is what the population's prior says, plus a Gaussian process with the covariance

    [ general(x, x') + near(q, q') * local(x, x') ] * 2^(-|t - t'| / life)

so a user has tastes that hold everywhere, tastes that hold for requests like this one, and both drift as time goes by
(an Ornstein-Uhlenbeck process over the user's own choices: a state-space form of change; old choices fade only as far as
newer ones speak of the same). General and local taste are sums over an option's embedding, words, phrases and identity.
The posterior mode is found by Newton's method (Laplace's approximation; Rasmussen and Williams, 2006, chapter 3), in the
space of differences between refused options and the one taken. With nothing learned all options are as likely as the
population's prior says: it never says more than it knows.

Arrays in, arrays out. It knows nothing of users, stores or language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "SETTINGS",
    "ChoiceTaste",
    "Fit",
    "Learned",
    "Setting",
    "Weighting",
    "credence",
    "fit",
    "nearness",
    "probabilities",
]

Float = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEWTON_STEPS = 12
TOLERANCE = 2e-2  # of utilities
LARGEST = 60.0  # utilities further behind say nothing more; keeps exp() finite whatever the settings


@dataclass(frozen=True, slots=True)
class Weighting:
    """Variances of utility per kind of feature."""

    vector: float  # of an option's embedding, a unit vector
    words: float  # of its words together, each weighing 1 / sqrt(how many there are)
    phrases: float  # of each phrase
    whole: float  # of the option itself


@dataclass(frozen=True, slots=True)
class ChoiceTaste:
    """Hyper-parameters: how strong tastes are, how far they carry over, how fast they change."""

    general: Weighting = Weighting(8.0, 2.0, 4.0, 0.4)
    local: Weighting = Weighting(19.0, 2.5, 0.0, 6.0)
    width: float = 0.045  # of `near`, in cosine of requests
    reach: float = 0.1  # see `nearness`
    life: float = 50.0  # choices after which half of a taste is another one
    sharpness: float = 1.3  # of the answer: the mode lies nearer to zero than the mean does
    lapse: float = 0.03  # how often a choice is made at random


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of person: how strong general and local tastes are and how fast they change, factors of the usual ones."""

    general: float = 1.0
    local: float = 1.0
    change: float = 1.0  # 0: never
    share: float = 1.0  # how common such people are


# Whose choices they are is found out with them: most are steady, some choose by habit alone, some change their mind.
SETTINGS = (Setting(share=0.6), Setting(general=0.05, share=0.2), Setting(change=8.0, share=0.2))


@dataclass(frozen=True, slots=True)
class Learned:
    """n past offers with N refused options between them, and how options compare.

    Gram matrices are over the u different options in play: of those learned from, and of the m that are to be chosen among,
    which are the last m.
    """

    refused: Ints  # (N,) option refused
    taken: Ints  # (N,) option taken in the same offer
    offer: Ints  # (N,) which offer, ascending
    age: Float  # (n,) newer choices of the user, at least 1
    requests: Float  # (n, n) nearness of the offers' requests
    request: Float  # (n,) nearness of the request that is to be answered
    general: Float  # (u, u)
    local: Float  # (u, u)
    offset: Float  # (u,) what the population's prior says of each option
    asked: int  # m


@dataclass(frozen=True, slots=True)
class Fit:
    """A posterior mode: utilities of the m options asked for, and what each refusal contributes to them."""

    utilities: Float  # (m,)
    shares: Float  # (m, N): column i is what refusal i adds to each option's utility
    plausibility: float  # log marginal likelihood of the past choices, by Laplace's approximation


def nearness(similarity: Single, taste: ChoiceTaste, best: float | None = None) -> Float:
    """exp(-(distance of requests) / width), from cosines of their embeddings.

    Args:
        similarity: cosines, any shape.
        taste: for `width` and `reach`.
        best: the largest similarity of the request to be answered; distances are then measured from it, so that what was
            settled before is known again in other words, however far an embedding puts these, and (`reach`) the further the
            words are, the more the nearest request counts. None: from identity.
    """
    top = 1.0 if best is None else best
    near = np.minimum((similarity.astype(np.float64) - top) / taste.width, 0.0)
    return np.asarray(np.exp(near + taste.reach * (1.0 - top) / taste.width))


def fit(learned: Learned, settings: Sequence[Setting], life: float) -> list[Fit]:
    """Find the mode of the utilities given what was chosen, for several settings at once.

    With no offers the prior's utilities are the answer.

    Args:
        learned: past offers and the options asked for.
        settings: at least one.
        life: of tastes that change at the usual rate.
    """
    asked = np.arange(len(learned.offset) - learned.asked, len(learned.offset))
    start = learned.offset[asked]
    jj, cc, own = learned.refused, learned.taken, learned.offer
    if not len(jj):
        return [Fit(start, np.zeros((learned.asked, 0)), 0.0)] * len(settings)
    general, local = _differences(learned.general, jj, cc), _differences(learned.local, jj, cc)
    local *= learned.requests[np.ix_(own, own)]
    apart = np.abs(learned.age[:, None] - learned.age[None, :])[np.ix_(own, own)]
    kernels = np.empty((len(settings), len(jj), len(jj)), dtype=np.float32)
    for kernel, setting in zip(kernels, settings, strict=True):
        np.multiply(general, setting.general, out=kernel)
        kernel += setting.local * local
        if setting.change:
            kernel *= np.exp2(apart * (-setting.change / life))
    weights, plausibility = _modes(kernels, learned.offset[jj] - learned.offset[cc], own)
    general = learned.general[np.ix_(asked, jj)] - learned.general[np.ix_(asked, cc)]
    local = (learned.local[np.ix_(asked, jj)] - learned.local[np.ix_(asked, cc)]) * learned.request[own]
    fits = []
    for n, setting in enumerate(settings):
        faded = np.exp2(learned.age * (-setting.change / life))[own]
        shares = (setting.general * general + setting.local * local) * (faded * weights[n])
        fits.append(Fit(start + shares.sum(axis=1), shares, float(plausibility[n])))
    return fits


def probabilities(utilities: Float, taste: ChoiceTaste) -> Float:
    """The distribution over options, (m,); it sums to 1, and no option is impossible."""
    u = taste.sharpness * utilities
    p = np.exp(np.maximum(u - u.max(), -LARGEST))
    return np.asarray((1.0 - taste.lapse) * p / p.sum() + taste.lapse / len(p))


def credence(fits: Sequence[Fit], settings: Sequence[Setting]) -> Float:
    """How likely each setting is given the past choices, (len(fits),), summing to 1."""
    logs = np.asarray([f.plausibility for f in fits]) + np.log([s.share for s in settings])
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _differences(gram: Float, jj: Ints, cc: Ints) -> Float:
    """Covariance of utility differences (refused minus taken), (N, N)."""
    half = gram[jj] - gram[cc]
    return np.asarray(half[:, jj] - half[:, cc])


def _modes(kernels: Single, offset: Float, own: Ints) -> tuple[Float, Float]:
    """Weights a with f = offset + K a at the mode, where a is the gradient of the likelihood there, (s, N), and the log
    marginal likelihoods, (s,).

    The objective is concave, and a step that does not improve it is halved.
    """
    count = kernels.shape[1]
    firsts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    weights = np.zeros(kernels.shape[:2])
    f = np.broadcast_to(offset, weights.shape).copy()
    best = _objectives(f, weights, offset, own, firsts)
    diagonal = np.arange(count)
    blocks = (np.arange(len(firsts))[:, None] == own[None, :]).astype(np.float32)
    system = np.empty_like(kernels)
    for _ in range(NEWTON_STEPS):
        q = _refusals(f, own, firsts)
        # The curvature is q - q q' within each offer; (I + curvature K) without ever making that matrix.
        narrow = q.astype(np.float32)[:, :, None]
        np.multiply(narrow, kernels, out=system)
        system -= narrow * (blocks @ system)[:, own]
        system[:, diagonal, diagonal] += 1.0
        bent = q * (f - offset)
        target = bent - q * np.add.reduceat(bent, firsts, axis=1)[:, own] - q
        goal = np.linalg.solve(system, target.astype(np.float32)[:, :, None])[:, :, 0].astype(np.float64)
        step = np.ones(len(weights))
        while True:
            tried = weights + step[:, None] * (goal - weights)
            moved = offset + (kernels @ tried.astype(np.float32)[:, :, None])[:, :, 0]
            value = _objectives(moved, tried, offset, own, firsts)
            worse = (value < best - 1e-3) & (step > 1e-3)
            if not worse.any():
                break
            step[worse] /= 2
        change = float(np.abs(moved - f).max())
        weights, f, best = tried, moved, value
        if change < TOLERANCE:
            break
    # The curvature of the last step but one is close enough for a weight among settings.
    return weights, best - 0.5 * np.linalg.slogdet(system)[1]


def _refusals(f: Float, own: Ints, firsts: Ints) -> Float:
    """Probability of each refused option given its offer, (s, N); the taken one has utility 0."""
    top = np.maximum(np.maximum.reduceat(f, firsts, axis=1), 0.0)
    e = np.exp(f - top[:, own])
    return np.asarray(e / (np.exp(-top) + np.add.reduceat(e, firsts, axis=1))[:, own])


def _objectives(f: Float, weights: Float, offset: Float, own: Ints, firsts: Ints) -> Float:
    """Log-likelihood less half the squared norm of the deviation from the prior, (s,)."""
    top = np.maximum(np.maximum.reduceat(f, firsts, axis=1), 0.0)
    total = np.add.reduceat(np.exp(f - top[:, own]), firsts, axis=1) + np.exp(-top)
    norm = (weights * (f - offset)).sum(axis=1)
    return np.asarray(-(np.log(total) + top).sum(axis=1) - 0.5 * norm)

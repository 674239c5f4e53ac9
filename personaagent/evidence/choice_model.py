"""What a user would choose, learned from what they chose: a conditional logit whose utilities are a Gaussian process.

The probability of taking option x of an offer is a softmax of utilities u(q, x) of the request q and the option
(McFadden, 1974). The utility is what the population's prior says, plus a Gaussian process with the covariance

    [ general(x, x') + near(q, q') * 2^(-jump |r - r'|) * local(x, x') ] * [ lasting + (1 - lasting) * 2^(-|t - t'| / life) ]

so a user has tastes that hold everywhere, tastes that hold for requests like this one, and of both a part that lasts and one
that drifts (an Ornstein-Uhlenbeck process over the user's own choices t: a state-space form of change; what was settled once,
long ago, is outvoted only by newer choices that speak of the same). Local tastes also change at once: r counts how often a
choice has contradicted older ones about the same, and what was wanted before such a turn tells less of what is wanted after
it. General and local taste are sums over an option's embedding, words, phrases and identity.

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
from scipy.linalg.lapack import sposv

__all__ = [
    "SETTINGS",
    "ChoiceTaste",
    "Fit",
    "Learned",
    "Setting",
    "Weighting",
    "credence",
    "fade",
    "fit",
    "meant",
    "nearness",
    "probabilities",
]

Float = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEWTON_STEPS = 12
TOLERANCE = 2e-2  # of utilities
FINE = 5e-3  # of utilities, where errors of many offers add up
ROUGH = 0.2  # of utilities: the step after one smaller than that would move a probability by less than 0.001
LEAST_REFUSAL, LEAST_TAKEN = 1e-6, 1e-4  # probabilities, in a curvature
SMALL = 12  # matrices up to this size are solved many at once
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
    local: Weighting = Weighting(28.0, 4.0, 0.0, 9.0)
    width: float = 0.045  # of `near`, in cosine of requests
    wording: float = 0.03  # cosine by which other words for the same request differ
    life: float = 50.0  # choices after which half of what drifts is another taste
    lasting: float = 0.25  # share of a taste that never changes
    sharpness: float = 1.5  # of the answer: the mode lies nearer to zero than the mean does
    lapse: float = 0.03  # how often a choice is made at random


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of person: how strong general and local tastes are and how fast they change, factors of the usual ones."""

    general: float = 1.0
    local: float = 1.0
    change: float = 1.0  # 0: never
    lasting: float = 1.0
    jump: float = 0.0  # how often what an older choice tells of a request is halved when a newer one contradicts it
    share: float = 1.0  # how common such people are


# Whose choices they are is found out with them: most are steady, some want something else for each request, some choose by
# habit alone, some change their mind, some choose at random.
SETTINGS = (
    Setting(share=0.35),
    Setting(local=3.0, jump=2.0, share=0.2),
    Setting(general=0.05, local=2.0, jump=2.0, share=0.2),
    Setting(change=8.0, lasting=0.2, share=0.2),
    Setting(general=0.02, local=0.02, share=0.05),
)


@dataclass(frozen=True, slots=True)
class Learned:
    """n past offers with N refused options between them, and how options compare.

    Gram matrices are over the u different options in play: of those learned from, and of the m that are to be chosen among,
    which are the last m.
    """

    refused: Ints  # (N,) option refused
    taken: Ints  # (N,) option taken in the same offer
    offer: Ints  # (N,) which offer, ascending; some may have none
    age: Float  # (n,) newer choices of the user, at least 1
    turns: Float  # (n + 1,) how often choices had contradicted older ones about the same by then; the last is now
    requests: Float  # (n, n) nearness of the offers' requests
    request: Float  # (n,) how much of each the request to be answered shares
    general: Single  # (u, u)
    local: Single  # (u, u)
    offset: Float  # (u,) what the population's prior says of each option
    asked: int  # m


@dataclass(frozen=True, slots=True)
class Fit:
    """A posterior mode: utilities of the m options asked for, and what each refusal contributes to them."""

    utilities: Float  # (m,)
    shares: Float  # (m, N): column i is what refusal i adds to each option's utility


def nearness(cosine: Single, taste: ChoiceTaste) -> Float:
    """exp(-(distance of requests) / width): how much of the local taste two requests share, at most 1, from their cosine."""
    return np.asarray(np.exp(np.minimum((cosine.astype(np.float64) - 1.0) / taste.width, 0.0)))


def meant(similarity: Single, requests: Float, taste: ChoiceTaste) -> Float:
    """How much of the local taste a new request shares with each past one, (n,).

    It is taken for one of the past requests in other words: for each with a probability that falls with the distance
    between them, relative to the nearest. So what was settled before is known again however far an embedding puts other
    words for it, while a request that is as near to many gets the average of their answers. As a mean of rows of the
    covariance it is a covariance itself.

    Args:
        similarity: (n,) cosines with the past requests.
        requests: (n, n) `nearness` of the past requests.
        taste: for `wording`.
    """
    if not len(similarity):
        return np.zeros(0)
    which = np.exp((similarity - similarity.max()).astype(np.float64) / taste.wording)
    return np.asarray((which / which.sum()) @ requests)


def fade(distance: Float, setting: Setting, taste: ChoiceTaste) -> Float:
    """How much of a taste is still the same after so many choices, from 1 down to what lasts."""
    lasting = min(1.0, taste.lasting * setting.lasting)
    return np.asarray(lasting + (1.0 - lasting) * np.exp2(distance * (-setting.change / taste.life)))


def fit(learned: Learned, settings: Sequence[Setting], taste: ChoiceTaste) -> list[Fit]:
    """Find the mode of the utilities given what was chosen, for several settings at once.

    With no offers the prior's utilities are the answer.

    Args:
        learned: past offers and the options asked for.
        settings: at least one.
        taste: for how tastes change.
    """
    asked = slice(len(learned.offset) - learned.asked, None)
    start = learned.offset[asked]
    jj, cc, own = learned.refused, learned.taken, learned.offer
    if not len(jj):
        return [Fit(start, np.zeros((learned.asked, 0)))] * len(settings)
    kernels = _kernels(learned, settings, taste)
    weights = _modes(kernels, learned.offset[jj] - learned.offset[cc], own, ROUGH).weights
    general = learned.general[asked][:, jj] - learned.general[asked][:, cc]
    local = (learned.local[asked][:, jj] - learned.local[asked][:, cc]) * learned.request[own]
    fits = []
    turned = (learned.turns[-1] - learned.turns[:-1])[own]
    for n, setting in enumerate(settings):
        faded = fade(learned.age, setting, taste)[own]
        still = setting.local * np.exp2(-setting.jump * np.abs(turned))
        shares = (setting.general * general + still * local) * (faded * weights[n])
        fits.append(Fit(start + shares.sum(axis=1), shares))
    return fits


def probabilities(utilities: Float, taste: ChoiceTaste) -> Float:
    """The distribution over options, (m,); it sums to 1, and no option is impossible."""
    u = taste.sharpness * utilities
    p = np.exp(np.maximum(u - u.max(), -LARGEST))
    return np.asarray((1.0 - taste.lapse) * p / p.sum() + taste.lapse / len(p))


def credence(learned: Learned, settings: Sequence[Setting], taste: ChoiceTaste) -> Float:
    """How likely each setting is given the past choices, (len(settings),), summing to 1.

    By marginal likelihoods. Laplace's approximation understates that of strong tastes, even for a single choice, where it is
    known: without a prior every option is as likely as the others, whatever the strength. So what counts is how much
    likelier the choices are together than each would be alone, both by the same approximation.
    """
    logs = np.log([s.share for s in settings])
    if len(learned.refused):
        together = _kernels(learned, settings, taste)
        offset = learned.offset[learned.refused] - learned.offset[learned.taken]
        logs = logs + _modes(together, offset, learned.offer).plausibility - _alone(together, offset, learned.offer)
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _kernels(learned: Learned, settings: Sequence[Setting], taste: ChoiceTaste) -> Single:
    """Covariance of utility differences under each setting, (s, N, N)."""
    jj, cc, own = learned.refused, learned.taken, learned.offer
    general, local = _differences(learned.general, jj, cc), _differences(learned.local, jj, cc)
    local *= learned.requests.astype(np.float32)[own][:, own]
    apart = np.abs(learned.age[:, None] - learned.age[None, :])
    turned = np.abs(learned.turns[:-1, None] - learned.turns[None, :-1])
    turns = bool(turned.any())
    kernels = np.empty((len(settings), len(jj), len(jj)), dtype=np.float32)
    for kernel, setting in zip(kernels, settings, strict=True):
        np.multiply(general, setting.general, out=kernel)
        if setting.jump and turns:
            kernel += setting.local * local * np.exp2(-setting.jump * turned).astype(np.float32)[own][:, own]
        else:
            kernel += setting.local * local
        if setting.change:
            kernel *= fade(apart, setting, taste).astype(np.float32)[own][:, own]
    return kernels


def _differences(gram: Single, jj: Ints, cc: Ints) -> Single:
    """Covariance of utility differences (refused minus taken), (N, N)."""
    half = gram[jj] - gram[cc]
    return np.asarray(half[:, jj] - half[:, cc])


@dataclass(frozen=True, slots=True)
class _Modes:
    """Weights a with f = offset + K a at the mode, where a is the gradient of the likelihood there, (s, N)."""

    weights: Float
    plausibility: Float  # (s,) log marginal likelihoods by Laplace's approximation


def _alone(together: Single, offset: Float, own: Ints) -> Float:
    """Sum of the log marginal likelihoods that offers have each for itself, (s,), in small matrices."""
    offers, counts = np.unique(own, return_counts=True)
    most = int(counts.max())
    place = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
    offer = np.repeat(np.arange(len(offers)), counts)
    at = np.zeros((len(offers), most), dtype=np.int64)
    at[offer, place] = np.arange(len(own))
    there = np.arange(most) < counts[:, None]  # what fills up a row is never taken, and shares nothing with the others
    kernels = together[:, at[:, :, None], at[:, None, :]]
    kernels *= there[:, :, None] & there[:, None, :]
    offsets = np.where(there, offset[at], -LARGEST)
    settings = len(together)
    modes = _modes(
        kernels.reshape(-1, most, most), np.tile(offsets, (settings, 1)), np.zeros(most, dtype=np.int64), FINE
    )
    return np.asarray(modes.plausibility.reshape(settings, -1).sum(axis=1))


def _modes(kernels: Single, offset: Float, own: Ints, tolerance: float = TOLERANCE) -> _Modes:
    """Find the modes by Newton's method.

    The objective is concave, and a step that does not improve it is halved. The curvature is C = diag(q) - q q' within each
    offer, whose inverse is diag(1 / q) + 1 / p of the option taken. So (I + C K) a = C (f - offset) - q, the equation of a
    step, becomes (K + 1 / C) a = f - offset - 1 / p, which is symmetric and positive definite.

    Args:
        kernels: (s, N, N).
        offset: (N,) or (s, N).
        own: (N,) which offer, ascending.
        tolerance: of utilities.
    """
    new = np.r_[True, own[1:] != own[:-1]]
    firsts, own = np.flatnonzero(new), np.cumsum(new) - 1
    # Pairs of refusals within an offer, as places of a matrix laid out row after row.
    pairs = np.flatnonzero(own[:, None] == own[None, :])
    pair_offer, diagonal = own[pairs // len(own)], slice(None, None, len(own) + 1)
    weights = np.zeros(kernels.shape[:2])
    f = np.broadcast_to(offset, weights.shape).copy()
    q, others, best = _likelihood(f, own, firsts)  # of weights 0
    volumes, moving = np.zeros(len(weights)), np.arange(len(weights))
    for _ in range(NEWTON_STEPS):
        # Bounds keep single precision sound. They bend the way to the mode and leave it where it is.
        bounded, taken = np.maximum(q, LEAST_REFUSAL), np.maximum(1.0 - others, LEAST_TAKEN)
        target = f - offset - q / bounded - (others / taken)[:, own]
        bounded, taken, system = bounded[moving], taken[moving], kernels[moving]
        flat = system.reshape(len(system), -1)
        flat[:, pairs] += (1.0 / taken)[:, pair_offer]
        flat[:, diagonal] += 1.0 / bounded
        goal = weights.copy()
        goal[moving], volume = _solved(system, target[moving])
        # log det(I + C K) of the last step but one is close enough for a weight among settings.
        volume += np.log(bounded).sum(axis=1) - np.log1p(np.add.reduceat(bounded, firsts, axis=1) / taken).sum(axis=1)
        volumes[moving] = volume
        step = np.ones(len(weights))
        while True:
            tried = weights + step[:, None] * (goal - weights)
            moved = offset + (kernels @ tried.astype(np.float32)[:, :, None])[:, :, 0]
            q, others, value = _likelihood(moved, own, firsts)
            value -= 0.5 * (tried * (moved - offset)).sum(axis=1)  # the squared norm of the deviation from the prior
            worse = (value < best - 1e-3) & (step > 1e-3)
            if not worse.any():
                break
            step[worse] /= 2
        moving = np.flatnonzero(np.abs(moved - f).max(axis=1) >= tolerance * step)
        weights, f, best = tried, moved, value
        if not len(moving):
            break
    return _Modes(weights, best - 0.5 * volumes)


def _solved(systems: Single, target: Float) -> tuple[Float, Float]:
    """Solutions of symmetric positive definite systems, (s, N), and the logarithms of their determinants, (s,)."""
    right = target.astype(np.float32)
    if systems.shape[1] <= SMALL:  # there may be hundreds
        found = np.linalg.solve(systems, right[:, :, None])[:, :, 0]
        return np.asarray(found, dtype=np.float64), np.asarray(np.linalg.slogdet(systems)[1], dtype=np.float64)
    goal: Float = np.empty(target.shape)
    volumes: Float = np.empty(len(target))
    for n, system in enumerate(systems):
        # Cholesky's method is half the work. Transposed a matrix is laid out as LAPACK wants it, and equal.
        factor, goal[n], failed = sposv(system.T, right[n], lower=True)
        if failed:  # tastes so strong that single precision takes the matrix for another kind
            goal[n], volumes[n] = np.linalg.solve(system, right[n]), np.linalg.slogdet(system)[1]
        else:
            volumes[n] = 2.0 * np.log(np.diagonal(factor)).sum(dtype=np.float64)
    return goal, volumes


def _likelihood(f: Float, own: Ints, firsts: Ints) -> tuple[Float, Float, Float]:
    """Probability of each refused option given its offer, (s, N), their sum in each, and the log-likelihood, (s,).

    The options taken have utility 0.
    """
    top = np.maximum(np.maximum.reduceat(f, firsts, axis=1), 0.0)
    e = np.exp(f - top[:, own])
    refused = np.add.reduceat(e, firsts, axis=1)
    total = refused + np.exp(-top)
    return e / total[:, own], refused / total, -(np.log(total) + top).sum(axis=1)

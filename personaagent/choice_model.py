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
    general: Float  # (u, u)
    local: Float  # (u, u)
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
    asked = np.arange(len(learned.offset) - learned.asked, len(learned.offset))
    start = learned.offset[asked]
    jj, cc, own = learned.refused, learned.taken, learned.offer
    if not len(jj):
        return [Fit(start, np.zeros((learned.asked, 0)))] * len(settings)
    kernels = _kernels(learned, settings, taste)
    weights = _modes(kernels, learned.offset[jj] - learned.offset[cc], own).weights
    general = learned.general[np.ix_(asked, jj)] - learned.general[np.ix_(asked, cc)]
    local = (learned.local[np.ix_(asked, jj)] - learned.local[np.ix_(asked, cc)]) * learned.request[own]
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
        alone = np.where(learned.offer[:, None] == learned.offer[None, :], together, np.float32(0.0))
        offset = learned.offset[learned.refused] - learned.offset[learned.taken]
        logs = (
            logs
            + _modes(together, offset, learned.offer).plausibility()
            - _modes(alone, offset, learned.offer).plausibility()
        )
    weights = np.exp(logs - logs.max())
    return np.asarray(weights / weights.sum())


def _kernels(learned: Learned, settings: Sequence[Setting], taste: ChoiceTaste) -> Single:
    """Covariance of utility differences under each setting, (s, N, N)."""
    jj, cc, own = learned.refused, learned.taken, learned.offer
    general, local = _differences(learned.general, jj, cc), _differences(learned.local, jj, cc)
    local *= learned.requests[np.ix_(own, own)]
    apart = np.abs(learned.age[:, None] - learned.age[None, :])[np.ix_(own, own)]
    turned = np.abs(learned.turns[:-1, None] - learned.turns[None, :-1])[np.ix_(own, own)].astype(np.float32)
    any_turn = bool(turned.any())
    kernels = np.empty((len(settings), len(jj), len(jj)), dtype=np.float32)
    for kernel, setting in zip(kernels, settings, strict=True):
        np.multiply(general, setting.general, out=kernel)
        kernel += setting.local * (local * np.exp2(-setting.jump * turned) if setting.jump and any_turn else local)
        if setting.change:
            kernel *= fade(apart, setting, taste)
    return kernels


def _differences(gram: Float, jj: Ints, cc: Ints) -> Float:
    """Covariance of utility differences (refused minus taken), (N, N)."""
    half = gram[jj] - gram[cc]
    return np.asarray(half[:, jj] - half[:, cc])


@dataclass(frozen=True, slots=True)
class _Modes:
    """Weights a with f = offset + K a at the mode, where a is the gradient of the likelihood there, (s, N)."""

    weights: Float
    objectives: Float  # (s,)
    system: Single  # I + curvature K near the mode, (s, N, N)

    def plausibility(self) -> Float:
        """Log marginal likelihoods by Laplace's approximation, (s,)."""
        return np.asarray(self.objectives - 0.5 * np.linalg.slogdet(self.system)[1])


def _modes(kernels: Single, offset: Float, own: Ints) -> _Modes:
    """Find the modes by Newton's method.

    The objective is concave, and a step that does not improve it is halved.
    """
    count = kernels.shape[1]
    new = np.r_[True, own[1:] != own[:-1]]
    firsts, own = np.flatnonzero(new), np.cumsum(new) - 1
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
    return _Modes(weights, best, system)


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

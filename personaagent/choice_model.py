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

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["ChoiceTaste", "Fit", "Learned", "Weighting", "fit", "nearness", "probabilities", "scaled"]

Float = npt.NDArray[np.float64]
Single = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEWTON_STEPS = 12
TOLERANCE = 1e-3  # of utilities
LARGEST = 60.0  # utilities beyond it say nothing more; keeps exp() finite whatever the settings


@dataclass(frozen=True, slots=True)
class Weighting:
    """Variances of utility per kind of feature."""

    vector: float  # of an option's embedding, a unit vector
    words: float  # of its words together, each weighing 1 / sqrt(how many there are)
    phrases: float  # of each phrase
    whole: float  # of the option itself

    def times(self, factor: float) -> Weighting:
        """All of them scaled."""
        return Weighting(self.vector * factor, self.words * factor, self.phrases * factor, self.whole * factor)


@dataclass(frozen=True, slots=True)
class ChoiceTaste:
    """Hyper-parameters: how strong tastes are, how far they carry over, how fast they change."""

    general: Weighting = Weighting(6.9, 6.6, 4.3, 0.5)
    local: Weighting = Weighting(17.5, 6.5, 0.0, 5.3)
    width: float = 0.07  # of `near`, in cosine of requests
    life: float = 60.0  # choices after which half of a taste is another one; inf: it never changes
    sharpness: float = 1.2  # of the answer: the mode lies nearer to zero than the mean does
    lapse: float = 0.03  # how often a choice is made at random


def scaled(taste: ChoiceTaste, prior_scale: float, change: float) -> ChoiceTaste:
    """The taste of a user whose preferences are `prior_scale` times as strong (in variance) and change `change` times as fast."""
    return replace(
        taste,
        general=taste.general.times(prior_scale),
        local=taste.local.times(prior_scale),
        life=taste.life / change if change > 0 else float("inf"),
    )


@dataclass(frozen=True, slots=True)
class Learned:
    """n past offers with N refused options between them, and how options compare.

    `covariance` functions of options are given as Gram matrices over the u different options in play: of those learned from
    and of the m that are to be chosen among, which are the last m.
    """

    refused: Ints  # (N,) option refused
    taken: Ints  # (N,) option taken in the same offer
    offer: Ints  # (N,) which offer, ascending
    age: Float  # (n,) newer choices of the user, at least 1
    requests: Float  # (n, n) nearness of the offers' requests
    request: Float  # (n,) nearness of the request that is to be answered
    general: Float  # (u, u)
    local: Float  # (u, u)
    offset: Float  # (u,) what the prior says of each option
    asked: int  # m


@dataclass(frozen=True, slots=True)
class Fit:
    """A posterior mode: utilities of the m options asked for, and what each refusal contributes to them."""

    utilities: Float  # (m,)
    shares: Float  # (m, N): column i is what refusal i adds to each option's utility


def nearness(similarity: Single, width: float, best: float | None = None) -> Float:
    """exp(-(distance of requests) / width), from cosines of their embeddings.

    Args:
        similarity: cosines, any shape.
        width: of the kernel.
        best: the largest similarity of the request to be answered; distances are then measured from it, so that what was
            settled before is known again in other words, however far an embedding puts these. None: from identity.
    """
    top = 1.0 if best is None else best
    return np.asarray(np.exp(np.minimum((similarity.astype(np.float64) - top) / width, 0.0)))


def fit(learned: Learned, life: float) -> Fit:
    """Find the mode of the utilities given what was chosen. With no offers the prior's utilities are the answer."""
    asked = np.arange(len(learned.offset) - learned.asked, len(learned.offset))
    start = learned.offset[asked]
    if not len(learned.refused):
        return Fit(start, np.zeros((learned.asked, 0)))
    jj, cc, own = learned.refused, learned.taken, learned.offer
    fade = np.exp2(-np.abs(learned.age[:, None] - learned.age[None, :]) / life)
    kernel = _differences(learned.general, jj, cc) * fade[np.ix_(own, own)]
    kernel += _differences(learned.local, jj, cc) * (learned.requests * fade)[np.ix_(own, own)]
    weights = _mode(kernel, learned.offset[jj] - learned.offset[cc], own)
    faded = np.exp2(-learned.age / life)
    cross = (learned.general[np.ix_(asked, jj)] - learned.general[np.ix_(asked, cc)]) * faded[own]
    cross += (learned.local[np.ix_(asked, jj)] - learned.local[np.ix_(asked, cc)]) * (learned.request * faded)[own]
    shares = cross * weights
    return Fit(start + shares.sum(axis=1), shares)


def probabilities(utilities: Float, sharpness: float = 1.0, lapse: float = 0.0) -> Float:
    """The distribution over options; it sums to 1 and no option is impossible if there is a `lapse`."""
    u = sharpness * utilities
    p = np.exp(np.maximum(u - u.max(), -LARGEST))
    return np.asarray((1.0 - lapse) * p / p.sum() + lapse / len(p))


def _differences(gram: Float, jj: Ints, cc: Ints) -> Float:
    """Covariance of utility differences (refused minus taken), (N, N)."""
    half = gram[jj] - gram[cc]
    return np.asarray(half[:, jj] - half[:, cc])


def _mode(kernel: Float, offset: Float, own: Ints) -> Float:
    """Weights a with f = offset + K a at the mode, where a is the gradient of the likelihood there, (N,).

    The objective is concave, and a step that does not improve it is halved.
    """
    count = len(own)
    firsts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    same = own[:, None] == own[None, :]
    weights, f = np.zeros(count), offset.copy()
    best = _objective(f, weights, offset, firsts)
    eye = np.eye(count)
    for _ in range(NEWTON_STEPS):
        q = _refusals(f, own, firsts)
        curvature = np.where(same, -q[:, None] * q[None, :], 0.0)
        curvature[np.diag_indices(count)] += q
        target = curvature @ (f - offset) - q
        goal = np.linalg.solve(eye + curvature @ kernel, target)
        step = 1.0
        while True:
            tried = weights + step * (goal - weights)
            moved = offset + kernel @ tried
            value = _objective(moved, tried, offset, firsts)
            if value >= best - 1e-9 or step < 1e-3:
                break
            step /= 2
        change = float(np.abs(moved - f).max())
        weights, f, best = tried, moved, value
        if change < TOLERANCE:
            break
    return weights


def _refusals(f: Float, own: Ints, firsts: Ints) -> Float:
    """Probability of each refused option given its offer, (N,); the taken one has utility 0."""
    top = np.maximum(np.maximum.reduceat(f, firsts), 0.0)
    e = np.exp(f - top[own])
    return np.asarray(e / (np.exp(-top) + np.add.reduceat(e, firsts))[own])


def _objective(f: Float, weights: Float, offset: Float, firsts: Ints) -> float:
    """Log-likelihood less half the squared norm of the deviation from the prior."""
    top = np.maximum(np.maximum.reduceat(f, firsts), 0.0)
    owner = np.repeat(np.arange(len(firsts)), np.diff(np.r_[firsts, len(f)]))
    total = np.add.reduceat(np.exp(f - top[owner]), firsts) + np.exp(-top)
    return float(-(np.log(total) + top).sum() - 0.5 * weights @ (f - offset))

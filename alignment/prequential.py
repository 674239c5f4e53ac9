"""How memory is best read for one user, fitted on every past answer: each is foretold from what was known before it.

The log score of a reading is the sum of log p(answer | everything before it), in time order: its prequential score (Dawid,
1984). It needs no interactions held out, since none is foretold from itself, and no model calls. The next requests are
partly new, which this stands for, and partly what was asked before, which it does not: a reading that forgets, or that
believes little, loses nothing by it. So a choice counts half as new, and half as asked again in other words with memory as
it is now.

Few answers tell little, so what other users gain is where a user's fit starts: an empirical-Bayes estimate (Robbins, 1956;
Efron and Morris, 1975). Let g_t(r) be log p_t(r) - log p_t(own), what reading r foretells interaction t better by than the
user's own reading does, in nats, and m_v the mean of g_t(r) over the n_v interactions of user v. With W the variance within
users and T that between them,

    m_v ~ N(theta_v, W / n_v),  theta_v ~ N(mu, T),

T is estimated by its moments (DerSimonian and Laird, 1986) and mu by the mean of the others' m_v, each weighing
1 / (T + W / n_v). The prior of the user's own theta is N(mu, T + var(mu)); the posterior's mean weighs it and the user's own
m by their precisions. Without enough others the prior is flat.

The reading with the largest posterior mean is the best of many, so its gain looks larger than it is. It is therefore judged
crosswise: a reading is chosen on every second interaction (of everybody) and its gains are read off the other ones, both
ways; the posterior of these gains is what a fit is accepted by.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alignment.candidates import Grid, Reading
from alignment.gate import ROUNDING
from alignment.rollouts import reworded
from personaagent.features import normalised
from personaagent.protocols import Memory
from personaagent.types import Interaction, Kind, Recall, RecallQuery

__all__ = ["MOST", "Fitted", "Foretold", "Others", "Posterior", "foretell", "posterior"]

MOST = 40  # newest interactions of a user that are foretold
CHUNK = 8  # queries memory gets at once: it answers others in between
OTHERS = 3  # users it takes to say what is usual ...
ENOUGH = 5  # ... with so many interactions each
FEW = 10  # interactions below which a user's own variance is not relied on
TINY = 1e-12  # nats squared, of a variance: readings that foretell the same differ by nothing

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Patiently = Callable[[Callable[[], Awaitable[tuple[Recall, ...]]]], Awaitable[tuple[Recall, ...]]]


@dataclass(frozen=True, eq=False)
class Foretold:
    """One user's past answers, oldest first, as memory alone foretold them.

    Args:
        user: whose they are.
        readings: r of them, the first being the user's own.
        logs: (n, r), the log-probability of each true answer under each reading; n may be 0.
    """

    user: str
    readings: tuple[Reading, ...]
    logs: Float


@dataclass(frozen=True)
class Fitted:
    """What a user's fit came to.

    Args:
        reading: the accepted one, or the user's own.
        gain: nats that each interaction is foretold better by, judged crosswise; negative if worse.
        error: its standard deviation; infinite if nothing is known.
        answers: of the user, that were foretold.
        users: others whose answers counted.
        accepted: whether the gain is larger than luck would have it.
        reason: in words.
    """

    reading: Reading
    gain: float
    error: float
    answers: int
    users: int
    accepted: bool
    reason: str


class Posterior(NamedTuple):
    """Mean and standard deviation of a user's mean gain under each reading, (r,), and how many others it rests on, (r,).

    Where nothing is known the mean is 0 and the deviation infinite. `own` and `own_error` are the mean of the user's own
    gains and its standard error, (r,), in which the others' means have no say, and `freedom` the degrees of freedom of
    that error.
    """

    mean: Float
    error: Float
    users: Ints
    own: Float
    own_error: Float
    freedom: Ints


async def foretell(
    memory: Memory, user: str, history: Sequence[Interaction], grid: Grid, patiently: Patiently
) -> Foretold:
    """Foretell a user's past closed choices and ratings under every reading of a grid, each from what was known before it.

    The log-probability of a choice is the mean of that and of its log-probability if it were asked again now.

    Left out are the oldest of `history`, before which nothing was known, and those whose truth is not among the choices.

    Args:
        memory: of the user; it is asked a few times, for at most `MOST` interactions together.
        user: whose memory.
        history: of the user, oldest first; the newest `MOST` that can be foretold are.
        grid: whose readings are tried.
        patiently: makes a call of memory, and makes it again while memory is down.

    Raises:
        NotFoundError: an interaction was forgotten meanwhile.
        UnavailableError, StoreError: memory stays down.
    """
    asked = [(i, rights) for i in history if (rights := _rights(i)).any()][1:][-MOST:]
    queries = [
        RecallQuery(text=i.query, k=0, choices=i.choices, decisions=grid.queries(), before=i.id, with_truth=True)
        for i, _ in asked
    ]
    repeated = [i for i, _ in asked if i.kind is Kind.CHOICE]
    queries += [
        RecallQuery(text=reworded(i.query), k=0, choices=i.choices, decisions=grid.queries(), with_truth=True)
        for i in repeated
    ]
    found: list[Recall] = []
    for at in range(0, len(queries), CHUNK):
        some = queries[at : at + CHUNK]
        found += await patiently(partial(memory.recall_many, user, some))
    new, again = found[: len(asked)], {i.id: r for i, r in zip(repeated, found[len(asked) :], strict=True)}
    logs = np.zeros((len(asked), len(grid.readings)))
    for row, (interaction, rights), recall in zip(logs, asked, new, strict=True):
        row[:] = _log(recall, rights)
        if interaction.id in again:
            row[:] = (row + _log(again[interaction.id], rights)) / 2
    return Foretold(user, grid.readings, logs)


def _log(recall: Recall, rights: Mask) -> Float:
    """Log-probability of what is right under each reading, (r,)."""
    return np.asarray(np.logaddexp.reduce(np.asarray(recall.evidence, dtype=float)[:, rights], axis=1))


def _rights(interaction: Interaction) -> Mask:
    """Which of the choices are what the user answered, (m,): several if some are equal, none for free text."""
    choices, truth = interaction.choices or (), interaction.truth
    if truth is None or interaction.kind is Kind.TEXT:
        return np.zeros(len(choices), dtype=bool)
    if interaction.kind is Kind.CHOICE:
        return np.asarray([normalised(c) == normalised(truth) for c in choices], dtype=bool)
    try:
        grade = float(truth)
    except ValueError:
        return np.zeros(len(choices), dtype=bool)
    return np.asarray([float(c) == grade for c in choices], dtype=bool)


class Others:
    """Users of a cohort who have the same kinds of requests, and what each one's fit is given what the others gain.

    A user is found by name and has no say in their own prior. Results do not depend on the order of users.
    """

    def __init__(self, cohort: Sequence[Foretold]) -> None:
        """`cohort`: one entry per user; none is enough for fits from own answers alone."""
        entries = sorted(cohort, key=lambda e: e.user)
        self._users = np.asarray([e.user for e in entries], dtype=object)
        self._enough = np.asarray([len(e.logs) >= ENOUGH for e in entries], dtype=bool)
        self._columns = {r: n for n, r in enumerate(sorted({r for e in entries for r in e.readings}))}
        # Not every persona was fitted from the same start, so a reading may be missing with some.
        self._most = max((len(e.logs) for e in entries), default=0)
        self._logs = np.full((len(entries), self._most, len(self._columns)), np.nan)
        for logs, entry in zip(self._logs, entries, strict=True):
            logs[: len(entry.logs), [self._columns[r] for r in entry.readings]] = entry.logs

    def fit(self, foretold: Foretold, min_gain: float, caution: float) -> Fitted:
        """The reading that foretells a user best, accepted if it does so by more than luck.

        Args:
            foretold: of the user, now; what the cohort has under the same name is left out.
            min_gain: smallest mean gain that counts, in nats per interaction.
            caution: standard deviations of the gain it must exceed.
        """
        own = foretold.logs - foretold.logs[:, :1]
        others = self._gains(foretold)
        found = posterior(own, others)
        # Ties change nothing: the user's own reading is the first.
        best = int(found.mean.argmax())
        even, theirs = np.arange(len(own)) % 2 == 0, np.arange(self._most) % 2 == 0
        first = int(posterior(own[even], others[:, theirs]).mean.argmax())
        second = int(posterior(own[~even], others[:, ~theirs]).mean.argmax())
        crossed = np.where(even, own[:, second], own[:, first])[:, None]
        judged = posterior(crossed, np.where(theirs, others[:, :, second], others[:, :, first])[:, :, None])
        gain, error, users = float(judged.mean[0]), float(judged.error[0]), int(judged.users[0])
        accepted = best > 0 and gain > max(min_gain, caution * error) + ROUNDING
        if accepted:
            with_others = f", with {users} other users" if users else ""
            words = f"predicts {len(own)} past answers better by {gain:.3f} nats each (± {error:.3f}){with_others}"
        else:
            words = "no other reading of memory clearly predicts past answers better"
        reading = foretold.readings[best if accepted else 0]
        return Fitted(reading, gain, error, len(own), users, accepted, words)

    def _gains(self, foretold: Foretold) -> Float:
        """What the others gain against this user's own reading, (users, m, r); nan where they do not know."""
        known = np.concatenate([self._logs, np.full((*self._logs.shape[:2], 1), np.nan)], axis=2)
        columns = [self._columns.get(r, -1) for r in foretold.readings]
        counted = (self._users != foretold.user) & self._enough
        others = known[counted][:, :, columns]
        return np.asarray(others - others[:, :, :1])


def posterior(own: Float, others: Float) -> Posterior:
    """What is known of a user's mean gains, from their own interactions and those of others; see the module.

    Args:
        own: gains of the user, (n, r).
        others: gains of v other users, (v, m, r), nan where they have fewer than m or do not know a reading.
    """
    heard = ~np.isnan(others)
    counts = heard.sum(axis=1)  # (v, r)
    means = np.where(heard, others, 0.0).sum(axis=1) / np.maximum(counts, 1)
    squares = (np.where(heard, others - means[:, None], 0.0) ** 2).sum(axis=(0, 1))
    freedom = np.maximum(counts - 1, 0).sum(axis=0)
    users = (counts > 0).sum(axis=0)
    pooled = np.where(freedom > 0, squares / np.maximum(freedom, 1), np.inf)
    mu, variance = _prior(means, counts, pooled)
    usable = (users >= OTHERS) & (freedom > 0)
    precision = np.where(usable, 1.0 / np.maximum(variance, TINY), 0.0)
    mine = own.mean(axis=0) if len(own) else np.zeros(own.shape[1])
    weight = len(own) / np.maximum(_own_variance(own, pooled), TINY)
    total = precision + weight
    mean = np.where(total > 0, (precision * np.where(usable, mu, 0.0) + weight * mine) / np.maximum(total, TINY), 0.0)
    with np.errstate(divide="ignore"):
        own_error, degrees = _own_error(own, pooled, freedom)
        return Posterior(mean, 1.0 / np.sqrt(total), np.where(usable, users, 0), mine, own_error, degrees)


def _prior(means: Float, counts: Ints, within: Float) -> tuple[Float, Float]:
    """Mean and variance of one more user's mean gain under each reading, (r,), given others' means and counts, (v, r)."""
    within = np.where(np.isfinite(within), within, 0.0)  # unknown; the result is not used then
    total = np.maximum(counts.sum(axis=0), 1)
    middle = (counts * means).sum(axis=0) / total
    spread = (counts * (means - middle) ** 2).sum(axis=0) - np.maximum((counts > 0).sum(axis=0) - 1, 0) * within
    between = np.maximum(spread / np.maximum(total - (counts**2).sum(axis=0) / total, 1.0), 0.0)
    weights = np.where(counts > 0, 1.0 / np.maximum(between + within / np.maximum(counts, 1), TINY), 0.0)
    summed = np.maximum(weights.sum(axis=0), TINY)
    return (weights * means).sum(axis=0) / summed, between + 1.0 / summed


def _own_variance(own: Float, pooled: Float) -> Float:
    """Variance of a single gain of the user under each reading, (r,); infinite where nothing tells it.

    A few interactions may be alike by luck, so theirs counts only where it is larger than that within the others (`pooled`).
    Without others, that it is itself estimated makes it larger, as Student's distribution is wider than the normal one.
    """
    squares = ((own - own.mean(axis=0)) ** 2).sum(axis=0) if len(own) else np.zeros(own.shape[1])
    degrees = len(own) - 1
    alone = squares / (degrees - 2) if degrees > 2 else np.full(own.shape[1], np.inf)
    if len(own) >= FEW:
        return np.asarray(alone)
    return np.where(np.isfinite(pooled), np.maximum(pooled, squares / max(degrees, 1)), alone)


def _own_error(own: Float, pooled: Float, freedom: Ints) -> tuple[Float, Ints]:
    """Standard error of the mean of the user's own gains and its degrees of freedom, (r,); infinite where nothing tells it."""
    n = len(own)
    squares = ((own - own.mean(axis=0)) ** 2).sum(axis=0) if n else np.zeros(own.shape[1])
    alone = squares / (n - 1) if n > 1 else np.full(own.shape[1], np.inf)
    shared = np.isfinite(pooled) & (n < FEW)
    variance = np.where(shared, np.maximum(pooled, squares / max(n - 1, 1)), alone)
    error = np.sqrt(np.maximum(variance, TINY) / n) if n else np.full(own.shape[1], np.inf)
    return error, np.where(shared, freedom, max(n - 1, 0))

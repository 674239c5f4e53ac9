"""What users have in common, learned from their newest choices and ratings, as weights for `personaagent.evidence.commons`.

Choices give a conditional logit (McFadden, 1974) over hashed features of the options, pooled over users; ratings a ridge
regression (Hoerl and Kennard, 1970) of normal scores, on each user's own scale, over features of the request. How strongly
weights are held back is chosen on users that were left out, and where nothing helps these the table stays empty.

A feature that fewer than `LEAST_USERS` users had is left out before anything is fitted: no weight tells of a single user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import cg

from personaagent.evidence.choice_model import ChoiceTaste
from personaagent.evidence.commons import BINS, SIZE, Commons, Population, packed, places
from personaagent.evidence.rating_model import RatingTaste, scale_of
from personaagent.features import normalised
from personaagent.protocols import Memory
from personaagent.types import Interaction, Kind, utc_now

__all__ = ["LEAST_USERS", "MOST_USERS", "learn", "learn_into"]

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Setting = tuple[float, float]  # ridge and shrink

LEAST_USERS = 5  # who must have had a feature
NEWEST_CHOICES, NEWEST_RATINGS = 40, 200  # of one user, so that nobody outweighs the others
MOST_USERS = 2_000  # whose histories are read
BATCH = 64  # of them at a time
NEWEST = NEWEST_CHOICES + NEWEST_RATINGS
REFUSED = 8  # options of one offer, beside the one taken; it bounds time and memory
FOLDS = 3  # of users, in turn left out
FEW_USERS, FEW_FOLDS = 100, 5  # among fewer users a larger share is learned from
RIDGES = (64.0, 16.0, 4.0, 1.0)  # precision of a weight, strict to loose: each fit starts from the one before
RATING_RIDGES = (320.0, 80.0, 20.0, 5.0)  # of words and phrases of what is rated, in ratings
ITEM_RIDGE = 5.0  # of the whole text: what n users rated alike keeps n / (n + 5) of it
SHRINKS = (0.25, 0.5, 0.75, 1.0)
LEAST_GAIN = 1e-6  # anything less is rounding
STEPS = 40  # of the optimiser
WIDE = SIZE << 40  # features are counted by this many places, so that two rare ones never pass for a common one


def learn(histories: Iterable[Sequence[Interaction]], now: datetime, number: int) -> Population | None:
    """What the users of these histories have in common; None if there are too few users.

    The same histories in the same order give the same result. Takes about 3 s for 600 users with 40 choices each.

    Args:
        histories: of one user each, oldest first. The newest 40 closed choices and 200 ratings with a truth count.
        now: when it is learned.
        number: of the population, higher than that of the one before.
    """
    choices, ratings, users = _Choices(), _Ratings(), 0
    for history in histories:
        known = [i for i in history if i.truth is not None and i.choices]
        chosen = [i for i in known if i.kind is Kind.CHOICE][-NEWEST_CHOICES:]
        rated = [i for i in known if i.kind is Kind.RATING][-NEWEST_RATINGS:]
        choices.add(users, chosen)
        ratings.add(users, rated)
        users += bool(chosen or rated)
    if users < LEAST_USERS:
        return None
    grades = ratings.histogram()
    return Population(
        number=number,
        users=users,
        time=now,
        choices=_text(choices.table()),
        ratings=_text(ratings.table(grades)),
        grades=grades,
    )


async def learn_into(memory: Memory, users: Sequence[str]) -> Population | None:
    """Learn what users have in common and put it in their memory in the place of what was there.

    At most `MOST_USERS` of the users are read, drawn evenly from their order by name. With too few users, what was learned
    from others before is dropped: nobody knows whether it still holds.

    Returns:
        What is in the memory now; None if there are too few users.

    Raises:
        ConflictError: somebody else replaced it meanwhile.
        StoreError, UnavailableError: as the memory.
    """
    names = sorted(set(users))
    drawn = [names[n * len(names) // MOST_USERS] for n in range(MOST_USERS)] if len(names) > MOST_USERS else names
    histories: list[tuple[Interaction, ...]] = []
    for start in range(0, len(drawn), BATCH):
        batch = drawn[start : start + BATCH]
        histories += await asyncio.gather(*(memory.latest(user, NEWEST, with_truth=True) for user in batch))
    stored = await memory.population()
    number = 1 if stored is None else stored.number + 1
    learned = await asyncio.to_thread(learn, histories, utc_now(), number)
    if learned is not None:
        await memory.commit_population(learned)
    elif stored is not None and stored.users:
        await memory.commit_population(Population(number=number, users=0, time=utc_now()))
    return learned


def _text(table: Float | None) -> str:
    return "" if table is None else packed(table)


class _Features:
    """Different texts with their features, and who had them."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._places: list[Ints] = []
        self._weights: list[Float] = []
        self._had: dict[tuple[int, int], None] = {}  # (user, text)

    def code(self, user: int, text: str) -> int:
        """The number of a text that a user had."""
        whole = normalised(text)
        code = self._codes.setdefault(whole, len(self._codes))
        if code == len(self._places):
            at, weights = places(whole, WIDE)
            self._places.append(np.asarray(at, dtype=np.int64))
            self._weights.append(np.asarray(weights))
        self._had[user, code] = None
        return code

    def matrix(self, users: Ints) -> csr_matrix:
        """Texts by places, (texts, SIZE), of features that enough of these users had."""
        had = np.asarray(list(self._had), dtype=np.int64).reshape(-1, 2)
        had = had[np.isin(had[:, 0], users)]
        lengths = np.asarray([len(p) for p in self._places], dtype=np.int64)
        start = np.cumsum(lengths) - lengths
        at, weights = np.concatenate(self._places), np.concatenate(self._weights)
        names, feature = np.unique(at, return_inverse=True)
        count = lengths[had[:, 1]]
        owner = np.repeat(had[:, 0], count)
        entry = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start[had[:, 1]], count)
        pairs = np.unique(feature[entry] * (users.max() + 1) + owner)
        common = np.bincount(pairs // (users.max() + 1), minlength=len(names)) >= LEAST_USERS
        kept = common[feature]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        return csr_matrix((weights[kept], (rows[kept], at[kept] % SIZE)), shape=(len(lengths), SIZE))

    def wholes(self) -> Ints:
        """The place of each text's feature for the whole of it, (texts,)."""
        return np.asarray([p[-1] % SIZE for p in self._places], dtype=np.int64)


def _chosen(users: Ints, gains_of: Callable[[Ints, Ints], dict[Setting, Float]]) -> Setting | None:
    """The ridge and shrink that serve users best who were left out; None if choosing so gains no more than a standard error.

    Whether it gains is judged on users who had no part in the choice either: the best of many settings looks good by chance.

    Args:
        users: all of them.
        gains_of: given the users to learn from and those left out, how much better each of the latter is served than by
            knowing nothing, by setting.
    """
    # With few users most of them must be learned from, or none of their features is common enough.
    folds = FOLDS if len(users) >= FEW_USERS else min(len(users), FEW_FOLDS)
    parts = [gains_of(np.setdiff1d(users, users[n::folds]), users[n::folds]) for n in range(folds)]
    honest = [part[_best([p for p in parts if p is not part])] for part in parts]
    gains = np.concatenate(honest)
    error = float(gains.std(ddof=1)) / len(gains) ** 0.5
    return _best(parts) if gains.mean() > max(error, LEAST_GAIN) else None


def _best(parts: Sequence[dict[Setting, Float]]) -> Setting:
    return max(parts[0], key=lambda setting: float(np.concatenate([part[setting] for part in parts]).mean()))


class _Choices:
    """Closed choices of many users."""

    def __init__(self) -> None:
        self._features = _Features()
        self._refused: list[int] = []  # texts
        self._taken: list[int] = []  # texts, of the same rows
        self._offer: list[int] = []
        self._user: list[int] = []  # by offer

    def add(self, user: int, chosen: Sequence[Interaction]) -> None:
        """Take in a user's choices. A truth that was not on offer was preferred to everything that was."""
        for item in chosen:
            taken = self._features.code(user, item.truth or "")
            others = dict.fromkeys(self._features.code(user, c) for c in (item.choices or ())[: REFUSED + 1])
            others.pop(taken, None)
            for code in list(others)[:REFUSED]:
                self._refused.append(code)
                self._taken.append(taken)
                self._offer.append(len(self._user))
            if others:
                self._user.append(user)

    def table(self) -> Float | None:
        """Weights of utility, (SIZE,), or None if they foretell nothing."""
        self._arrays = tuple(
            np.asarray(x, dtype=np.int64) for x in (self._refused, self._taken, self._offer, self._user)
        )
        users = np.unique(self._arrays[3])
        if len(users) < LEAST_USERS:
            return None
        setting = _chosen(users, self._gains)
        if setting is None:
            return None
        *_, (_, weights) = self._path(users, [r for r in RIDGES if r >= setting[0]])
        return setting[1] * weights

    def _gains(self, among: Ints, out: Ints) -> dict[Setting, Float]:
        """Log score of the answers to each left-out user's choices above that of even ones, a mean per choice."""
        refused, taken, offer, user = self._arrays
        rows = np.isin(user[offer], out)
        refused, taken = refused[rows], taken[rows]
        offers, own = np.unique(offer[rows], return_inverse=True)
        size = np.bincount(own) + 1.0
        whose = np.searchsorted(out, user[offers])
        taste = ChoiceTaste()
        found = {}
        for ridge, weights in self._path(among, RIDGES):
            utility = self._matrix @ weights
            behind = utility[refused] - utility[taken]
            for shrink in SHRINKS:
                # As `choice_model.probabilities` answers who has chosen nothing yet.
                odds = np.bincount(own, weights=np.exp(np.minimum(taste.sharpness * shrink * behind, 60.0)))
                p = (1.0 - taste.lapse) / (1.0 + odds) + taste.lapse / size
                gain = np.log(p * size)
                found[ridge, shrink] = np.bincount(whose, weights=gain) / np.bincount(whose)
        return found

    def _path(self, users: Ints, ridges: Sequence[float]) -> list[tuple[float, Float]]:
        """Weights by ridge, (SIZE,) each."""
        refused, taken, offer, user = self._arrays
        self._matrix = self._features.matrix(users)
        rows = np.isin(user[offer], users)
        _, own = np.unique(offer[rows], return_inverse=True)
        texts, codes = np.unique(np.r_[refused[rows], taken[rows]], return_inverse=True)
        refused, taken = codes[: len(own)], codes[len(own) :]
        columns = np.unique(self._matrix.indices)
        x = self._matrix[texts][:, columns]
        back = x.T.tocsr()

        def loss(w: Float, ridge: float) -> tuple[float, Float]:
            utility = x @ w
            e = np.exp(np.minimum(utility[refused] - utility[taken], 60.0))
            total = 1.0 + np.bincount(own, weights=e)
            p = e / total[own]
            slope = np.bincount(refused, weights=p, minlength=len(texts)) - np.bincount(
                taken, weights=p, minlength=len(texts)
            )
            return float(np.log(total).sum() + 0.5 * ridge * w @ w), back @ slope + ridge * w

        path, w = [], np.zeros(len(columns))
        for ridge in ridges:
            if len(columns):
                w = minimize(loss, w, (ridge,), "L-BFGS-B", jac=True, options={"maxiter": STEPS, "ftol": 1e-5}).x
            weights = np.zeros(SIZE)
            weights[columns] = w
            path.append((ridge, weights))
        return path


class _Ratings:
    """Ratings of many users."""

    def __init__(self) -> None:
        self._features = _Features()
        self._rated: list[tuple[int, Ints, Ints, Float]] = []  # user, texts, grades and the positions of the grades

    def add(self, user: int, rated: Sequence[Interaction]) -> None:
        """Take in a user's ratings, oldest first; the newest one's grades are the user's."""
        if not rated:
            return
        grades = np.unique([float(c) for c in rated[-1].choices or ()])
        position = (grades - grades[0]) / max(float(np.ptp(grades)), 1e-9)
        texts, given = [], []
        for item in rated:
            values = [float(c) for c in item.choices or ()]
            try:
                value = (float(item.truth or "") - min(values)) / max(max(values) - min(values), 1e-9)
            except ValueError:
                continue
            if not np.isfinite(value):  # "nan" is a number to Python, and no grade
                continue
            texts.append(self._features.code(user, item.query))
            given.append(int(np.abs(position - value).argmin()))
        if texts:
            self._rated.append((user, np.asarray(texts), np.asarray(given), position))

    def histogram(self) -> tuple[float, ...]:
        """Share of grades per bin, every user counting alike; empty with too few users."""
        if len(self._rated) < LEAST_USERS:
            return ()
        shares = np.zeros(BINS)
        for _, _, given, position in self._rated:
            bins = np.rint(position[given] * (BINS - 1)).astype(np.int64)
            shares += np.bincount(bins, minlength=BINS) / len(given)
        return tuple(float(x) for x in np.round(shares / shares.sum(), 6))

    def table(self, grades: tuple[float, ...]) -> Float | None:
        """Weights of liking, (SIZE,), or None if they foretell nothing."""
        if len(self._rated) < LEAST_USERS:
            return None
        commons = Commons(Population(users=0, time=datetime.min, grades=grades))
        taste = RatingTaste()
        user, text, score = [], [], []
        for who, texts, given, position in self._rated:
            age = np.arange(len(given), 0, -1, dtype=np.float64)
            scale = scale_of(given, age, commons.scale(position), taste, commons.grades)
            user.append(np.full(len(given), who))
            text.append(texts)
            score.append(scale.scores[given])
        self._arrays = np.concatenate(user), np.concatenate(text), np.concatenate(score)
        users = np.unique(self._arrays[0])
        setting = _chosen(users, self._gains)
        return None if setting is None else setting[1] * self._fit(users, self._features.matrix(users), setting[0])

    def _gains(self, among: Ints, out: Ints) -> dict[Setting, Float]:
        """How much smaller each left-out user's mean squared error is than that of always saying 0."""
        user, text, score = self._arrays
        rows = np.isin(user, out)
        text, score, whose = text[rows], score[rows], np.searchsorted(out, user[rows])
        found = {}
        matrix = self._features.matrix(among)
        for ridge in RATING_RIDGES:
            liking = (matrix @ self._fit(among, matrix, ridge))[text]
            for shrink in SHRINKS:
                gain = score**2 - (score - shrink * liking) ** 2
                found[ridge, shrink] = np.bincount(whose, weights=gain) / np.bincount(whose)
        return found

    def _fit(self, users: Ints, x: csr_matrix, ridge: float) -> Float:
        """Ridge regression on the mean score of each text, weighted by how often it was rated, (SIZE,)."""
        user, text, score = self._arrays
        rows = np.isin(user, users)
        count = np.bincount(text[rows], minlength=x.shape[0]).astype(np.float64)
        total = np.bincount(text[rows], weights=score[rows], minlength=x.shape[0])
        held = np.full(SIZE, ridge)
        held[self._features.wholes()] = ITEM_RIDGE
        columns = np.unique(x.indices)
        weights = np.zeros(SIZE)
        if len(columns):
            narrow = x[:, columns]
            system = narrow.T @ diags(count) @ narrow + diags(held[columns])
            weights[columns] = cg(system, narrow.T @ total, rtol=1e-4, maxiter=200)[0]
        return weights

"""What a user's past ratings say about the grades of a rating."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.evidence.commons import Commons
from personaagent.evidence.evidence import DOUBT, FLOOR_P, Beliefs, Evidence, Float, Ints, Known, Single
from personaagent.evidence.offers import Ratings
from personaagent.evidence.ranking import untold
from personaagent.evidence.rating_model import (
    TASTES,
    Rated,
    RatingTaste,
    Scale,
    company,
    graded,
    plausibility,
    scale_of,
    scaled_rating,
)
from personaagent.evidence.text_bags import Bags
from personaagent.types import Decision, Reason

__all__ = ["rating_evidence"]

RATED = "ratings"  # of beliefs

RATINGS = 256  # past ratings a prediction looks at ...
TOLD = 128  # newest ratings that tell what kind of person the user is
NEWEST = 192  # ... so many of them the newest, the others the nearest
COMMON = 0.95  # words in more of the requests say nothing about what is rated
REASONS = 6  # past ratings that an explanation names


def rating_evidence(
    known: Known,
    ratings: Ratings,
    query: str,
    query_vector: Single,
    choices: Sequence[str],
    decisions: Sequence[Decision],
    commons: Commons | None = None,
    explain: bool = False,
    beliefs: Beliefs | None = None,
) -> list[Evidence]:
    """Read ratings under several decisions.

    Args:
        known: past ratings, all of them held by `ratings`.
        ratings: of the user.
        query: the request.
        query_vector: its unit embedding.
        choices: the g grades, in any order; two of the same value share what it gets.
        decisions: how memory is read.
        commons: what people have in common.
        explain: whether to say why.
        beliefs: as `choice_evidence` takes them.
    """
    values = np.asarray([float(c) for c in choices])
    grades, place = np.unique(values, return_inverse=True)
    share = 1.0 / np.bincount(place)[place]
    scene = _RatingScene(known, ratings, query, query_vector, grades, _newest_and_nearest(known), commons)
    believed = None if beliefs is None else beliefs.get(RATED)
    if believed is None:
        picked = np.argsort(known.age, kind="stable")[:TOLD][::-1]
        believed = _RatingScene(known, ratings, query, query_vector, grades, picked, commons).believed(TASTES)
        if beliefs is not None:
            beliefs[RATED] = believed
    result = []
    for decision in decisions:
        held = [
            (scaled_rating(t, decision.prior_scale, decision.change), belief)
            for t, belief in zip(TASTES, believed, strict=True)
            if belief >= DOUBT
        ]
        found = [graded(scene.rated, scene.scale(t), t) for t, _ in held]
        weights = np.asarray([belief for _, belief in held]) / sum(belief for _, belief in held)
        p = np.asarray(weights @ np.stack([f.probabilities for f in found]))
        reasons = _similar(weights @ np.stack([f.shares for f in found]), scene, ratings, known) if explain else ()
        p = np.maximum(p, FLOOR_P)[place] * share
        result.append(Evidence(tuple(float(x) for x in np.log(p / p.sum())), reasons))
    return result


class _RatingScene:
    """The past ratings looked at, and the request to be rated, as the model takes them."""

    def __init__(
        self,
        known: Known,
        ratings: Ratings,
        query: str,
        query_vector: Single,
        grades: Float,
        picked: Ints,
        commons: Commons | None,
    ) -> None:
        self.slots = known.slots[picked]
        what = ratings.what(self.slots)
        position = (grades - grades[0]) / max(float(np.ptp(grades)), 1e-9)
        given = np.abs(ratings.values(self.slots)[:, None] - position[None, :]).argmin(axis=1)
        vectors = np.vstack([known.request_vectors(self.slots), query_vector[None, :]])
        offset = np.zeros(len(picked) + 1)
        self._prior, self._known = np.full(len(grades), 1.0 / len(grades)), False
        if commons is not None:
            offset = np.r_[ratings.offsets.of(what, ratings.texts, commons), commons.liking([query])]
            self._prior, self._known = commons.scale(position), commons.grades
        bags = ratings.texts.bags(what, [query])
        texts = np.r_[known.requests(self.slots), known.request]
        cosine = untold(vectors @ vectors.T, texts[:, None] == texts).astype(np.float64)
        self.rated = Rated(
            grade=given,
            age=known.age[picked].astype(np.float64) + 1.0,
            cosine=cosine,
            words=_told(bags, ~ratings.texts.is_phrase),
            phrases=_told(bags, ratings.texts.is_phrase),
            company=company(cosine),
            offset=offset,
        )

    def scale(self, taste: RatingTaste) -> Scale:
        """The user's scale."""
        return scale_of(self.rated.grade, self.rated.age, self._prior, taste, self._known)

    def believed(self, tastes: Sequence[RatingTaste]) -> Float:
        """How likely each taste is given the past ratings, summing to 1."""
        logs = np.asarray([plausibility(self.rated, self.scale(t), t) + np.log(t.share) for t in tastes])
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())


def _similar(shares: Float, scene: _RatingScene, ratings: Ratings, known: Known) -> tuple[Reason, ...]:
    """The past ratings that moved the liking most."""
    slots = scene.slots
    most = np.argsort(-np.abs(shares), kind="stable")[:REASONS]
    what, ids = ratings.what(slots[most]), known.ids(slots[most])
    return tuple(
        Reason(text=ratings.texts.whole(int(code)), weight=float(shares[n]), sources=(source,))
        for n, code, source in zip(most, what, ids, strict=True)
        if shares[n]
    )


def _newest_and_nearest(known: Known) -> Ints:
    """Positions of the past ratings to look at, oldest first: most of them the newest, the others the nearest."""
    n = len(known.slots)
    if n <= RATINGS:
        chosen = np.arange(n)
    else:
        newest = np.argpartition(known.age, NEWEST)[:NEWEST]
        rest = np.setdiff1d(np.arange(n), newest, assume_unique=True)
        left = RATINGS - NEWEST
        chosen = np.r_[newest, rest[np.argpartition(-known.similarity[rest], left - 1)[:left]]]
    return np.asarray(chosen[np.argsort(-known.age[chosen], kind="stable")])


def _told(bags: Bags, features: npt.NDArray[np.bool_]) -> Float:
    """Gram matrix of some features of requests, the last being the one to be rated; what all or one have tells nothing."""
    dense, _ = bags.dense(features)
    common = (dense > 0).mean(axis=0)
    dense = (dense[:, (common <= COMMON) & (common > 1 / bags.size)] > 0).astype(np.float32)
    if not dense.shape[1]:
        return np.zeros((bags.size, bags.size))
    dense /= np.sqrt(np.maximum(dense.sum(axis=1, keepdims=True), 1.0))
    dense -= dense[:-1].mean(axis=0)
    return np.asarray(dense @ dense.T, dtype=np.float64)

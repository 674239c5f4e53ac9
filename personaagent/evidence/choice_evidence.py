"""What a user's past choices say about the options of a closed choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.evidence.choice_model import (
    SETTINGS,
    ChoiceTaste,
    Learned,
    Setting,
    Weighting,
    credence,
    fade,
    fit,
    meant,
    nearness,
    probabilities,
)
from personaagent.evidence.commons import Commons
from personaagent.evidence.evidence import DOUBT, FLOOR_P, Beliefs, Evidence, Float, Ints, Known, Single
from personaagent.evidence.offers import MOST_REFUSED, Offers
from personaagent.evidence.ranking import best, untold
from personaagent.evidence.text_bags import NONE, Codes
from personaagent.types import Decision, Reason

__all__ = ["choice_evidence"]

CHOICES = "choices"  # of beliefs

NEAREST = 40  # past choices a prediction looks at
ROWS = 128  # refused options among them, about; time grows with the cube
LEAST_REFUSED = 3  # of one offer
FLOOR = 0.1  # of nearness, in choosing which past choices to look at: others count too, the newest first
REASONS = 3  # features, and interactions each, that an explanation names


def choice_evidence(
    known: Known,
    offers: Offers,
    choices: Sequence[str],
    choice_vectors: Single,
    decisions: Sequence[Decision],
    commons: Commons | None = None,
    explain: bool = False,
    beliefs: Beliefs | None = None,
    about: int | None = None,
) -> list[Evidence]:
    """Read closed choices under several decisions; features are put together once for all of them.

    Args:
        known: past choices, all of them held by `offers`.
        offers: of the user.
        choices: the m options.
        choice_vectors: their unit embeddings, (m, dim).
        decisions: how memory is read.
        commons: what people have in common.
        explain: whether to say why.
        beliefs: what kind of person the user is, as found before from the same past choices; filled in if it is missing.
        about: the option whose reasons are given; None: the likeliest.
    """
    taste = ChoiceTaste()
    scene = _Scene(known, offers, choices, choice_vectors, _pick(known, taste), commons)
    learned = scene.learned(taste)
    believed = _believed(known, offers, taste, commons, beliefs)
    people = [setting for setting, belief in zip(SETTINGS, believed, strict=True) if belief >= DOUBT]
    belief = believed[believed >= DOUBT] / believed[believed >= DOUBT].sum()
    result = []
    every = fit(learned, [_scaled(setting, decision) for decision in decisions for setting in people], taste)
    for n in range(len(decisions)):
        fits = every[n * len(people) : (n + 1) * len(people)]
        p = np.asarray(belief @ np.stack([probabilities(f.utilities, taste) for f in fits]))
        shares = np.einsum("s,smn->mn", belief, np.stack([f.shares for f in fits])) if explain else None
        reasons = () if shares is None else scene.reasons(shares, int(p.argmax()) if about is None else about)
        result.append(Evidence(tuple(float(x) for x in np.log(np.maximum(p, FLOOR_P))), reasons))
    return result


def _scaled(setting: Setting, decision: Decision) -> Setting:
    """A kind of person, as a persona's decision has it."""
    return Setting(
        setting.general * decision.prior_scale,
        setting.local * decision.prior_scale,
        setting.change * decision.change,
        setting.lasting,
        setting.jump * decision.change,
        setting.share,
    )


def _believed(
    known: Known, offers: Offers, taste: ChoiceTaste, commons: Commons | None, beliefs: Beliefs | None
) -> Float:
    """What kind of person this is, a probability for each of `SETTINGS`, told by the user's newest choices whatever is asked."""
    if beliefs is not None and CHOICES in beliefs:
        return beliefs[CHOICES]
    picked = np.arange(len(known.slots))
    if len(picked) > NEAREST:
        picked = np.argpartition(known.age, NEAREST - 1)[:NEAREST]
    picked = picked[np.argsort(-known.age[picked], kind="stable")]
    nothing = np.zeros((0, known.request_vectors(known.slots[:0]).shape[1]), dtype=np.float32)
    scene = _Scene(known, offers, (), nothing, picked, commons)
    believed = credence(scene.learned(taste), SETTINGS, taste)
    if beliefs is not None:
        beliefs[CHOICES] = believed
    return believed


def _pick(known: Known, taste: ChoiceTaste) -> Ints:
    """Positions of the past choices to look at, oldest first: near ones and new ones, at most `NEAREST`."""
    near = nearness(known.similarity + (1.0 - known.similarity.max(initial=-1.0)), taste)  # relative to the nearest
    worth = (FLOOR + near) * fade(known.age.astype(np.float64), Setting(), taste)
    top = best(np.arange(len(worth)), worth, known.age, NEAREST)
    return np.asarray(top[np.argsort(-known.age[top], kind="stable")])


class _Scene:
    """Options in play: those of the offers looked at, then those asked for, with their Gram matrices per kind of feature."""

    def __init__(
        self,
        known: Known,
        offers: Offers,
        choices: Sequence[str],
        choice_vectors: Single,
        picked: Ints,
        commons: Commons | None,
    ) -> None:
        self._known = known
        self._offers = offers
        self._slots = known.slots[picked]
        self._age: Float = known.age[picked].astype(np.float64) + 1.0
        self._similarity, self._asked = known.similarity[picked], len(choices)
        refused = offers.refused(self._slots) if len(picked) else np.zeros((0, MOST_REFUSED), dtype=np.int32)
        taken = offers.taken(self._slots) if len(picked) else np.zeros(0, dtype=np.int32)
        # Of offers with many options some of the refused ones stand for all.
        most = max(LEAST_REFUSED, ROWS // max(1, len(picked)))
        self.offer, column = np.nonzero(refused[:, :most] >= 0)
        self._codes, at = np.unique(np.r_[refused[self.offer, column], taken], return_inverse=True)
        self.refused, by_offer = at[: len(self.offer)], at[len(self.offer) :]
        self.taken = by_offer[self.offer]
        where = offers.vectors(self._codes)
        lacking = self._lacking(where)
        asked = np.asarray([offers.texts.code(c) for c in choices])
        # What is asked for stands apart from what was seen, so that an option keeps the vector it comes with.
        self._key = np.r_[self._codes, np.where(asked >= 0, asked, -1 - np.arange(len(choices)))]
        if 0 < len(choices) <= MOST_REFUSED:
            free = np.flatnonzero((refused < 0).all(axis=1) & ~lacking[by_offer])
            self._prefer(free, by_offer, asked)
        bags = offers.texts.bags(self._codes, choices)
        phrase = offers.texts.is_phrase
        features, ids = bags.dense()
        of_phrases = phrase[ids]
        self._word_matrix, self._word_ids = features[:, ~of_phrases], ids[~of_phrases]
        self._phrase_matrix, self._phrase_ids = features[:, of_phrases], ids[of_phrases]
        self._words, self._phrases = _gram(self._word_matrix), _gram(self._phrase_matrix)
        self._whole = (self._key[:, None] == self._key[None, :]).astype(np.float32)
        self._vectors = _gram(self._embedded(where, lacking, choice_vectors))
        vectors = known.request_vectors(self._slots)
        texts = known.requests(self._slots)
        self._cosine = untold(vectors @ vectors.T, texts[:, None] == texts)
        self.offset = np.zeros(len(self._key))
        if commons is not None:
            self.offset = np.r_[offers.offsets.of(self._codes, offers.texts, commons), commons.utility(choices)]

    def learned(self, taste: ChoiceTaste) -> Learned:
        """The past choices as the model takes them."""
        requests = nearness(self._cosine, taste)
        request = meant(self._similarity, requests, taste)
        return Learned(
            refused=self.refused,
            taken=self.taken,
            offer=self.offer,
            age=self._age,
            turns=self._turns(requests, request),
            requests=requests,
            request=request,
            general=self._gram(taste.general),
            local=self._gram(taste.local),
            offset=self.offset,
            asked=self._asked,
        )

    def _turns(self, requests: Float, request: Float) -> Float:
        """How often choices had contradicted older ones about the same by each of them, and by now, (n + 1,).

        A choice contradicts an older one if it refuses what that one took; it counts for requests as near as theirs.
        """
        n = len(self._slots)
        if not n:
            return np.zeros(1)
        refused, taken = self._offers.refused(self._slots), self._offers.taken(self._slots)
        newer = np.arange(n)[:, None] < np.arange(n)[None, :]
        again = (refused[None, :, :] == taken[:, None, None]).any(axis=2) & newer  # (older, newer)
        against = np.where(again, requests, 0.0).max(axis=0)
        upto = np.where(newer | np.eye(n, dtype=bool), requests * against[:, None], 0.0).sum(axis=0)
        return np.asarray(np.r_[upto, request @ against])

    def _gram(self, w: Weighting) -> Single:
        """The covariance of options' utilities, weighted by kind of feature."""
        gram: Single = np.zeros_like(self._whole)
        for weight, kind in (
            (w.vector, self._vectors),
            (w.words, self._words),
            (w.phrases, self._phrases),
            (w.whole, self._whole),
        ):
            if weight:
                gram += weight * kind
        return gram

    def reasons(self, shares: Float, chosen: int) -> tuple[Reason, ...]:
        """Features that speak most for the chosen option against the others, with the interactions behind them."""
        if not shares.shape[1]:
            return ()
        told = shares[chosen] - (shares.sum(axis=0) - shares[chosen]) / max(1, len(shares) - 1)
        per_offer = np.bincount(self.offer, weights=told, minlength=len(self._slots))
        ids = self._known.ids(self._slots)
        names = self._offers.texts.names()
        found: list[Reason] = []
        u = len(self._codes)
        mine = u + chosen
        for matrix, features in ((self._phrase_matrix, self._phrase_ids), (self._word_matrix, self._word_ids)):
            has = np.flatnonzero((matrix[mine] > 0) & (matrix[u:].min(axis=0) <= 0))
            for column in has:
                took = matrix[self.taken, column] > 0
                left = matrix[self.refused, column] > 0
                rows = took != left
                weight = float(told[rows].sum())
                behind = np.bincount(self.offer[rows], weights=told[rows], minlength=len(self._slots))
                order = [int(n) for n in np.argsort(-np.abs(behind))[:REASONS] if behind[n]]
                if weight and order:
                    text = names[int(features[column])][1]
                    found.append(Reason(text=text, weight=weight, sources=tuple(ids[n] for n in order)))
        best: dict[str, Reason] = {}
        for reason in sorted(found, key=lambda r: -abs(r.weight)):
            best.setdefault(reason.text, reason)
        # Words that always come together are one reason.
        apart = {(r.sources, round(r.weight, 9)): r for r in reversed(best.values())}
        top = tuple(sorted(apart.values(), key=lambda r: -abs(r.weight)))[:REASONS]
        if top:
            return top
        order = [int(n) for n in np.argsort(-np.abs(per_offer))[:REASONS] if per_offer[n]]
        return tuple(Reason(text="", weight=float(per_offer[n]), sources=(ids[n],)) for n in order)

    def _prefer(self, free: Ints, by_offer: Ints, asked: Ints) -> None:
        """What the user said freely was preferred to all that is on offer now, itself excepted."""
        offer, option = (grid.ravel() for grid in np.meshgrid(free, np.arange(len(asked)), indexing="ij"))
        other = self._codes[by_offer[offer]] != asked[option]
        offer, option = offer[other], option[other]
        every = np.r_[self.offer, offer]
        order = np.argsort(every, kind="stable")
        self.offer = every[order]
        self.refused = np.r_[self.refused, len(self._codes) + option][order]
        self.taken = np.r_[self.taken, by_offer[offer]][order]

    def _lacking(self, where: Codes) -> npt.NDArray[np.bool_]:
        """Which options seen have no embedding to go by.

        If some options of an offer have one and others do not, their difference would mean nothing: then none of it has,
        nor any of an offer that it is in.
        """
        lacking = np.asarray(where == NONE)
        while len(rows := np.flatnonzero(lacking[self.refused] != lacking[self.taken])):
            lacking[self.refused[rows]] = lacking[self.taken[rows]] = True
        return lacking

    def _embedded(self, where: Codes, lacking: npt.NDArray[np.bool_], choice_vectors: Single) -> Single:
        """Unit embeddings of the options in play; zero where there is none."""
        vectors = np.zeros((len(self._key), choice_vectors.shape[1]), dtype=np.float32)
        have = np.flatnonzero(~lacking)
        if len(have):
            vectors[have] = self._known.option_vectors(where[have])
        vectors[len(self._codes) :] = choice_vectors
        return vectors


def _gram(matrix: Single) -> Single:
    return np.asarray(matrix @ matrix.T)

"""The rules by which memory alone chose before there was a model of choices, kept as they were to compare with.

The most similar past requests vote, the newer word on a subject weighing more; an option is scored by how much it
resembles what was chosen there, less where it was on offer and not taken; a rating is the weighted median of past ones.
Nothing here is meant to improve: a comparison is worth something only while this stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alignment.evaluation.methods import Answer, softmax
from personaagent.protocols import Embedder, Memory
from personaagent.types import Interaction, Kind, RecallQuery, choice_kind

__all__ = ["Rules", "evidence"]

Array = npt.NDArray[np.float32]

ALL = 100_000  # interactions of one user that are looked at
NEIGHBOURS = 24  # of a choice; a rating hears everything that was rated
TEMPERATURE = {Kind.CHOICE: 0.1, Kind.RATING: 0.07}
HALF_LIFE = {Kind.CHOICE: 1.0, Kind.RATING: 50.0}
REJECTED = 0.4  # cosine that an option loses for having been offered in a similar request and not chosen
WEIGHT = 160.0  # of the evidence on the scale of log-probabilities


class Rules:
    """Answers by the rules. Free text gets the most similar truth."""

    def __init__(self, memory: Memory, embedder: Embedder) -> None:
        self._memory = memory
        self._embedder = embedder

    async def answer(self, item: Interaction) -> Answer:
        """See `Method`."""
        if not item.choices:
            found = await self._memory.recall(item.user, RecallQuery(text=item.query, k=1, with_truth=True))
            return Answer(text=(found.episodes[0].interaction.truth or "") if found.episodes else "")
        past = await self._memory.latest(item.user, ALL, with_truth=True)
        if item.kind is Kind.RATING and not past:
            return Answer(text=item.choices[len(item.choices) // 2])
        scores = np.zeros(len(item.choices))
        if past:
            texts = [item.query, *(i.query for i in past), *(i.truth or "" for i in past), *item.choices]
            rows = await self._embedder.embed(texts)
            n = len(past)
            scores = evidence(past, rows[1 : n + 1] @ rows[0], rows[n + 1 : 2 * n + 1], item.choices, rows[2 * n + 1 :])
        probabilities = softmax([WEIGHT * float(s) for s in scores])
        if item.kind is not Kind.RATING:
            return Answer(text=item.choices[int(np.argmax(scores))], probabilities=probabilities)
        values = np.asarray([float(c) for c in item.choices])
        expected = float(np.asarray(probabilities) @ values)
        nearest = item.choices[int(np.argmin(np.abs(values - expected)))]
        return Answer(text=nearest, expected=expected, probabilities=probabilities)


def evidence(
    past: Sequence[Interaction],
    similarity: Array,
    truth_vectors: Array,
    choices: Sequence[str],
    choice_vectors: Array,
) -> npt.NDArray[np.float64]:
    """Score the m options of a request from the user's n interactions with a truth, oldest first.

    Args:
        past: the interactions.
        similarity: (n,) cosine of the request with each past request.
        truth_vectors: (n, dim) unit embeddings of their truths.
        choices: the options.
        choice_vectors: (m, dim) their unit embeddings.

    Returns:
        (m,) scores, higher is better; zeros where nothing is known. For ratings minus the distance from the prediction as a
        share of the scale's range.
    """
    kind = choice_kind(choices)
    voting, weights = _votes(similarity, kind)
    heard = [past[int(i)] for i in voting]
    if kind is Kind.RATING:
        return _rating(np.asarray([_number(i.truth or "") for i in heard]), weights, choices)
    match = truth_vectors[voting] @ choice_vectors.T
    names = [_normal(c) for c in choices]
    for row, interaction in enumerate(heard):
        refused = {_normal(c) for c in interaction.choices or ()} - {_normal(interaction.truth or "")}
        match[row] -= np.asarray([REJECTED if name in refused else 0.0 for name in names], dtype=np.float32)
    return np.asarray(weights @ match, dtype=float)


def _votes(similarity: Array, kind: Kind) -> tuple[npt.NDArray[np.intp], Array]:
    """Which interactions have a say, newest first, and how much: softmax(similarity) * 2^(-staleness / half-life).

    Staleness counts the newer ones that have a say, each by how similar it is to the request; for ratings, each fully.
    """
    chosen = np.arange(len(similarity))
    if kind is not Kind.RATING and len(similarity) > NEIGHBOURS:
        chosen = np.argpartition(-similarity, NEIGHBOURS - 1)[:NEIGHBOURS]
    chosen = np.sort(chosen)[::-1]
    logits = similarity[chosen] / TEMPERATURE[kind]
    alike = np.ones(len(chosen)) if kind is Kind.RATING else np.exp(logits - logits.max())
    logits = logits - (np.cumsum(alike) - alike) * (np.log(2.0) / HALF_LIFE[kind])
    weights = np.exp(logits - logits.max())
    return chosen, np.asarray(weights / weights.sum(), dtype=np.float32)


def _rating(values: npt.NDArray[np.float64], weights: Array, choices: Sequence[str]) -> npt.NDArray[np.float64]:
    usable = ~np.isnan(values)
    if not usable.any():
        return np.zeros(len(choices))
    values, weights = values[usable], weights[usable]
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    predicted = values[order][int(np.searchsorted(below, below[-1] / 2))]
    scale = np.asarray([float(c) for c in choices])
    return np.asarray(-np.abs(scale - predicted) / max(float(np.ptp(scale)), 1e-6))


def _normal(text: str) -> str:
    return text.strip().casefold()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

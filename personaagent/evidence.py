"""What a user's memory says about the options of a closed request, without any language model.

A nearest-neighbour reading of memory: look at the most similar past requests and score each option by how much it
resembles what the user really chose there. Interpolating it with the model follows kNN-LM (Khandelwal et al., 2020);
see `personaagent.decision`. Pure arrays in, arrays out; it knows nothing of stores or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from personaagent.types import Decision, Interaction, Kind

__all__ = ["HALF_LIFE", "NEIGHBOURS", "REJECTED", "TEMPERATURE", "evidence", "truth_match", "votes"]

Array = npt.NDArray[np.float32]

# What `None` in a Decision means. A choice looks at requests like this one; a rating is smoother, so it averages over
# everything the user rated. Chosen on the learning phases of PAHF and on the older ratings of MovieLens users, each time
# predicting what came next in time (docs/architecture.md has the table).
NEIGHBOURS: dict[Kind, int | None] = {Kind.CHOICE: 24, Kind.RATING: None, Kind.TEXT: 24}
TEMPERATURE: dict[Kind, float] = {Kind.CHOICE: 0.1, Kind.RATING: 0.07, Kind.TEXT: 0.1}
HALF_LIFE: dict[Kind, float] = {Kind.CHOICE: 1.0, Kind.RATING: 50.0, Kind.TEXT: 1.0}
REJECTED = 0.4  # cosine that an option loses for having been offered in a similar request and not chosen


def votes(
    similarity: Array, age: npt.NDArray[np.integer], decision: Decision, kind: Kind
) -> tuple[npt.NDArray[np.intp], Array]:
    """Which past episodes have a say, and how much.

    The `neighbours` most similar episodes weigh softmax(similarity / temperature) * 2^(-staleness / half_life). An
    episode's staleness counts the newer neighbours, each by how similar it is to the request (1 for the most similar
    one): the newest word on a subject wins over older words on it, while a request settled once long ago is still
    remembered however much was said on other subjects since. For ratings every newer episode counts fully.

    Args:
        similarity: (n,) cosine of the request with each past request.
        age: (n,) how many newer episodes there are; 0 is the newest.
        decision: neighbours, temperature and half-life.
        kind: of the request, for the defaults.

    Returns:
        Indices of the k <= n episodes that vote, and their weights, (k,), which sum to 1.
    """
    temperature = decision.temperature or TEMPERATURE[kind]
    neighbours = decision.neighbours or NEIGHBOURS[kind]
    if neighbours is not None and neighbours < len(similarity):
        chosen = np.argpartition(-similarity, neighbours - 1)[:neighbours]
    else:
        chosen = np.arange(len(similarity))
    if len(chosen) == 0:
        return chosen, np.zeros(0, dtype=np.float32)
    chosen = chosen[np.argsort(age[chosen], kind="stable")]  # newest first
    near = similarity[chosen]
    logits = near / temperature
    alike = np.ones(len(chosen)) if kind is Kind.RATING else np.exp(logits - logits.max())
    staleness = np.cumsum(alike) - alike
    logits = logits - staleness * (np.log(2.0) / (decision.half_life or HALF_LIFE[kind]))
    weights = np.exp(logits - logits.max())
    return chosen, np.asarray(weights / weights.sum(), dtype=np.float32)


def truth_match(
    kind: Kind,
    past: Sequence[Interaction],
    truth_vectors: Array,
    choices: Sequence[str],
    choice_vectors: Array,
) -> Array:
    """How well each option agrees with what was chosen in each past episode.

    Args:
        kind: CHOICE compares meanings, RATING compares numbers.
        past: the k past interactions, all with a truth.
        truth_vectors: unit embeddings of their truths, (k, dim); not read for ratings.
        choices: the m options.
        choice_vectors: their unit embeddings, (m, dim); not read for ratings.

    Returns:
        (k, m): cosine similarity of truth and option, less `REJECTED` where the option was on offer and not taken. For
        ratings the past rating itself in every column, NaN where it is not a number.
    """
    if kind is Kind.RATING:
        values = np.asarray([_number(i.truth or "") for i in past], dtype=np.float32)
        return np.repeat(values[:, None], len(choices), axis=1)
    match = np.asarray(truth_vectors @ choice_vectors.T, dtype=np.float32)
    names = [normal(c) for c in choices]
    for row, interaction in enumerate(past):
        if interaction.choices:
            refused = {normal(c) for c in interaction.choices} - {normal(interaction.truth or "")}
            for column, name in enumerate(names):
                if name in refused:
                    match[row, column] -= REJECTED
    return match


def evidence(weights: Array, match: Array, choices: Sequence[str], kind: Kind) -> Array:
    """Score the m options from the episodes that vote.

    A choice is scored by the weighted mean of its matches. A rating is first predicted as the weighted median of past
    ratings (the median minimises the absolute error), then every grade is scored by its distance from the prediction.

    Args:
        weights: (k,) from `votes`.
        match: (k, m) from `truth_match`.
        choices: the m options.
        kind: of the request.

    Returns:
        (m,) scores, higher is better; zeros where memory says nothing. For ratings minus the distance from the
        prediction as a share of the scale's range.
    """
    if kind is not Kind.RATING:
        return np.asarray(weights @ match, dtype=np.float32) if len(weights) else np.zeros(len(choices), np.float32)
    values = match[:, 0]
    usable = ~np.isnan(values)
    if not usable.any():
        return np.zeros(len(choices), dtype=np.float32)
    scale = np.asarray([float(c) for c in choices], dtype=np.float32)
    predicted = _weighted_median(values[usable], weights[usable])
    spread = max(float(scale.max() - scale.min()), 1e-6)
    return np.asarray(-np.abs(scale - predicted) / spread, dtype=np.float32)


def normal(text: str) -> str:
    """Case and outer space do not make another option."""
    return text.strip().casefold()


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return float(values[order][int(np.searchsorted(below, below[-1] / 2))])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

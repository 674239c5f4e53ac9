"""How good an answer is: a score per interaction, and the usual measures over many. It embeds nothing and calls no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from personaagent.features import normalised
from personaagent.types import Kind

__all__ = ["absolute_error", "accuracy", "macro_f1", "mae", "rmse", "same", "score"]

STARS = ("1", "2", "3", "4", "5")  # the scale of a rating whose choices are not known


def score(
    kind: Kind, answer: str, truth: str, similarity: float | None = None, choices: Sequence[str] | None = None
) -> float:
    """A score in [0, 1], higher is better.

    Args:
        kind: of the interaction. A choice is right (1) or wrong (0), whatever case and spaces; a rating scores
            1 - |error| / range; free text its similarity, negative ones counting as 0.
        answer: what was answered. Empty, or no number where one is wanted, is a score of 0 and never an exception.
        truth: what the user really wanted.
        similarity: cosine of the embeddings of answer and truth; free text needs it.
        choices: the scale of a rating; 1 to 5 if not given.

    Raises:
        ValueError: free text without a similarity.
    """
    if kind is Kind.TEXT:
        if similarity is None:
            raise ValueError("free text is scored by the similarity of its embedding; pass `similarity`")
        return 0.0 if math.isnan(similarity) or not answer.strip() else min(1.0, max(0.0, similarity))
    if kind is Kind.CHOICE:
        return float(same(answer, truth))
    scale = _scale(choices or STARS)
    given, wanted = _number(answer), _number(truth)
    if given is None or wanted is None:
        return 0.0
    return min(1.0, max(0.0, 1.0 - abs(given - wanted) / max(scale[-1] - scale[0], 1e-9)))


def absolute_error(answer: str, truth: str, choices: Sequence[str]) -> float:
    """|answer - truth| of a rating, in units of the scale.

    An answer that is no number counts as the end of the scale further from the truth, as in LaMP-3. A truth that is no
    number cannot be met: the error is the whole range.
    """
    scale = _scale(choices or STARS)
    given, wanted = _number(answer), _number(truth)
    if wanted is None:
        return scale[-1] - scale[0]
    if given is None:
        return max(abs(wanted - scale[0]), abs(wanted - scale[-1]))
    return abs(given - wanted)


def same(answer: str, truth: str) -> bool:
    """Whether two texts name the same option: case and spaces do not matter."""
    return normalised(answer) == normalised(truth)


def accuracy(golds: Sequence[str], answers: Sequence[str]) -> float:
    """Share of answers that are right; 0 of none."""
    return _mean([float(same(a, g)) for g, a in zip(golds, answers, strict=True)])


def macro_f1(golds: Sequence[str], answers: Sequence[str], labels: Sequence[str]) -> float:
    """F1 averaged over all `labels`, each counting alike; a label that neither occurs nor is answered counts 0, as in LaMP.

    An answer outside the labels is wrong for the label that was right, and blamed on no other.
    """
    if not labels:
        raise ValueError("macro-F1 is an average over labels; there are none")
    right = [normalised(g) for g in golds]
    given = [normalised(a) for a in answers]
    pairs = list(zip(right, given, strict=True))
    scores = []
    for label in map(normalised, labels):
        hits = sum(g == label and a == label for g, a in pairs)
        total = right.count(label) + given.count(label)
        scores.append(2 * hits / total if total else 0.0)
    return _mean(scores)


def mae(golds: Sequence[str], answers: Sequence[str], choices: Sequence[str]) -> float:
    """Mean absolute error; see `absolute_error`."""
    return _mean([absolute_error(a, g, choices) for g, a in zip(golds, answers, strict=True)])


def rmse(golds: Sequence[str], answers: Sequence[str], choices: Sequence[str]) -> float:
    """Root of the mean squared error; see `absolute_error`."""
    return math.sqrt(_mean([absolute_error(a, g, choices) ** 2 for g, a in zip(golds, answers, strict=True)]))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _scale(choices: Sequence[str]) -> list[float]:
    """The numbers among the choices, in order; at least one."""
    return sorted(n for c in choices if (n := _number(c)) is not None) or [float(c) for c in STARS]


def _number(text: str) -> float | None:
    """The number a text is; None for anything else, NaN and infinity included."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

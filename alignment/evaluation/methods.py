"""What an evaluation expects of a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from personaagent.types import Frozen, Interaction

__all__ = ["Answer", "Method", "softmax"]


class Answer(Frozen):
    """What a method answered; `expected` is the expected value of a rating, `probabilities` are those of the options."""

    text: str
    expected: float | None = None
    probabilities: tuple[float, ...] | None = None


class Method(Protocol):
    """Answers test items. Raises `personaagent.errors` types when the model or the prompt fails; the caller counts them."""

    async def answer(self, item: Interaction) -> Answer:
        """The answer to `item.query`; `item.truth` and `item.response` are not read, and nothing is remembered."""
        ...


def softmax(scores: Sequence[float]) -> tuple[float, ...]:
    """Probabilities of options from their scores on the log scale."""
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    total = math.fsum(weights)
    return tuple(w / total for w in weights)

"""What a user's memory says about the options of a closed request, without any language model: a distribution over them.

`choice_evidence` and `rating_evidence` make it. They pick the past choices that bear on the request, put their features
together, and ask `choice_model` or `rating_model`. They know nothing of stores, prompts or language models;
`personaagent.agent.decision` combines what they say with a model's option scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personaagent.evidence.text_bags import Codes
from personaagent.types import Reason

__all__ = ["DOUBT", "FLOOR_P", "Beliefs", "Evidence", "Float", "Ints", "Known", "Single", "uniform"]

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Single = npt.NDArray[np.float32]
Beliefs = dict[str, Float]  # of choices and of ratings: a probability of each kind of person

DOUBT = 0.05  # kinds of people less likely than that are left out
FLOOR_P = 1e-9  # of a probability


@dataclass(frozen=True, slots=True)
class Evidence:
    """log p of every option under one decision, normalised, and why, if that was asked for."""

    logprobs: tuple[float, ...]
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """The past choices or ratings of a user that are in reach, in any order.

    Args:
        slots: (n,) of their episodes.
        age: (n,) how many newer ones of the same kind the user has made, from 0.
        similarity: (n,) cosine of their requests with the one to be answered.
        request_vectors: of the requests of some slots, (k, dim).
        requests: of some slots, a digest of each request's text, (k,).
        request: the digest of the one to be answered.
        option_vectors: of options, by the numbers that `Offers.put` was given, (k, dim) unit rows.
        ids: of the interactions of some slots.
    """

    slots: Ints
    age: Ints
    similarity: Single
    request_vectors: Callable[[Ints], Single]
    requests: Callable[[Ints], Ints]
    request: int
    option_vectors: Callable[[Codes], Single]
    ids: Callable[[Ints], list[str]]


def uniform(choices: Sequence[str]) -> tuple[float, ...]:
    """What somebody knows who knows nothing."""
    return (-float(np.log(len(choices))),) * len(choices)

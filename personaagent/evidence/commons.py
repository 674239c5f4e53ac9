"""What the users of a service have in common: where somebody starts of whom little is known.

Weights of hashed features, learned from many users' choices and ratings (`alignment.learned_commons`), without any text; a
feature that too few of them share has none. A mean of Gaussian priors, in the sense of empirical Bayes (Robbins, 1956): one's own
choices lead away from it as fast as they say.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from personaagent.errors import ConflictError
from personaagent.features import FEATURES_VERSION, bucket, parts
from personaagent.types import Frozen

__all__ = ["BINS", "SIZE", "Commons", "Population", "packed", "places", "replacing"]

Float = npt.NDArray[np.float64]
Half = npt.NDArray[np.float16]

SIZE = 16_384  # weights of each table
BINS = 21  # of the histogram of grades, from the lowest of a scale to the highest
WHOLE = "o"


class Population(Frozen):
    """What was learned, as it is stored and sent: about 90 kB."""

    number: Annotated[int, Field(ge=1)] = 1  # counts up with every one that is learned
    features: int = FEATURES_VERSION
    users: int
    time: datetime
    choices: str = ""  # base64 of SIZE half-precision weights of utility; empty: nothing is known
    ratings: str = ""  # the same for the liking of what is rated
    grades: tuple[float, ...] = ()  # share of each bin

    @property
    def foretells(self) -> bool:
        """Whether there is anything in common that says what somebody else chooses or rates."""
        return bool(self.choices or self.ratings)


def replacing(stored: Population | None, population: Population) -> bool:
    """Whether a population has to be written in the place of the stored one, or is there already.

    Raises:
        ConflictError: its number is not higher.
    """
    if stored is not None and population != stored and population.number <= stored.number:
        raise ConflictError(f"what users have in common is at number {stored.number} already; read it and try again")
    return population != stored


def places(text: str, size: int = SIZE) -> tuple[list[int], list[float]]:
    """Where the features of a text stand in a table, and what they weigh: words 1 / sqrt(how many), phrases and the whole 1.

    The whole comes last.
    """
    found = parts(text)
    words = [bucket("w", w, size) for w in found.words]
    phrases = [bucket("p", p, size) for p in found.phrases]
    weight = len(words) ** -0.5 if words else 0.0
    return [*words, *phrases, bucket(WHOLE, found.whole, size)], [weight] * len(words) + [1.0] * (len(phrases) + 1)


def packed(table: Float) -> str:
    """A table of weights as text."""
    return base64.b64encode(table.astype("<f2").tobytes()).decode("ascii")


class Commons:
    """A population's weights, ready for use. What was learned from features of another version says nothing."""

    def __init__(self, population: Population) -> None:
        usable = population.features == FEATURES_VERSION
        self.number = population.number
        self._choices = _table(population.choices) if usable else None
        self._ratings = _table(population.ratings) if usable else None
        self._grades = np.asarray(population.grades, dtype=np.float64) if len(population.grades) == BINS else None

    @property
    def grades(self) -> bool:
        """Whether it is known how often people give which grades."""
        return self._grades is not None

    def utility(self, options: Sequence[str]) -> Float:
        """What an option is worth to people, (len(options),)."""
        return _sums(self._choices, options)

    def liking(self, requests: Sequence[str]) -> Float:
        """How much people like what a request asks them to rate, in standard deviations, (len(requests),)."""
        return _sums(self._ratings, requests)

    def scale(self, position: Float) -> Float:
        """How often people give grades at these positions of a scale (0 lowest, 1 highest), (g,), summing to 1."""
        even = np.full(len(position), 1.0 / len(position))
        if self._grades is None:
            return even
        centres = np.linspace(0.0, 1.0, BINS)
        nearest = np.abs(centres[:, None] - position[None, :]).argmin(axis=1)
        shares = np.bincount(nearest, weights=self._grades, minlength=len(position))
        return np.asarray(0.95 * shares / shares.sum() + 0.05 * even)


def _table(text: str) -> Half | None:
    if not text:
        return None
    table = np.frombuffer(base64.b64decode(text), dtype="<f2")
    return table if len(table) == SIZE else None


def _sums(table: Half | None, texts: Sequence[str]) -> Float:
    if table is None:
        return np.zeros(len(texts))
    result = np.zeros(len(texts))
    for n, text in enumerate(texts):
        at, weight = places(text)
        result[n] = float(table[at].astype(np.float64) @ np.asarray(weight))
    return result

"""How good a simulated response is: a score per interaction for every decision of the grid."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from personaagent.scoring import score

from alignment.budget import Caller
from alignment.candidates import Grid
from personaagent import prompts
from personaagent.agent import Replay
from personaagent.persona import clip
from personaagent.protocols import LLM, Embedder
from personaagent.types import ChatRequest, Interaction, Kind, Message

__all__ = ["EmbeddingScorer", "JudgeScorer", "Scorer", "Scores", "closed_scores", "constant"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """One interaction under every decision of a grid, all in [0, 1], higher is better.

    `hard` is the score that is reported: exact match, 1 - |error| / range, or similarity. `soft` is smoother, for telling
    candidates apart: the probability of the truth, 1 - |expected value - truth| / range, or again the similarity.
    `answers` are the responses scored.
    """

    hard: Array  # (grid.size,)
    soft: Array  # (grid.size,)
    answers: tuple[str, ...]  # one per decision, or a single one for all


class Scorer(Protocol):
    """Scores a simulated response against what the user really answered.

    A response that cannot be scored (a truth outside the choices, an empty answer) is a score of 0, not an exception.
    Model calls, if it makes any, go through `caller`, which counts and bounds them. Results do not depend on order.
    """

    async def score(self, interaction: Interaction, replay: Replay, grid: Grid, caller: Caller) -> Scores:
        """Scores under every decision of the grid; `replay` was asked for `grid.queries(arm)`."""
        ...


class EmbeddingScorer:
    """Closed choices and ratings by themselves, free text by the cosine of sentence embeddings."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def score(self, interaction: Interaction, replay: Replay, grid: Grid, caller: Caller) -> Scores:
        """See `Scorer`."""
        if interaction.kind is not Kind.TEXT:
            return closed_scores(interaction, replay, grid)
        return constant(await self._text(interaction, replay, caller), replay.text, grid)

    async def _text(self, interaction: Interaction, replay: Replay, caller: Caller) -> float:
        truth = interaction.truth or ""
        if not replay.text.strip() or not truth.strip():
            return 0.0
        vectors = await self._embedder.embed([replay.text, truth])
        return score(Kind.TEXT, replay.text, truth, similarity=float(vectors[0] @ vectors[1]))


class JudgeScorer(EmbeddingScorer):
    """Free text by a model that grades from 1 to 5; grades are kept, so the same answer is judged once."""

    GRADES = ("1", "2", "3", "4", "5")

    def __init__(self, embedder: Embedder, judge: LLM, keep: int = 20_000) -> None:
        """`keep`: grades remembered, the least recently used going first."""
        super().__init__(embedder)
        self._judge = judge
        self._keep = keep
        self._grades: OrderedDict[bytes, float] = OrderedDict()

    async def _text(self, interaction: Interaction, replay: Replay, caller: Caller) -> float:
        if not replay.text.strip():
            return 0.0
        prompt = prompts.JUDGE.format(
            query=clip(interaction.query, 400), truth=clip(interaction.truth or "", 400), answer=clip(replay.text, 400)
        )
        key = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._grades:
            self._grades.move_to_end(key)
            return self._grades[key]
        request = ChatRequest(
            messages=(Message(role="user", content=prompt),), max_tokens=4, choices=self.GRADES, priority=10
        )
        result = await caller.call(lambda: self._judge.chat(request), lambda r: r.usage)
        answer = result.text.strip()[:1]
        grade = (int(answer) - 1) / 4 if answer in self.GRADES else 0.0
        self._grades[key] = grade
        if len(self._grades) > self._keep:
            self._grades.popitem(last=False)
        return grade


def closed_scores(interaction: Interaction, replay: Replay, grid: Grid) -> Scores:
    """Scores of a closed choice or rating for the whole grid in one array operation.

    The same answers as `personaagent.decision.decide` gives decision by decision.
    """
    choices = interaction.choices or ()
    truth = interaction.truth or ""
    kind = interaction.kind
    lm = np.zeros(len(choices)) if replay.lm is None else np.asarray(replay.lm, dtype=float)
    evidence = np.asarray(replay.evidence, dtype=float)  # (readings, m)
    weights = np.asarray(grid.weights)
    total = (lm + weights[None, :, None] * evidence[:, None, :]).reshape(grid.size, len(choices))
    p = np.exp(total - total.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    if kind is Kind.RATING:
        values = np.asarray([float(c) for c in choices])
        expected = p @ values
        answers = np.abs(values[None, :] - expected[:, None]).argmin(axis=1)
        reach = float(values.max() - values.min())
        try:
            soft = np.clip(1.0 - np.abs(expected - float(truth)) / reach, 0.0, 1.0)
        except ValueError:
            soft = np.zeros(grid.size)
    else:
        answers = total.argmax(axis=1)
        same = np.asarray([c.strip().casefold() == truth.strip().casefold() for c in choices])
        soft = p @ same
    table = np.asarray([_score_option(interaction, c) for c in choices], dtype=np.float32)
    taken = tuple(choices[int(a)] for a in answers)
    return Scores(hard=table[answers], soft=soft.astype(np.float32), answers=taken)


def _score_option(interaction: Interaction, option: str) -> float:
    return score(interaction.kind, option, interaction.truth or "")


def constant(value: float, answer: str, grid: Grid) -> Scores:
    """The same answer and score under every decision."""
    row = np.full(grid.size, value, dtype=np.float32)
    return Scores(hard=row, soft=row, answers=(answer,))

"""How good a simulated response is: a score per interaction for every decision of the grid."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from alignment.budget import Caller
from alignment.candidates import Grid
from personaagent import prompts
from personaagent.agent.action_choice import ActionChoice
from personaagent.agent.agent import Replay
from personaagent.agent.decision import combined, median_grade
from personaagent.persona.persona import clip
from personaagent.protocols import LLM, Embedder
from personaagent.scoring import score
from personaagent.types import ChatRequest, Interaction, Kind, Message

__all__ = ["EmbeddingScorer", "Evidence", "JudgeScorer", "Remembered", "Scorer", "Scores", "closed_scores", "constant"]

Array = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Evidence = tuple[tuple[float, ...], ...]  # (readings, options)


@dataclass(frozen=True)
class Remembered:
    """What memory says about a closed request under each reading of a grid: as it is read in the `replay`, without the
    interaction, and as it is `now`, with it, when the same is asked in other words (read for choices only).

    Both are empty for free text, and for a lesson where no other one tells anything.
    """

    replay: Evidence = ()
    now: Evidence = ()


@dataclass(frozen=True)
class Scores:
    """One interaction under every decision of a grid, all in [0, 1], higher is better; arrays are (grid.size,).

    `hard` is the score that is reported: exact match, 1 - |error| / range, or similarity. `soft` is smoother, for telling
    candidates apart: its expectation, which is the probability of the truth for a choice, or again the similarity.
    `kept` is the probability of the truth if memory already held this very interaction and the same were asked in other
    words: whether the user would be understood when asking again. It is 0 for ratings and free text, where it says
    nothing. `answers` are the responses scored.
    `silent` says where memory alone would have given the same answer: no other prompt is likely to change it.
    """

    hard: Array
    soft: Array
    kept: Array
    silent: Mask
    answers: tuple[str, ...]  # one per decision, or a single one for all


class Scorer(Protocol):
    """Scores a simulated response against what the user really answered.

    A response that cannot be scored (a truth outside the choices, an empty answer) is a score of 0, not an exception.
    Model calls, if it makes any, go through `caller`, which counts and bounds them. Results do not depend on order.
    """

    async def score(
        self, interaction: Interaction, replay: Replay, remembered: Remembered, grid: Grid, caller: Caller
    ) -> Scores:
        """Scores under every decision of the grid."""
        ...


class EmbeddingScorer:
    """Closed choices and ratings by themselves, free text by the cosine of sentence embeddings."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def score(
        self, interaction: Interaction, replay: Replay, remembered: Remembered, grid: Grid, caller: Caller
    ) -> Scores:
        """See `Scorer`."""
        if interaction.kind is not Kind.TEXT:
            return closed_scores(interaction, replay.lm, remembered, grid, replay.acting)
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


def closed_scores(
    interaction: Interaction,
    lm: Sequence[float] | None,
    remembered: Remembered,
    grid: Grid,
    acting: ActionChoice | None = None,
) -> Scores:
    """Scores of a closed choice or rating for the whole grid in a few array operations.

    The same answers as `personaagent.agent.decision.decide` gives decision by decision; or, of a lesson, as a turn would have
    acted (`acting`), which scores 0 where it would have left the argument out.
    """
    choices = interaction.choices or ()
    right = np.asarray([score(interaction.kind, c, interaction.truth or "", choices=choices) for c in choices])

    def p(lm: Sequence[float] | None, evidence: Evidence) -> Float:
        if acting is not None:
            return _acted(acting, lm, evidence, grid)
        return _probabilities(lm, evidence, grid, len(choices))

    found = p(lm, remembered.replay)
    answers = _answers(interaction, found)
    silent = answers == _answers(interaction, p(None, remembered.replay))
    kept = np.zeros(grid.size)
    if interaction.kind is Kind.CHOICE and (remembered.now or not grid.evidence):
        kept = p(lm, remembered.now) @ right
    made = np.asarray(found.any(axis=1))  # not of an argument that is left out
    return Scores(
        silent=silent & grid.evidence,  # without memory nothing is left where the model is silent
        hard=(right[answers] * made).astype(np.float32),
        soft=(found @ right).astype(np.float32),
        kept=kept.astype(np.float32),
        answers=tuple(choices[int(a)] if m else "" for a, m in zip(answers, made, strict=True)),
    )


def _answers(interaction: Interaction, p: Float) -> Ints:
    """The option taken under each decision, (grid.size,), from distributions; see `personaagent.agent.decision.decide`."""
    if interaction.kind is not Kind.RATING or interaction.lesson:
        return np.asarray(p.argmax(axis=1))
    return median_grade(p, np.asarray([float(c) for c in interaction.choices or ()]))


def _probabilities(lm: Sequence[float] | None, evidence: Evidence, grid: Grid, options: int) -> Float:
    """(grid.size, options) distributions: of each reading of memory times that of the model, to the power of each weight."""
    if not grid.evidence:
        return np.broadcast_to(combined(lm, None, 1.0, options), (grid.size, options))
    rows = np.asarray(evidence, dtype=float)  # (readings, options)
    weighed = [combined(lm, rows, weight, options) for weight in grid.weights]
    return np.stack(weighed, axis=1).reshape(grid.size, options)


def _acted(acting: ActionChoice, lm: Sequence[float] | None, evidence: Evidence, grid: Grid) -> Float:
    """The same where a turn acts: (grid.size, options) distributions, or zeros where nothing is chosen."""
    rows: Sequence[Sequence[float] | None] = evidence or (None,) * len(grid.readings)
    return np.stack([acting.probabilities(lm, row, weight) for row in rows for weight in grid.weights])


def constant(value: float, answer: str, grid: Grid) -> Scores:
    """The same answer and score under every decision."""
    row = np.full(grid.size, value, dtype=np.float32)
    return Scores(
        hard=row, soft=row, kept=np.zeros_like(row), silent=np.zeros(grid.size, dtype=bool), answers=(answer,)
    )

"""Recall against a plain reading of what it should return: every episode scored and sorted, nothing kept between calls."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.evidence.ranking import BLIND, UNTOLD, best
from personaagent.features import normalised
from personaagent.memory import index as module
from personaagent.memory.bm25 import K1, MAX_TERMS, B, Bm25, tokens
from personaagent.memory.index import LEAST_SPREAD, OUTCOME_WEIGHT, RECENT, SAME, TINY, EpisodeIndex, episode_tokens
from personaagent.memory.store import Row, microseconds, pack
from personaagent.settings import MemorySettings
from personaagent.types import Interaction, RecallQuery
from tests.support.doubles import HashEmbedder

EMBEDDER = HashEmbedder(dim=16)
NONE = np.zeros((0, 16), dtype=np.float32)
START = datetime(2024, 5, 1, tzinfo=UTC)
SETTINGS = MemorySettings(bm25_weight=0.5, recency_weight=0.1)
POOL = 6  # so that short histories have episodes outside it


def row(interaction: Interaction, arrived: int) -> Row:
    truth = interaction.truth
    return Row(
        user="u",
        id=interaction.id,
        time=microseconds(interaction.time),
        arrived=arrived,
        truth_arrived=0 if truth is None else arrived,
        payload=pack(interaction),
        query_vector=EMBEDDER.encode([interaction.query])[0],
        truth_vector=None if truth is None else EMBEDDER.encode([truth])[0],
    )


def bm25(texts: list[str], query: str) -> list[float]:
    """The formula, a document at a time."""
    documents = [tokens(text) for text in texts]
    mean = sum(map(len, documents)) / max(1, len(documents)) or 1.0
    found = {t: n for t in set(tokens(query)) if (n := sum(t in d for d in documents))}
    scores = []
    for document in documents:
        norm = K1 * (1 - B + B * len(document) / mean)
        scores.append(
            sum(
                math.log(1 + (len(documents) - found[t] + 0.5) / (found[t] + 0.5))
                * document.count(t)
                * (K1 + 1)
                / (document.count(t) + norm)
                for t in sorted(found, key=lambda t: (found[t], t))[:MAX_TERMS]
            )
        )
    return scores


def deviations(values: list[float], least: float) -> list[float]:
    """In standard deviations from the mean of the best `POOL`, the others like the last of these."""
    best = sorted(values, reverse=True)[:POOL]
    if not best:
        return []
    mean = sum(map(float, best)) / len(best)
    spread = max(least, math.sqrt(sum((float(v) - mean) ** 2 for v in best) / len(best)))
    return [(max(float(v), float(best[-1])) - mean) / spread for v in values]


@dataclass(frozen=True)
class Found:
    """What is compared of an episode."""

    id: str
    age: int
    score: float
    similarity: float


def alike(found: list[Found], wanted: list[Found]) -> None:
    assert [(f.id, f.age) for f in found] == [(w.id, w.age) for w in wanted]
    assert [f.score for f in found] == pytest.approx([w.score for w in wanted], abs=1e-6)
    assert [f.similarity for f in found] == pytest.approx([w.similarity for w in wanted], abs=1e-6)


def expected(history: list[Interaction], query: RecallQuery) -> tuple[list[Found], int]:
    """Episodes and how many were in reach. `history` is in order of arrival."""
    order = sorted(range(len(history)), key=lambda n: (history[n].time, n))
    if query.before is not None:
        order = order[: [history[n].id for n in order].index(query.before)]
    order = [n for n in order if history[n].id not in query.exclude]
    age = {n: len(order) - 1 - place for place, n in enumerate(order)}
    left = {}
    for n in sorted(order):
        i = history[n]
        if (
            (query.since is None or i.time >= query.since)
            and (query.until is None or i.time < query.until)
            and (i.truth is not None or not query.with_truth)
            and all(k in i.metadata and json.dumps(i.metadata[k]) == json.dumps(v) for k, v in query.metadata.items())
        ):
            left[normalised(i.query), i.truth is not None, normalised(i.truth or "")] = n
    vector = EMBEDDER.encode([query.text])[0]
    cosine = {n: float(np.dot(EMBEDDER.encode([history[n].query])[0], vector)) for n in left.values()}
    words = Bm25()
    for i in history:
        words.add(i.query if i.truth is None else f"{i.query}\n{i.truth}")
    shared = words.scores(query.text)
    candidates = sorted(left.values())
    for n in candidates:
        if cosine[n] > BLIND:
            cosine[n] = float(np.float32(UNTOLD))
        if normalised(history[n].query) == normalised(query.text):
            cosine[n] = 1.0
            shared[n] = max(shared[m] for m in candidates)
    if query.ranking == "bm25":
        candidates = [n for n in candidates if shared[n] > 0]
    score = {n: SAME * (normalised(history[n].query) == normalised(query.text)) for n in candidates}
    weight = {"hybrid": SETTINGS.bm25_weight, "bm25": 1.0, "dense": 0.0}[query.ranking]
    if query.ranking != "bm25":
        for n, value in zip(candidates, deviations([cosine[n] for n in candidates], LEAST_SPREAD), strict=True):
            score[n] += value
    for n, value in zip(candidates, deviations([shared[n] for n in candidates], TINY), strict=True):
        score[n] += weight * value
    if query.ranking == "hybrid":
        for n in score:
            score[n] += SETTINGS.recency_weight * RECENT / (RECENT + age[n])
            score[n] += (history[n].truth is not None) * OUTCOME_WEIGHT
    found: list[Found] = []
    budget = math.inf if query.max_tokens is None else query.max_tokens
    for n in sorted(score, key=lambda n: (-round(score[n], 9), age[n]))[: max(POOL, 4 * query.k)]:
        cost = episode_tokens(history[n])
        if len(found) < query.k and (query.max_tokens is None or cost <= budget):
            budget -= cost
            found.append(Found(history[n].id, age[n], score[n], cosine[n]))
    return found, len(order)


class Life:
    """A random history with questions asked of it on the way; few texts, so that much is repeated and ties."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.history: list[Interaction] = []
        self.index = EpisodeIndex(16, SETTINGS)
        self._texts = self._rng.integers(2, 200)

    def text(self) -> str:
        words = np.random.default_rng(self._rng.integers(self._texts)).choice(list("abcdefgh"), size=3)
        text = " ".join(words)
        return text.upper() if self._rng.random() < 0.2 else text

    def truth(self) -> str | None:
        return None if self._rng.random() < 0.3 else ("", "x", "Y", "y ")[self._rng.integers(4)]

    def live(self) -> None:
        """An episode arrives, or what one was about becomes known or is corrected."""
        if self.history and self._rng.random() < 0.3:
            at = int(self._rng.integers(len(self.history)))
            self.history[at] = self.history[at].model_copy(update={"truth": self.truth() or "x"})
        else:
            at = len(self.history)
            time = START + timedelta(minutes=int(self._rng.integers(at // 2, at + 2)))
            metadata = {"at": ("home", "work", 1, True)[self._rng.integers(4)]} if self._rng.random() < 0.5 else {}
            self.history.append(
                Interaction(id=str(at), user="u", time=time, query=self.text(), truth=self.truth(), metadata=metadata)
            )
        self.index.put(row(self.history[at], at + 1))

    def query(self) -> RecallQuery:
        asked: dict[str, object] = {
            "text": self.text(),
            "k": int(self._rng.integers(1, 5)),
            "ranking": ("hybrid", "hybrid", "dense", "bm25")[self._rng.integers(4)],
            "with_truth": bool(self._rng.random() < 0.5),
        }
        minutes = self._rng.integers(0, len(self.history), size=2)
        some = [i.id for i in self.history if self._rng.random() < 0.1]
        optional = {
            "before": str(minutes[0]),
            "exclude": (*some, "no such"),
            "since": START + timedelta(minutes=int(minutes[0])),
            "until": START + timedelta(minutes=int(minutes[1])),
            "metadata": {"at": "home"},
            "max_tokens": int(self._rng.integers(0, 12)),
        }
        return RecallQuery(**asked, **{k: v for k, v in optional.items() if self._rng.random() < 0.15})


@pytest.mark.slow
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_recall_returns_what_sorting_everything_does(seed: int) -> None:
    life = Life(seed)
    with patch.object(module, "POOL", POOL):
        for n in range(120):
            life.live()
            if n % 6 and n > 20:
                continue
            query = life.query()
            recall = life.index.recall(query, EMBEDDER.encode([query.text])[0], NONE)
            wanted, known = expected(life.history, query)
            found = [Found(e.interaction.id, e.age, e.score, e.similarity) for e in recall.episodes]
            alike(found, wanted)
            assert recall.known == known


@pytest.mark.slow
def test_a_long_history_with_many_ties_is_ranked_alike() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), size=4)) for _ in range(1_500)]
    history = [
        Interaction(id=str(n), user="u", time=START + timedelta(minutes=n), query=text, truth="yes" if n % 3 else None)
        for n, text in enumerate(texts)
    ]
    index = EpisodeIndex(16, SETTINGS)
    for n, interaction in enumerate(history):
        index.put(row(interaction, n + 1))
    with patch(f"{__name__}.POOL", module.POOL):
        for text in texts[:12]:
            for query in (RecallQuery(text=text), RecallQuery(text=text, k=3, with_truth=True, ranking="bm25")):
                recall = index.recall(query, EMBEDDER.encode([text])[0], NONE)
                found = [Found(e.interaction.id, e.age, e.score, e.similarity) for e in recall.episodes]
                alike(found, expected(history, query)[0])


documents = st.lists(st.text(alphabet="abcd 北京", max_size=12), min_size=1, max_size=12)


@given(texts=documents, query=st.text(alphabet="abcd 北京", max_size=8))
@settings(deadline=None)
def test_bm25_is_the_formula(texts: list[str], query: str) -> None:
    words = Bm25()
    for text in texts:
        words.add(text)
    np.testing.assert_allclose(words.scores(query), bm25(texts, query), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 100])
@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1, width=32), max_size=450),
    least=st.sampled_from([-math.inf, 1e-30]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_best_are_those_of_a_full_sort(size: int, scores: list[float], least: float, seed: int) -> None:
    score = np.asarray(scores, dtype=np.float32)
    age = np.random.default_rng(seed).permutation(len(scores))
    wanted = sorted((n for n in range(len(scores)) if score[n] >= least), key=lambda n: (-score[n], age[n]))[:size]
    found = best(np.arange(len(scores)), score, age, size, least)
    assert found.tolist() == wanted

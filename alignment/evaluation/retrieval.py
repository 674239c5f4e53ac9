"""Retrieval quality without any language model: `personaagent eval retrieval --data FOLDER`.

Does recall bring up what an answer rests on? For PAHF: how often an episode that holds the answer's preference (its truth is
the test's truth) is within the top k, among tests whose truth was ever learned. For MovieLens: the error of the mean rating
of the top-k most similar rated movies, against the global mean and the user's own mean. Both for dense, BM25 and hybrid
ranking and by history length. The learning parts alone go into memory; nothing is fitted.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from personaagent.errors import InvalidInput
from personaagent.memory.local import LocalMemory
from personaagent.protocols import Embedder
from personaagent.readers import movielens_split, pahf_phase, read
from personaagent.settings import MemorySettings
from personaagent.types import Interaction, RecallQuery

__all__ = ["RANKINGS", "retrieval_movielens", "retrieval_pahf", "run"]

Ranking = Literal["hybrid", "dense", "bm25"]
RANKINGS: tuple[Ranking, ...] = ("hybrid", "dense", "bm25")
DEPTHS = (1, 3, 5, 10)
TESTS_PER_USER = 30  # of MovieLens; the newest
Progress = Callable[[str, int, int], None]


async def run(
    data: Path,
    embedder: Embedder,
    users: int = 40,
    settings: MemorySettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Both data sets below `data` (folders `pahf` and `movielens`), as one JSON-able report.

    Raises:
        InvalidInput: neither is there.
    """
    told = progress or (lambda stage, done, total: None)
    settings = settings or MemorySettings()
    report: dict[str, Any] = {}
    if (data / "pahf").is_dir():
        learned = pahf_phase(data / "pahf", "original_A", users)
        tests = pahf_phase(data / "pahf", "original_B", users)
        lengths = (5, 10, 20, 30)
        report["pahf"] = {}
        for n in lengths:
            told("pahf", n, lengths[-1])
            report["pahf"][str(n)] = await retrieval_pahf(_newest(learned, n), tests, embedder, settings)
    archive = data / "movielens" / "ml-latest-small.zip"
    if archive.is_file():
        history = list(read("movielens", archive, users))
        told("movielens", 0, 1)
        report["movielens"] = await retrieval_movielens(history, embedder, settings)
    if not report:
        raise InvalidInput(f"{data} holds neither pahf nor movielens; name the folder that holds them")
    return report


async def retrieval_pahf(
    learned: Sequence[Interaction], tests: Sequence[Interaction], embedder: Embedder, settings: MemorySettings
) -> dict[str, Any]:
    """hit@k by ranking, over the tests whose truth is the truth of some learned episode of the user."""
    memory = await _filled(learned, embedder, settings)
    known: defaultdict[str, set[str]] = defaultdict(set)
    for i in learned:
        known[i.user].add(i.truth or "")
    answerable = [t for t in tests if t.truth in known[t.user]]
    hits: dict[str, dict[str, float]] = {}
    for ranking in RANKINGS:
        found = dict.fromkeys(DEPTHS, 0)
        for test in answerable:
            recalled = await memory.recall(
                test.user, RecallQuery(text=test.query, k=max(DEPTHS), with_truth=True, ranking=ranking)
            )
            truths = [e.interaction.truth for e in recalled.episodes]
            for k in DEPTHS:
                found[k] += test.truth in truths[:k]
        hits[ranking] = {str(k): round(found[k] / max(1, len(answerable)), 4) for k in DEPTHS}
    return {"tests": len(tests), "answerable": len(answerable), "hit_at": hits}


async def retrieval_movielens(
    history: Sequence[Interaction], embedder: Embedder, settings: MemorySettings
) -> dict[str, Any]:
    """Mean absolute error by ranking and depth, with floors, overall and by history length."""
    learned, tests = movielens_split(history)
    memory = await _filled(learned, embedder, settings)
    by_user: defaultdict[str, list[float]] = defaultdict(list)
    for i in learned:
        by_user[i.user].append(float(i.truth or 0))
    overall = statistics.fmean(r for ratings in by_user.values() for r in ratings)
    errors: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    recent: defaultdict[str, list[Interaction]] = defaultdict(list)
    for test in tests:
        recent[test.user].append(test)
    for user, own in recent.items():
        ratings = by_user[user]
        mean = statistics.fmean(ratings)
        segment = _segment(len(ratings))
        for test in own[-TESTS_PER_USER:]:
            truth = float(test.truth or 0)
            guesses = {"global mean": overall, "user mean": mean}
            for ranking in RANKINGS:
                recalled = await memory.recall(
                    user, RecallQuery(text=test.query, k=20, with_truth=True, ranking=ranking)
                )
                near = [float(e.interaction.truth or 0) for e in recalled.episodes]
                for k in (5, 10, 20):
                    guesses[f"{ranking} top {k}"] = statistics.fmean(near[:k]) if near else mean
            for name, guess in guesses.items():
                errors["all"][name].append(abs(guess - truth))
                errors[segment][name].append(abs(guess - truth))
    return {
        "tests": len(errors["all"]["user mean"]),
        "mae": {segment: _means(rows) for segment, rows in errors.items()},
    }


async def _filled(learned: Sequence[Interaction], embedder: Embedder, settings: MemorySettings) -> LocalMemory:
    memory = LocalMemory(embedder, settings)
    await memory.append_many(learned)
    return memory


def _newest(interactions: Sequence[Interaction], n: int) -> list[Interaction]:
    by_user: defaultdict[str, list[Interaction]] = defaultdict(list)
    for i in interactions:
        by_user[i.user].append(i)
    return [i for own in by_user.values() for i in own[-n:]]


def _segment(length: int) -> str:
    return "up to 50 ratings" if length <= 50 else "51 to 200 ratings" if length <= 200 else "over 200 ratings"


def _means(rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(statistics.fmean(values), 4) for name, values in rows.items()}

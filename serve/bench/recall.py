"""`personaagent bench recall`: how often recall finds what answers a question, by kind of history.

Words alone, meaning alone, recency alone, both as they are by default, and reciprocal rank fusion with equal weights (Cormack,
Clarke and Büttcher, 2009) of the same two rankings, side by side over the same made-up histories (`recall_histories`).
The default must not be worse than that fusion on any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from personaagent.memory.changes import Incoming, embed_interactions, embed_recalls
from personaagent.memory.index import EpisodeIndex
from personaagent.memory.store import Row, microseconds, pack
from personaagent.protocols import Embedder
from personaagent.types import RecallQuery
from serve.bench.recall_histories import KINDS, RecallHistory, history

__all__ = ["METHODS", "TOP", "compare", "fused"]

METHODS = ("words", "meaning", "recency", "both", "rrf")
TOP = (5, 10, 20)
RRF = 60  # the usual constant of reciprocal rank fusion
POOL = 100  # of each ranking that are fused

Found = dict[str, dict[str, float | int]]


def fused(rankings: Sequence[Sequence[str]]) -> list[str]:
    """Reciprocal rank fusion of rankings, each of equal weight, best first; ties in the order of first appearance."""
    score: dict[str, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, 1):
            score[one] = score.get(one, 0.0) + 1.0 / (RRF + place)
    return sorted(score, key=lambda one: -score[one])


async def compare(
    embedder: Embedder,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    seeds: Sequence[int] = (0,),
    held_out: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Found]:
    """Shares of questions whose answering interaction is among the first 5, 10 and 20, by kind and method.

    Args:
        embedder: its vectors are what "meaning" is.
        kinds: of histories, keys of `KINDS`.
        seeds: a history of each kind for each.
        held_out: made of subjects on which no default was chosen.
        progress: called with a kind, and how many are done.
    """
    result: dict[str, Found] = {}
    for done, kind in enumerate(kinds):
        if progress is not None:
            progress(f"recall: {kind}", done, len(kinds))
        made = [history(kind, seed, held_out) for seed in seeds]
        hits = {method: dict.fromkeys(TOP, 0) for method in METHODS}
        for one in made:
            await _count(embedder, one, hits)
        questions = sum(len(one.asked) for one in made)
        shares: Found = {
            method: {f"top_{n}": round(count / questions, 3) for n, count in counts.items()}
            for method, counts in hits.items()
        }
        result[kind] = {
            "size": {"questions": questions, "interactions": sum(len(m.interactions) for m in made)},
            **shares,
        }
    return result


async def _count(embedder: Embedder, made: RecallHistory, hits: dict[str, dict[int, int]]) -> None:
    items = await embed_interactions(embedder, made.interactions)
    index = EpisodeIndex(len(items[0].query_vector))
    for arrived, item in enumerate(items, 1):
        index.put(_row(item, arrived))
    newest = [interaction.id for interaction in index.latest(max(TOP))[::-1]]
    queries = [RecallQuery(text=asked.text, k=POOL) for asked in made.asked]
    for asked, query, (vector, choices) in zip(
        made.asked, queries, await embed_recalls(embedder, queries), strict=True
    ):
        rankings = {"recency": newest}
        for method, ranking in (("words", "bm25"), ("meaning", "dense"), ("both", "hybrid")):
            recalled = index.recall(query.model_copy(update={"ranking": ranking}), vector, choices)
            rankings[method] = [episode.interaction.id for episode in recalled.episodes]
        rankings["rrf"] = fused([rankings["meaning"], rankings["words"]])
        for method, counts in hits.items():
            for n in counts:
                counts[n] += not asked.answers.isdisjoint(rankings[method][:n])


def _row(item: Incoming, arrived: int) -> Row:
    interaction = item.interaction
    return Row(
        user=interaction.user,
        id=interaction.id,
        time=microseconds(interaction.time),
        arrived=arrived,
        truth_arrived=0 if interaction.truth is None else arrived,
        payload=pack(interaction),
        query_vector=item.query_vector,
        truth_vector=item.truth_vector,
        option_vectors=item.option_vectors,
    )

"""Recall over made-up histories, in many scripts, and by an embedder that cannot read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from personaagent.agent.decision import decide
from personaagent.memory.local import LocalMemory
from personaagent.models.embedding import LocalEmbedder
from personaagent.models.files import resolve_embedder
from personaagent.protocols import Matrix
from personaagent.settings import load_settings
from personaagent.types import Decision, Interaction, RecallQuery
from serve.bench.recall import TOP, compare, fused
from serve.bench.recall_histories import KINDS, history
from serve.bench.recall_texts import LANGUAGES
from tests.support.doubles import HashEmbedder

START = datetime(2025, 3, 1, tzinfo=UTC)
TOLERANCE = 0.03
LANGUAGE_NAMES = [language.name for language in LANGUAGES]


class Blind:
    """Gives every text the same vector, as a model does for scripts that it does not know."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        return np.tile(np.eye(8, dtype=np.float32)[0], (len(texts), 1))


def test_histories_are_made_anew_alike_and_know_their_answers() -> None:
    for kind in KINDS:
        made = history(kind, 3)
        assert made == history(kind, 3)
        assert made != history(kind, 4)
        stored = {interaction.id for interaction in made.interactions}
        assert made.asked
        assert all(asked.answers and asked.answers <= stored for asked in made.asked)


def test_equal_weight_fusion() -> None:
    assert fused([["a", "b", "c"], ["c", "b"]]) == ["c", "b", "a"]
    assert fused([[], []]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["requests", "dialogues", "Thai", "Russian"])
async def test_the_default_is_no_worse_than_equal_weight_fusion(kind: str) -> None:
    found = (await compare(HashEmbedder(dim=64), kinds=[kind], seeds=[0]))[kind]
    for n in TOP:
        assert found["both"][f"top_{n}"] >= found["rrf"][f"top_{n}"] - TOLERANCE


@pytest.mark.model
async def test_the_default_is_no_worse_than_equal_weight_fusion_with_the_embedded_embedder() -> None:
    embedder = LocalEmbedder(resolve_embedder(load_settings()))
    for kind, found in (await compare(embedder, seeds=[21])).items():
        for n in TOP:
            assert found["both"][f"top_{n}"] >= found["rrf"][f"top_{n}"] - TOLERANCE, (kind, n)
        if kind in LANGUAGE_NAMES:
            assert found["both"]["top_10"] > 0.9
        if kind == "bundles":
            assert found["meaning"]["top_5"] > 0.9
        if kind == "stories":
            assert found["meaning"]["top_10"] > 0.6


@pytest.mark.parametrize("language", LANGUAGES, ids=LANGUAGE_NAMES)
async def test_a_settled_request_gets_its_answer_again_though_the_embedder_cannot_read_it(language) -> None:
    memory = LocalMemory(Blind())
    pairs = [(thing, when) for thing in language.things[:4] for when in language.whens[:4]]
    requests = [language.asked[0].format(thing=thing, when=when) for thing, when in pairs]
    truths = [language.truths[(n + n // 4) % 4] for n in range(len(pairs))]
    settled = [
        Interaction(id=str(n), user="u", time=START, query=query, choices=language.truths, truth=truth)
        for n, (query, truth) in enumerate(zip(requests, truths, strict=True))
    ]
    await memory.append("u", settled)
    for query, truth in zip(requests, truths, strict=True):
        again = f" {query.upper()} "
        asked = RecallQuery(text=again, k=1, choices=language.truths, decisions=(Decision(),))
        found = await memory.recall("u", asked)
        assert found.episodes[0].interaction.truth == truth
        assert found.episodes[0].similarity == 1.0
        assert decide(language.truths, None, found.evidence[0], 0.0).answer == truth

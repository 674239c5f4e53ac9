"""Sentence embeddings and the batcher in front of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.errors import InvalidInput
from personaagent.models.embedding import LocalEmbedder, SentenceEmbedder
from personaagent.models.files import resolve_embedder
from personaagent.protocols import Matrix
from personaagent.settings import load_settings
from serve.batcher import TextBatcher


class Counted(SentenceEmbedder):
    """Rows that tell their text, without a model."""

    passes: list[list[str]]

    def _load(self) -> None:
        self.passes = getattr(self, "passes", [])

    def _forward(self, texts: list[str]) -> Matrix:
        self.passes.append(texts)
        return np.array([[len(t), hash(t) % 1000] for t in texts], dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 2}))
    return tmp_path


def test_nothing_is_embedded_twice(folder: Path) -> None:
    embedder = Counted(folder, max_batch=2)
    first = embedder.encode(["b", "aaa", "b", "cc"])
    assert embedder.passes == [["aaa", "cc"], ["b"]]  # like lengths together
    assert [row[0] for row in first] == [1, 3, 1, 2]
    assert (embedder.encode(["cc", "aaa"]) == first[[3, 1]]).all()
    assert len(embedder.passes) == 2
    assert embedder.cached(["aaa", "new"]) is None
    assert embedder.encode([]).shape == (0, 2)


def test_the_cache_forgets_what_was_used_least_recently(folder: Path) -> None:
    embedder = Counted(folder, cache_texts=2)
    embedder.encode(["a", "b"])
    embedder.encode(["a"])
    embedder.encode(["c"])
    assert embedder.cached(["a", "c"]) is not None
    assert embedder.cached(["b"]) is None


def test_models_that_cannot_be_pooled_are_refused(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(InvalidInput, match="pooling"):
        SentenceEmbedder(folder)


def test_a_model_must_say_how_long_its_vectors_are(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match="hidden_size"):
        SentenceEmbedder(folder)


def numbers(texts: Sequence[str]) -> Matrix:
    return np.array([[float(t)] for t in texts], dtype=np.float32)


@pytest.mark.slow
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_every_caller_gets_its_own_rows(sizes: list[int], max_batch: int) -> None:
    batches = []

    def encode(texts: Sequence[str]) -> Matrix:
        batches.append(len(texts))
        return numbers(texts)

    async def run() -> None:
        batcher = TextBatcher(encode, max_batch, 0.0)
        calls = [[str(1000 * n + i) for i in range(size)] for n, size in enumerate(sizes) if size]
        rows = await asyncio.gather(*(batcher.submit(call) for call in calls))
        for call, got in zip(calls, rows, strict=True):
            assert (got == numbers(call)).all()

    asyncio.run(run())
    assert max(batches, default=0) <= max_batch
    assert sum(batches) == sum(sizes)


async def test_a_small_call_overtakes_a_large_one_that_still_moves_on() -> None:
    order: list[list[str]] = []

    def encode(texts: Sequence[str]) -> Matrix:
        order.append(list(texts))
        return numbers(texts)

    batcher = TextBatcher(encode, 4, 0.0)
    large = asyncio.create_task(batcher.submit([str(i) for i in range(100)]))
    small = asyncio.create_task(batcher.submit(["-1"]))
    await small
    assert not large.done()
    assert "-1" in order[0]
    assert len(order[0]) == 4
    assert len(await large) == 100


async def test_an_error_goes_to_its_callers_only() -> None:
    def encode(texts: Sequence[str]) -> Matrix:
        if "bad" in texts:
            raise ValueError("broken")
        return numbers(texts)

    batcher = TextBatcher(encode, 1, 0.0)
    bad, good = await asyncio.gather(batcher.submit(["bad"]), batcher.submit(["1"]), return_exceptions=True)
    assert isinstance(bad, ValueError)
    assert not isinstance(good, BaseException)
    assert (await batcher.submit(["2"]))[0, 0] == 2


async def test_a_cancelled_caller_costs_nothing_more() -> None:
    started, release = threading.Event(), threading.Event()
    seen: list[str] = []

    def encode(texts: Sequence[str]) -> Matrix:
        seen.extend(texts)
        started.set()
        release.wait(10)
        return numbers(texts)

    batcher = TextBatcher(encode, 1, 0.0)
    first = asyncio.create_task(batcher.submit(["1"]))
    await asyncio.to_thread(started.wait, 10)
    gone = asyncio.create_task(batcher.submit(["2"]))
    last = asyncio.create_task(batcher.submit(["3"]))
    await asyncio.sleep(0)
    gone.cancel()
    release.set()
    await asyncio.gather(first, last)
    assert seen == ["1", "3"]


@pytest.mark.model
async def test_the_embedded_model_knows_what_is_alike() -> None:
    embedder = LocalEmbedder(resolve_embedder(load_settings()), max_batch=4)
    texts = [
        "I love espresso",
        "Coffee is my favourite drink",
        "The train leaves at noon",
        "",
        "half a \ud800 pair",
        "x " * 5000,
    ]
    rows = await embedder.embed(texts)
    assert rows.shape == (6, 384)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    alone = np.vstack([await LocalEmbedder(resolve_embedder(load_settings())).embed([t]) for t in texts[:3]])
    assert np.abs(alone - rows[:3]).max() < 1e-4  # company in the batch changes nothing

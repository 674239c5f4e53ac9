"""What memory keeps of the options of a closed choice, from the append to the row and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from actors.memory.wire import Batch
from actors.milvus import rows as milvus_rows
from personaagent.memory.changes import (
    MAX_OPTIONS,
    Incoming,
    embed_interactions,
    kept_options,
    option_texts,
    plan_append,
    plan_feedback,
)
from personaagent.memory.local import LocalMemory
from personaagent.memory.ram_store import VolatileStore
from personaagent.memory.store import Row, pack, quantised, restored
from personaagent.settings import LimitsSettings
from personaagent.types import Interaction
from tests.support.doubles import HashEmbedder
from tests.support.store_contract import DIM, EMBEDDER, assert_same, make_row

DRINKS = ("tea", "coffee", "milk")
LIMITS = LimitsSettings()
NOW = 1_714_600_000_000_000  # a day later, in microseconds
MANY = tuple(f"option {n}" for n in range(40))


def interaction(id: str, choices: Sequence[str] | None = DRINKS, truth: str | None = None) -> Interaction:
    time = datetime(2024, 5, 1, tzinfo=UTC)
    return Interaction(id=id, user="ann", time=time, query=f"query {id}", choices=choices, truth=truth)


async def incoming(*interactions: Interaction) -> list[Incoming]:
    return await embed_interactions(EMBEDDER, interactions)


def appended(items: Sequence[Incoming], *stored: Row) -> tuple[Row, ...]:
    return plan_append("ann", items, {row.id: row for row in stored}.get, 0, NOW, LIMITS).rows


def of(*options: str) -> np.ndarray:
    return quantised(EMBEDDER.encode(options))


# Vectors


@given(seed=st.integers(0, 10_000), dim=st.sampled_from([8, 384, 1024]), spread=st.floats(0, 3))
def test_a_byte_per_number_moves_cosines_by_less_than_a_hundredth(seed: int, dim: int, spread: float) -> None:
    numbers = np.random.default_rng(seed)
    rows = numbers.standard_normal((6, dim)) * np.exp(spread * numbers.standard_normal((6, dim)))  # some are spiky
    rows = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
    small = quantised(rows)
    again = restored(small)
    assert (small.dtype, small.shape, again.dtype) == (np.int8, rows.shape, np.float32)
    assert (np.abs(small.astype(int)).max(axis=1) == 127).all()
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(again @ rows.T, rows @ rows.T, atol=0.01)
    np.testing.assert_array_equal(quantised(again), small)


def test_rows_without_a_direction_stay_zero() -> None:
    rows = np.zeros((2, 4), dtype=np.float32)
    rows[1, 2] = -1
    np.testing.assert_array_equal(quantised(rows), [[0, 0, 0, 0], [0, 0, -127, 0]])
    np.testing.assert_array_equal(restored(quantised(rows)), rows)
    assert quantised(rows[:0]).shape == restored(quantised(rows[:0])).shape == (0, 4)


# Which options


def test_of_a_long_list_some_are_kept_whatever_their_order() -> None:
    assert kept_options(DRINKS) == (0, 1, 2)
    assert kept_options(MANY[:MAX_OPTIONS]) == tuple(range(MAX_OPTIONS))
    kept = kept_options(MANY)
    assert len(kept) == MAX_OPTIONS
    assert list(kept) == sorted(kept) != list(range(MAX_OPTIONS))
    turned = MANY[::-1]
    assert {turned[n] for n in kept_options(turned)} == {MANY[n] for n in kept}


def test_ratings_and_free_text_have_no_options() -> None:
    assert option_texts(interaction("1")) == DRINKS
    assert option_texts(interaction("1", None)) == ()
    assert option_texts(interaction("1", ("1", "2", "3.5"))) == ()
    assert option_texts(interaction("1", MANY)) == tuple(MANY[n] for n in kept_options(MANY))


# From the append to the row


async def test_options_are_embedded_once_with_everything_else() -> None:
    embedder = HashEmbedder(DIM)
    asked = [interaction("1", truth="tea"), interaction("2"), interaction("3", ("1", "2")), interaction("4", MANY)]
    items = await embed_interactions(embedder, asked)
    assert (embedder.calls, embedder.texts) == (1, 4 + len(DRINKS) + MAX_OPTIONS)
    np.testing.assert_array_equal(items[0].option_vectors, of(*DRINKS))
    np.testing.assert_array_equal(items[3].option_vectors, of(*option_texts(asked[3])))
    assert items[0].option_vectors is items[1].option_vectors
    assert items[2].option_vectors is None


async def test_options_cross_to_the_shard_once_each() -> None:
    items = await incoming(
        interaction("1"), interaction("2", None), interaction("3", ("milk", "water")), interaction("4", MANY)
    )
    batch = Batch.of(items)
    assert batch.options.shape == (len(DRINKS) + 1 + MAX_OPTIONS, DIM)
    for before, after in zip(items, batch.items(), strict=True):
        assert after.interaction == before.interaction
        np.testing.assert_array_equal(after.option_vectors, before.option_vectors)
    (none,) = Batch.of(items[1:2]).items()
    assert none.option_vectors is None


async def test_a_truth_that_comes_later_leaves_the_options() -> None:
    (row,) = appended(await incoming(interaction("1")))
    told = await incoming(interaction("1", truth="milk"))
    again = [replace(told[0], option_vectors=None)]  # as an older version sends it
    for (after,) in (appended(told, row), appended(again, row)):
        assert after.interaction.truth == "milk"
        np.testing.assert_array_equal(after.option_vectors, of(*DRINKS))
    (after,) = plan_feedback(row, "1", "tea", EMBEDDER.encode(["tea"])[0], 0, NOW + 9, LIMITS).rows
    assert (after.interaction.truth, after.truth_arrived, after.arrived) == ("tea", NOW + 9, row.arrived)
    np.testing.assert_array_equal(after.option_vectors, of(*DRINKS))


async def test_an_older_row_gets_its_options_when_it_is_written_again() -> None:
    (row,) = appended(await incoming(interaction("1")))
    old = replace(row, option_vectors=None)
    assert appended(await incoming(interaction("1")), old) == ()  # not for their sake alone
    (after,) = appended(await incoming(interaction("1", truth="tea")), old)
    np.testing.assert_array_equal(after.option_vectors, of(*DRINKS))
    other = await incoming(interaction("1", ("tea", "water"), truth="tea"))
    assert appended(other, old) == ()  # other options make another question of it
    (after,) = plan_feedback(old, "1", "tea", EMBEDDER.encode(["tea"])[0], 0, NOW + 9, LIMITS).rows
    assert after.option_vectors is None


async def test_an_export_comes_back_with_its_options() -> None:
    stores = [VolatileStore(DIM), VolatileStore(DIM)]
    one, other = (LocalMemory(EMBEDDER, store=store) for store in stores)
    await one.append("ann", [interaction("1", truth="tea"), interaction("2", None), interaction("3", MANY)])
    lines = await one.export("ann")
    assert not any("vector" in line for line in lines)
    await other.restore(lines)
    for before, after in zip(*(store.load("ann").rows for store in stores), strict=True):
        assert_same(after, before)


# In the body of a row


def entity_of(row: Row) -> dict[str, object]:
    return milvus_rows.episode(row, milvus_rows.row_text(row))[0]


def test_a_row_without_options_is_written_as_ever() -> None:
    row = make_row("ann", "1", 'say {"choices":"no"}', "tea")
    assert milvus_rows.row_text(row) == row.payload
    assert milvus_rows.row_of(entity_of(row), row.payload).option_vectors is None
    older = replace(make_row("ann", "1", choices=DRINKS), option_vectors=None)  # a choice of before options were kept
    assert milvus_rows.row_text(older) == older.payload
    assert_same(milvus_rows.row_of(entity_of(older), older.payload), older)


def test_an_older_version_reads_a_row_with_options() -> None:
    row = make_row("ann", "1", choices=DRINKS)
    text = milvus_rows.row_text(row)
    assert len(text) == len(row.payload) + len(DRINKS) * DIM * 4 // 3 + len('"choices":"",')
    assert Interaction.model_validate(json.loads(text)) == row.interaction  # which is all that it does with it


@given(
    query=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(['","', '{"choices":"', "é" * 40_000]),
    metadata=st.dictionaries(st.text(), st.text(), max_size=2),
    vectors=arrays.arrays(np.int8, st.tuples(st.integers(1, MAX_OPTIONS), st.just(DIM))),
)
def test_any_text_and_any_vectors_come_back(query: str, metadata: dict[str, str], vectors: np.ndarray) -> None:
    asked = interaction("1").model_copy(update={"query": query, "metadata": metadata})
    row = replace(make_row("ann", "1", choices=DRINKS), payload=pack(asked), option_vectors=vectors)
    assert_same(milvus_rows.row_of(entity_of(row), milvus_rows.row_text(row)), row)


@pytest.mark.parametrize(
    "text", [b'{"choices":"', b'{"choices":"AAAA"}', b'{"choices":"AAA","', b'{"choices":"?A==","']
)
def test_a_damaged_text_is_told(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        milvus_rows.row_of(entity_of(make_row("ann", "1")), text)

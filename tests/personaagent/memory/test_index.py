from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.errors import InvalidInput, NotFoundError
from personaagent.memory.bm25 import Bm25, tokens
from personaagent.memory.changes import MAX_OPTIONS, kept_options, option_texts
from personaagent.memory.index import EpisodeIndex, episode_tokens
from personaagent.memory.store import Row, microseconds, pack, quantised, unpack
from personaagent.settings import MemorySettings
from personaagent.types import Decision, Interaction, RecallQuery
from tests.support.doubles import HashEmbedder

EMBEDDER = HashEmbedder(dim=32)
NONE = np.zeros((0, 32), dtype=np.float32)
START = datetime(2024, 5, 1, tzinfo=UTC)


def row(id: str, query: str, truth: str | None = None, minute: float = 0, arrived: int = 1, **fields: object) -> Row:
    interaction = Interaction(
        id=id, user="u", time=START + timedelta(minutes=minute), query=query, truth=truth, **fields
    )
    return Row(
        user="u",
        id=id,
        time=microseconds(interaction.time),
        arrived=arrived,
        truth_arrived=arrived if truth is not None else 0,
        payload=pack(interaction),
        query_vector=EMBEDDER.encode([query])[0],
        truth_vector=None if truth is None else EMBEDDER.encode([truth])[0],
        option_vectors=quantised(EMBEDDER.encode(options)) if (options := option_texts(interaction)) else None,
    )


def index(*rows: Row, **settings: float) -> EpisodeIndex:
    result = EpisodeIndex(32, MemorySettings(**settings))
    for r in rows:
        result.put(r)
    return result


def ids(idx: EpisodeIndex, text: str, **query: object) -> list[str]:
    q = RecallQuery(text=text, **query)
    return [e.interaction.id for e in idx.recall(q, EMBEDDER.encode([text])[0], NONE).episodes]


DRINKS = [
    row("tea", "what shall I drink in the morning", "green tea", 0),
    row("wine", "what shall I drink with dinner", "red wine", 1),
    row("film", "which film tonight", "a western", 2),
    row("shoe", "which shoes for running", None, 3),
]


def test_recall_finds_what_is_alike_by_meaning_and_by_words() -> None:
    idx = index(*DRINKS)
    for ranking in ("hybrid", "dense", "bm25"):
        assert ids(idx, "what shall I drink with dinner", k=1, ranking=ranking) == ["wine"]
    assert ids(idx, "western", k=1, ranking="bm25") == ["film"]  # words of the outcome count too
    assert ids(idx, "zebra", k=4, ranking="bm25") == []
    assert len(ids(idx, "zebra", k=4)) == 4


def test_recall_of_nothing() -> None:
    empty = EpisodeIndex(32)
    query = RecallQuery(text="x", choices=("a", "b"), decisions=(Decision(), Decision()))
    recall = empty.recall(query, EMBEDDER.encode(["x"])[0], EMBEDDER.encode(["a", "b"]))
    assert recall.episodes == ()
    assert np.allclose(np.exp(recall.evidence), 0.5)
    assert recall.known == 0
    assert ids(index(*DRINKS), "x", k=0) == []


def test_before_means_earlier_in_the_users_order() -> None:
    late = row("late", "what shall I drink in the morning", "coffee", minute=-5)  # arrives last, happened first
    idx = index(*DRINKS, late)
    assert set(ids(idx, "what shall I drink", k=9, before="wine")) == {"tea", "late"}
    assert ids(idx, "what shall I drink", k=9, before="late") == []
    recall = idx.recall(RecallQuery(text="drink", k=9, before="film"), EMBEDDER.encode(["drink"])[0], NONE)
    assert {e.interaction.id: e.age for e in recall.episodes} == {"wine": 0, "tea": 1, "late": 2}
    assert recall.known == 3
    with pytest.raises(NotFoundError):
        ids(idx, "drink", before="never")


def test_equal_times_are_ordered_by_arrival() -> None:
    idx = index(*(row(str(i), f"question {i}", "a", minute=0) for i in range(5)))
    assert [i.id for i in idx.latest(3)] == ["2", "3", "4"]
    assert set(ids(idx, "question", k=9, before="2")) == {"0", "1"}


def test_exclude_leaves_out_and_does_not_count_for_age() -> None:
    idx = index(*DRINKS)
    recall = idx.recall(RecallQuery(text="x", k=9, exclude=("film", "no such")), EMBEDDER.encode(["x"])[0], NONE)
    assert {e.interaction.id: e.age for e in recall.episodes} == {"shoe": 0, "wine": 1, "tea": 2}
    assert recall.known == 3


def test_filters() -> None:
    idx = index(
        row("a", "lunch", "soup", 0, metadata={"place": "work", "n": 1}),
        row("b", "lunch again", "bread", 10, metadata={"place": "home", "n": 1}),
        row("c", "lunch once more", None, 20, metadata={"place": "work", "n": True}),
    )
    assert set(ids(idx, "lunch", k=9, metadata={"place": "work"})) == {"a", "c"}
    assert set(ids(idx, "lunch", k=9, metadata={"n": 1})) == {"a", "b"}
    assert ids(idx, "lunch", k=9, metadata={"place": "work", "n": 1}) == ["a"]
    assert ids(idx, "lunch", k=9, metadata={"other": None}) == []
    idx.put(row("d", "lunch at last", "rice", 30, metadata={"place": "work"}))
    assert set(ids(idx, "lunch", k=9, metadata={"place": "work"})) == {"a", "c", "d"}
    assert set(ids(idx, "lunch", k=9, with_truth=True)) == {"a", "b", "d"}
    assert ids(idx, "lunch", k=9, since=START + timedelta(minutes=10), until=START + timedelta(minutes=20)) == ["b"]


def test_a_repeated_episode_is_recalled_once_and_its_newest_copy() -> None:
    idx = index(*(row(f"{i}", "What  shall I EAT" if i % 2 else "what shall i eat", "Soup", i) for i in range(300)))
    idx.put(row("other", "what shall I eat", "rice", 500))
    assert set(ids(idx, "what shall I eat", k=5)) == {"299", "other"}
    assert set(ids(idx, "what shall I eat", k=5, before="200")) == {"199"}


def test_token_budget_skips_what_does_not_fit() -> None:
    long = row("long", "drink " * 400, "water", 9)
    idx = index(*DRINKS, long)
    assert ids(idx, "drink " * 400, k=5)[0] == "long"
    budget = sum(episode_tokens(r.interaction) for r in DRINKS[:2])
    found = idx.recall(
        RecallQuery(text="what shall I drink", k=5, max_tokens=budget), EMBEDDER.encode(["what shall I drink"])[0], NONE
    ).episodes
    assert found
    assert sum(episode_tokens(e.interaction) for e in found) <= budget
    assert "long" not in {e.interaction.id for e in found}
    assert ids(idx, "drink", k=5, max_tokens=0) == []


def test_ties_go_to_the_newer_and_to_the_known_outcome() -> None:
    same = [row(str(i), "same words", f"answer{i}", i) for i in range(4)]
    assert ids(index(*same), "same words", k=4, ranking="dense") == ["3", "2", "1", "0"]
    idx = index(row("known", "same words", "x", 0), row("open", "same words", None, 0), recency_weight=0.0)
    assert ids(idx, "same words", k=1)[0] == "known"


def test_evidence_follows_what_was_chosen_and_can_be_asked_for_several_decisions() -> None:
    idx = index(*DRINKS)
    choices = ("green tea", "red wine")
    query = RecallQuery(
        text="what shall I drink with dinner", k=0, choices=choices, decisions=(Decision(prior_scale=0.1), Decision())
    )
    rows = idx.recall(query, EMBEDDER.encode([query.text])[0], EMBEDDER.encode(choices)).evidence
    assert len(rows) == 2
    assert rows[0][1] > rows[0][0]
    early = query.model_copy(update={"before": "wine"})
    rows = idx.recall(early, EMBEDDER.encode([query.text])[0], EMBEDDER.encode(choices)).evidence
    assert rows[0][0] > rows[0][1]
    with pytest.raises(InvalidInput):
        idx.recall(query, EMBEDDER.encode([query.text])[0], NONE)


def test_rating_evidence_reads_every_rating() -> None:
    idx = index(*(row(str(i), f"film {i}", "4.5" if i else "no number", i) for i in range(200)))
    query = RecallQuery(text="film", k=0, choices=("1", "4.5", "5"), decisions=(Decision(),))
    evidence = idx.recall(query, EMBEDDER.encode(["film"])[0], NONE).evidence[0]
    assert max(range(3), key=evidence.__getitem__) == 1


def test_put_of_a_known_id_replaces_what_may_change() -> None:
    idx = index(*DRINKS)
    assert ids(idx, "sandals", k=1, ranking="bm25") == []
    idx.put(row("shoe", "which shoes for running", "sandals", 3, arrived=9))
    assert len(idx) == 4
    assert idx.truths == 4
    assert ids(idx, "sandals", k=1, ranking="bm25") == ["shoe"]
    idx.put(row("shoe", "which shoes for running", "boots", 3, arrived=9))
    assert ids(idx, "sandals", k=1, ranking="bm25") == []
    stored = idx.get("shoe")
    assert stored is not None
    assert stored.interaction.truth == "boots"
    np.testing.assert_array_equal(stored.truth_vector, EMBEDDER.encode(["boots"])[0])


def test_rows_come_back_as_they_went_in() -> None:
    idx = index(*DRINKS)
    for before, after in zip(DRINKS, idx.rows(), strict=True):
        assert after.payload == before.payload
        assert (after.id, after.time, after.arrived) == (before.id, before.time, before.arrived)
        np.testing.assert_array_equal(after.query_vector, before.query_vector)


CLOSED = [
    row("hot", "which drink", "tea", 0, choices=("tea", "coffee")),
    row("open", "which film", "a western", 1),
    row("cold", "which drink now", None, 2, choices=("milk", "tea", "water")),
    row("stars", "how was it", "4", 3, choices=("1", "4", "5")),
    replace(row("older", "which drink then", None, 4, choices=("tea", "milk")), option_vectors=None),
    row("many", "which number", None, 5, choices=tuple(f"number {n}" for n in range(30))),
]


def test_equal_options_share_one_vector() -> None:
    idx = index(*CLOSED)
    assert idx.option_vectors.shape == (4 + MAX_OPTIONS, 32)
    assert idx.option_vectors.dtype == np.int8
    codes = idx.options(np.array([2, 0, 1, 3, 4]))
    assert codes.shape == (5, MAX_OPTIONS)
    assert [[int(c) for c in row if c >= 0] for row in codes] == [[2, 0, 3], [0, 1], [], [], []]
    expected = quantised(EMBEDDER.encode(["milk", "tea", "water"]))
    np.testing.assert_array_equal(idx.option_vectors[codes[0, :3]], expected)
    (many,) = idx.options(np.array([5]))
    texts = [f"number {n}" for n in kept_options([f"number {n}" for n in range(30)])]
    np.testing.assert_array_equal(idx.option_vectors[many], quantised(EMBEDDER.encode(texts)))
    before = idx.ram_bytes
    for n in range(16):
        idx.put(row(f"long {n}", "which", None, 9, choices=("x" * 1_000 + str(n), "tea")))
    assert idx.ram_bytes > before + 16 * 1_000 * 2  # in the payload, and as a text of the index


def test_options_come_back_with_their_row_and_are_replaced() -> None:
    idx = index(*CLOSED)
    for before, after in zip(CLOSED, idx.rows(), strict=True):
        assert (after.option_vectors is None) == (before.option_vectors is None)
        if before.option_vectors is not None:
            np.testing.assert_array_equal(after.option_vectors, before.option_vectors)
    idx.put(replace(CLOSED[0], option_vectors=None))
    idx.put(row("older", "which drink then", "milk", 4, choices=("tea", "milk")))
    stripped, filled = idx.get("hot"), idx.get("older")
    assert stripped is not None
    assert stripped.option_vectors is None
    assert filled is not None
    np.testing.assert_array_equal(filled.option_vectors, quantised(EMBEDDER.encode(["tea", "milk"])))
    assert len(idx.option_vectors) == 4 + MAX_OPTIONS
    # Vectors of another number than the options cannot be told apart: they count as missing.
    idx.put(replace(CLOSED[2], option_vectors=CLOSED[0].option_vectors))
    assert (idx.options(np.array([2])) == -1).all()
    with pytest.raises(InvalidInput):
        idx.put(replace(CLOSED[0], option_vectors=np.zeros((2, 8), dtype=np.int8)))


def test_a_vector_of_another_size_is_refused() -> None:
    idx = EpisodeIndex(8)
    with pytest.raises(InvalidInput):
        idx.put(DRINKS[0])
    assert len(idx) == 0
    with pytest.raises(InvalidInput):
        index(*DRINKS).recall(RecallQuery(text="x"), np.zeros(8, dtype=np.float32), NONE)


documents = st.lists(st.text(alphabet="abcd 北京", max_size=12), min_size=1, max_size=8)


@given(old=documents, new=documents, query=st.text(alphabet="abcd 北京", max_size=6))
def test_bm25_after_changes_equals_bm25_built_anew(old: list[str], new: list[str], query: str) -> None:
    new = (new * len(old))[: len(old)]
    changed, fresh = Bm25(), Bm25()
    for text in old:
        changed.add(text)
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        changed.replace(number, before, after)
        fresh.add(after)
    np.testing.assert_allclose(changed.scores(query), fresh.scores(query), rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Tea, please! a_b Straße", ["tea", "please", "a", "b", "strasse"]),
        ("北京 茶", ["北京", "北", "京", "茶"]),  # of scripts without spaces, pairs; of Chinese single characters, too
        ("お茶を飲む", ["お茶", "茶を", "を飲", "飲む", "茶", "飲"]),
        ("한국어", ["한국", "국어"]),
        ("ชาดี", ["ชา", "าด", "ดี"]),
        ("चाय पीना", ["चाय", "पीना"]),  # vowel signs are marks, and stay with their letters
        ("שָׁלוֹם كِتَاب", ["שָׁלוֹם", "كِتَاب"]),
        ("Ποιο ΤΣΆΙ; Чёрный", ["ποιο", "τσάι", "чёрный"]),
        ("می\u200cخواهم co\u00adop", ["میخواهم", "coop"]),  # what is invisible inside a word
        ("ＦＵＬＬ ﬁne e\u0301te\u0301", ["full", "fine", "été"]),  # compatibility forms, composed or not
    ],
)
def test_words_of_any_script(text: str, words: list[str]) -> None:
    assert tokens(text) == words


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@given(
    query=st.text(),
    truth=st.none() | st.text(),
    metadata=st.dictionaries(st.text(alphabet=st.characters()), json_values, max_size=3),
    time=st.datetimes(),
)
def test_any_interaction_survives_packing(query: str, truth: str | None, metadata: dict, time: datetime) -> None:
    interaction = Interaction(id="i", user="u", time=time, query=query, truth=truth, metadata=metadata)
    assert unpack(pack(interaction)) == interaction

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.evidence.text_bags import NONE, Texts
from personaagent.features import MOST, bucket, normalised, parts


def test_words_phrases_and_the_whole() -> None:
    found = parts("2 Rooms, ground floor; near the PARK")
    assert found.words == ("2", "rooms", "ground", "floor", "near", "the", "park")
    assert found.phrases == ("2 rooms", "ground floor", "near the park")
    assert found.whole == "2 rooms, ground floor; near the park"


@pytest.mark.parametrize(
    ("one", "other"), [("Ｔｅａ", "tea"), ("café", "cafe\u0301"), (" green  tea ", "Green tea"), ("ﬁg", "fig")]
)
def test_texts_that_look_alike_have_the_same_parts(one: str, other: str) -> None:
    assert parts(one) == parts(other)


def test_scripts_without_spaces_share_pairs_of_characters() -> None:
    assert set(parts("绿茶饮料").words) & set(parts("绿茶").words) == {"绿茶"}
    assert set(parts("ชาเขียวร้อน").words) & set(parts("ชาเขียว").words)
    assert parts("हिन्दी चाय").words == ("हिन्दी", "चाय")  # vowel signs belong to their words


@given(st.text(max_size=200))
def test_any_text_can_be_taken_apart(text: str) -> None:
    found = parts(text)
    assert len(found.words) <= MOST
    assert len(found.phrases) <= MOST
    assert found.whole == normalised(text)
    assert all(found.words)
    assert all(0 <= bucket("w", w, 100) < 100 for w in found.words)


def test_texts_are_kept_once_and_looked_up_without_adding() -> None:
    texts = Texts()
    tea, juice = texts.add("Green tea, hot"), texts.add("orange juice")
    assert texts.add("green  tea, hot") == tea
    assert (texts.code("GREEN TEA, HOT"), texts.code("red tea")) == (tea, NONE)
    size = len(texts.is_phrase)
    bags = texts.bags(np.asarray([juice, tea]), ["red tea, hot"])
    assert len(texts.is_phrase) == size
    assert bags.size == 3
    words, columns = bags.dense(~texts.is_phrase)
    names = [texts.names()[c][1] for c in columns]
    assert words[1, names.index("tea")] == pytest.approx(3**-0.5)
    assert words[2, names.index("tea")] == pytest.approx(3**-0.5)  # of three words, one is unknown
    assert words[0, names.index("tea")] == 0
    phrases, columns = bags.dense(texts.is_phrase)
    assert phrases[2].tolist() == [float(texts.names()[c][1] == "hot") for c in columns]

"""What is embedded of long texts, and of texts in scripts that a model does not know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.passages import asked, passages
from personaagent.spelling import spelled

DOCUMENTS = "\n\n".join(f"Paragraph {n} says what the depot does on day {n}. " * 5 for n in range(40))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{DOCUMENTS}\n\nQuestion: When does it open?", "Question: When does it open?"),
        (f"When does it open?\n\n{DOCUMENTS}", "When does it open?"),
        (f"{DOCUMENTS}\n\nWhen does the depot open again?\nThanks!", "When does the depot open again?\nThanks!"),
        (f"{'It rained a lot. ' * 200}My dog is called Moss now.", "My dog is called Moss now."),
        (
            f"{'下了很多雨。' * 300}我的狗现在的名字就叫做苔藓,它今年已经七岁了很可爱吧。",
            "我的狗现在的名字就叫做苔藓,它今年已经七岁了很可爱吧。",
        ),
    ],
)
def test_what_a_long_text_asks_or_comes_to(text: str, wanted: str) -> None:
    assert asked(text) == wanted
    parts = passages(text, 256)
    assert parts[0].text == wanted
    assert parts[0].weight > sum(part.weight for part in parts[1:])


@given(st.text(min_size=1, max_size=400), st.integers(1, 20))
def test_passages_are_few_and_weigh_one_together(text: str, times: int) -> None:
    parts = passages(text * times, 16)
    assert 2 <= len(parts) <= 8
    assert sum(part.weight for part in parts) == pytest.approx(1.0)


def test_the_same_documents_have_the_same_passages_whatever_is_asked() -> None:
    one, other = (
        passages(f"{DOCUMENTS}\n\n{question}", 256) for question in ("Who opens it?", "When is it closed at night?")
    )
    assert len({part.text for part in one} & {part.text for part in other}) >= len(one) - 2


@given(st.text(max_size=60))
def test_a_spelling_is_a_unit_vector_and_depends_on_nothing_else(text: str) -> None:
    vector = spelled(text, 48)
    assert vector.shape == (48,)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert (vector == spelled(text, 48)).all()


def test_alike_spellings_are_near_and_others_are_not() -> None:
    tea, again, trip = (spelled(t, 384) for t in ("ตอนเช้าควรดื่มชาอะไรดี", "ตอนเช้าดื่มชาอะไร", "หน้าร้อนไปเที่ยวทะเล"))
    assert tea @ again > 0.6
    assert tea @ trip < 0.4

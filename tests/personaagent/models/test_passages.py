"""What is embedded of long texts, and of texts in scripts that a model does not know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.models.passages import asked, passages
from personaagent.models.spelling import spelled

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


QUESTION = "When does the depot open again?"
TEMPLATES = {
    "middle": f"{DOCUMENTS}\n\n{{q}}\n\n{DOCUMENTS}",
    "LangChain": f"You answer questions. {'Be brief and polite. ' * 20}\nQuestion: {{q}} \nContext: {DOCUMENTS} \nAnswer:",
    "LlamaIndex": f"Context information is below.\n---\n{DOCUMENTS}\n---\nAnswer the query.\nQuery: {{q}}\nAnswer: ",
    "Open WebUI": f"### Task:\nRespond.\n<context>\n{DOCUMENTS}\n</context>\n\n<user_query>\n{{q}}\n</user_query>\n",
    "Dify": f"<context>\n{DOCUMENTS}\n</context>\n\n{{q}}\n\nWhen answer to user:\n- Do not mention the context.",
    "XML": f"<question>\n{{q}}\n</question>\n<docs>\n{DOCUMENTS}\n</docs>\nAnswer from the documents only.",
    "Markdown": f"## Question\n{{q}}\n\n## Context\n{DOCUMENTS}",
    "rules behind": f"{DOCUMENTS}\n\n**Question:** {{q}}\n\nAnswer in three sentences and cite your sources.",
    "frequent questions": f"{{q}}\n\n{'Is there parking? Yes.' + chr(10) + 'May dogs come in? No.' + chr(10)}{DOCUMENTS}",
    "Chinese label": f"\u95ee\u9898\uff1a{{q}}\n{DOCUMENTS}\n{DOCUMENTS}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_question_is_found_wherever_a_program_puts_it(name: str) -> None:
    found = asked(TEMPLATES[name].format(q=QUESTION))
    assert QUESTION in found
    assert len(found) < 20 * len(QUESTION)
    assert asked(TEMPLATES[name].format(q="Who opens it?")) != found


def test_what_is_asked_for_without_a_question_counts_too() -> None:
    texts = [f"{wanted}\n\n{DOCUMENTS}" for wanted in ("Translate this into French:", "Put this into one sentence:")]
    assert asked(texts[0]) != asked(texts[1])


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

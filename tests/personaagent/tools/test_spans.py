from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.tools.arguments import check_arguments
from personaagent.tools.spans import MOST, copied, spans


def test_runs_of_words_that_no_mark_interrupts() -> None:
    found = spans("To Marstow on 27 November, please; by 9:30.")
    assert {"Marstow", "27 November", "To Marstow on 27 November", "please", "9:30"} <= set(found)
    assert not any("," in run or ";" in run for run in found)
    assert len(found) == len(set(found))


def test_what_is_quoted_is_taken_whole() -> None:
    assert "hello, world; how are you?" in spans('Echo "hello, world; how are you?" back to me')


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("帮我查一下明天从柏林到慕尼黑的火车", {"柏林", "慕尼黑", "明天"}),
        ("ベルリンからミュンヘンまで3月5日", {"ベルリン", "ミュンヘン", "3月5日"}),
        ("ขอรถไฟไปเชียงใหม่", {"เชียงใหม่"}),
        ("मुझे दिल्ली जाना है", {"दिल्ली"}),
        ("أريد السفر إلى بَيْرُوت، غدًا", {"بَيْرُوت", "غدًا"}),
        ("to Mu\u0308nchen", {"Mu\u0308nchen"}),
        ("open https://example.org/a?b=1, please", {"https://example.org/a?b=1"}),
        (
            "Post 👍🏽 to #general in C++ for $20 or +49 171 5",
            {"👍🏽", "#general", "C++", "$20", "+49 171 5", "general", "20"},
        ),
        ("write to anna.b@example.org (or ~/notes.txt).", {"anna.b@example.org", "~/notes.txt"}),
        ("Ulm - Bonn", {"Ulm", "Bonn"}),
    ],
)
def test_words_of_any_script_and_names_with_signs(text: str, wanted: set[str]) -> None:
    found = spans(text)
    assert wanted <= set(found)
    assert not {"-", ",", "،"} & set(found)


@pytest.mark.parametrize(
    "text", ["abcd efgh " * 10_000, "帮" * 3_000, "a." * 2_900, '"' * 5_000, "नि" * 2_900, "w " * 2_900]
)
def test_long_texts_take_no_time(text: str) -> None:
    began = time.process_time()
    assert len(spans(text)) <= MOST
    copied(schema(a={"type": "string"}, b={"type": "integer"}), text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("from 2024-05-01, 1,200 people, 10-12 of them at 30.5", {30.5, 1200, 2024, 5, 1, 10, 12, 200}),
        ("5km in -3 degrees", {5, -3, 3}),
        ("9" * 5_000, None),
        ("9" * 400 + ".5", {5}),
        ("٣ تذاكر", {3}),
    ],
)
def test_numbers_of_a_text(text: str, numbers: set[float] | None) -> None:
    made = copied(schema(x={"type": "number"}), text)["properties"]["x"]
    assert set(made.get("enum", ())) == (numbers or set())


@pytest.mark.parametrize(
    "node",
    [
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        {"$ref": "#/$defs/x"},
    ],
)
def test_what_may_be_null_is_copied_or_null(node: dict[str, Any]) -> None:
    whole = {**schema(x=node), "$defs": {"x": {"type": ["string", "null"]}}}
    assert copied(whole, "to Ulm")["properties"]["x"] == {
        "type": ["string", "null"],
        "enum": ["to", "to Ulm", "Ulm", None],
    }


def test_of_very_many_arguments_the_last_stay_free() -> None:
    many = schema(**{f"p{n}": {"type": "string", "description": "x" * 100} for n in range(400)})
    began = time.process_time()
    held = copied(many, " ".join(f"w{n}" for n in range(60)))["properties"]
    assert "enum" in held["p0"]
    assert held["p399"] == many["properties"]["p399"]
    assert time.process_time() - began < 3


@given(st.text(max_size=3_000))
def test_every_span_stands_in_the_text_and_there_are_not_too_many(text: str) -> None:
    found = spans(text)
    assert len(found) <= MOST
    assert all(run and run in text for run in found)


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.parametrize(
    ("node", "held"),
    [
        ({"type": "string"}, {"add", "12", "and 30.5", "add 12 and 30.5"}),
        ({"type": "string", "maxLength": 3}, {"add", "12", "and"}),
        ({"type": "integer"}, {12}),
        ({"type": "number"}, {12, 30.5}),
        ({"type": "integer", "maximum": 5}, None),
        ({"type": "string", "format": "date"}, None),
        ({"type": "string", "pattern": "^[A-Z]+$"}, None),
        ({"type": "array", "items": {"type": "string"}}, None),
        ({}, None),
    ],
)
def test_what_is_held_to_the_text(node: dict[str, Any], held: set[Any] | None) -> None:
    made = copied(schema(x=node), "add 12 and 30.5")["properties"]["x"]
    if held is None:
        assert made == node
        return
    assert held <= set(made["enum"])
    for value in made["enum"]:
        check_arguments(schema(x=node), {"x": value})


def test_a_request_without_words_leaves_arguments_free() -> None:
    assert copied(schema(x={"type": "string"}), "?!") == schema(x={"type": "string"})
    assert copied({"type": "object"}, "words")["properties"] == {}
    assert copied({"type": "object", "properties": {"x": True}}, "words")["properties"] == {"x": True}

from __future__ import annotations

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
        ({"type": ["string", "null"]}, None),
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

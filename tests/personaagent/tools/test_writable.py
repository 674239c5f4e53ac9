"""Schemas for decoders: everything ends, and what grammars read otherwise than JSON Schema is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from personaagent.memory.local import LocalMemory
from personaagent.tools.memory_tools import memory_tools
from personaagent.tools.writable import ITEMS, LARGEST, writable
from tests.support.doubles import HashEmbedder


@pytest.mark.parametrize(
    ("node", "held"),
    [
        ({"type": "string"}, {"maxLength": 200}),
        ({"type": "string", "maxLength": 1_000}, {"maxLength": 200}),
        ({"type": "string", "maxLength": 20}, {"maxLength": 20}),
        ({"type": "string", "minLength": 500}, {"maxLength": 500}),
        ({"type": ["string", "null"]}, {"maxLength": 200}),
        ({"type": "string", "pattern": "^[a-z]+$"}, {"maxLength": 200, "pattern": "^[a-z]+$"}),
        ({"type": "integer"}, {"minimum": -LARGEST, "maximum": LARGEST}),
        ({"type": "integer", "minimum": 1}, {"maximum": LARGEST}),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {}),
        ({"type": "integer", "minimum": 10 * LARGEST}, {}),
        (
            {"type": "array", "items": {"type": "string"}},
            {"items": {"type": "string", "maxLength": 200}, "maxItems": ITEMS},
        ),
        ({"type": "array", "minItems": 20}, {"maxItems": 20}),
        ({"enum": ["a", "b"], "type": "string"}, {}),
        ({"anyOf": [{"type": "integer"}]}, {"anyOf": [{"type": "integer", "minimum": -LARGEST, "maximum": LARGEST}]}),
        ({"$ref": "#/$defs/x"}, {}),
        (True, None),
    ],
)
def test_everything_ends(node: Any, held: dict[str, Any] | None) -> None:
    assert writable(node, 200) == (node if held is None else {**node, **held})


@pytest.mark.parametrize("pattern", [r"\S", "^a", "a$", r"^a\$"])
def test_a_pattern_that_fits_a_part_is_left_out(pattern: str) -> None:
    assert writable({"type": "string", "pattern": pattern}, 200) == {"type": "string", "maxLength": 200}


def test_grammars_allow_whole_texts_as_arguments_of_our_own_tools() -> None:
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    tools = memory_tools(LocalMemory(HashEmbedder()), ("search_episodes", "note_fact", "last_wanted"), 600)
    for spec in (tool.spec for tool in tools):
        grammar = xgrammar.Grammar.from_json_schema(json.dumps(writable(spec.parameters, 200)))
        names = spec.parameters["required"]
        assert isinstance(names, list)
        assert accepts(grammar, json.dumps(dict.fromkeys(names, "What did I drink last time?"))), spec.name
        assert not accepts(grammar, json.dumps(dict.fromkeys(names, "x" * 201))), spec.name


def test_grammars_end_numbers() -> None:
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string as accepts

    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "x": {"type": "number"}},
        "required": ["n", "x"],
    }
    grammar = xgrammar.Grammar.from_json_schema(json.dumps(writable(schema, 200)))
    assert accepts(grammar, '{"n": -17, "x": 2.5}')
    assert not accepts(grammar, '{"n": 1' + 40 * "0")
    assert not accepts(grammar, '{"n": 1' + 40 * "0" + ', "x": 1}')
    assert not accepts(grammar, '{"n": 1, "x": 0.' + 40 * "3" + "}")

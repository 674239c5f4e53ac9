from __future__ import annotations

import time
from enum import StrEnum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import pydantic_function_tool
from pydantic import BaseModel

from personaagent.errors import InvalidInput
from personaagent.tools.arguments import LARGEST, check_arguments, check_schema, enumerated, fitting

TEXT = {"type": "string"}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": TEXT}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def deep(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = TEXT
    for _ in range(levels):
        node = of(a=node)
    return node


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array"}, "of an object"),
        ({"type": None}, "of an object"),
        ({"type": ["string", "null"]}, "of an object"),
        (of(a=3), "no JSON Schema"),
        (deep(60), "too deeply"),
        (of(a={"description": "x" * LARGEST}), "kB"),
        (of(a={"$ref": "http://x/y"}), "write it out"),
        (of(a={"$ref": "#name"}), "write it out"),
        (of(a={"$ref": "#/$defs/a"}), "not there"),
        (of(a={"items": {"$ref": "#/properties/a/9"}}), "not there"),
        (of(a={"pattern": "("}), "cannot be read"),
        (of(a={"pattern": "a" * 2_000}), "cannot be read"),
        (of(a={"unevaluatedProperties": False, "patternProperties": {"a": {}}}), "additionalProperties"),
    ],
)
def test_what_is_wrong_with_a_schema_is_told(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_schema(schema, "f")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["object", "null"]},
        deep(20),
        of(a={"const": {"$ref": "http://x"}}, b={"enum": [{"$ref": "y"}]}, **{"$ref": TEXT}),
        of(a={"pattern": r"^\p{L}+$"}),  # of a dialect that Python's own expressions do not have
        {**of(a={"$ref": "#/$defs/n"}), "$defs": {"n": of(next={"$ref": "#/$defs/n"}, all={"$ref": "#"})}},
    ],
)
def test_schemas_that_can_be_used(schema: dict[str, Any]) -> None:
    check_schema(schema, "f")
    check_arguments(schema, {})


@pytest.mark.parametrize(
    ("schema", "arguments", "fits"),
    [
        ({"type": "object", "$ref": "#"}, {}, None),
        ({**of(a={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/a"}}}, {"a": 1}, None),
        (of(a={"$ref": "#/$defs/a"}), {"a": 1}, None),
        ({**of(a={"$ref": "#/$defs/d0"}), "$defs": DOUBLING}, {"a": "x"}, None),
        ({**of(a={"$schema": DIALECT, "$ref": "#/$defs/d0"}), "$defs": DOUBLING}, {"a": "x"}, None),
        (of(a={"pattern": "^(a|aa)+$"}), {"a": "a" * 60 + "b"}, None),
        ({"patternProperties": {"^(a|aa)+$": {}}}, {"a" * 60 + "b": 1}, None),
        ({"patternProperties": {"^(a|aa)+$": {}}, "additionalProperties": False}, {"a" * 60 + "b": 1}, None),
        (of(a={"items": {"pattern": "^(a|aa)+$"}}), {"a": ["a" * n + "b" for n in range(18, 40)] * 9}, None),
        ({"propertyNames": {"pattern": "^(a|aa)+$"}}, {"a" * 60 + "b": 1}, None),
        (of(a={"pattern": r"^\p{L}+$"}), {"a": "für"}, True),
        (of(a={"pattern": r"^\p{L}+$"}), {"a": "4"}, False),
        ({**of(a={}), "additionalProperties": False}, {"b": 1}, False),
        ({**of(a={}), "additionalProperties": TEXT}, {"b": "1"}, True),
        ({**of(a={}), "additionalProperties": TEXT}, {"b": 1}, False),
        ({"patternProperties": {"^x": TEXT}, "additionalProperties": False}, {"x1": "a"}, True),
        ({"patternProperties": {"^x": TEXT}, "additionalProperties": False}, {"x1": 1}, False),
        ({"patternProperties": {"^x": TEXT}, "additionalProperties": False}, {"y": "a"}, False),
    ],
)
def test_every_check_ends_soon_and_as_it_should(schema: dict[str, Any], arguments: Any, fits: bool | None) -> None:
    """`fits` None: it cannot be told, which is no failure of ours."""
    began = time.process_time()
    try:
        check_arguments(schema, arguments)
        found = True
    except InvalidInput as e:
        found = False
        unknown = any(said in e.message for said in ("too long", "too deeply", "not there"))
        assert unknown == (fits is None)
    assert found == bool(fits)
    assert time.process_time() - began < 5


def test_values_that_fit_are_told_within_one_bound_for_all() -> None:
    schema = {**of(a={"type": "integer", "maximum": 3}, b={"$ref": "#/$defs/b"}), "$defs": {"b": {"minLength": 2}}}
    assert fitting(schema, {"a": [1, 5], "b": ["x", "xy"]}) == {"a": [1], "b": ["xy"]}
    names = [f"p{n}" for n in range(200)]
    began = time.process_time()
    fit = fitting(
        of(**{name: {"type": "string", "minLength": 1, "maxLength": 9} for name in names}),
        {name: ["x"] * 400 for name in names},
    )
    assert 0 < len(fit) < 200
    assert time.process_time() - began < 5


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Wanted(BaseModel):
    """What OpenAI's client makes of a model."""

    color: Color
    size: Literal["s", "m"] | None
    fast: bool | None
    sure: bool
    note: str | None


@pytest.mark.parametrize(
    "schema", [pydantic_function_tool(Wanted)["function"]["parameters"], Wanted.model_json_schema()]
)
def test_lists_are_seen_however_they_are_written(schema: Any) -> None:
    check_schema(schema, "f")
    assert enumerated(schema) == {
        "color": ("red", "blue"),
        "size": ("s", "m", None),
        "fast": (True, False, None),
        "sure": (True, False),
    }


def test_a_value_that_is_the_only_one_is_no_choice() -> None:
    assert (
        enumerated(of(a={"type": "boolean", "enum": [True]}, b={"type": "boolean", "const": True}, c={"enum": [1]}))
        == {}
    )


NODES = st.recursive(
    st.sampled_from(
        [
            True,
            {},
            TEXT,
            {"type": ["string", "null"]},
            {"enum": ["a", None]},
            {"$ref": "#"},
            {"$ref": "#/$defs/x"},
            {"const": 1},
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).flatmap(
            lambda all_of: st.sampled_from(["anyOf", "oneOf", "allOf"]).map(lambda key: {key: all_of})
        ),
        inner.map(lambda node: {"type": "array", "items": node}),
        st.dictionaries(st.sampled_from(["a", "b", "enum", "$ref"]), inner, max_size=2).map(lambda p: of(**p)),
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.sampled_from([None, True, 1, "a", "xyz"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from("abc"), NODES, max_size=3), NODES, st.dictionaries(st.sampled_from("abc"), VALUES)
)
def test_whatever_the_schema_nothing_but_a_message_comes_of_it(properties: Any, x: Any, arguments: Any) -> None:
    schema = {**of(**properties), "$defs": {"x": x}}
    try:
        check_schema(schema, "f")
        check_arguments(schema, arguments)
    except InvalidInput:
        pass
    lists = enumerated(schema)
    candidates = {name: ["a", 1] for name, node in properties.items() if isinstance(node, dict)}
    for name, values in fitting(schema, {**candidates, **lists}).items():
        for value in values:
            check_arguments(schema, {name: value})

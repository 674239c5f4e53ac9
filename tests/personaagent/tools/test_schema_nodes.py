from __future__ import annotations

from typing import Any

import pytest

from personaagent.tools.schema_nodes import depth, parts, pointed, simple, undialected

TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("node", "comes_to", "nullable"),
    [
        (TEXT, TEXT, False),
        ({"type": ["string", "null"]}, TEXT, True),
        (
            {"anyOf": [TEXT, {"type": "null"}], "default": None, "title": "A"},
            {**TEXT, "default": None, "title": "A"},
            True,
        ),
        ({"oneOf": [{"const": None}, TEXT]}, TEXT, True),
        (
            {"allOf": [{"$ref": "#/$defs/color"}], "description": "which"},
            {"enum": ["r", "g"], "description": "which"},
            False,
        ),
        ({"anyOf": [{"$ref": "#/$defs/color"}, {"type": "null"}]}, {"enum": ["r", "g"]}, True),
        ({"$ref": "#/$defs/a~1b"}, {"type": "integer"}, False),
        ({"type": ["string", "null"], "enum": ["x", None]}, {"type": "string", "enum": ["x"]}, True),
        ({"type": ["string", "null"], "enum": ["x"]}, {"type": "string", "enum": ["x"]}, False),
        ({"anyOf": [TEXT, {"type": "integer"}]}, {"anyOf": [TEXT, {"type": "integer"}]}, False),
        ({"$ref": "#/$defs/color", "minLength": 2}, {"$ref": "#/$defs/color", "minLength": 2}, False),
        ({"type": ["string", "integer"]}, {"type": ["string", "integer"]}, False),
        ({}, {}, False),
    ],
)
def test_what_a_roundabout_schema_comes_to(node: Any, comes_to: Any, nullable: bool) -> None:
    schema = {"$defs": {"color": {"enum": ["r", "g"]}, "a/b": {"type": "integer"}}}
    found = simple(schema, node)
    assert found is not None
    assert (dict(found.node), found.nullable) == (comes_to, nullable)


@pytest.mark.parametrize(
    "node", [True, None, 3, [], {"$ref": "#/$defs/loop"}, {"$ref": "#/nowhere"}, {"allOf": [True]}]
)
def test_what_comes_to_nothing(node: Any) -> None:
    assert simple({"$defs": {"loop": {"$ref": "#/$defs/loop"}}}, node) is None


def test_data_and_names_are_no_parts() -> None:
    schema = {"properties": {"enum": {"const": {"$ref": "http://x"}}, "$ref": TEXT}, "items": [{"not": TEXT}]}
    assert [dict(p) for p in parts(schema)][1:] == [
        {"const": {"$ref": "http://x"}},
        TEXT,
        {"not": TEXT},
        TEXT,
    ]


def test_no_part_names_a_dialect_of_its_own() -> None:
    schema = {"$schema": "x", "properties": {"$schema": {"$schema": "y", **TEXT}, "a": {"const": {"$schema": "z"}}}}
    assert undialected(schema) == {"properties": {"$schema": TEXT, "a": {"const": {"$schema": "z"}}}}


def test_what_references_point_at() -> None:
    schema = {"a": [{"b c": 1}]}
    assert pointed(schema, "#/a/0/b%20c") == 1
    assert pointed(schema, "#") == schema
    for nowhere in ("#/b", "#/a/1", "#/a/x", "#/a/0/b c/d", "#/a/" + "9" * 5_000):
        with pytest.raises(LookupError):
            pointed(schema, nowhere)


def test_depth_is_counted_as_far_as_it_matters() -> None:
    assert [depth(v, 5) for v in (1, {}, {"a": [1]}, [[[[[[[[]]]]]]]])] == [0, 1, 2, 6]

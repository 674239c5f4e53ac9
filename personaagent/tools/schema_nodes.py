"""JSON Schemas of other people, as far as they can be read without checking anything: parts, references and simple forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

__all__ = ["Simple", "depth", "mapped", "parts", "pointed", "simple", "undialected"]

_DATA = frozenset({"enum", "const", "default", "examples"})  # keys that hold values and no schemas
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})  # schemas by name
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "$comment"})
HOPS = 8  # references behind each other that are followed


class Simple(NamedTuple):
    """What a schema comes to where it is written in a roundabout way; `nullable`: null will do as well."""

    node: Mapping[str, Any]
    nullable: bool = False


def parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema and all schemas in it. What stands in it as data is none, nor is a property that is called like a keyword."""
    if isinstance(schema, list):
        for inner in schema:
            yield from parts(inner)
    elif isinstance(schema, Mapping):
        yield schema
        for key, inner in schema.items():
            if key in _NAMED and isinstance(inner, Mapping):
                for named in inner.values():
                    yield from parts(named)
            elif key not in _DATA:
                yield from parts(inner)


def mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with every part of it changed, the innermost first."""
    if isinstance(schema, list):
        return [mapped(inner, change) for inner in schema]
    if not isinstance(schema, Mapping):
        return schema
    told: dict[str, Any] = {}
    for key, inner in schema.items():
        if key in _NAMED and isinstance(inner, Mapping):
            told[key] = {name: mapped(named, change) for name, named in inner.items()}
        else:
            told[key] = inner if key in _DATA else mapped(inner, change)
    return change(told)


def undialected(schema: Any) -> Any:
    """The schema without the names of dialects (`$schema`): all parts are read as one dialect, whatever they say."""
    return mapped(schema, lambda part: {key: inner for key, inner in part.items() if key != "$schema"})


def depth(value: Any, most: int) -> int:
    """How many objects and lists lie inside each other; counting ends behind `most`."""
    found, level = 0, [value]
    while found <= most and (level := [v for v in level if isinstance(v, Mapping | list)]):
        found += 1
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, Mapping) else outer)]
    return found


def pointed(schema: Mapping[str, Any], reference: str) -> Any:
    """What a reference within a schema (`#/$defs/x`) points at.

    Raises:
        LookupError: nothing is there.
    """
    found: Any = schema
    for step in unquote(reference.removeprefix("#")).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and len(name) < 6 and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, Mapping) and name in found:
            found = found[name]
        else:
            raise LookupError(reference)
    return found


def simple(schema: Mapping[str, Any], node: Any) -> Simple | None:
    """A part of a schema without references and without the ways in which generators say that null will do; None if it is none.

    A text or null is `anyOf` with two parts in Pydantic's schemas and a list of types in strict ones; a list of values that has
    a class of its own is a reference.
    """
    nullable = False
    for _ in range(HOPS):
        if not isinstance(node, Mapping):
            return None
        rest = {k: v for k, v in node.items() if k not in ("$ref", "allOf", "anyOf", "oneOf")}
        if isinstance(reference := node.get("$ref"), str) and node.keys() - _ANNOTATIONS == {"$ref"}:
            try:
                inner = pointed(schema, reference)
            except LookupError:
                return None
        elif node.keys() - _ANNOTATIONS in ({"allOf"}, {"anyOf"}, {"oneOf"}):
            branches = next(v for k, v in node.items() if k in ("allOf", "anyOf", "oneOf"))
            wanted = [b for b in branches if not _is_null(b)] if "allOf" not in node else branches
            if len(wanted) != 1:
                return Simple(node, nullable)
            nullable = nullable or len(wanted) < len(branches)
            inner = wanted[0]
        else:
            kinds = node.get("type")
            if isinstance(kinds, list) and "null" in kinds and len(kinds) == 2 and "const" not in node:
                (kind,) = (k for k in kinds if k != "null")
                listed = {"enum": [v for v in node["enum"] if v is not None]} if "enum" in node else {}
                null = "enum" not in node or None in node["enum"]
                return Simple({**node, "type": kind, **listed}, nullable or null)
            return Simple(node, nullable)
        if not isinstance(inner, Mapping):
            return None
        node = {**inner, **rest}  # what is said where it is used comes first
    return None


def _is_null(node: Any) -> bool:
    return isinstance(node, Mapping) and (
        node.get("type") == "null" or ("const" in node and node["const"] is None) or node.get("enum") == [None]
    )

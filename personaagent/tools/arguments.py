"""Arguments of calls against the JSON Schema of their tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import jsonschema
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator

from personaagent.errors import InvalidInput

__all__ = ["check_arguments", "check_schema", "enumerated"]

LISTED = 200  # characters of a message that repeats what was written
PARTS = 20_000  # of a schema: references that double at every step would take for ever to check


def check_schema(schema: Mapping[str, Any], name: str) -> None:
    """Whether arguments can be checked against a schema.

    Raises:
        InvalidInput: it is no JSON Schema of an object, or refers to another document.
    """
    if schema.get("type", "object") != "object":
        raise InvalidInput(f"tool {name!r}: its parameters must be a JSON Schema of an object")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except SchemaError as e:
        raise InvalidInput(f"tool {name!r}: its parameters are no JSON Schema: {e.message[:LISTED]}") from e
    for reference in _references(schema):
        if reference != "#" and not reference.startswith("#/"):
            raise InvalidInput(f"tool {name!r}: its schema refers to {reference[:LISTED]!r}; write it out")
    if _written_out(schema, schema, {}) > PARTS:
        raise InvalidInput(f"tool {name!r}: its schema has more than {PARTS} parts where it is written out")


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise InvalidInput, in words that a model can act on, if arguments do not fit the schema."""
    fault = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(dict(arguments)))
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path)
        raise InvalidInput(f"{where}: {fault.message[:LISTED]}" if where else fault.message[:LISTED])


def enumerated(schema: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Arguments that are chosen from a list, with what there is to choose from, in the schema's order."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, node in (schema.get("properties") or {}).items():
        if not isinstance(node, dict):
            continue
        if node.get("type") == "boolean":
            found[name] = (True, False)
        elif isinstance(node.get("enum"), list) and len({json.dumps(v) for v in node["enum"]}) > 1:
            found[name] = tuple(node["enum"])
    return found


@lru_cache(maxsize=512)
def _validator(schema: str) -> Validator:
    return jsonschema.Draft202012Validator(json.loads(schema))


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [r for inner in node for r in _references(inner)]
    if isinstance(node, Mapping):
        own = [str(node[k]) for k in ("$ref", "$dynamicRef") if isinstance(node.get(k), str)]
        return own + [r for inner in node.values() for r in _references(inner)]
    return []


def _written_out(root: Mapping[str, Any], node: Any, known: dict[int, int]) -> int:
    """How many parts a schema has with its references written out, each once within itself.

    `known`: of parts by their ids; 0 while one is counted.
    """
    if not isinstance(node, list | Mapping):
        return 1
    if id(node) in known:
        return max(1, known[id(node)])
    known[id(node)] = 0
    count = 1 + sum(
        _written_out(root, inner, known) for inner in (node.values() if isinstance(node, Mapping) else node)
    )
    if isinstance(node, Mapping) and isinstance(reference := node.get("$ref"), str):
        count += _written_out(root, _target(root, reference), known)
    known[id(node)] = min(count, PARTS + 1)
    return known[id(node)]


def _target(root: Any, reference: str) -> Any:
    """What a reference within a schema leads to; None if to nothing."""
    for step in reference.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(root, Mapping):
            root = root.get(key)
        elif isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        else:
            return None
    return root

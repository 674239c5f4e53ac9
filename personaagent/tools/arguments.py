"""Arguments of calls against the JSON Schema of their tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend

from personaagent.errors import InvalidInput

__all__ = ["check_arguments", "check_schema", "enumerated", "option"]

LONG_LIST = 64  # values; of a longer list a model writes one, held to the list
LISTED = 200  # characters of a message that repeats what was written
STEPS = 50_000  # of checking a call: with references that double at every step it would never end

_LEFT: ContextVar[Iterator[int]] = ContextVar("personaagent_steps_left")  # of the check that is under way


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


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise InvalidInput, in words that a model can act on, if arguments do not fit the schema."""
    token = _LEFT.set(iter(range(STEPS)))
    try:
        fault = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(dict(arguments)))
    finally:
        _LEFT.reset(token)
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path)
        raise InvalidInput(f"{where}: {fault.message[:LISTED]}" if where else fault.message[:LISTED])


def enumerated(schema: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Arguments that are chosen from a list, with what there is to choose from, in the schema's order.

    A list whose values cannot be told apart as texts, or that is very long, is none here.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name, node in (schema.get("properties") or {}).items():
        if not isinstance(node, dict):
            continue
        if node.get("type") == "boolean":
            found[name] = (True, False)
        elif isinstance(values := node.get("enum"), list) and 1 < len(values) <= LONG_LIST:
            texts = {option(v) for v in values}
            if len(texts) == len(values) and all(text.strip() for text in texts):
                found[name] = tuple(values)
    return found


def option(value: Any) -> str:
    """A value of an argument as the text of an option."""
    return value if isinstance(value, str) else json.dumps(value)


@lru_cache(maxsize=512)
def _validator(schema: str) -> Validator:
    return _bounded()(json.loads(schema))


@lru_cache(maxsize=1)
def _bounded() -> type[Validator]:
    """The validator, in whose every step one of `STEPS` goes."""
    plain = jsonschema.Draft202012Validator
    counted = {keyword: _counted(check) for keyword, check in plain.VALIDATORS.items()}
    return cast("type[Validator]", extend(plain, counted))  # type: ignore[no-untyped-call]


def _counted(check: Callable[..., Any]) -> Callable[..., Any]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if next(_LEFT.get(), None) is None:
            raise InvalidInput("the arguments take too long to check against the schema of this tool")
        yield from check(validator, value, instance, schema) or ()

    return counted


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [r for inner in node for r in _references(inner)]
    if isinstance(node, Mapping):
        own = [str(node[k]) for k in ("$ref", "$dynamicRef") if isinstance(node.get(k), str)]
        return own + [r for inner in node.values() for r in _references(inner)]
    return []

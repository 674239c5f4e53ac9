"""Arguments of calls against the JSON Schema of their tool.

Schemas come from servers and applications, and arguments from a model. Whatever they are, a check ends soon and in one of two
ways: the arguments fit, or a message says why they do not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import jsonschema
import regex
from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing.exceptions import Unresolvable

from personaagent.errors import InvalidInput
from personaagent.tools.schema_nodes import depth, parts, pointed, simple, undialected

__all__ = ["check_arguments", "check_schema", "enumerated", "fitting", "option"]

LONG_LIST = 64  # values; of a longer list a model writes one, held to the list
LISTED = 200  # characters of a message that repeats what was written
STEPS = 20_000  # of checking a call: with references that double at every step it would never end
LARGEST = 64_000  # characters of a schema as JSON: checking it takes a third of a second
DEEPEST = 48  # objects and lists inside each other
MATCH_S = 0.3  # for all patterns of a check: one can be written that a short text keeps busy for hours
COMPILED = 1_000  # characters of a pattern

_LEFT: ContextVar[_Left] = ContextVar("personaagent_check_left")
_TOO_LONG = "the arguments take too long to check against the schema of this tool"


@dataclass(slots=True)
class _Left:
    """What the check that is under way may still take."""

    steps: int = STEPS
    seconds: float = MATCH_S  # for patterns


def check_schema(schema: Mapping[str, Any], name: str) -> None:
    """Whether arguments can be checked against a schema.

    Raises:
        InvalidInput: it is no JSON Schema of an object, is huge or deep, or refers to another document or to nothing.
    """
    kinds = schema.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise InvalidInput(f"tool {name!r}: its parameters must be a JSON Schema of an object")
    if depth(schema, DEEPEST) > DEEPEST:
        raise InvalidInput(f"tool {name!r}: its parameters are nested too deeply, in more than {DEEPEST} levels")
    text = json.dumps(schema)
    if len(text) > LARGEST:
        raise InvalidInput(f"tool {name!r}: its parameters have more than {LARGEST // 1000} kB; shorten them")
    if fault := _schema_fault(text):
        raise InvalidInput(f"tool {name!r}: {fault}")


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise InvalidInput, in words that a model can act on, if arguments do not fit the schema."""
    with _bounded_check():
        fault = best_match(_validator(json.dumps(schema, sort_keys=True)).iter_errors(dict(arguments)))
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path)
        raise InvalidInput(f"{where}: {fault.message[:LISTED]}" if where else fault.message[:LISTED])


def fitting(schema: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Those values of each argument that fit what the schema says of it; as far as that can be told within `STEPS` in all.

    Args:
        schema: of all arguments.
        candidates: values by arguments, which the schema names.
    """
    found: dict[str, list[Any]] = {}
    try:
        with _bounded_check():
            whole = _validator(json.dumps(schema, sort_keys=True))
            for name, values in candidates.items():
                part = whole.evolve(schema=whole.schema["properties"][name])  # type: ignore[index]
                found[name] = [value for value in values if part.is_valid(value)]
    except InvalidInput:
        pass  # of the others nothing is told: they are left as free as the schema leaves them
    return found


def enumerated(schema: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Arguments that are chosen from a list, with what there is to choose from, in the schema's order; null last.

    A list whose values cannot be told apart as texts, or that is very long, is none here.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name, written in (schema.get("properties") or {}).items():
        if (node := simple(schema, written)) is None:
            continue
        listed = node.node.get("enum")
        if node.node.get("type") == "boolean" and not node.node.keys() & {"enum", "const"}:
            listed = [True, False]
        if not isinstance(listed, list):
            continue
        values = [*listed, *([None] if node.nullable and None not in listed else [])]
        if 1 < len(values) <= LONG_LIST:
            texts = {option(v) for v in values}
            if len(texts) == len(values) and all(text.strip() for text in texts):
                found[name] = tuple(values)
    return found


def option(value: Any) -> str:
    """A value of an argument as the text of an option."""
    return value if isinstance(value, str) else json.dumps(value)


@lru_cache(maxsize=512)
def _schema_fault(schema: str) -> str:
    """What is wrong with a schema; empty if nothing is. The tools of an application are the same with every request."""
    node = json.loads(schema)
    try:
        for error in _meta().iter_errors(node):
            return f"its parameters are no JSON Schema: {SchemaError.create_from(error).message[:LISTED]}"
    except RecursionError:
        return "its parameters are nested too deeply"
    keys = {key for part in parts(node) for key in part}
    if {"unevaluatedProperties", "patternProperties"} <= keys:
        return "its schema has both unevaluatedProperties and patternProperties; write additionalProperties"
    for part in parts(node):
        for key in ("$ref", "$dynamicRef"):
            if not isinstance(reference := part.get(key), str):
                continue
            if reference != "#" and not reference.startswith("#/"):
                return f"its schema refers to {reference[:LISTED]!r}; write it out"
            try:
                pointed(node, reference)
            except LookupError:
                return f"its schema refers to {reference[:LISTED]!r}, which is not there"
        pattern = part.get("pattern", "")
        for text in (pattern, *part.get("patternProperties", ())):
            if not _compiles(text):
                return f"its schema has a pattern that cannot be read: {text[:LISTED]!r}"
    return ""


def _compiles(pattern: str) -> bool:
    try:
        return len(pattern) <= COMPILED and regex.compile(pattern) is not None
    except (regex.error, RecursionError):
        return False


@lru_cache(maxsize=1)
def _meta() -> Validator:
    # Without its check of patterns, which takes those alone that Python's own expressions have.
    return jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)


@contextmanager
def _bounded_check() -> Iterator[None]:
    """Within it, checks take `STEPS` in all. Raises InvalidInput for schemas with which nothing can be checked."""
    token = _LEFT.set(_Left())
    try:
        yield
    except RecursionError as e:
        raise InvalidInput("the arguments, or the schema of this tool, are nested too deeply") from e
    except Unresolvable as e:
        raise InvalidInput("the schema of this tool refers to what is not there") from e
    finally:
        _LEFT.reset(token)


@lru_cache(maxsize=128)
def _validator(schema: str) -> Validator:
    # A part that names its dialect would be checked by that dialect's own validator, which knows no bounds.
    return _bounded()(undialected(json.loads(schema)))


@lru_cache(maxsize=1)
def _bounded() -> type[Validator]:
    """The validator, in whose every step one of `STEPS` goes, and whose patterns have so much time."""
    plain = jsonschema.Draft202012Validator
    ours = {**plain.VALIDATORS, "pattern": _pattern, "patternProperties": _by_pattern, "additionalProperties": _others}
    counted = {keyword: _counted(check) for keyword, check in ours.items()}
    return cast("type[Validator]", extend(plain, counted))  # type: ignore[no-untyped-call]


def _counted(check: Callable[..., Any]) -> Callable[..., Any]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        left = _LEFT.get()
        left.steps -= 1
        if left.steps < 0:
            raise InvalidInput(_TOO_LONG)
        yield from check(validator, value, instance, schema) or ()

    return counted


def _matches(pattern: str, text: str) -> bool:
    left, began = _LEFT.get(), time.perf_counter()
    try:
        return regex.search(pattern, text, timeout=max(0.001, left.seconds)) is not None
    except TimeoutError as e:
        raise InvalidInput(_TOO_LONG) from e
    except regex.error as e:
        raise InvalidInput("the schema of this tool has a pattern that cannot be read") from e
    finally:
        left.seconds -= time.perf_counter() - began


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _by_pattern(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    for name, value in instance.items() if isinstance(instance, dict) else ():
        for pattern, inner in patterns.items():
            if _matches(pattern, name):
                yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _others(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """`additionalProperties`: what `properties` and `patternProperties` do not name."""
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [n for n in instance if n not in known and not any(_matches(p, n) for p in patterns)]
    if rule is False and others:
        named = ", ".join(map(repr, others))
        yield jsonschema.ValidationError(f"Additional properties are not allowed ({named} unexpected)")
    elif isinstance(rule, dict):
        for name in others:
            yield from validator.descend(instance[name], rule, path=name)

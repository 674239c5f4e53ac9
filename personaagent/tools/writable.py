"""The schema under which a model writes arguments, as the grammars of decoders read it: whatever is written comes to an end.

A very small model repeats itself. Where a schema allows it, it writes one more digit, letter or item until its answer is cut,
and what is left is no JSON. What is left out here is checked when the arguments are there, against the schema as it is.
"""

from __future__ import annotations

from typing import Any

from personaagent.tools.schema_nodes import mapped

__all__ = ["writable"]

LARGEST = 10**12  # of a number without a bound of its own
ITEMS = 8  # of a list without one


def writable(schema: Any, longest: int) -> Any:
    """A schema with an end for every text, number and list.

    A pattern that need not fit the whole text is left out: grammars (XGrammar's, for one) take it for the whole, and under a
    pattern that asks for one character somewhere they allow just that character.

    Args:
        schema: a JSON Schema.
        longest: characters of a text, whatever the schema allows.
    """
    return mapped(schema, lambda part: _held(part, longest))


def _held(part: dict[str, Any], longest: int) -> dict[str, Any]:
    if part.keys() & {"enum", "const"}:
        return part
    held = dict(part)
    pattern = str(part.get("pattern", "^$"))
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        del held["pattern"]
    kinds = {part["type"]} if isinstance(part.get("type"), str) else {*part.get("type", ())}
    if "string" in kinds:
        held["maxLength"] = max(part.get("minLength", 0), min(longest, part.get("maxLength", longest)))
    if kinds & {"integer", "number"}:
        _close(held)
    if "array" in kinds:
        held.setdefault("maxItems", max(part.get("minItems", 0), ITEMS))
    return held


def _close(number: dict[str, Any]) -> None:
    """Give a number the bounds that it lacks, where those that it has leave room."""
    least = number.get("minimum", number.get("exclusiveMinimum"))
    most = number.get("maximum", number.get("exclusiveMaximum"))
    if least is None and (most is None or most > -LARGEST):
        number["minimum"] = -LARGEST
    if most is None and (least is None or least < LARGEST):
        number["maximum"] = LARGEST

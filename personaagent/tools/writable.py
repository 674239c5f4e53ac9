"""The schema under which a model writes arguments, as the grammars of decoders read it: whatever is written comes to an end.

A very small model repeats itself. Where a schema allows it, it writes one more digit, letter or item until its answer is cut,
and what is left is no JSON. What is left out here is checked when the arguments are there, against the schema as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["writable"]

LARGEST = 10**12  # of a number without a bound of its own
ITEMS = 8  # of a list without one


def writable(node: Any, longest: int) -> Any:
    """A schema with an end for every text, number and list.

    A pattern that need not fit the whole text is left out: grammars (XGrammar's, for one) take it for the whole, and under a
    pattern that asks for one character somewhere they allow just that character.

    Args:
        node: of a JSON Schema.
        longest: characters of a text, whatever the schema allows.
    """
    if not isinstance(node, Mapping) or node.keys() & {"enum", "const"}:
        return node
    held: dict[str, Any] = dict(node)
    pattern = str(node.get("pattern", "^$"))
    if not (pattern.startswith("^") and pattern.endswith("$") and not pattern.endswith("\\$")):
        del held["pattern"]
    kinds = {node["type"]} if isinstance(node.get("type"), str) else {*node.get("type", ())}
    if "string" in kinds:
        held["maxLength"] = max(node.get("minLength", 0), min(longest, node.get("maxLength", longest)))
    if kinds & {"integer", "number"}:
        _close(held)
    if "array" in kinds:
        held.setdefault("maxItems", max(node.get("minItems", 0), ITEMS))
    for key in ("items", "additionalProperties"):
        if key in held:
            held[key] = writable(held[key], longest)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in held:
            held[key] = [writable(inner, longest) for inner in held[key]]
    for key in ("properties", "$defs", "definitions"):
        if key in held:
            held[key] = {name: writable(inner, longest) for name, inner in held[key].items()}
    return held


def _close(number: dict[str, Any]) -> None:
    """Give a number the bounds that it lacks, where those that it has leave room."""
    least = number.get("minimum", number.get("exclusiveMinimum"))
    most = number.get("maximum", number.get("exclusiveMaximum"))
    if least is None and (most is None or most > -LARGEST):
        number["minimum"] = -LARGEST
    if most is None and (least is None or least < LARGEST):
        number["maximum"] = LARGEST

"""JSON as RFC 8259 has it. Python's own reader also takes NaN, Infinity, 1e400 and any depth, and what it takes gets stored.

What does not come from here (an older store) may hold such numbers; `finite` takes them out.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

__all__ = ["MAX_DEPTH", "JsonFault", "NotUnicode", "finite", "loads"]

MAX_DEPTH = 128  # objects and lists inside each other; far below where readers and writers of JSON recurse too deep
SAFE_DIGITS = 300  # so many always fit a double, whose largest number has 309
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonFault(ValueError):
    """The text is not JSON that can be kept; the message says why, without quoting it."""


class NotUnicode(JsonFault):
    """It is JSON, but a string in it is not text."""


def loads(data: bytes | str) -> Any:
    """The value of a JSON text in UTF-8. Of a name that an object has twice, the last value counts.

    Raises:
        JsonFault: it is not UTF-8, not JSON, nested deeper than `MAX_DEPTH`, or holds a number that no double can.
        NotUnicode: it holds half a surrogate pair.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    except UnicodeDecodeError as e:
        raise JsonFault("is not UTF-8, in which JSON is sent") from e
    try:
        value = json.loads(text, parse_float=_float, parse_int=_int, parse_constant=_constant)
    except JsonFault:
        raise
    except RecursionError as e:
        raise JsonFault(_TOO_DEEP) from e
    except ValueError as e:
        raise JsonFault("is not valid JSON") from e
    # Every level takes a bracket, so few brackets need no look at the levels.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise JsonFault(_TOO_DEEP)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as e:
            raise NotUnicode("contains a lone surrogate, which is not valid Unicode text") from e
    return value


_TOO_DEEP = f"is nested too deep; at most {MAX_DEPTH} objects and lists may lie inside each other"


def finite(value: Any) -> Any:
    """The same value with null for every number that JSON does not have (NaN and the infinities)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonFault("contains a number that is too large")
    return number


def _int(text: str) -> int:
    if len(text) > SAFE_DIGITS:
        _float(text)
    return int(text)


def _constant(name: str) -> NoReturn:
    raise JsonFault(f"contains {name}, which JSON does not have; send null, or leave the field out")

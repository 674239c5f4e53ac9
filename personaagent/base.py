"""What all types that cross a boundary are made of."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Frozen", "Section", "encodable", "readable", "repaired", "why"]


class Frozen(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(BaseModel):
    """A branch of the tree."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def encodable(text: str) -> str:
    """`text`, if it is valid Unicode.

    Raises:
        ValueError: it holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError("contains a lone surrogate, which is not valid Unicode text") from e
    return text


def readable(text: str) -> str:
    """`text` as valid Unicode: the two halves of a surrogate pair become its character, and a half alone becomes U+FFFD.

    Some model servers cut their answers between the two halves, or inside of a character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def repaired(value: Any) -> Any:
    """The same JSON value with all its texts and names `readable`."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {readable(name): repaired(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [repaired(inner) for inner in value]
    return value


def why(error: Exception) -> str:
    """A validation error as one line: the field, and what is wrong with it. Never repeats the user's text."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = str(first["msg"]).removeprefix("Value error, ")
        return f"{where}: {reason}" if where else reason
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)

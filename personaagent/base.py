"""What all types that cross a boundary are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen", "encodable"]


class Frozen(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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

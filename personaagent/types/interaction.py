"""What a user asked, what the agent answered and what the user really wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, field_validator

from personaagent.base import Frozen, encodable
from personaagent.strict_json import finite
from personaagent.types.action import LESSON
from personaagent.types.scalars import LARGEST_GRADE, THUMB, Moment, Text, UserId

__all__ = ["NOTE", "Interaction", "Kind", "choice_kind"]

NOTE = (
    "note"  # source of an interaction that is a fact which the user stated: what it is about, and the fact as the truth
)


class Kind(StrEnum):
    """How an interaction is scored."""

    CHOICE = "choice"  # closed choice: exact match
    RATING = "rating"  # a number: absolute error
    TEXT = "text"  # free text: embedding similarity, or an LLM judge


def _is_number(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and abs(number) <= LARGEST_GRADE


class Interaction(Frozen):
    """One thing a user asked, what the agent did, and what the user really wanted.

    `truth` may come later, as feedback. `id` makes appends idempotent: a repeat is the same interaction.
    `metadata` carries provenance (`source`; of a chat also `identity`, which says how the request named its user), the user's
    thumb on the answer (`THUMB`) and anything the application wants to keep beside it.
    """

    id: Annotated[str, AfterValidator(encodable), Field(min_length=1, max_length=128)]
    user: UserId
    time: Moment
    query: Text
    response: Text | None = None
    truth: Text | None = None
    choices: tuple[Text, ...] | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("metadata", mode="before")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Older versions stored NaN and infinities, which JSON does not have: they are read as null."""
        return finite(value) if value else value

    @field_validator("choices")
    @classmethod
    def _choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) < 2 or len(set(value)) != len(value) or not all(value)):
            raise ValueError("choices must be at least two different, non-empty strings")
        return value

    @property
    def kind(self) -> Kind:
        """Closed choice, rating (all choices are numbers) or free text."""
        return choice_kind(self.choices)

    @property
    def lesson(self) -> bool:
        """Whether it tells which tool or argument was right at another interaction, see `personaagent.tools.lessons`."""
        return self.id.startswith(LESSON)

    @property
    def refused(self) -> bool:
        """Whether the user refused the answer with a thumb down; what they wanted instead may be known or not."""
        return self.metadata.get(THUMB) == -1

    @property
    def noted(self) -> bool:
        """Whether it is a fact that the user stated, in words that need not be theirs; see `NOTE`."""
        return self.metadata.get("source") == NOTE


def choice_kind(choices: Sequence[str] | None) -> Kind:
    """The kind of a request with these choices."""
    if not choices:
        return Kind.TEXT
    return Kind.RATING if all(_is_number(c) for c in choices) else Kind.CHOICE

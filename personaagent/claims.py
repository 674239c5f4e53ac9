"""What a persona is made of: claims about the user, with what they rest on, and exchanges in the user's own words.

Claims are short statements. Their text in the prompt is rendered in a fixed order, so that prompts of one persona begin alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from personaagent.base import Frozen, encodable
from personaagent.features import normalised

__all__ = ["MAX_CLAIM", "MAX_SOURCES", "Claim", "ClaimKind", "Exemplar", "ordered", "prose", "render", "same_claim"]

MAX_CLAIM = 60_000  # characters; as long as the prose of a persona that was written before there were claims
MAX_SOURCES = 64


class ClaimKind(StrEnum):
    """What a claim is about, in the order in which claims are shown."""

    WRITES = "writes"  # how the user writes
    PREFERS = "prefers"
    AVOIDS = "avoids"
    FACT = "fact"
    RULE = "rule"  # how the user wants to be served


Text = Annotated[str, AfterValidator(encodable), Field(min_length=1, max_length=MAX_CLAIM)]


class Claim(Frozen):
    """A statement about a user, what it rests on and what it was seen to be worth.

    `gain` is how much likelier it made what the user really said, in nats per token, on interactions it was not made from,
    and `error` its standard error; both are None until it was measured.
    """

    text: Text
    kind: ClaimKind = ClaimKind.FACT
    sources: Annotated[tuple[str, ...], Field(max_length=MAX_SOURCES)] = ()
    since: datetime | None = None  # time of the oldest interaction it rests on
    origin: Literal["counted", "model", "person"] = "counted"
    gain: float | None = None
    error: float | None = None
    pinned: bool = False  # alignment leaves it alone

    @property
    def shown(self) -> bool:
        """Whether a model may see it: something supports it, or a person vouches for it."""
        return bool(self.sources) or self.pinned or self.origin == "person"


class Exemplar(Frozen):
    """An exchange of the user's own that shows their manner: what was asked and what they really said."""

    source: str  # the interaction's id
    query: Text
    truth: Text
    choices: tuple[str, ...] | None = None
    gain: float | None = None
    error: float | None = None


def ordered(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Claims in the order in which they are shown: by kind, pinned ones first, then as they come. Those not shown are last."""
    order = {kind: n for n, kind in enumerate(ClaimKind)}
    return tuple(sorted(claims, key=lambda c: (not c.shown, order[c.kind], not c.pinned)))


def render(claims: Sequence[Claim]) -> str:
    """Claims as the text that stands in the prompt: by kind, pinned ones first, then in their order.

    A single claim of several lines (a persona written as prose) is shown as it is.
    """
    shown = [c for c in ordered(claims) if c.shown]
    if len(shown) == 1 and (shown[0].origin != "counted" or "\n" in shown[0].text):
        return shown[0].text
    return "\n".join(f"- {c.text}" for c in shown)


def prose(text: str, person: bool, sources: Sequence[str] = ()) -> tuple[Claim, ...]:
    """A persona written as prose, as one claim.

    Args:
        text: of the persona; empty gives no claim.
        person: whether a person wrote it.
        sources: interactions it was written from.
    """
    if not text.strip():
        return ()
    return (Claim(text=text, origin="person" if person else "model", sources=tuple(sources)[:MAX_SOURCES]),)


def same_claim(one: str, other: str) -> bool:
    """Whether two texts are the same claim."""
    return normalised(one).rstrip(".!") == normalised(other).rstrip(".!")


def independent(claims: Sequence[Claim], interactions: Collection[str]) -> tuple[Claim, ...]:
    """The claims that do not rest on these interactions alone; a person's rest on the person."""
    gone = set(interactions)
    return tuple(c for c in claims if c.origin == "person" or not c.sources or set(c.sources) - gone)


def oldest(times: Sequence[datetime]) -> datetime | None:
    """Since when a claim holds, given the times of the interactions it rests on."""
    return min((t.astimezone(UTC) for t in times), default=None)

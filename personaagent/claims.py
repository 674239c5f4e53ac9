"""What a persona is made of: claims about the user, with what they rest on, and exchanges in the user's own words.

Claims are short statements. Their text in the prompt is rendered in a fixed order, so that prompts of one persona begin alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from personaagent.base import Frozen, encodable
from personaagent.features import normalised

__all__ = [
    "MAX_CLAIM",
    "MAX_SOURCES",
    "Claim",
    "ClaimKind",
    "Exemplar",
    "claim_key",
    "independent",
    "oldest",
    "ordered",
    "prose",
    "quotations",
    "render",
    "rendered",
    "same_claim",
    "silenced",
]

MAX_CLAIM = 60_000  # characters; as long as the prose of a persona that was written before there were claims
MAX_SOURCES = 64

# Marks that help people to read a counted claim, and are no words of the user's.
_QUOTES = str.maketrans("", "", "“”")
_QUOTED = re.compile("“([^”]*)”")
_ON_REQUEST = " when a request says"
_SAYS = "says"
# The same of a user under other names: with a few more texts a word that is often said is one that texts end with.
_ALIKE = (
    (re.compile(r"\b(?:begins|ends|signs off) with(?= “)"), _SAYS),
    (re.compile(r"\banswers in a word or two\b"), "writes messages of about 2 words"),
    (re.compile(r"(?<=messages of about )(\d+) characters\b"), r"\1 words"),
)
_DEGREES = frozenset(("short", "long", "very", "often", "always", "sometimes", "nearly", "mostly"))


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
    and `error` its standard error; both are None until it was measured. `note` says how well it is supported, as in "3 of 4
    times": it is for people, changes with every count, and is no part of what the claim says.
    """

    text: Text
    note: Annotated[str, AfterValidator(encodable), Field(max_length=1_000)] = ""
    kind: ClaimKind = ClaimKind.FACT
    sources: Annotated[tuple[str, ...], Field(max_length=MAX_SOURCES)] = ()
    since: datetime | None = None  # time of the oldest interaction it rests on
    origin: Literal["counted", "model", "person"] = "counted"
    gain: float | None = None
    error: float | None = None
    pinned: bool = False  # alignment leaves it alone

    @property
    def told(self) -> str:
        """As people read it: the text with its note."""
        return f"{self.text} ({self.note})" if self.note else self.text

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
    """Claims as the text that stands in the prompt: what was counted in one sentence, then the others, a line each.

    Both in the order of `ordered`. A single claim that was not counted (a persona written as prose) is shown as it is. A
    sentence, because the smallest model answers in the form of what it reads: on the sample's 48 free texts a list with
    quotation marks and counts was worth +.04 (standard error .02) nats per token over no claims and -.03 (.01) beside
    exemplars, the same claims as a sentence +.08 (.02) and .00 (.01).
    """
    shown = [c for c in ordered(claims) if c.shown]
    if len(shown) == 1 and (shown[0].origin != "counted" or "\n" in shown[0].text):
        return shown[0].text
    counted = [c for c in shown if c.origin == "counted"]
    lines = [f"- {c.text}" for c in shown if c.origin != "counted"]
    if counted:
        lines.insert(0, f"This user {'; '.join(map(_spoken, counted))}.")
    return "\n".join(lines)


def _spoken(claim: Claim) -> str:
    """A counted claim without marks that are no words of the user's; what a fact quotes is whole requests and answers."""
    return claim.text if claim.kind is ClaimKind.FACT else claim.text.translate(_QUOTES)


def rendered(text: str, claims: Sequence[Claim]) -> bool:
    """Whether a persona's text is its claims as they are shown, now or in versions that are already stored."""
    shown = [c for c in ordered(claims) if c.shown]
    return text in (render(claims), "\n".join(f"- {c.told}" for c in shown))


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
    return claim_key(one) == claim_key(other)


@lru_cache(maxsize=1024)
def claim_key(text: str) -> str:
    """What texts of the same claim have in common; quotation marks only help people to read it."""
    return normalised(text.translate(_QUOTES)).rstrip(".!")


def silenced(claim: Claim, struck: Collection[str]) -> bool:
    """Whether a claim says again what a person took away.

    Counting words the same thing in another way as the counts change ("short messages of about 11 words", then "of about
    13"), so of counted claims only what they are about is compared: the words around numbers and lists, and whether they
    quote anything in common. What a person pinned is no news to them.
    """
    if any(same_claim(claim.text, text) for text in struck):
        return True
    if claim.pinned or claim.origin != "counted" or (claim.kind is ClaimKind.FACT and "“" in claim.text):
        return False
    frame, quoted = _about(claim.text)
    others = (_about(text) for text in struck)
    return any(
        (_again(frame, quoted, theirs) or not (quoted or theirs))
        and (frame.startswith(other) or other.startswith(frame))
        for other, theirs in others
        if other
    )


def _again(frame: str, quoted: Collection[str], struck: Collection[str]) -> bool:
    """Whether something quoted was struck, or is a longer form of it; of phrases, also a shorter one."""
    pairs = [(f" {new} ", f" {old} ") for new in quoted for old in struck]
    return any(old in new or (frame == _SAYS and new in old) for new, old in pairs)


@lru_cache(maxsize=1024)
def _about(text: str) -> tuple[str, frozenset[str]]:
    """What a counted claim is about: its words without quotations, lists, numbers and degrees, and what it quotes."""
    for pattern, word in _ALIKE:
        text = pattern.sub(word, text)
    text = text.split(_ON_REQUEST)[0]
    quoted = frozenset(normalised(q) for q in _QUOTED.findall(text))
    bare = re.sub(r"\([^()]*\)|[\d.,:]+", " ", _QUOTED.sub(" ", text))
    return " ".join(w for w in normalised(bare).split() if w not in _DEGREES), quoted


def quotations(text: str) -> list[str]:
    """What a counted claim quotes of the user's texts, choices and requests."""
    return _QUOTED.findall(text)


def independent(claims: Sequence[Claim], interactions: Collection[str]) -> tuple[Claim, ...]:
    """The claims that do not rest on these interactions alone; a person's rest on the person."""
    gone = set(interactions)
    return tuple(c for c in claims if c.origin == "person" or not c.sources or set(c.sources) - gone)


def oldest(times: Sequence[datetime]) -> datetime | None:
    """Since when a claim holds, given the times of the interactions it rests on."""
    return min((t.astimezone(UTC) for t in times), default=None)

"""Passages of documents: what a search finds, and a model reads in one go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from personaagent.base import Frozen

__all__ = ["PASSAGE", "Excerpt", "Excerpts", "passages_of"]

PASSAGE = 600  # characters; four of them are what is shown of a result unless settings say otherwise

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_HEADING = re.compile(r"#{1,6}\s")
_UNDERLINED = re.compile(
    r"[^\n]{1,120}\n([=\-~^*+#])\1{2,}[^\S\n]*(?:\n|$)"
)  # a heading in reStructuredText or Markdown
_ENDS = ("\n", ". ", "! ", "? ", "。", "; ", ", ", " ")


class Excerpt(Frozen):
    """A passage with the document that it is from, and which passage of it that is (from 1; 0 if that is not known)."""

    document: str
    number: int = 0
    text: str


class Excerpts(Protocol):
    """Documents that can be searched."""

    async def search(self, query: str, k: int) -> Sequence[Excerpt]:
        """The passages that fit a query best, best first, at most `k`.

        Raises:
            UnavailableError: the documents cannot be reached now.
            PersonaAgentError: they cannot be searched as the settings say.
        """
        ...

    async def close(self) -> None:
        """Give back what is held; harmless when closed already."""
        ...


def passages_of(text: str, longest: int = PASSAGE) -> list[str]:
    """Passages of at most so many characters, in order; together they are the text, but for space.

    A heading begins a passage, short paragraphs are put together, and long ones are cut where a line, sentence or word ends.
    """
    found: list[str] = []
    current = ""
    for paragraph in _BLANK.split(text.replace("\r\n", "\n").strip()):
        begins = _HEADING.match(paragraph) or _UNDERLINED.match(paragraph)
        # A heading goes with what follows.
        if not _only_heading(current) and (begins or len(current) + 2 + len(paragraph) > longest):
            found.append(current)
            current = ""
        *full, current = _cut(f"{current}\n\n{paragraph}" if current else paragraph, longest)
        found += full
    return [passage for passage in (*found, current) if passage]


def _only_heading(text: str) -> bool:
    *_, last = text.split("\n\n")
    return bool(_UNDERLINED.fullmatch(last) or (_HEADING.match(last) and "\n" not in last))


def _cut(text: str, longest: int) -> list[str]:
    """A text in pieces; the last one may be empty."""
    pieces: list[str] = []
    at = 0
    while len(text) - at > longest:
        window = text[at : at + longest]
        ends = (window.rfind(mark) + len(mark) for mark in _ENDS if mark in window)
        end = next((e for e in ends if e > longest // 2), longest)
        pieces.append(window[:end].strip())
        at += end
    return [*pieces, text[at:].strip()]

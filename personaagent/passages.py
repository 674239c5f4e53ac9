"""Which parts of a text are embedded that is too long for its embedder, and how much each counts.

A long message is mostly a question behind (or in front of) documents, or a story that ends in what matters. So what is asked
counts most, and the rest counts as a few passages spread over all of it. It knows no model: lengths are in characters.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Passage", "asked", "passages"]

ASKED = 0.7  # weight of what is asked, of the sum
ASKED_CHARS = 400  # of it, at most
ASKED_LEAST = 24  # a shorter last paragraph ("Thanks!", "Answer:") is read with the one before it
WINDOWS = 6  # passages of the rest
CHARS_PER_TOKEN = 4  # or a passage may be cut at its end

_PARAGRAPH = re.compile(r"\s*\n\s*")
_MARKS = re.compile("[?\uff1f\u061f\u037e\u055e\u1367]")  # question marks of several scripts
_SENTENCE = re.compile("(?<=[.!?\uff1f\uff01\u3002\u061f\u0964\u06d4])\\s*(?=\\S)")


class Passage(NamedTuple):
    """A part of a text and its weight; the weights of a text's passages sum to 1."""

    text: str
    weight: float


def asked(text: str) -> str:
    """What a long text asks or comes to: its last paragraph, or its first if only that one asks something."""
    parts = [p for p in _PARAGRAPH.split(text.strip()) if p]
    if not parts:
        return text[-ASKED_CHARS:]
    first, last = parts[0][:ASKED_CHARS], parts[-1]
    while len(last) < ASKED_LEAST and len(parts) > 1:
        parts.pop()
        last = f"{parts[-1]}\n{last}"
    if len(parts) > 1 and _MARKS.search(first) and not _MARKS.search(last):
        return first
    return _end(last)


def passages(text: str, tokens: int) -> list[Passage]:
    """The parts of a text that is longer than `tokens` tokens: what it asks, and a few spread over the whole.

    Args:
        text: longer than an embedder reads at once.
        tokens: that it reads at once.
    """
    size = tokens * CHARS_PER_TOKEN
    # Passages start at multiples of their size, so that the same documents in front of another question have the same.
    whole = max(1, len(text) // size)
    starts = {size * (n * whole // min(whole, WINDOWS)) for n in range(min(whole, WINDOWS))}
    windows = dict.fromkeys(text[start : start + size] for start in sorted(starts))
    windows[text[-size:]] = None
    rest = (1.0 - ASKED) / len(windows)
    return [Passage(asked(text), ASKED), *(Passage(window, rest) for window in windows)]


def _end(paragraph: str) -> str:
    """The last sentences of a paragraph, as many as are short enough together, or the end of the last one."""
    if len(paragraph) <= ASKED_CHARS:
        return paragraph
    sentences = _SENTENCE.split(paragraph)
    kept = ""
    for sentence in reversed(sentences):
        longer = f"{sentence} {kept}" if kept else sentence
        if len(longer) > ASKED_CHARS:
            break
        kept = longer
        if len(kept) >= ASKED_LEAST:
            break
    return kept or paragraph[-ASKED_CHARS:]

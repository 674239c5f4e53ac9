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
SHORT = 200  # characters of a line that may be a question or an instruction of its own, beside documents
WINDOWS = 6  # passages of the rest
CHARS_PER_TOKEN = 4  # or a passage may be cut at its end

_PARAGRAPH = re.compile(r"\s*\n\s*")
_MARKS = re.compile("[?\uff1f\u061f\u037e\u055e\u1367]")  # question marks of several scripts
_LABEL = re.compile(  # "Question: ...", "**User question:** ...", "## Question", "<user_query>", not "</user_query>"
    r"^(?!\s*</)[\W_]*(?:(?:user|original|current|new|my|the|follow[- ]?up)[ _-]*)*"
    "(?:question|query|frage|pregunta|pergunta|domanda|\u0432\u043e\u043f\u0440\u043e\u0441|\u95ee\u9898|\u554f\u984c|\u8cea\u554f|\uc9c8\ubb38)"
    "[^\\w:\uff1a>]*(?:[:\uff1a>]|$)\\W*",
    re.IGNORECASE,
)
_SENTENCE = re.compile("(?<=[.!?\uff1f\uff01\u3002\u061f\u0964\u06d4])\\s*(?=\\S)")


class Passage(NamedTuple):
    """A part of a text and its weight; the weights of a text's passages sum to 1."""

    text: str
    weight: float


def asked(text: str) -> str:
    """What a long text asks or comes to.

    Programs put a question before documents, behind them or in between, often with instructions at the other end. So it is
    what is labelled as the question, or else the short lines that ask something, together with a short last paragraph (and,
    without a label, a short first one): of several, all, since what is the same in all requests does no harm, and what
    differs must be among it. In a text without any of them it is the end of the last paragraph.
    """
    parts = [p for p in _PARAGRAPH.split(text.strip()) if p]
    if not parts:
        return text[-ASKED_CHARS:]
    last = parts[-1]
    for before in reversed(parts[:-1]):
        if len(last) >= ASKED_LEAST:
            break
        last = f"{before}\n{last}"
    labelled = _labelled(parts)
    found = labelled or [p for p in parts if len(p) <= SHORT and _MARKS.search(p)]
    kept = [found[-1], found[0]] if found else []
    if not found or len(last) <= SHORT:
        kept.append(_end(last))
    if len(parts) > 1 and len(parts[0]) <= SHORT and not labelled:
        kept.append(parts[0])
    return "\n".join(p for n, p in enumerate(kept) if not any(p in other for other in _others(kept, n)))


def _others(pieces: list[str], n: int) -> list[str]:
    """Pieces that make the one at a place superfluous if they contain it: those before it, and longer ones behind."""
    return [*pieces[:n], *(other for other in pieces[n + 1 :] if len(other) > len(pieces[n]))]


def _labelled(parts: list[str]) -> list[str]:
    """What stands behind the labels of questions: in the same line, or below a heading or tag."""
    found = []
    for n, part in enumerate(parts):
        if (label := _LABEL.match(part)) is None:
            continue
        if re.search(r"\w", part[label.end() :]):
            found.append(part[:ASKED_CHARS])
        elif n + 1 < len(parts):
            found.append(parts[n + 1][:ASKED_CHARS])
    return found


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

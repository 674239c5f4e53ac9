"""One text of a user's as it is counted, and how often texts must show something before it is said."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from personaagent.claims import ClaimKind
from personaagent.features import unspaced
from personaagent.persona.tally import Found, above, adverb, found, settled
from personaagent.types import Interaction

__all__ = ["Written", "is_letter", "often", "read", "share_and_bound", "tokens"]

HEAD, TAIL = 1500, 300  # characters of a long text that are read

_SENTENCE = re.compile(r"[.!?…]+(?:\s|$)|\n+")


@dataclass(frozen=True, slots=True)
class Written:
    """One text of the user's."""

    at: Interaction
    weight: float
    text: str
    raw: tuple[str, ...]  # words as they are written, as far as they are read
    words: tuple[str, ...]  # the same, casefolded
    length: int  # words of the whole, or characters where words are not spaced
    sentences: int
    spaced: bool
    asked: frozenset[str]  # words of the request, as far as they are read


def read(interaction: Interaction, weight: float) -> Written:
    """The truth of an interaction as it is counted."""
    whole = (interaction.truth or "").strip()
    text = _ends(whole)
    spaced = 3 * unspaced(text) < len(text)
    sentences = sum(any(c.isalnum() for c in piece) for piece in _SENTENCE.split(text))
    length = len(whole.split()) if spaced else len(whole)
    raw = tuple(_raw(text))
    asked = frozenset(tokens(_ends(interaction.query)))
    return Written(interaction, weight, text, raw, tuple(map(_plain, raw)), length, max(1, sentences), spaced, asked)


def _ends(text: str) -> str:
    """What is read of a text."""
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} {text[-TAIL:]}"


def tokens(text: str) -> Iterable[str]:
    """Words with their apostrophes, without marks around them, casefolded."""
    return map(_plain, _raw(text))


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()


def _raw(text: str) -> Iterable[str]:
    """Words with their apostrophes, without marks around them."""
    for piece in text.replace("’", "'").split():
        start, end = 0, len(piece)
        while start < end and not is_letter(piece[start]):
            start += 1
        while end > start and not is_letter(piece[end - 1]):
            end -= 1
        if start < end:
            yield piece[start:end]


def is_letter(c: str) -> bool:
    """Whether a character is of a word: a letter, a digit or a mark that belongs to one."""
    return c.isalnum() or (c > "\x7f" and unicodedata.category(c)[0] == "M")


def share_and_bound(shown: Sequence[tuple[Written, bool]], least: float, fewest: int = 2) -> tuple[float, float] | None:
    """The share of texts that show something and its lower bound; None if too few do, or the newest do not.

    Args:
        shown: texts, newest first, and whether they show it.
        least: that the bound may be.
        fewest: texts.
    """
    hits = [hit for _, hit in shown]
    tries = sum(t.weight for t, _ in shown)
    share = sum(t.weight for t, hit in shown if hit) / tries if tries else 0.0
    bound = above(share * tries, tries)
    if len(hits) < fewest or sum(hits) < 2 or bound < least or not settled(hits, share):
        return None
    return share, bound


def often(text: str, shown: Sequence[tuple[Written, bool]], least: float, fewest: int = 2) -> Found | None:
    """A claim that the user does something, if enough texts show it (see `share_and_bound`)."""
    enough = share_and_bound(shown, least, fewest)
    if enough is None:
        return None
    share, bound = enough
    return found(adverb(share) + text, ClaimKind.WRITES, [t.at for t, hit in shown if hit], bound)

"""What a text is made of, as a model of choice sees it: its words, its phrases and the whole.

Words of scripts that are written without spaces are pairs of characters, so that texts of any language can share some.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

__all__ = ["FEATURES_VERSION", "Parts", "bare", "bucket", "normalised", "parts", "unspaced", "words"]

FEATURES_VERSION = (
    1  # raise it when the same text gives other features: weights learned from the old ones mean nothing then
)
MOST = 64  # words, and phrases, of one text that are looked at

_BREAK = re.compile(r"[,;:.|/()\n]+|\b(?:and|with|or|und|mit|oder|et|avec|ou|y|con|o)\b")
_ACCENTS = re.compile("[\u0300-\u036f]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_PIECES = re.compile(f"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern}).)+")


@dataclass(frozen=True, slots=True)
class Parts:
    """Distinct words and phrases of a text, each at most `MOST`, in its order, and the whole of it, all normalised."""

    words: tuple[str, ...]
    phrases: tuple[str, ...]
    whole: str


def normalised(text: str) -> str:
    """A text as it is compared: compatibility forms, case and runs of space do not make another one."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def bare(whole: str) -> str:
    """A normalised text without the accents of Latin, Greek and Cyrillic letters, which embedders may leave out."""
    return whole if whole.isascii() else _ACCENTS.sub("", unicodedata.normalize("NFD", whole))


def parts(text: str) -> Parts:
    """Take a text apart. Texts that look alike (`normalised`) have the same parts."""
    whole = normalised(text)
    words: dict[str, None] = {}
    for word in _words(whole):
        if not word.isascii() and _UNSPACED.search(word) and len(word) > 1:
            words.update(dict.fromkeys(word[i : i + 2] for i in range(len(word) - 1)))
        else:
            words[word] = None
        if len(words) >= MOST:
            break
    phrases = dict.fromkeys(phrase for piece in _BREAK.split(whole) if (phrase := piece.strip(" -–—'\"")))
    return Parts(tuple(words)[:MOST], tuple(phrases)[:MOST], whole)


def words(text: str) -> list[str]:
    """All words of a text in their order, as they are written; in scripts written without spaces, every character.

    Unlike `parts` it keeps repetitions and case, for those who look at what stands behind what.
    """
    found: list[str] = []
    for word in _words(text):
        if not word.isascii() and _UNSPACED.search(word):
            found.extend(piece for piece in _PIECES.findall(word) if piece)
        else:
            found.append(word)
    return found


def unspaced(text: str) -> int:
    """How many characters of a text are of scripts that are written without spaces."""
    return 0 if text.isascii() else len(_UNSPACED.findall(text))


def bucket(block: str, text: str, size: int) -> int:
    """The place of a feature in a table of `size`: a digest, so that a table of weights holds no text.

    Args:
        block: what kind of feature it is; the same text of another block has another place.
        text: a word, a phrase or a whole text.
        size: of the table.
    """
    raw = hashlib.blake2b(f"{block}:{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(raw, "big") % size


def _words(text: str) -> list[str]:
    """Runs of letters, digits and the marks that belong to them (vowel signs of Thai and Indic scripts are marks)."""
    return "".join(
        c if c.isalnum() or (c > "\x7f" and unicodedata.category(c)[0] == "M") else " " for c in text
    ).split()

"""What somebody who mistyped a word probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["likely", "nearest"]

FEW = 24  # words that are listed where none is near


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, letter case aside; None if none is like it."""
    by_lower = {k.lower(): k for k in sorted(known, reverse=True)}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def likely(word: str, known: Iterable[str], quote: str = "") -> str:
    """The end of a message about a word that is none of the known ones.

    It asks for the nearest one ("; did you mean align?"), or names them all where none is near and they are few. It is empty
    otherwise. `quote` stands around the nearest one.
    """
    known = list(known)
    if (found := nearest(word, known)) is not None:
        return f"; did you mean {quote}{found}{quote}?"
    return f"; there are {', '.join(known)}" if 0 < len(known) <= FEW else ""

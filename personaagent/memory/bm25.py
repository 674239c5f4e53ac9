"""BM25 over one user's episodes: an inverted index in RAM that grows and changes document by document."""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections import Counter

import numpy as np
import numpy.typing as npt

__all__ = ["Bm25", "tokens"]

K1 = 1.2
B = 0.75
MAX_TERMS = 32  # of a query; the rarest ones decide, and a long prompt must not cost more than a short one

# Of scripts that are written without spaces between words, and of Korean, whose words grow endings, every pair of neighbouring
# characters is a word; a Chinese character is one by itself, too.
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = f"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\uac00-\ud7af{_HAN}"
_ASCII = re.compile("[0-9a-z]+")
_OTHER = re.compile(r"[^\w\s]|_")
_BREAKS = "\u200b\u2060\ufeff"  # of no width, but between words
_RUNS = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
_ONE_HAN = re.compile(f"[{_HAN}]")


def tokens(text: str) -> list[str]:
    """Words of a text, compatibility forms and case made alike, with the marks that belong to their letters."""
    if text.isascii():
        return _ASCII.findall(text.casefold())
    whole = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    found: list[str] = []
    for word in _OTHER.sub(_kept, whole).split():
        if word.isascii():
            found.append(word)
            continue
        for match in _RUNS.finditer(word):
            run = match[0]
            if match[1] is None or len(run) == 1:
                found.append(run)
            else:
                found.extend(run[n : n + 2] for n in range(len(run) - 1))
                found.extend(_ONE_HAN.findall(run))
    return found


def _kept(other: re.Match[str]) -> str:
    """What a character that is no letter or digit is to a word: a part, nothing (joiners, soft hyphens) or its end."""
    category = unicodedata.category(other[0])
    if category[0] == "M":
        return other[0]
    return "" if category == "Cf" and other[0] not in _BREAKS else " "


class Bm25:
    """Documents are numbered from 0 in the order they are added."""

    def __init__(self) -> None:
        # A posting list holds pairs (document, count), flat, since 4-byte integers cost a tenth of Python objects.
        self._postings: dict[str, array[int]] = {}
        self._lengths = array("f")  # whole numbers, as floats for `scores` to read in place
        self._total = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self._bytes

    def add(self, text: str) -> None:
        """Add the next document."""
        document = len(self._lengths)
        counts = Counter(tokens(text))
        for term, count in counts.items():
            self._post(term, document, count)
        self._lengths.append(counts.total())
        self._total += counts.total()

    def replace(self, document: int, old: str, new: str) -> None:
        """Change a document's text from `old`, which must be what was added, to `new`."""
        before, after = Counter(tokens(old)), Counter(tokens(new))
        for term in before.keys() | after.keys():
            if before[term] == after[term]:
                continue
            if not before[term]:
                self._post(term, document, after[term])
                continue
            posting = self._postings[term]
            at = 2 * int(np.flatnonzero(np.array(posting, dtype=np.uint32)[::2] == document)[0])
            if after[term]:
                posting[at + 1] = after[term]
            else:
                del posting[at : at + 2]
                if not posting:
                    del self._postings[term]
        self._lengths[document] = after.total()
        self._total += after.total() - before.total()

    def scores(self, text: str) -> npt.NDArray[np.float32]:
        """The score of every document for a query, (len(self),); 0 where no word is shared."""
        n = len(self._lengths)
        known = sorted({t for t in tokens(text) if t in self._postings}, key=lambda t: (len(self._postings[t]), t))
        if not known:
            return np.zeros(n, dtype=np.float32)
        # All words at once: most lists are short, and then calls cost more than numbers.
        postings = [self._postings[term] for term in known[:MAX_TERMS]]
        sizes = [len(posting) // 2 for posting in postings]
        idf = np.array([math.log(1 + (n - size + 0.5) / (size + 0.5)) for size in sizes], dtype=np.float32)
        pairs = np.frombuffer(b"".join(postings), dtype=np.uint32)
        documents, count = pairs[::2].astype(np.intp), pairs[1::2].astype(np.float32)
        lengths = np.frombuffer(self._lengths, dtype=np.float32)
        norm = K1 * (1 - B + B * lengths * (n / max(self._total, 1)))
        gain = np.repeat(idf, sizes) * count * (K1 + 1) / (count + norm[documents])
        return np.bincount(documents, gain, minlength=n).astype(np.float32)

    def _post(self, term: str, document: int, count: int) -> None:
        posting = self._postings.get(term)
        if posting is None:
            posting = self._postings[term] = array("I")
            self._bytes += 240 + len(term)  # dict entry, string and array object
        posting.append(document)
        posting.append(count)
        self._bytes += 9

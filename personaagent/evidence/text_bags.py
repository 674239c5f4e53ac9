"""Texts as bags of features: each different text once, with the columns its words and phrases have.

Derived from episodes and kept in RAM beside them. It knows nothing of choices or ratings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personaagent.evidence.columns import Column
from personaagent.features import normalised, parts

__all__ = ["NONE", "Bags", "Texts"]

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Single = npt.NDArray[np.float32]

NONE = -1  # no text, no feature, no vector


@dataclass(frozen=True, slots=True)
class Bags:
    """Features of u texts: entry i says that text `text[i]` has feature `feature[i]`, with a weight.

    A word weighs 1 / sqrt(words of the text), so that long texts are not stronger than short ones; a phrase weighs 1.
    """

    text: Ints
    feature: Ints
    weight: Single
    size: int  # u

    def dense(self, chosen: npt.NDArray[np.bool_] | None = None) -> tuple[Single, Ints]:
        """The features that occur, as a matrix (u, f), and which they are, (f,); `chosen`, by feature, may leave some out."""
        used = slice(None) if chosen is None else chosen[self.feature]
        columns, at = np.unique(self.feature[used], return_inverse=True)
        matrix = np.zeros((self.size, len(columns)), dtype=np.float32)
        matrix[self.text[used], at] = self.weight[used]
        return matrix, columns


class Texts:
    """Texts by code, in order of first appearance. Texts that look alike are the same text."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}  # by normalised text
        self._wholes: list[str] = []
        self._features: dict[tuple[bool, str], int] = {}  # (is a phrase, text)
        self._text_bytes = 0  # of whole texts and features
        self._phrase = Column(np.bool_)  # by feature
        self._start = Column(np.int64)  # of a text's entries; the last is their end
        self._start.append(0)
        self._entries = Column(np.int32)  # features
        self._weights = Column(np.float32)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        columns = (self._phrase, self._start, self._entries, self._weights)
        return sum(c.nbytes for c in columns) + self._text_bytes + 160 * (len(self._codes) + len(self._features))

    @property
    def is_phrase(self) -> npt.NDArray[np.bool_]:
        """By feature, whether it is a phrase or a word."""
        found: npt.NDArray[np.bool_] = self._phrase.view
        return found

    def names(self) -> list[tuple[bool, str]]:
        """All features: whether it is a phrase, and its text."""
        return list(self._features)

    def whole(self, code: int) -> str:
        """A known text, normalised."""
        return self._wholes[code]

    def code(self, text: str) -> int:
        """The code of a known text, else NONE."""
        return self._codes.get(normalised(text), NONE)

    def add(self, text: str) -> int:
        """The code of a text, which is known from now on."""
        whole = normalised(text)
        code = self._codes.get(whole)
        if code is None:
            code = self._codes[whole] = len(self._codes)
            self._wholes.append(whole)
            self._text_bytes += sys.getsizeof(whole)
            for feature, weight in zip(*self._look(text, add=True), strict=True):
                self._entries.append(feature)
                self._weights.append(weight)
            self._start.append(len(self._entries))
        return code

    def bags(self, codes: Ints | Codes, further: Sequence[str] = ()) -> Bags:
        """Features of known texts, then of any further ones as far as known texts had them too."""
        start = self._start.view
        first, count = start[codes], start[np.asarray(codes) + 1] - start[codes]
        owner = np.repeat(np.arange(len(codes)), count)
        entry = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
        texts, features, weights = [owner], [self._entries.view[entry].astype(np.int64)], [self._weights.view[entry]]
        for n, text in enumerate(further, len(codes)):
            found, weight = self._look(text, add=False)
            texts.append(np.full(len(found), n, dtype=np.int64))
            features.append(np.asarray(found, dtype=np.int64))
            weights.append(np.asarray(weight, dtype=np.float32))
        return Bags(np.concatenate(texts), np.concatenate(features), np.concatenate(weights), len(codes) + len(further))

    def _look(self, text: str, add: bool) -> tuple[list[int], list[float]]:
        found = parts(text)
        features: list[int] = []
        weights: list[float] = []
        for is_phrase, names in ((False, found.words), (True, found.phrases)):
            for name in names:
                at = self._features.get((is_phrase, name))
                if at is None and add:
                    at = self._features[is_phrase, name] = len(self._features)
                    self._phrase.append(is_phrase)
                    self._text_bytes += sys.getsizeof(name)
                if at is not None:
                    features.append(at)
                    weights.append(1.0 if is_phrase else float(len(names) ** -0.5))
        return features, weights

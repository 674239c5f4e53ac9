"""Vectors of texts that are the same over and over, as ratings and options are: each is kept once."""

from __future__ import annotations

import sys
from typing import Any

import numpy.typing as npt

from personaagent.evidence.columns import Column

__all__ = ["TextVectors"]

ENTRY_BYTES = 100  # of a dictionary


class TextVectors:
    """Vectors by code: the codes 0, 1, ... are of texts in the order in which they came."""

    def __init__(self, dtype: Any, dim: int) -> None:
        self._codes: dict[str, int] = {}
        self._vectors = Column(dtype, dim)
        self._text_bytes = 0

    def code(self, text: str, vector: Any) -> int:
        """The code of a text; its vector is kept if it is new."""
        if text not in self._codes:
            self._vectors.append(vector)
            self._codes[text] = len(self._codes)
            self._text_bytes += ENTRY_BYTES + sys.getsizeof(text)
        return self._codes[text]

    @property
    def view(self) -> npt.NDArray[Any]:
        """(n, dim), by code. A view: copy what must not change."""
        return self._vectors.view

    @property
    def ram_bytes(self) -> int:
        """Estimated size."""
        return self._text_bytes + self._vectors.nbytes

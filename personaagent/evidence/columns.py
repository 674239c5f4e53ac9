"""A growing array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Column"]


class Column:
    """Appends are amortised O(1); `view` is the filled part without a copy."""

    def __init__(self, dtype: Any, width: int | None = None) -> None:
        """`width`: of a row; None for single values."""
        self._data: npt.NDArray[Any] = np.empty((16,) if width is None else (16, width), dtype=dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, value: Any) -> None:
        """Add a value, or a row."""
        if self._size == len(self._data):
            grown = np.empty((2 * self._size, *self._data.shape[1:]), dtype=self._data.dtype)
            grown[: self._size] = self._data
            self._data = grown
        self._data[self._size] = value
        self._size += 1

    @property
    def view(self) -> npt.NDArray[Any]:
        """The filled part; writing to it changes the column."""
        return self._data[: self._size]

    @property
    def nbytes(self) -> int:
        """Size in RAM, the spare part included."""
        return self._data.nbytes

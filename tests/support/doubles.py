"""Stand-ins for the parts that are slow or random in production."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class HashEmbedder:
    """Deterministic unit vectors: texts that share words point in similar directions. Cheap, and needs no model."""

    def __init__(self, dim: int = 16) -> None:
        self.dim = dim
        self.calls = 0
        self.texts = 0

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.calls += 1
        self.texts += len(texts)
        return self.encode(texts)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = [self._vector(text) for text in texts]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self.dim)

    def _vector(self, text: str) -> npt.NDArray[np.float64]:
        words = re.findall(r"\w+", text.casefold()) or [text]
        total = np.sum([self._word(w) for w in words], axis=0)
        return total / np.linalg.norm(total)

    def _word(self, word: str) -> npt.NDArray[np.float64]:
        seed = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(self.dim)

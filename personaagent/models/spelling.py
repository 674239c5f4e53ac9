"""How a text is spelled, as a unit vector: what stands in for meaning where an embedder does not know the script.

A model made for one language turns most words of others into the same unknown token, or into single letters, and then gives
different texts one vector. Texts that share words, pieces of words or pairs of characters get similar vectors here, others
nearly orthogonal ones. Features are hashed into few signed coordinates each, a sparse random projection (Achlioptas, 2003;
Weinberger et al., 2009). It knows no model.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from personaagent.memory.bm25 import tokens

__all__ = ["spelled"]

PLACES = 8  # coordinates of one feature
PIECE = 3  # characters of a piece of a word
OF_PIECES = 0.5  # weight of all pieces of a word together, the word being 1
MOST = 2_000  # words of a text that are looked at, from its end


def spelled(text: str, dim: int) -> npt.NDArray[np.float32]:
    """The vector of a text, (dim,), float32 of unit length; a text without any word is known by its characters."""
    weights: dict[str, float] = {}
    counts = Counter(tokens(text)[-MOST:]) or Counter([text.strip()])
    for word, count in counts.items():
        often = math.sqrt(count)
        weights[word] = weights.get(word, 0.0) + often
        edged = f"<{word}>"
        pieces = [edged[n : n + PIECE] for n in range(len(edged) - PIECE + 1)] if len(word) > PIECE else []
        for piece in pieces:
            weights[piece] = weights.get(piece, 0.0) + often * OF_PIECES / math.sqrt(len(pieces))
    raw = b"".join(
        hashlib.blake2b(f.encode("utf-8", "surrogatepass"), digest_size=4 * PLACES).digest() for f in weights
    )
    hashes = np.frombuffer(raw, dtype="<u4").astype(np.int64)
    signs = np.where(hashes & 1, 1.0, -1.0) * np.repeat(list(weights.values()), PLACES)
    vector = np.bincount((hashes >> 1) % dim, signs, minlength=dim)
    length = float(np.linalg.norm(vector))
    if length < 1e-9:  # what it is made of has cancelled out
        vector[0] = length = 1.0
    return np.asarray(vector / length, dtype=np.float32)

"""Sentence embeddings: a transformer, pooled and normalised, with a cache of recent texts. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personaagent.errors import InvalidInput
from personaagent.models.passages import passages
from personaagent.models.spelling import spelled
from personaagent.protocols import Matrix

__all__ = ["LocalEmbedder", "SentenceEmbedder"]

MAX_TOKENS = 256  # of a text, or of a passage of a longer one
MOST_CHARS = 16  # per token, of what is looked at to see whether a text fits
PART = "\x00passage\x00"  # so that a passage's entry in the cache is not that of a text
_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}


class SentenceEmbedder:
    """Texts to unit vectors in this process. The model is loaded at the first use; calls may come from any thread."""

    def __init__(self, model_path: str | Path, *, max_batch: int = 64, cache_texts: int = 50_000) -> None:
        """Args:
        model_path: folder of a Hugging Face encoder, with its tokenizer.
        max_batch: texts per pass of the model.
        cache_texts: vectors of so many recent texts are kept.
        """
        self._path = Path(model_path)
        self._max_batch = max_batch
        self._cache_texts = cache_texts
        self._cache: OrderedDict[bytes, Matrix] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._model_lock = threading.Lock()
        self._model: Any = None
        self._tokenizer: Any = None
        self._device = "cpu"
        self._pooling = _pooling(self._path)
        self.dim: int = _dimension(self._path)

    def load(self) -> None:
        """Load the model now rather than at the first text."""
        with self._model_lock:
            self._load()

    def encode(self, texts: Sequence[str]) -> Matrix:
        """One row per text, float32 of unit length, shape (len(texts), dim)."""
        keys = [_key(text) for text in texts]
        found = self._lookup(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            with self._model_lock:
                self._load()
                # Texts of one length pad least; the longest go first, so that a lack of memory shows at once.
                order = sorted(missing, key=lambda key: len(missing[key]), reverse=True)
                for start in range(0, len(order), self._max_batch):
                    batch = order[start : start + self._max_batch]
                    rows = self._forward([missing[key] for key in batch])
                    found.update(zip(batch, rows, strict=True))
            self._remember({key: found[key] for key in missing})
        result = np.empty((len(keys), self.dim), dtype=np.float32)
        for i, key in enumerate(keys):
            result[i] = found[key]
        return result

    def cached(self, texts: Sequence[str]) -> Matrix | None:
        """The rows if all of them are in the cache; None otherwise. Never waits for the model."""
        keys = [_key(text) for text in texts]
        found = self._lookup(keys)
        if any(key not in found for key in keys):
            return None
        return np.array([found[key] for key in keys], dtype=np.float32).reshape(len(keys), self.dim)

    def _lookup(self, keys: Sequence[bytes]) -> dict[bytes, Matrix]:
        with self._cache_lock:
            found = {}
            for key in keys:
                if (row := self._cache.get(key)) is not None:
                    self._cache.move_to_end(key)
                    found[key] = row
            return found

    def _remember(self, rows: dict[bytes, Matrix]) -> None:
        with self._cache_lock:
            for key, row in rows.items():
                self._cache[key] = row
                self._cache.move_to_end(key)
            while len(self._cache) > self._cache_texts:
                self._cache.popitem(last=False)

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._path)
            model = AutoModel.from_pretrained(self._path)
        except (OSError, ValueError) as e:
            reason = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise InvalidInput(f"embedder.model: {self._path} cannot be loaded: {reason}") from e
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)

    def _forward(self, texts: list[str]) -> Matrix:
        # A model may have written half of a surrogate pair into a query; tokenizers refuse that.
        texts = [unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode("utf-8")) for text in texts]
        limit = min(MAX_TOKENS, int(getattr(self._model.config, "max_position_embeddings", MAX_TOKENS)))
        most = limit * MOST_CHARS
        rows, fits = self._read([text[:most] for text in texts], limit)
        long = {int(n): passages(texts[n], limit) for n in np.flatnonzero(~fits | [len(t) > most for t in texts])}
        # The same documents stand in front of many questions: their passages are in the cache like texts.
        wanted = list(dict.fromkeys(part.text for parts in long.values() for part in parts))
        found = self._lookup([_key(PART + text) for text in wanted])
        missing = [text for text in wanted if _key(PART + text) not in found]
        for start in range(0, len(missing), self._max_batch):
            batch = missing[start : start + self._max_batch]
            read = dict(zip((_key(PART + text) for text in batch), self._read(batch, limit)[0], strict=True))
            found.update(read)
            self._remember(read)
        for n, parts in long.items():
            rows[n] = sum(part.weight * found[_key(PART + part.text)] for part in parts)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(length, 1e-9), dtype=np.float32)

    def _read(self, texts: list[str], limit: int) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """Unit rows of texts, as far as they fit into `limit` tokens, and which of them do."""
        import torch

        with torch.inference_mode():
            encoded = self._tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            found = encoded.encodings or [None] * len(texts)
            encoded = encoded.to(self._device)
            hidden = self._model(**encoded).last_hidden_state.float()
            mask = encoded["attention_mask"]
            if self._pooling == "cls":
                pooled = hidden[:, 0]
            elif self._pooling == "lasttoken":
                last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)  # whichever side is padded
                pooled = hidden[torch.arange(len(texts), device=mask.device), last]
            else:
                weights = mask.unsqueeze(-1).float()
                pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
            rows: Matrix = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        for n, (text, encoding) in enumerate(zip(texts, found, strict=True)):
            if encoding is not None and (doubt := _doubt(text, encoding, self._tokenizer.unk_token)):
                mixed = (1.0 - doubt) * rows[n] + doubt * spelled(text, rows.shape[1])
                rows[n] = mixed / np.linalg.norm(mixed)
        fits = [encoding is None or not encoding.overflowing for encoding in found]
        return rows, np.asarray(fits, dtype=bool)


class LocalEmbedder(SentenceEmbedder):
    """`protocols.Embedder` in this process: the model runs in a thread, so the event loop stays free."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """One row per text, float32, L2-normalised; shape (len(texts), dim)."""
        rows = self.cached(texts)
        return rows if rows is not None else await asyncio.to_thread(self.encode, list(texts))


def _doubt(text: str, encoding: Any, unknown: str | None) -> float:
    """How much of a text the tokenizer does not know, from 0 (a quarter of its letters, or less) to 1 (three quarters).

    Unknown are words that became the unknown token, and letters outside of ASCII that a word was taken apart into.
    """
    if text.isascii():
        return 0.0
    known = lost = 0
    for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        piece = text[start:end]
        letters = sum(c.isalnum() for c in piece)
        known += letters
        if token == unknown or (len(token) == 3 and token.startswith("##") and not piece.isascii()):
            lost += letters
    return min(1.0, max(0.0, 2.0 * lost / known - 0.5)) if known else 0.0


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _dimension(path: Path) -> int:
    config = _json(path / "config.json")
    for name in ("hidden_size", "dim", "d_model"):
        if isinstance(config.get(name), int):
            return int(config[name])
    raise InvalidInput(f"embedder.model: {path}/config.json does not say how long its vectors are (hidden_size)")


def _pooling(path: Path) -> str:
    """How the model was trained to be pooled; sentence-transformers models say so, for others it is the mean."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    config = _json(file)
    modes = [mode for name, mode in _POOLING.items() if config.get(name)]
    if len(modes) != 1:
        raise InvalidInput(f"embedder.model: {file} asks for a pooling other than mean, cls or last token")
    return modes[0]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise InvalidInput(f"embedder.model: {file} cannot be read as JSON") from e
    return content if isinstance(content, dict) else {}

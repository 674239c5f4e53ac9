"""A tool that searches documents, and the search over a folder of text files."""

# ruff: noqa: D102 - `call` does what the one of `Tool` says

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from personaagent.errors import InvalidInput, UnavailableError
from personaagent.evidence.ranking import standardised
from personaagent.memory.bm25 import Bm25
from personaagent.memory.index import LEAST_SPREAD, POOL, TINY
from personaagent.memory.store import Vector
from personaagent.persona.persona import clip, tokens
from personaagent.protocols import Embedder, Matrix
from personaagent.tool_settings import DocumentsSettings
from personaagent.tools.excerpts import Excerpt, Excerpts, passages_of
from personaagent.tools.text_files import TextFile, Unusable, read_text, text_files
from personaagent.tools.tool import ToolContext, ToolOutput, ToolSpec

__all__ = ["DocumentSearch", "FolderExcerpts", "by_meaning_and_words", "search_spec"]

log = logging.getLogger(__name__)

MOST = 50_000  # passages of a folder, some 30 MB of text; more are for a Milvus collection
BATCH = 256  # passages embedded in one call
WORDS = 0.75  # weight of words, meaning being 1, as in recall
CHECK_S = 2.0  # so often it is looked whether files have changed
PATIENCE_S = 3.0  # so long a search waits for changed files to be read; then it goes by those before
NAMED = 5  # files that a warning names


def by_meaning_and_words(cosines: Vector, words: Vector) -> npt.NDArray[np.intp]:
    """The order of passages by both, best first, as in recall; equal ones as they come.

    Args:
        cosines: with the query, (n,).
        words: scores of BM25, (n,).
    """
    score = standardised(cosines, POOL, LEAST_SPREAD) + WORDS * standardised(words, POOL, TINY)
    return np.argsort(-np.round(score, 9), kind="stable")


def search_spec(settings: DocumentsSettings) -> ToolSpec:
    """A search as models and people read it."""
    return ToolSpec(
        name=settings.name,
        description=settings.description,
        parameters={
            "type": "object",
            "properties": {
                "query": {
                    "type": "string",
                    "description": "what to look for",
                    "minLength": 1,
                    "maxLength": 1_000,
                    "pattern": r"\S",
                }
            },
            "required": ["query"],
            "additionalProperties": False,
        },
    )


class DocumentSearch:
    """The tool: passages for a query, each with its document."""

    def __init__(self, settings: DocumentsSettings, source: Excerpts, budget: int) -> None:
        """Args:
        settings: name, description and number of passages.
        source: of the passages.
        budget: tokens of a result, which the passages share.
        """
        self._settings, self._source, self._budget = settings, source, budget
        self.spec = search_spec(settings)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        found = await self._source.search(arguments["query"], self._settings.k)
        if not found:
            return ToolOutput(text="nothing found")
        share = max(16, self._budget // len(found))
        return ToolOutput(text="\n\n".join(_shown(excerpt, share) for excerpt in found))


def _shown(excerpt: Excerpt, budget: int) -> str:
    where = f"[{clip(excerpt.document, budget // 2)}{f', passage {excerpt.number}' if excerpt.number else ''}]"
    return f"{where}\n{clip(excerpt.text, max(8, budget - tokens(where) - 1))}"


@dataclass(frozen=True, slots=True)
class _Document:
    """A file that was read. `vectors` has a row per passage."""

    stamp: tuple[int, int, int]
    passages: tuple[str, ...]
    vectors: Matrix | None = None


class _Index:
    """Passages with what they are ranked by."""

    def __init__(self, documents: Mapping[str, _Document]) -> None:
        self._passages = [
            (name, n, text) for name, document in documents.items() for n, text in enumerate(document.passages, 1)
        ]
        self._words = Bm25()
        for name, _, text in self._passages:
            self._words.add(f"{name} {text}")
        rows = [d.vectors for d in documents.values() if d.vectors is not None and len(d.vectors)]
        self._vectors = np.concatenate(rows) if rows else np.zeros((0, 1), dtype=np.float32)

    def best(self, query: str, vector: Vector, k: int) -> list[Excerpt]:
        """The best passages for a query with its vector (dim,); of equal texts the first."""
        cosines = np.asarray(np.vecdot(self._vectors, vector), dtype=np.float32)
        found: dict[str, Excerpt] = {}
        for at in by_meaning_and_words(cosines, self._words.scores(query)):
            if len(found) == k:
                break
            name, number, text = self._passages[int(at)]
            found.setdefault(text, Excerpt(document=name, number=number, text=text))
        return list(found.values())

    def __len__(self) -> int:
        return len(self._passages)


class FolderExcerpts:
    """The text files of a folder. They are read at the first search, and those that have changed at later ones.

    Reading goes on if the search that began it is given up: a large folder takes longer than a call may.
    """

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        """Raises InvalidInput if there is no such folder."""
        if not folder.is_dir():
            raise InvalidInput(f"the folder of documents {folder} does not exist; create it or correct tools.documents")
        self._folder, self._embedder = folder, embedder
        self._documents: dict[str, _Document] = {}
        self._unusable: dict[
            str, tuple[tuple[int, int, int], str]
        ] = {}  # files that are no text, as they were, and why
        self._left_out: dict[str, str] = {}  # files and why, as was said in the log
        self._index: _Index | None = None
        self._checked = 0.0  # on the monotonic clock
        self._reading: asyncio.Task[None] | None = None

    async def search(self, query: str, k: int) -> Sequence[Excerpt]:
        """The passages that fit best by meaning and words; see `Excerpts`."""
        index = await self._current()
        if not len(index):
            return ()
        vector = np.asarray(await self._embedder.embed([query]), dtype=np.float32)[0]
        return await asyncio.to_thread(index.best, query, vector, k)

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _current(self) -> _Index:
        if self._reading is not None and self._reading.done():
            if not self._reading.cancelled():
                self._reading.exception()  # which was told whoever waited; it is tried again
            self._reading = None
        if self._reading is None and (self._index is None or time.monotonic() - self._checked >= CHECK_S):
            # In a context of its own: the deadline of one request must not end what all wait for.
            self._reading = asyncio.create_task(self._refresh(), context=contextvars.Context())
        if (reading := self._reading) is not None:
            await asyncio.wait({reading}, timeout=None if self._index is None else PATIENCE_S)
            if reading.done():
                reading.result()
        assert self._index is not None  # `_refresh` has made it or raised
        return self._index

    async def _refresh(self) -> None:
        documents, left_out = await asyncio.to_thread(self._read)
        new = {name: d for name, d in documents.items() if d.vectors is None}
        if new or documents.keys() != self._documents.keys() or self._index is None:
            # Kept as they come: if the embedder fails, the next search goes on from there.
            self._documents = documents
            await self._embed(new)
            self._index = await asyncio.to_thread(_Index, self._documents)
        if left_out.items() - self._left_out.items():
            named = ", ".join(f"{name} ({reason})" for name, reason in list(left_out.items())[:NAMED])
            more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
            log.warning("documents of %s that are left out: %s%s", self._folder, named, more)
        self._left_out = left_out
        self._checked = time.monotonic()

    def _read(self) -> tuple[dict[str, _Document], dict[str, str]]:
        """What stands in the folder now; files that have not changed are as they were read."""
        if not self._folder.is_dir():
            raise UnavailableError("the folder of documents is not there now")
        documents: dict[str, _Document] = {}
        left_out: dict[str, str] = {}
        size = 0
        for file in text_files(self._folder, left_out.__setitem__):
            document = self._documents.get(file.name)
            if document is None or document.stamp != file.stamp:
                document = self._opened(file, left_out) if size < MOST else None
            if document is not None and size + len(document.passages) <= MOST:
                documents[file.name] = document
                size += len(document.passages)
            elif file.name not in left_out:
                left_out[file.name] = f"beyond {MOST:,} passages; a Milvus collection takes more"
        return documents, left_out

    def _opened(self, file: TextFile, left_out: dict[str, str]) -> _Document | None:
        stamp, reason = self._unusable.get(file.name, (None, ""))
        if stamp != file.stamp:
            try:
                return _Document(file.stamp, tuple(passages_of(read_text(file))))
            except Unusable as e:
                reason = str(e)
                self._unusable[file.name] = (file.stamp, reason)
        left_out[file.name] = reason
        return None

    async def _embed(self, new: Mapping[str, _Document]) -> None:
        group: list[str] = []
        for name in new:
            group.append(name)
            if sum(len(new[n].passages) for n in group) >= BATCH:
                await self._embed_group(group)
                group = []
        if group:
            await self._embed_group(group)

    async def _embed_group(self, names: Sequence[str]) -> None:
        texts = [text for name in names for text in self._documents[name].passages]
        parts = [await self._embedder.embed(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        vectors = np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 1), dtype=np.float32)
        at = 0
        for name in names:
            document = self._documents[name]
            end = at + len(document.passages)
            self._documents[name] = _Document(document.stamp, document.passages, vectors[at:end])
            at = end

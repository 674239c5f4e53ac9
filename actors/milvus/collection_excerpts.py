"""Documents in a Milvus collection that somebody else fills, for the tool that searches documents. It only reads.

The nearest texts by their vectors are taken, and ranked by meaning and words. The collection is opened at the first search;
`check` opens it at the start, for whoever wants to know then whether it fits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from actors.milvus.servers import is_away, is_unloaded, line_of
from personaagent.errors import InvalidInput, StoreError, UnavailableError
from personaagent.memory.bm25 import Bm25
from personaagent.memory.store import Vector
from personaagent.protocols import Embedder
from personaagent.tool_settings import DocumentsSettings
from personaagent.tools.documents import by_meaning_and_words
from personaagent.tools.excerpts import Excerpt

__all__ = ["CollectionExcerpts"]

SERVERS = ("http://", "https://", "tcp://", "unix:")
TIMEOUT_S = 10.0  # of a call; loading may take longer
LOAD_TIMEOUT_S = 120.0
NEAREST = 40  # texts that are ranked, at least; four times as many as are wanted
OURS = "user_key"  # a field of the collections that hold users' memories


@dataclass(frozen=True, slots=True)
class _Fields:
    """What of a collection is read."""

    key: str
    output: tuple[str, ...]
    metric: str  # COSINE, IP or L2


class CollectionExcerpts:
    """`Excerpts` of a collection whose texts were embedded with the embedder of this system."""

    def __init__(self, settings: DocumentsSettings, embedder: Embedder) -> None:
        """Raises InvalidInput if the settings name no collection, or a Milvus Lite file that does not exist."""
        if settings.collection is None or settings.uri is None:
            raise InvalidInput(f"tool {settings.name!r}: set uri and collection")
        if not settings.uri.startswith(SERVERS) and not (settings.uri.endswith(".db") and Path(settings.uri).exists()):
            raise InvalidInput(
                f"tool {settings.name!r}: uri must be a server like http://milvus:19530, or a Milvus Lite file that exists and"
                " ends with .db"
            )
        self._settings, self._embedder = settings, embedder
        self._uri, self._collection = settings.uri, settings.collection
        self._client: MilvusClient | None = None
        self._fields: _Fields | None = None
        self._opening = threading.Lock()
        self._where = f"tool {settings.name!r}: collection {settings.collection!r}"

    async def check(self) -> None:
        """Open the collection.

        Raises:
            InvalidInput: it does not exist, lacks a field, or its vectors are of another length than the embedder's.
            UnavailableError: the server does not answer.
            StoreError: Milvus refused, or the Lite file is in use by another process.
        """
        if self._fields is None:
            dim = int((await self._embedder.embed(["dimension"])).shape[1])
            await asyncio.to_thread(self._open, dim)

    async def search(self, query: str, k: int) -> Sequence[Excerpt]:
        """The texts that fit best; see `Excerpts`. Raises as `check` does."""
        await self.check()
        vector = np.asarray(await self._embedder.embed([query]), dtype=np.float32)[0]
        return await asyncio.to_thread(self._found, query, vector, k)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._fields = self._client, None, None
        if client is not None:
            await asyncio.to_thread(client.close)

    def _open(self, dim: int) -> None:
        with self._opening, self._errors():
            if self._fields is not None:
                return
            if self._client is None:
                logging.getLogger("pymilvus").setLevel(
                    logging.CRITICAL
                )  # its errors are raised here; it logs tracebacks too
                token = self._settings.token.get_secret_value() if self._settings.token else ""
                self._client = MilvusClient(uri=self._uri, token=token, timeout=TIMEOUT_S, dedicated=True)
            if not self._client.has_collection(self._collection, timeout=TIMEOUT_S):
                raise InvalidInput(f"{self._where} does not exist")
            fields = self._checked(self._client, dim)
            self._client.load_collection(self._collection, timeout=LOAD_TIMEOUT_S)
            self._fields = fields

    def _checked(self, client: MilvusClient, dim: int) -> _Fields:
        described = client.describe_collection(self._collection, timeout=TIMEOUT_S)
        fields: Mapping[str, Any] = {field["name"]: field for field in described["fields"]}
        if OURS in fields:
            raise InvalidInput(f"{self._where} holds users' memories, which are no documents")
        settings = self._settings
        wanted = [settings.text_field, settings.vector_field, *([settings.title_field] if settings.title_field else [])]
        for name in wanted:
            if name not in fields:
                raise InvalidInput(f"{self._where} has no field {name!r}; it has {', '.join(sorted(fields))}")
        if fields[settings.text_field]["type"] != DataType.VARCHAR:
            raise InvalidInput(f"{self._where}: field {settings.text_field!r} holds no texts")
        vector = fields[settings.vector_field]
        if vector["type"] != DataType.FLOAT_VECTOR:
            raise InvalidInput(f"{self._where}: field {settings.vector_field!r} holds no vectors of 32-bit numbers")
        if (length := int(vector["params"]["dim"])) != dim:
            raise InvalidInput(
                f"{self._where} has vectors of {length} numbers, the embedder makes {dim}; embed its texts with the model of"
                " embedder.model"
            )
        metric = "COSINE"
        for index in client.list_indexes(self._collection):
            about = client.describe_index(self._collection, index, timeout=TIMEOUT_S) or {}
            if about.get("field_name") == settings.vector_field:
                metric = str(about.get("metric_type", metric)).upper()
        if metric not in ("COSINE", "IP", "L2"):
            raise InvalidInput(f"{self._where} is indexed by {metric}; COSINE, IP and L2 can be searched")
        key = next((name for name, field in fields.items() if field.get("is_primary")), "id")
        return _Fields(key, tuple(name for name in wanted if name != settings.vector_field), metric)

    def _found(self, query: str, vector: Vector, k: int) -> list[Excerpt]:
        hits = self._nearest(vector, max(NEAREST, 4 * k))
        settings, fields = self._settings, self._fields
        texts = [str(hit["entity"].get(settings.text_field) or "") for hit in hits]
        words = Bm25()
        for text in texts:
            words.add(text)
        distances = np.array([hit["distance"] for hit in hits], dtype=np.float32)
        if fields is not None and fields.metric == "L2":  # squared, of unit vectors
            distances = (1 - distances / 2).astype(np.float32)
        found: dict[str, Excerpt] = {}
        for at in by_meaning_and_words(distances, words.scores(query)):
            if len(found) == k:
                break
            text, hit = texts[at], hits[at]
            title = hit["entity"].get(settings.title_field) if settings.title_field else None
            key = hit.get(fields.key if fields is not None else "id", hit.get("id"))
            if text.strip():
                found.setdefault(text, Excerpt(document=str(title or f"{self._collection} {key}"), text=text))
        return list(found.values())

    def _nearest(self, vector: Vector, limit: int) -> list[Any]:
        client, fields = self._client, self._fields
        if client is None or fields is None:
            raise StoreError("the documents are closed")

        def searched() -> list[Any]:
            found = client.search(
                self._collection,
                data=[vector.tolist()],
                anns_field=self._settings.vector_field,
                limit=limit,
                output_fields=list(fields.output),
                timeout=TIMEOUT_S,
            )
            return list(found[0])

        with self._errors():
            try:
                return searched()
            except MilvusException as e:
                if not is_unloaded(line_of(e)):
                    raise
                # A server that was restarted may have to be told to load its collections.
                client.load_collection(self._collection, timeout=TIMEOUT_S)
                return searched()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Milvus's errors as ours."""
        try:
            yield
        except (MilvusException, grpc.RpcError) as e:
            text = line_of(e)
            if "Open local milvus failed" in text:
                raise StoreError(
                    f"{self._where}: {self._uri} cannot be opened; another process may have it open"
                ) from e
            if isinstance(e, grpc.RpcError) or is_away(text):
                raise UnavailableError(f"{self._where}: the Milvus server does not answer") from e
            raise StoreError(f"{self._where}: Milvus refused: {text}") from e

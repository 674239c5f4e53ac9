from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymilvus import DataType, MilvusClient

from actors.milvus.collection_excerpts import CollectionExcerpts
from personaagent.errors import InvalidInput, StoreError, UnavailableError
from personaagent.tool_settings import DocumentsSettings
from personaagent.tools.documents import DocumentSearch
from personaagent.tools.tool import ToolContext
from tests.support.doubles import HashEmbedder
from tests.support.milvus_servers import LiteServer, free_port

DIM = 64
TEXTS = {
    "trains": "The night train to Ulm leaves at nine.",
    "dogs": "Dogs ride free on every train.",
    "lake": "The lake is cold in spring.",
}


def fill(client: MilvusClient, name: str, metric: str = "COSINE", key: str = "id") -> None:
    schema = client.create_schema(auto_id=True)
    schema.add_field(key, DataType.INT64, is_primary=True)
    schema.add_field("body", DataType.VARCHAR, max_length=2000)
    schema.add_field("title", DataType.VARCHAR, max_length=200)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type=metric)
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
    vectors = HashEmbedder(DIM).encode(list(TEXTS.values()))
    rows = [
        {"body": text, "title": title, "vector": vector.tolist()}
        for (title, text), vector in zip(TEXTS.items(), vectors, strict=True)
    ]
    client.insert(name, rows)


@pytest.fixture(scope="module")
def uri(milvus_lite: LiteServer) -> str:
    client = MilvusClient(uri=milvus_lite.uri, dedicated=True)
    for metric in ("COSINE", "IP", "L2"):
        fill(client, metric.lower(), metric, key=f"key_{metric.lower()}")
    schema = client.create_schema()
    schema.add_field("pk", DataType.VARCHAR, max_length=64, is_primary=True)
    schema.add_field("user_key", DataType.VARCHAR, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
    client.create_collection("memories", schema=schema)
    client.close()
    return milvus_lite.uri


def settings(uri: str, **changes: Any) -> DocumentsSettings:
    declared = {"description": "d", "uri": uri, "collection": "cosine", "text_field": "body", "title_field": "title"}
    return DocumentsSettings(**declared | changes)


def excerpts(uri: str, dim: int = DIM, **changes: Any) -> CollectionExcerpts:
    return CollectionExcerpts(settings(uri, **changes), HashEmbedder(dim))


@pytest.mark.parametrize("collection", ["cosine", "ip", "l2"])
async def test_texts_are_found_by_meaning_and_words(uri: str, collection: str) -> None:
    source = excerpts(uri, collection=collection)
    await source.check()
    assert [e.document for e in await source.search("do dogs ride free", 1)] == ["dogs"]
    assert [e.document for e in await source.search("when is the lake cold", 1)] == ["lake"]
    assert len(await source.search("Ulm", 9)) == 3
    await source.close()
    await source.close()


async def test_the_tool_names_the_title_or_the_key(uri: str) -> None:
    context = ToolContext(user="ada", interaction="now")
    titled = DocumentSearch(settings(uri, k=1), excerpts(uri), 600)
    assert (await titled.call({"query": "the cold lake"}, context)).text == "[lake]\nThe lake is cold in spring."
    (found,) = await excerpts(uri, title_field=None).search("the cold lake", 1)
    assert found.document.startswith("cosine ")
    assert found.document != "cosine None"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"collection": "nothing"}, "'nothing' does not exist"),
        ({"text_field": "text"}, "no field 'text'; it has body"),
        ({"title_field": "headline"}, "no field 'headline'"),
        ({"vector_field": "embedding"}, "no field 'embedding'"),
        ({"vector_field": "title"}, "holds no vectors"),
        ({"text_field": "vector"}, "holds no texts"),
        ({"dim": 16}, "vectors of 64 numbers, the embedder makes 16"),
        ({"collection": "memories"}, "users' memories"),
    ],
)
async def test_a_collection_that_does_not_fit_is_told(uri: str, changes: dict[str, Any], said: str) -> None:
    source = excerpts(uri, **changes)
    for call in (source.check(), source.search("x", 1)):
        with pytest.raises(InvalidInput, match=said):
            await call
    await source.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        await excerpts(f"http://127.0.0.1:{free_port()}").search("x", 1)


async def test_a_lite_file_is_searched(tmp_path: Path) -> None:
    path = str(tmp_path / "docs.db")
    client = MilvusClient(uri=path, dedicated=True)
    fill(client, "cosine")
    source = excerpts(path)
    assert [e.document for e in await source.search("do dogs ride free", 1)] == ["dogs"]
    await source.close()
    client.close()
    with pytest.raises(StoreError, match="closed"):
        source._nearest(HashEmbedder(DIM).encode(["x"])[0], 1)


@pytest.mark.parametrize("uri", ["docs.db", "/nowhere/docs.db", "ftp://milvus", "milvus:19530"])
def test_a_place_that_is_none_is_told_at_the_start(uri: str) -> None:
    with pytest.raises(InvalidInput, match="Milvus Lite file that exists"):
        excerpts(uri)

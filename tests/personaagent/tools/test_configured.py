from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from personaagent.errors import InvalidInput
from personaagent.memory.local import LocalMemory
from personaagent.protocols import Embedder
from personaagent.settings import Settings
from personaagent.tool_settings import DocumentsSettings, ToolSettings
from personaagent.tools.configured import calls_natively, toolbox
from personaagent.tools.excerpts import Excerpt
from personaagent.tools.http_tool import HttpTool
from personaagent.tools.tool import SourceStatus, Tool, ToolContext
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ToolCall
from tests.support.doubles import HashEmbedder

WEATHER = {"name": "weather", "description": "The weather", "url": "https://api.example.org/"}


def made(declared: dict[str, Any], **more: Any) -> Toolbox:
    embedder = HashEmbedder()
    return toolbox(ToolSettings(**declared), LocalMemory(embedder), embedder, **more)


class Shelf:
    """Documents that are not there, and whether they were closed."""

    def __init__(self, settings: DocumentsSettings, embedder: Embedder) -> None:
        self.closed = False

    async def search(self, query: str, k: int) -> Sequence[Excerpt]:
        return [Excerpt(document="shelf", text=query)] * k

    async def close(self) -> None:
        self.closed = True


class Further:
    """A source of no tools."""

    def __init__(self) -> None:
        self.closed = False

    async def tools(self) -> Sequence[Tool]:
        return ()

    def status(self) -> SourceStatus:
        return SourceStatus(name="further", connected=False, wrong="it is down")

    async def close(self) -> None:
        self.closed = True


async def test_by_default_there_are_the_memory_tools() -> None:
    tools = await made({}).open()
    assert [s.name for s in tools.specs] == ["search_episodes", "read_profile", "note_fact", "last_wanted"]
    assert (await made({"memory": ()}).open()).specs == ()


async def test_all_that_is_declared_is_offered_and_closed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Green tea.")
    shelves: list[Shelf] = []

    def collection(settings: DocumentsSettings, embedder: Embedder) -> Shelf:
        shelves.append(Shelf(settings, embedder))
        return shelves[-1]

    further = Further()
    documents = [
        {"description": "Teas", "folder": str(tmp_path)},
        {"name": "search_shelf", "description": "Books", "uri": "http://milvus", "collection": "books", "k": 1},
    ]
    box = made(
        {"memory": ["note_fact"], "documents": documents, "http": [WEATHER]}, collection=collection, sources=[further]
    )
    tools = await box.open()
    assert [s.name for s in tools.specs] == ["note_fact", "search_documents", "search_shelf", "weather"]
    context = ToolContext(user="ada", interaction="now")
    for name, text in (("search_documents", "[a.txt, passage 1]\nGreen tea."), ("search_shelf", "[shelf]\ntea")):
        assert (await tools.call(ToolCall(name=name, arguments={"query": "tea"}), context)).text == text
    assert [status.name for status in box.status()] == ["further"]
    await box.close()
    assert shelves[0].closed
    assert further.closed


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"http": [WEATHER, WEATHER]}, "two tools are called 'weather'"),
        ({"http": [WEATHER | {"name": "note_fact"}]}, "two tools are called 'note_fact'"),
        ({"http": [WEATHER | {"name": "answer"}]}, "no tool can be called 'answer'"),
        ({"http": [WEATHER | {"parameters": {"type": "object", "properties": 3}}]}, "no JSON Schema"),
        ({"http": [WEATHER | {"url": "nowhere"}]}, "no URL"),
        ({"documents": [{"description": "d", "folder": "/nowhere"}]}, "does not exist"),
        ({"documents": [{"description": "d", "uri": "http://m", "collection": "c"}]}, "running system"),
    ],
)
def test_what_cannot_work_is_told_at_the_start(declared: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        made(declared)


@pytest.mark.parametrize(
    ("tree", "native"),
    [
        ({}, False),
        ({"llm": {"base_url": "http://elsewhere/v1"}}, True),
        ({"llm": {"model": "a/b"}}, False),
        ({"llm": {"model": "a/b", "engine_kwargs": {"tool_call_parser": "hermes"}}}, True),
        ({"llm": {"engine_kwargs": {"tool_call_parser": "hermes"}}}, False),
        ({"tools": {"calling": "native"}}, True),
        ({"llm": {"base_url": "http://elsewhere/v1"}, "tools": {"calling": "constrained"}}, False),
    ],
)
def test_calls_are_native_where_the_model_has_a_form_for_them(tree: dict[str, Any], native: bool) -> None:
    assert calls_natively(Settings(**tree)) is native


def test_the_examples_of_the_docs_are_settings() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tools.md").read_text("utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert examples
    for example in examples:
        settings = ToolSettings(**yaml.safe_load(example)["tools"])
        for declared in settings.http:
            assert HttpTool(declared, settings).spec.name == "weather"

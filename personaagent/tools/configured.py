"""The tools that the settings name, as the toolbox of a deployment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from personaagent.errors import InvalidInput
from personaagent.protocols import Embedder, Memory
from personaagent.settings import EMBEDDED, Settings
from personaagent.tool_settings import DocumentsSettings, ToolSettings
from personaagent.tools.arguments import check_schema
from personaagent.tools.documents import DocumentSearch, FolderExcerpts
from personaagent.tools.excerpts import Excerpts
from personaagent.tools.http_tool import HttpTool
from personaagent.tools.memory_tools import memory_tools
from personaagent.tools.tool import Tool, ToolSource
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ANSWER

__all__ = ["ConfiguredTools", "calls_natively", "copies", "toolbox"]

OpenCollection = Callable[[DocumentsSettings, Embedder], Excerpts]


class _Closing(Protocol):
    async def close(self) -> None: ...


class ConfiguredTools(ToolSource):
    """Tools that are there as long as the deployment is, with what they hold open."""

    def __init__(self, tools: Sequence[Tool], held: Sequence[_Closing]) -> None:
        """`held`: what is closed with them."""
        self._tools, self._held = tuple(tools), tuple(held)

    async def tools(self) -> Sequence[Tool]:
        """All of them, always."""
        return self._tools

    def status(self) -> None:
        """There is no server that they would go away with."""

    async def close(self) -> None:
        """Close connections, and stop reading documents."""
        await asyncio.gather(*(h.close() for h in self._held))


def toolbox(
    settings: ToolSettings,
    memory: Memory,
    embedder: Embedder,
    *,
    collection: OpenCollection | None = None,
    sources: Sequence[ToolSource] = (),
) -> Toolbox:
    """The tools of `settings`, without those of its MCP servers: they are `sources`.

    Nothing is connected to or read yet; whoever makes a toolbox closes it.

    Args:
        settings: `tools`.
        memory: of all users.
        embedder: of documents and what is looked for in them.
        collection: opens documents in a Milvus collection (`actors.milvus.collection_excerpts.CollectionExcerpts`). None:
            there cannot be any.
        sources: of further tools, which come after those of the settings.

    Raises:
        InvalidInput: two tools have one name, a folder does not exist, or a URL, a schema or a header cannot be used.
    """
    built: list[Tool] = list(memory_tools(memory, settings.memory, settings.tokens))
    held: list[_Closing] = []
    for documents in settings.documents:
        excerpts = _excerpts(documents, embedder, collection)
        held.append(excerpts)
        built.append(DocumentSearch(documents, excerpts, settings.tokens))
    for declared in settings.http:
        http = HttpTool(declared, settings)
        held.append(http)
        built.append(http)
    _check(built)
    return Toolbox(settings, sources=(ConfiguredTools(built, held), *sources), embedder=embedder)


def calls_natively(settings: Settings) -> bool:
    """Whether arguments of tools are asked for in the form of the model's template; see `ToolSettings.calling`."""
    if settings.tools.calling != "auto":
        return settings.tools.calling == "native"
    if settings.llm.base_url is not None:
        return True
    return settings.llm.model != EMBEDDED and "tool_call_parser" in settings.llm.engine_kwargs


def copies(settings: Settings) -> bool:
    """Whether arguments are held to the user's own words; see `ToolSettings.calling`."""
    if settings.tools.calling != "auto":
        return settings.tools.calling == "copied"
    return settings.llm.model == EMBEDDED and settings.llm.base_url is None


def _excerpts(settings: DocumentsSettings, embedder: Embedder, collection: OpenCollection | None) -> Excerpts:
    if settings.folder is not None:
        return FolderExcerpts(settings.folder, embedder)
    if collection is None:
        raise InvalidInput(
            f"tool {settings.name!r}: a Milvus collection is searched by a running system alone; name a folder"
        )
    return collection(settings, embedder)


def _check(tools: Sequence[Tool]) -> None:
    names: set[str] = set()
    for spec in (tool.spec for tool in tools):
        if spec.name == ANSWER:
            raise InvalidInput(
                f"no tool can be called {ANSWER!r}, which is what is chosen where none is needed; rename it"
            )
        if spec.name in names:
            raise InvalidInput(
                f"two tools are called {spec.name!r}; give one of them another name in the settings of tools"
            )
        names.add(spec.name)
        check_schema(spec.parameters, spec.name)

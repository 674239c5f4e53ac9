"""The tools of a running system: those of the settings, and those of its MCP servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personaagent.protocols import Embedder
from personaagent.settings import Settings
from personaagent.tools.call_log import CallLog
from personaagent.tools.configured import calls_natively, toolbox
from personaagent.tools.tool import ToolSource
from personaagent.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from actors.memory.client import ShardedMemory

__all__ = ["start_tools"]


async def start_tools(settings: Settings, memory: ShardedMemory, embedder: Embedder) -> Toolbox | None:
    """What agents of this process act with; None if `agent.tools` is off. Whoever starts it closes it, in the same event loop.

    Every call is in the audit log of the memory's shards.
    MCP servers are connected in the background; one that is down has no tools until it is there.

    Raises:
        InvalidInput: tools of the settings cannot be used, see `toolbox`.
    """
    if not settings.agent.tools:
        return None
    sources: list[ToolSource] = []
    if settings.tools.mcp:
        from personaagent.tools.mcp_client import McpSource  # takes a second, and few need it

        for server in settings.tools.mcp:
            source = McpSource(server, settings.tools)
            source.start()
            sources.append(source)
    collection = None
    if any(documents.collection is not None for documents in settings.tools.documents):
        from actors.milvus.collection_excerpts import CollectionExcerpts

        collection = CollectionExcerpts
    made = toolbox(settings.tools, memory, embedder, collection=collection, sources=sources)
    made.native = calls_natively(settings)
    made.audit = CallLog(memory.note_call)
    return made

"""The tools of a running system: those of the settings, and those of its MCP servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personaagent.protocols import Embedder
from personaagent.settings import Settings
from personaagent.tools.call_log import CallLog
from personaagent.tools.configured import calls_natively, copies, toolbox
from personaagent.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from actors.memory.client import ShardedMemory
    from personaagent.tools.mcp_client import McpSource

__all__ = ["start_tools"]


async def start_tools(
    settings: Settings, memory: ShardedMemory, embedder: Embedder, *, connect: bool = True
) -> Toolbox | None:
    """What agents of this process act with; None if `agent.tools` is off. Whoever starts it closes it, in the same event loop.

    MCP servers are connected in the background; one that is down has no tools until it is there. With `connect` that begins at
    once; without it, when a turn needs them, so a process that answers none starts no server's program. Every call is in the
    audit log of the memory's shards.

    Raises:
        InvalidInput: tools of the settings cannot be used, see `toolbox`.
    """
    if not settings.agent.tools:
        return None
    sources: list[McpSource] = []
    if settings.tools.mcp:
        from personaagent.tools import mcp_client  # takes a second, and few need it

        sources = [mcp_client.McpSource(server, settings.tools) for server in settings.tools.mcp]
    collection = None
    if any(documents.collection is not None for documents in settings.tools.documents):
        from actors.milvus.collection_excerpts import CollectionExcerpts

        collection = CollectionExcerpts
    made = toolbox(settings.tools, memory, embedder, collection=collection, sources=sources)
    made.native, made.copying = calls_natively(settings), copies(settings)
    made.audit = CallLog(memory.note_call)
    if connect:  # not before, or nobody would end their programs where the settings cannot be used
        for source in sources:
            source.start()
    return made

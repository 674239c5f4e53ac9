"""The MCP server over standard input and output: one client, one user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import IO, Any, cast

import anyio
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

__all__ = ["serve_streams"]


async def serve_streams(server: Server[Any], lines: AsyncIterator[str], out: IO[str]) -> None:
    """Answer until there are no more lines.

    Args:
        server: what answers.
        lines: of the client, a message each. Waiting for one can be cancelled, which reading a file object cannot.
        out: where answers go, and nothing else does.
    """
    stdin = cast("anyio.AsyncFile[str]", lines)  # all that is done with it is to iterate
    async with stdio_server(stdin, anyio.wrap_file(out)) as (read, write):
        await server.run(read, write, server.create_initialization_options())

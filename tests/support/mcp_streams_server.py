"""`python -m tests.support.mcp_streams_server USER`: the MCP server on standard input and output, over a memory in RAM.

It speaks as `personaagent mcp` does, beside parts that print whatever they like to where standard output was.
"""

from __future__ import annotations

import asyncio
import os
import sys

from personaagent.memory.local import LocalMemory
from personaagent.persona.versions import PersonaVersions
from personaagent.settings import AgentSettings
from serve.cli.output import Output
from serve.cli.stdin_lines import StdinLines
from serve.mcp.memory_server import memory_server
from serve.mcp.standard_streams import serve_streams
from serve.mcp.user_verbs import UserVerbs
from tests.support.doubles import HashEmbedder


async def main(user: str) -> None:
    lines = StdinLines(private=True)
    assert os.read(0, 1) == b""  # nobody else reads what the client says
    output = Output()
    output.divert()
    print("this is no message", flush=True)
    os.write(1, b"nor is this\n")
    embedder = HashEmbedder()
    memory = LocalMemory(embedder)
    verbs = UserVerbs(memory, PersonaVersions(memory, AgentSettings(), embedder))
    await serve_streams(memory_server(verbs, lambda _: user), lines, output.stream)
    output.note("bye")
    output.finish(False)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

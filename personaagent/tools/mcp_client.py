"""MCP servers as sources of tools: one connection per server, as long as the source lives, made again whenever it ends."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any

import anyio

from personaagent import deadline
from personaagent.errors import UnavailableError
from personaagent.tool_settings import McpServerSettings, ToolSettings
from personaagent.tools.arguments import check_arguments
from personaagent.tools.mcp_connection import McpConnection, reason
from personaagent.tools.tool import SourceStatus, Tool, ToolContext, ToolOutput, ToolSpec

__all__ = ["McpSource"]

log = logging.getLogger(__name__)

FIRST_S = 5.0  # from the start on, that turns wait for the server; later ones take what there is
CONNECT_S = 30.0  # from starting a server to its list of tools
CLOSE_S = 5.0  # for saying goodbye to a server; then its connection is cut
PAUSES_S = (0.5, 60.0)  # between attempts to connect: each is twice as long as the one before
STEADY_S = 30.0  # a connection that held for so long was no failed attempt


class McpSource:
    """The tools of one MCP server. It connects when it is first asked for them, or told to `start`."""

    def __init__(self, settings: McpServerSettings, bounds: ToolSettings) -> None:
        self.settings = settings
        self._bounds = bounds
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()  # once
        self._patience = 0.0  # until when turns wait for that, on the loop's clock
        self._closing = asyncio.Event()
        self._scope: anyio.CancelScope | None = None  # of the attempt or connection that is under way
        self._connection: McpConnection | None = None  # while it can be used
        self._wrong = "nobody has needed it yet"
        self._down = False
        self._warned: set[str] = set()

    def start(self) -> None:
        """Begin to connect, without waiting for it; called in the event loop that the source lives in."""
        if self._task is None and not self._closing.is_set():
            # In a context of its own: the connection outlives the request that needed it first, and that request's deadline.
            self._task = asyncio.create_task(self._run(), context=Context())
            self._patience = asyncio.get_running_loop().time() + FIRST_S
            self._wrong = "it has not answered yet"

    async def tools(self) -> Sequence[Tool]:
        """Those that can be called now; none while the server is not there."""
        self.start()
        patience = self._patience - asyncio.get_running_loop().time()
        if patience > 0 and not self._tried.is_set() and not self._closing.is_set():
            left = deadline.remaining()
            waited = asyncio.create_task(self._tried.wait())
            try:
                await asyncio.wait([waited], timeout=patience if left is None else min(left, patience))
            finally:
                waited.cancel()
        if self._connection is None:
            return ()
        return [_McpTool(self, name, spec) for name, spec in self._connection.specs.items()]

    def status(self) -> SourceStatus:
        """How it stands with the server."""
        if self._connection is None:
            return SourceStatus(name=self.settings.name, connected=False, wrong=self._wrong)
        tools = tuple(spec.name for spec in self._connection.specs.values())
        return SourceStatus(name=self.settings.name, connected=True, tools=tools)

    async def close(self) -> None:
        """End the connection, and the process where we started one. It takes some seconds if the process does not want to."""
        self._closing.set()
        if self._scope is not None:  # an attempt is broken off, a connection ends by itself
            self._scope.deadline = anyio.current_time() + (CLOSE_S if self._connection is not None else 0)
        if self._task is not None:
            await asyncio.wait([self._task])

    async def call(self, name: str, spec: ToolSpec, arguments: Mapping[str, Any]) -> ToolOutput:
        """Call a tool by the server's name for it.

        Args:
            name: as the server lists it.
            spec: as it was offered.
            arguments: which fit that.

        Raises:
            UnavailableError: the server is not there, or the tool is there no longer.
            InvalidInput: the tool has changed meanwhile, and takes these arguments no longer.
        """
        if self._connection is None:
            raise UnavailableError(f"the MCP server {self.settings.name} is not connected; it may be later")
        now = self._connection.specs.get(name)
        if now is None:
            raise UnavailableError(f"the MCP server {self.settings.name} offers this tool no longer")
        if now.parameters != spec.parameters:
            check_arguments(now.parameters, arguments)
        return await self._connection.call(name, arguments)

    async def _run(self) -> None:
        """Connect, and again when that ends, until the source is closed."""
        pause, longest = PAUSES_S
        loop = asyncio.get_running_loop()
        while not self._closing.is_set():
            began = loop.time()
            connection = McpConnection(self.settings, self._bounds, self._warn)
            try:
                await self._connected(connection)
            except Exception as e:  # whatever goes wrong with other people's server, it is one that is not there
                self._failed(f"{reason(e)}{connection.refused}")
                log.debug("the connection to MCP server %s ended", self.settings.name, exc_info=True)
            self._tried.set()
            if loop.time() - began > STEADY_S:
                pause = PAUSES_S[0]
            try:
                await asyncio.wait_for(self._closing.wait(), pause)
            except TimeoutError:
                pause = min(2 * pause, longest)
        self._wrong = "it was closed"

    async def _connected(self, connection: McpConnection) -> None:
        """Keep one connection until the source is closed. Raises whatever ends it before."""
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + CONNECT_S) as self._scope:
                async with connection.opened():
                    self._scope.deadline = math.inf
                    self._connection = connection
                    self._tried.set()
                    if self._down:
                        log.info("MCP server %s is connected", self.settings.name)
                        self._down = False
                    await self._closing.wait()
            if not self._closing.is_set():
                raise UnavailableError(f"it did not answer within {CONNECT_S:g} s")
        finally:
            self._connection = self._scope = None

    def _failed(self, wrong: str) -> None:
        """Warn once for as long as a server is away."""
        self._wrong = wrong
        if not self._down and not self._closing.is_set():
            self._down = True
            log.warning("MCP server %s has no tools until it is connected again: %s", self.settings.name, wrong)

    def _warn(self, text: str) -> None:
        """Warn once of each thing, however often the list of tools is read."""
        if text not in self._warned and len(self._warned) < 1000:
            self._warned.add(text)
            log.warning("MCP server %s: %s", self.settings.name, text)


class _McpTool:
    """A tool as its server had it when the turn began."""

    def __init__(self, source: McpSource, name: str, spec: ToolSpec) -> None:
        self._source, self._name, self._spec = source, name, spec

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Call it. Nothing of the user reaches the server but what the arguments say."""
        return await self._source.call(self._name, self._spec, arguments)

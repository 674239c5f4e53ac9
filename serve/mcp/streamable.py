"""The MCP server over streamable HTTP: what `serve.*` settings say of keys, sites and identities counts here too.

Every request stands for itself: there is no session that one client could take over from another, and whose memory it is
about is read from its own headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from personaagent.errors import InvalidInput, UnsupportedError
from personaagent.settings import ServeSettings
from serve.http.caller import identify
from serve.http.failures import error_response
from serve.http.middleware import RequestGuard
from serve.http.sites import check_exposure
from serve.mcp.memory_server import Caller

__all__ = ["PATH", "StreamableServer", "caller_by"]

PATH = "/mcp"


def caller_by(settings: ServeSettings) -> Caller:
    """Whose memory a request is about: by the headers that the settings name, else the settings' default user."""

    def caller(context: ServerRequestContext[Any, Any]) -> str:
        request = context.request
        headers = request.scope["headers"] if isinstance(request, Request) else ()
        try:
            return identify(None, None, None, headers, settings).user
        except UnsupportedError as e:
            if e.code != "missing_required_parameter":
                raise
            named = f"send the header {' or '.join(settings.user_headers)}, or " if settings.user_headers else ""
            raise InvalidInput(
                f"nobody says whose memory this is: {named}let the server be started with --user, or its settings name"
                " headers that say it (serve.user_headers) or a default user (serve.default_user)"
            ) from e

    return caller


class StreamableServer:
    """An MCP server that listens for HTTP.

    Raises (the constructor):
        InvalidInput: it would listen to a network without a key.
    """

    def __init__(self, server: Server[Any], settings: ServeSettings) -> None:
        check_exposure(settings)
        self._settings = settings
        self._sessions = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=int(settings.max_body_mb * 1e6)
        )
        self.app: ASGIApp = RequestGuard(self._route, settings)

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """As long as it answers. It can be entered once."""
        async with self._sessions.run():
            yield

    async def listen(self, port: int, ready: asyncio.Future[int]) -> None:
        """Answer on this port (0: any that is free) until cancelled. `ready` is told the port.

        Raises:
            InvalidInput: nobody can listen there.
        """
        listening = _bound(self._settings.host, port)
        config = uvicorn.Config(self.app, lifespan="off", log_config=None, access_log=False, server_header=False)
        server = _Uvicorn(config)
        async with self.running():
            answering = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                while not server.started and not answering.done():  # noqa: ASYNC110 - it has no event for it
                    await asyncio.sleep(0.01)
                if server.started:
                    ready.set_result(listening.getsockname()[1])
                await asyncio.shield(answering)
            finally:
                server.should_exit = server.force_exit = True
                await asyncio.wait({answering})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != PATH:
            await error_response(404, f"the MCP server answers at {PATH}", code="not_found")(scope, receive, send)
            return
        await self._sessions.handle_request(scope, receive, send)


class _Uvicorn(uvicorn.Server):
    """Without handlers of signals: the command that runs this has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise InvalidInput(f"cannot listen on {host}:{port} ({reason}); choose another port with --http") from e
    listening.setblocking(False)
    return listening

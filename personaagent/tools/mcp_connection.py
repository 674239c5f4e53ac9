"""One connection to an MCP server: all that is used of the `mcp` package to be a client, written for its version 2.3.

It belongs to the task that opens it, and what is asked over it runs in that task's children. So a caller that is cancelled
cancels its own request, at the server too, and nothing else. What a server asks of us (sampling, elicitation, roots) the
package refuses, because we give it nothing that would answer.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpx2
import mcp_types
from mcp.client.client import Client
from mcp.client.session import IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from pydantic import JsonValue, TypeAdapter, ValidationError

from personaagent import __version__
from personaagent.base import readable, repaired, why
from personaagent.errors import PersonaAgentError, UnavailableError
from personaagent.tool_settings import McpServerSettings, ToolSettings
from personaagent.tools.line_process import LineProcess
from personaagent.tools.mcp_listing import Listed, described, offered
from personaagent.tools.tool import ToolOutput, ToolSpec

__all__ = ["McpConnection", "reason", "shown"]

log = logging.getLogger(__name__)

LIST_S = 10.0  # for the list of tools once connected; a server that needs longer is taken to hang
SETTLE_S = 0.2  # from the first sign that the list changed to asking for it
LISTEN_S = 5.0  # until changes are listened for again
PAGES = 20  # of a list of tools
TOOLS = 256  # of a server
MESSAGE = 1_000_000  # bytes that a message may have in any case
ROOM = 8  # or so many times what is kept of a result: JSON needs more, and servers say results twice

Streams = tuple[Any, Any]  # of messages from the server and to it, as `Client` takes them
_JSON: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class McpConnection:
    """A server that is connected while `opened` is. `specs` are its tools, by its own names, kept as it changes them."""

    def __init__(self, settings: McpServerSettings, bounds: ToolSettings, warn: Callable[[str], None]) -> None:
        """Args:
        settings: where the server is, and what is wanted of it.
        bounds: how much is kept of a result.
        warn: told of tools that are left out, each time the list is read.
        """
        self.specs: dict[str, ToolSpec] = {}
        self._settings, self._warn = settings, warn
        self._limit = int(bounds.result_kb * 1000)
        self._room = max(MESSAGE, ROOM * self._limit)
        self._changed = asyncio.Event()
        self._client: Client | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._calls: set[asyncio.Future[ToolOutput]] = set()
        self._status = 0  # of the last answer over HTTP

    @property
    def refused(self) -> str:
        """The HTTP status by which the server refused the last request, for the end of a message; or nothing."""
        return f" (HTTP {self._status})" if self._status >= 400 else ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Connect and list the tools; inside, tools can be called. Raises whatever ends the connection, see `reason`."""
        about = mcp_types.Implementation(name="personaagent", version=__version__)
        transport = self._over_http() if self._settings.url is not None else self._over_stdio()
        client = Client(transport, cache=None, message_handler=self._heard, client_info=about)
        try:
            async with client, anyio.create_task_group() as group:
                await self._list(client)
                group.start_soon(self._follow, client)
                group.start_soon(self._listen, client)
                self._client, self._group = client, group
                yield
                group.cancel_scope.cancel()
        finally:
            self._client = self._group = None
            for answer in self._calls:
                if not answer.done():
                    answer.set_exception(self._gone())

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolOutput:
        """Call a tool by the server's name for it. A caller that is cancelled cancels the call at the server.

        Raises:
            UnavailableError: the server went away, or its answer is of no use.
        """
        if self._group is None:
            raise self._gone()
        answer: asyncio.Future[ToolOutput] = asyncio.get_running_loop().create_future()
        scope = anyio.CancelScope()
        self._calls.add(answer)
        self._group.start_soon(self._ask, scope, answer, name, dict(arguments))
        try:
            return await answer
        except asyncio.CancelledError:
            scope.cancel()
            self._changed.set()  # perhaps it hangs: listing its tools shows it
            raise
        finally:
            self._calls.discard(answer)

    async def _ask(
        self, scope: anyio.CancelScope, answer: asyncio.Future[ToolOutput], name: str, arguments: dict[str, Any]
    ) -> None:
        """A call, in a child of the connection's task. Nothing that goes wrong leaves it, or the connection would end."""
        outcome: ToolOutput | PersonaAgentError = self._gone()
        try:
            with scope:
                outcome = await self._asked(name, arguments)
        except PersonaAgentError as e:
            outcome = e
        if answer.done():
            return
        if isinstance(outcome, PersonaAgentError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    async def _asked(self, name: str, arguments: dict[str, Any]) -> ToolOutput:
        if self._client is None:
            raise self._gone()
        try:
            return shown(await self._client.call_tool(name, arguments), self._limit)
        except MCPError as e:
            self._changed.set()  # the tool may be gone, or the session; listing the tools shows either
            if (e.code, e.message) == (mcp_types.CONNECTION_CLOSED, "Connection closed"):  # servers use the code, too
                raise self._gone() from e
            return ToolOutput(text=f"the server says: {described(e.message)}", error=True)
        except (RuntimeError, ValidationError) as e:  # how the package says that a result does not fit
            raise UnavailableError("the answer does not fit the schema that the tool declares") from e
        except Exception as e:  # other people's code: whatever it raises fails this call alone
            raise UnavailableError(f"the MCP server gave no usable answer ({type(e).__name__})") from e

    def _gone(self) -> UnavailableError:
        return UnavailableError(f"the MCP server {self._settings.name} went away; it may be back later")

    async def _list(self, client: Client, within_s: float | None = None) -> None:
        """Read the list of tools, and choose those that are offered."""
        tools: list[mcp_types.Tool] = []
        cursor: str | None = None
        with anyio.fail_after(within_s):
            for _ in range(PAGES):
                try:
                    page = await client.list_tools(cursor=cursor)
                except MCPError as e:
                    if e.code != mcp_types.METHOD_NOT_FOUND:  # a server of prompts or resources alone
                        raise
                    break
                tools += page.tools
                cursor = page.next_cursor
                if cursor is None or len(tools) > TOOLS:
                    break
        if cursor is not None or len(tools) > TOOLS:
            self._warn(f"it lists more than {TOOLS} tools; the others are left out")
        listed = [
            Listed(
                name=tool.name,
                description=tool.description or tool.title or "",
                parameters=_JSON.validate_python(repaired(tool.input_schema)),
                reads=tool.annotations.read_only_hint if tool.annotations else None,
            )
            for tool in tools[:TOOLS]
        ]
        self.specs, warnings = offered(self._settings, listed)
        for warning in warnings:
            self._warn(warning)

    async def _follow(self, client: Client) -> None:
        """List the tools again whenever something speaks for it. A server that cannot do so any longer is left."""
        while True:
            await self._changed.wait()
            await anyio.sleep(SETTLE_S)
            self._changed.clear()
            try:
                await self._list(client, LIST_S)
            except TimeoutError as e:
                raise UnavailableError(f"it did not list its tools within {LIST_S:g} s") from e

    async def _heard(self, message: IncomingMessage) -> None:
        """Servers of protocols before 2026-07-28 say by themselves that their list changed."""
        if isinstance(message, mcp_types.ToolListChangedNotification):
            self._changed.set()

    async def _listen(self, client: Client) -> None:
        """Those of later ones have to be asked."""
        while True:
            try:
                async with client.listen(tools_list_changed=True) as events:
                    async for _ in events:
                        self._changed.set()
            except ListenNotSupportedError:
                return
            except MCPError as e:
                log.debug("MCP server %s does not tell of changes: %s", self._settings.name, e)
                return
            except SubscriptionLost:
                log.debug("MCP server %s: its changes were lost sight of", self._settings.name)
            await anyio.sleep(LISTEN_S)
            self._changed.set()

    @asynccontextmanager
    async def _over_stdio(self) -> AsyncIterator[Streams]:
        settings = self._settings
        env = {key: value.get_secret_value() for key, value in settings.env.items()}
        process = await LineProcess.start(settings.command, env, settings.name, self._room)
        to_us, inbound = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outbound, from_us = anyio.create_memory_object_stream[SessionMessage](0)

        async def read() -> None:
            try:
                async with to_us:
                    async for line in process.lines():
                        if (message := _message(line)) is not None:
                            await to_us.send(SessionMessage(message))
                    await process.ended(0.2)
                    code = "" if process.code is None else f" with exit code {process.code}"
                    raise UnavailableError(f"its program ended{code}")
            except anyio.BrokenResourceError:  # nobody reads any longer: the connection is being closed
                return

        async def write() -> None:
            async with from_us:
                async for item in from_us:
                    await process.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode())

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                group.start_soon(write)
                yield inbound, outbound
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await process.close()
            for stream in (to_us, inbound, outbound, from_us):
                stream.close()

    @asynccontextmanager
    async def _over_http(self) -> AsyncIterator[Streams]:
        url, room = self._settings.url or "", self._room

        async def look(response: httpx2.Response) -> None:
            self._status = response.status_code
            if not response.headers.get("content-type", "").startswith(
                "text/event-stream"
            ):  # those are bounded by event
                response.stream = _Bounded(response, room)

        headers = {key: value.get_secret_value() for key, value in self._settings.headers.items()}
        async with (
            httpx2.AsyncClient(
                headers={"Accept-Encoding": "identity", **headers},  # what is packed has no bound
                timeout=httpx2.Timeout(None, connect=10.0, write=30.0),  # whoever waits for an answer has a bound
                event_hooks={"response": [look]},
            ) as http,
            streamable_http_client(url, http_client=http, max_sse_event_size=room) as streams,
        ):
            yield streams


class _Bounded(httpx2.AsyncByteStream):
    """The body of a response, up to a number of bytes."""

    def __init__(self, response: httpx2.Response, limit: int) -> None:
        self._inner, self._limit = response.stream, limit
        self._packed = response.headers.get("content-encoding", "identity") != "identity"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._packed:
            raise httpx2.StreamError("the answer is compressed, which was not asked for")
        size = 0
        assert isinstance(self._inner, httpx2.AsyncByteStream)
        async for chunk in self._inner:
            size += len(chunk)
            if size > self._limit:
                raise httpx2.StreamError(f"the answer has more than {self._limit // 1000} kB")
            yield chunk

    async def aclose(self) -> None:
        assert isinstance(self._inner, httpx2.AsyncByteStream)
        await self._inner.aclose()


def reason(error: BaseException) -> str:
    """Why a connection ended, in one line and without anything secret. What the server says itself is cut short."""
    found = _leaves(error)
    first = next((e for e in found if isinstance(e, PersonaAgentError)), found[0])
    if isinstance(first, PersonaAgentError):
        return first.message
    if isinstance(first, MCPError):
        return f"it says: {described(first.message)}"
    if isinstance(first, ValidationError):
        return f"it does not speak MCP as we know it: {described(why(first))}"
    if isinstance(first, httpx2.HTTPError):
        return f"it cannot be reached: {described(str(first)) or type(first).__name__}"
    return f"it failed with {type(first).__name__}"


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _message(line: bytes) -> mcp_types.JSONRPCMessage | None:
    """A line as a message, if it is one: some programs also print what is meant for people."""
    if not line.strip():
        return None
    adapter = mcp_types.jsonrpc_message_adapter
    try:
        return adapter.validate_json(line, by_name=False)
    except ValueError:
        log.debug("a line is no message, or not valid Unicode")
    try:
        return adapter.validate_python(repaired(json.loads(line)), by_name=False)
    except (ValueError, RecursionError):
        return None


def shown(result: mcp_types.CallToolResult, limit: int) -> ToolOutput:
    """A result as text, of which `limit` bytes are kept. What is no text is named and not shown."""
    texts, others = [], []
    for part in result.content:
        if isinstance(part, mcp_types.TextContent):
            texts.append(part.text)
        elif isinstance(part, mcp_types.EmbeddedResource):
            others.append(f"[a resource, {part.resource.uri}, is not shown]")
        elif isinstance(part, mcp_types.ResourceLink):
            others.append(f"[a resource, {part.uri}]")
        else:
            others.append(f"[{part.type}, {part.mime_type}, is not shown]")
    structured = result.structured_content
    if structured is not None and not _repeats(texts, structured):
        texts.append(json.dumps(structured, ensure_ascii=False))
    text = readable("\n".join([*texts, *(other[:200] for other in others)]))
    kept = text.encode()
    if len(kept) > limit:
        text = f"{kept[:limit].decode('utf-8', 'ignore')} … (cut after {limit // 1000} kB)"
    return ToolOutput(text=text, error=bool(result.is_error))


def _repeats(texts: Sequence[str], structured: Any) -> bool:
    """Whether the texts say what the structured result does: servers write it twice, for clients that know no structure."""
    value = structured
    if isinstance(structured, dict) and set(structured) == {"result"}:
        value = structured["result"]
    read = [_read(text) for text in texts]
    return any(said in (structured, value) for said in (read, *read, *texts))


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

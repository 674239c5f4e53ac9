"""The MCP server over HTTP: whose memory a request is about, and who is let in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr

from personaagent.errors import InvalidInput
from personaagent.memory.local import LocalMemory
from personaagent.persona.versions import PersonaVersions
from personaagent.settings import AgentSettings, ServeSettings
from serve.mcp.memory_server import memory_server
from serve.mcp.streamable import PATH, StreamableServer, caller_by
from serve.mcp.user_verbs import UserVerbs
from tests.serve.mcp.test_memory_server import EMBEDDER, answered, refused

URL = f"http://localhost{PATH}"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
ACCEPT = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-06-18"}


def server(memory: LocalMemory, **settings: Any) -> StreamableServer:
    config = ServeSettings(**settings)
    verbs = UserVerbs(memory, PersonaVersions(memory, AgentSettings(), EMBEDDER))
    return StreamableServer(memory_server(verbs, caller_by(config)), config)


def http(app: Any, **headers: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost", headers=headers)


@asynccontextmanager
async def connected(app: Any, mode: Any = "auto", **headers: Any) -> AsyncIterator[Client]:
    async with (
        http(app, **headers) as plain,
        Client(streamable_http_client(URL, http_client=plain), mode=mode) as client,
    ):
        yield client


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(EMBEDDER)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_headers_say_whose_memory_it_is_request_by_request(memory: LocalMemory, mode: str) -> None:
    served = server(memory, user_headers=("X-User",))
    async with served.running():
        for user in ("ann", "bób"):
            async with connected(served.app, mode, **{"X-User": user.encode()}) as client:
                await answered(client, "add_memory", text=f"I am {user}.")
                listed = await answered(client, "get_memories")
                assert [m["query"] for m in listed["memories"]] == [f"I am {user}."]
        async with connected(served.app, mode) as client:
            assert "X-User" in await refused(client, "get_memories")
        async with connected(served.app, mode, **{"X-User": "x" * 300}) as client:
            assert "1 to 256 characters" in await refused(client, "get_memories")
    assert {u.user for u in await memory.users()} == {"ann", "bób"}


async def test_who_is_not_named_is_the_default_user(memory: LocalMemory) -> None:
    served = server(memory, default_user="ann")
    async with served.running(), connected(served.app, **{"X-User": "bob"}) as client:
        await answered(client, "add_memory", text="hello")
    assert [u.user for u in await memory.users()] == ["ann"]


async def test_without_a_user_the_error_says_what_to_do(memory: LocalMemory) -> None:
    served = server(memory)
    async with served.running(), connected(served.app) as client:
        assert "--user" in await refused(client, "add_memory", text="hello")
    assert await memory.users() == ()


async def test_the_key_is_asked_for(memory: LocalMemory) -> None:
    served = server(memory, default_user="ann", api_key=SecretStr("sesame"))
    async with served.running():
        async with http(served.app) as stranger:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}):
                response = await stranger.post(PATH, json=CALL, headers=ACCEPT | headers)
                assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        async with connected(served.app, Authorization="Bearer sesame") as client:
            await answered(client, "add_memory", text="hello")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 403, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site"}, 403, "origin_not_allowed"),
        ({"Content-Type": "text/plain"}, 415, "not_json"),
    ],
)
async def test_pages_of_other_sites_are_refused(
    memory: LocalMemory, headers: dict[str, str], status: int, code: str
) -> None:
    served = server(memory, default_user="ann")
    async with served.running(), http(served.app) as client:
        assert (await client.post(PATH, json=CALL, headers=ACCEPT)).status_code == 200
        response = await client.post(PATH, json=CALL, headers=ACCEPT | headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_other_paths_and_too_large_bodies_are_errors(memory: LocalMemory) -> None:
    served = server(memory, default_user="ann", max_body_mb=0.01)
    async with served.running(), http(served.app) as client:
        assert (await client.post("/v1/models", json=CALL, headers=ACCEPT)).status_code == 404
        assert (await client.post(f"{PATH}/", json=CALL, headers=ACCEPT)).status_code == 200
        large = {**CALL, "params": {"x": "x" * 20_000}}
        assert (await client.post(PATH, json=large, headers=ACCEPT)).status_code == 413


async def test_it_listens_answers_and_stops(memory: LocalMemory) -> None:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server(memory, default_user="ann").listen(0, ready))
    port = await asyncio.wait_for(ready, 10)
    async with Client(f"http://127.0.0.1:{port}{PATH}") as client:
        await answered(client, "add_memory", text="hello")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            with pytest.raises(InvalidInput, match="cannot listen"):
                await server(memory).listen(taken, asyncio.get_running_loop().create_future())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    with pytest.raises(OSError, match="refused"), socket.socket() as probe:
        probe.connect(("127.0.0.1", port))


def test_a_network_is_not_listened_to_without_a_key(memory: LocalMemory) -> None:
    with pytest.raises(InvalidInput, match="api_key"):
        server(memory, host="0.0.0.0")

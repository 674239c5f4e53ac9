"""What a client gets where no application of ours is there to answer, through the server that Serve's proxy runs."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.http.edge import CALLBACK, VARIABLE, Edge, answer_malformed
from serve.http.failures import error_body


@asynccontextmanager
async def served(app: ASGIApp, http: Any) -> AsyncIterator[int]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http=http, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def said(port: int, request: bytes) -> tuple[str, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode(), json.loads(body)


@pytest.mark.slow
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_what_is_no_http_is_answered_in_openais_shape(http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from uvicorn.protocols.http import h11_impl, httptools_impl

    for protocol in (h11_impl.H11Protocol, httptools_impl.HttpToolsProtocol):
        monkeypatch.setattr(protocol, "send_400_response", protocol.send_400_response)  # put back afterwards
    answer_malformed()
    async with served(PlainTextResponse("never"), http) as port:
        for request in (b"HELLO\r\n\r\n", b"GET\x00/ HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"):
            head, body = await said(port, request)
            assert head.startswith("HTTP/1.1 400 ")
            assert "application/json" in head
            assert body == error_body(400, "this is not a valid HTTP request", "invalid_http")


async def through(app: ASGIApp, path: str = "/v1/models", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Edge(app)), base_url="http://x") as client:
        return await client.get(path, headers=headers)


@pytest.mark.parametrize(
    ("theirs", "status", "code"),
    [
        (PlainTextResponse("Path '/v1/models' not found. Ping http://.../-/routes", 404), 503, "unavailable"),
        (PlainTextResponse("no replicas of AgentRouter", 503, {"Retry-After": "7"}), 503, "unavailable"),
        (PlainTextResponse("Request dropped due to backpressure", 429), 429, "overloaded"),
        (PlainTextResponse("Request 123 timed out after 5s.", 408), 503, "unavailable"),
        (PlainTextResponse("Traceback: secret", 500), 500, "internal_error"),
    ],
)
async def test_the_proxys_own_errors_are_in_openais_shape(theirs: ASGIApp, status: int, code: str) -> None:
    response = await through(theirs)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert "secret" not in response.text
    if isinstance(theirs, PlainTextResponse) and "Retry-After" in theirs.headers:
        assert response.headers["Retry-After"] == "7"


async def test_an_application_that_dies_before_it_answers_is_an_error_too() -> None:
    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        return

    assert (await through(nothing)).json()["error"]["code"] == "internal_error"


async def test_the_routers_answers_pass_as_they_are_and_so_do_serves_own_pages() -> None:
    for status in (200, 404, 500):
        response = await through(JSONResponse({"a": 1}, status))
        assert (response.status_code, response.json()) == (status, {"a": 1})
    response = await through(PlainTextResponse("unhealthy", 503), "/-/healthz")
    assert (response.status_code, response.text) == (503, "unhealthy")


async def test_a_client_does_not_speak_for_the_load_balancer() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        names = [name.decode() for name, _ in scope["headers"]]
        await JSONResponse(names)(scope, receive, send)

    names = (await through(echo, **{"X-Request-Timeout-Seconds": "0", "X-Request-Disconnect-Disabled": "true"})).json()
    assert not [name for name in names if name.startswith("x-request-")]
    assert "host" in names


def test_serve_still_has_what_this_relies_on() -> None:
    from ray.serve._private import constants, http_util

    assert f'"{VARIABLE}"' in inspect.getsource(constants)
    assert constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER == "x-request-timeout-seconds"
    assert constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER == "x-request-disconnect-disabled"
    found = http_util.call_function_from_import_path(CALLBACK)
    assert [m.cls for m in http_util.validate_http_proxy_callback_return(found)] == [Edge]

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from personaagent.errors import InvalidInput, UnavailableError
from personaagent.tool_settings import HttpToolSettings, ToolSettings
from personaagent.tools.arguments import check_arguments
from personaagent.tools.http_tool import HttpTool
from personaagent.tools.tool import Effect, Sees, ToolContext, ToolOutput
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ToolCall

CONTEXT = ToolContext(user="ada", interaction="now")
KEY = "sk-very-secret-key"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
Answer = Callable[[httpx.Request], httpx.Response]


def tool(answer: Answer | None = None, bounds: ToolSettings | None = None, **changes: Any) -> HttpTool:
    declared: dict[str, Any] = {
        "name": "weather",
        "description": "The weather of a city",
        "url": "https://api.example.org/v1/{city}",
        "parameters": PARAMETERS,
        "headers": {"Authorization": f"Bearer {KEY}"},
    }
    transport = None if answer is None else httpx.MockTransport(answer)
    return HttpTool(HttpToolSettings(**declared | changes), bounds or ToolSettings(), transport)


async def called(answer: Answer, arguments: dict[str, Any] | None = None, **changes: Any) -> ToolOutput:
    return await tool(answer, **changes).call(arguments or {"city": "Ulm"}, CONTEXT)


def answering(*args: Any, **kwargs: Any) -> Answer:
    return lambda _: httpx.Response(*args, **kwargs)


@asynccontextmanager
async def serving(*pieces: bytes, forever: bytes = b"", hang: bool = False) -> AsyncIterator[str]:
    """A server that answers every request with these bytes, then goes on for ever, or says nothing more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
            await writer.drain()
            while forever:
                writer.write(forever)
                await writer.drain()
            if hang:
                await asyncio.sleep(60)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/{{city}}"
    server.close()


async def test_a_get_has_its_arguments_in_path_and_query() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"sky": "grey"}, headers={"set-cookie": "who=ada"})

    weather = tool(answer)
    for _ in range(2):
        assert json.loads((await weather.call({"city": "Bad Ems", "days": 2}, CONTEXT)).text) == {"sky": "grey"}
    assert str(seen[1].url) == "https://api.example.org/v1/Bad%20Ems?days=2"
    assert seen[1].headers["authorization"] == f"Bearer {KEY}"
    assert "cookie" not in seen[1].headers
    assert weather.spec.effect is Effect.READS
    assert weather.spec.sees is Sees.ARGUMENTS
    await weather.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_others_have_them_in_the_body(method: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == method
        assert str(request.url) == "https://api.example.org/v1/Ulm"
        assert request.headers["content-type"] == "application/json"
        return httpx.Response(201, content=request.content)

    output = await called(answer, {"city": "Ulm", "days": 2, "note": "\ud83d"}, method=method)
    assert json.loads(output.text) == {"days": 2, "note": "�"}
    assert tool(answer, method=method).spec.effect is Effect.CHANGES
    assert tool(answer, method=method, effect="reads").spec.effect is Effect.READS
    with pytest.raises(InvalidInput):
        await called(answer, {"city": "Ulm", "days": float("inf")}, method=method)


async def test_what_a_model_makes_up_does_not_reach_the_server() -> None:
    with pytest.raises(InvalidInput, match="admin"):
        check_arguments(tool(answering(200)).spec.parameters, {"city": "Ulm", "admin": "1"})
    either = {"properties": {"city": {}}, "required": ["city"], "anyOf": [{"properties": {"days": {}}}]}
    check_arguments(tool(parameters=either).spec.parameters, {"city": "Ulm", "days": 1})
    with pytest.raises(InvalidInput, match="admin"):
        check_arguments(tool(parameters=either).spec.parameters, {"city": "Ulm", "admin": "1"})
    toolbox = await Toolbox(ToolSettings(), [tool(lambda _: pytest.fail("called"))]).open()
    seen = await toolbox.call(ToolCall(name="weather", arguments={"city": "../admin"}), CONTEXT)
    assert seen.error
    assert "city" in seen.text


@pytest.mark.parametrize(
    ("status", "content", "kind", "text", "error"),
    [
        (204, b"", "", "done (status 204, without content)", False),
        (404, b"no such city", "text/plain", "status 404: no such city", True),
        (500, b"", "", "status 500: Internal Server Error", True),
        (304, b"", "", "status 304: Not Modified", True),
        (200, b"<p>Rain &amp; <b>wind</b><script>x</script>", "text/html; charset=utf-8", "Rain & wind", False),
        (403, b"<h1>No</h1>", "text/html", "status 403: # No", True),
        (200, b"\x89PNG", "image/png", "image/png, which is no text", True),
        (200, b"a\0b", "", "bytes, which is no text", True),
        (200, b"Zo\xeb", "text/plain; charset=latin-1", "Zoë", False),
        (200, "Zoë".encode(), "text/plain; charset=idna", "Zoë", False),
        (200, "Zoë".encode(), "text/plain; charset=\x00", "Zoë", False),
        (200, b'["a", 1]', "application/problem+json", '["a", 1]', False),
        (200, b"\xff", "application/json", "�", False),
    ],
)
async def test_every_answer_is_a_text(status: int, content: bytes, kind: str, text: str, error: bool) -> None:
    output = await called(answering(status, content=content, headers={"content-type": kind} if kind else None))
    assert output.error is error
    assert text in output.text


async def test_headers_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"headers": dict(request.headers), "token": KEY})

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"refused {request.headers}", request=request)

    with caplog.at_level(logging.DEBUG):
        assert KEY not in (await called(echo)).text
        with pytest.raises(UnavailableError) as e:
            await called(broken)
        assert KEY not in e.value.message
        with pytest.raises(InvalidInput) as bad:
            tool(headers={"Authorization": f"{KEY}\nX-Other: 1"})
        assert KEY not in bad.value.message
        async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi") as url:
            assert (await tool(url=url).call({"city": "Ulm"}, CONTEXT)).text == "hi"
    assert KEY not in caplog.text
    assert "Ulm" not in "".join(r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG)
    assert KEY not in repr(tool(echo).spec)


async def test_redirects_stay_on_the_server() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/Ulm":
            return httpx.Response(302, headers={"location": "/v2/Ulm"})
        return httpx.Response(200, text=str(request.url))

    assert (await called(answer)).text == "https://api.example.org/v2/Ulm"


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/",
        "//evil.example/",
        "http://api.example.org/v2",
        "https://api.example.org:444/",
        "ftp://x/",
        "https://a:b@api.example.org/",
        "https://[",
        "/v1/Ulm",
    ],
)
async def test_other_redirects_are_errors(location: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": location})

    with pytest.raises(UnavailableError, match="redirects"):
        await called(answer)
    assert set(asked) == {"api.example.org"}


async def test_a_redirect_is_not_followed_by_what_changes_something() -> None:
    with pytest.raises(UnavailableError, match="only a GET follows"):
        await called(answering(307, headers={"location": "/v2"}), method="POST")


async def test_a_huge_answer_is_read_up_to_its_bound() -> None:
    bounds = ToolSettings(result_kb=2)
    async with asyncio.timeout(20), serving(b"HTTP/1.1 200 OK\r\n\r\n", forever=b"x" * 65_536) as url:
        assert (await tool(bounds=bounds, url=url).call({"city": "Ulm"}, CONTEXT)).text == "x" * 2_000


async def test_what_is_packed_is_unpacked_up_to_its_bound() -> None:
    for pack, name in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
        packed = answering(200, stream=httpx.ByteStream(pack(b"y" * 10_000_000)), headers={"content-encoding": name})
        assert (await called(packed, bounds=ToolSettings(result_kb=1))).text == "y" * 1_000
    for content, name in ((b"junk", "gzip"), (b"junk", "br")):
        packed = answering(200, stream=httpx.ByteStream(content), headers={"content-encoding": name})
        with pytest.raises(UnavailableError, match=r"unpacked|compressed"):
            await called(packed)


async def test_a_server_that_hangs_dies_or_is_not_there_is_an_error() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", hang=True) as url:
        with pytest.raises(UnavailableError, match="too long"):
            await tool(url=url, timeout_s=0.2).call({"city": "Ulm"}, CONTEXT)
    async with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc") as url:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await tool(url=url).call({"city": "Ulm"}, CONTEXT)
    async with serving(b"SSH-2.0 hello\r\n") as url:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await tool(url=url).call({"city": "Ulm"}, CONTEXT)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await tool(url=url).call({"city": "Ulm"}, CONTEXT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "https://api.example.org/{town}"}, "none of its parameters"),
        ({"url": "https://api.example.org/{days}"}, "must be required"),
        ({"url": "https://api.example.org/?city=Ulm"}, "in the query of its URL already"),
        ({"url": "{city}"}, "write it as https"),
        ({"parameters": {"type": "array"}}, "JSON Schema of an object"),
        ({"headers": {"Bad Name": "x"}}, "no header"),
        ({"headers": {"Host": "evil.example"}}, "no header"),
        ({"headers": {"X-Key": "ключ"}}, "what a header cannot"),
    ],
)
def test_settings_that_cannot_work_are_told_at_the_start(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as e:
        tool(**changes)
    assert "weather" in e.value.message


def test_the_proxy_of_the_environment_is_used_and_a_wrong_one_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert tool()
    monkeypatch.setenv("https_proxy", "gopher://proxy.example")
    with pytest.raises(InvalidInput, match="proxy"):
        tool()
    monkeypatch.setenv("no_proxy", "example.org")
    assert tool()

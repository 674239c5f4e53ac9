"""Tools that are one HTTP request, declared in the settings.

No argument can choose the server, cookies are not kept, and no redirect leads elsewhere. What is sent beside the arguments
(`headers`) is secret: it stands in no log, no error and no result.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import re
import zlib
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from personaagent import __version__
from personaagent.base import repaired
from personaagent.errors import InvalidInput, UnavailableError
from personaagent.tool_settings import HttpToolSettings, ToolSettings
from personaagent.tools.arguments import check_schema
from personaagent.tools.html_text import html_text
from personaagent.tools.tool import Effect, ToolContext, ToolOutput, ToolSpec
from personaagent.tools.url_template import UrlTemplate

__all__ = ["HttpTool"]

log = logging.getLogger(__name__)

REDIRECTS = 3
SAID = 500  # characters of what comes with an error
SHORTEST_SECRET = 6  # characters of what is blotted out of a result
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_PUBLIC = frozenset({"accept", "accept-language", "content-type", "user-agent"})
_TEXTS = (
    "text/",
    "application/json",
    "application/xml",
    "application/xhtml",
    "application/javascript",
    "application/x-ndjson",
)
# Encodings of text, by the names that Python has for them; others take long or are none of texts.
_ENCODINGS = re.compile(r"utf-(?:8|16|32)\b|ascii|iso8859|cp12|koi8|shift_jis|euc_|gb|big5|latin")


class HttpTool:
    """One request to one server. It may be called many times at once."""

    def __init__(
        self, settings: HttpToolSettings, bounds: ToolSettings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Args:
        settings: of the tool.
        bounds: of every tool.
        transport: how requests are made; default: over the network, by the proxies of the environment.

        Raises:
            InvalidInput: URL, parameters or headers cannot be used.
        """
        where = f"tool {settings.name!r}"
        check_schema(settings.parameters, settings.name)
        self._settings = settings
        self._url = UrlTemplate(settings.url, where)
        self._parameters = _closed(settings.parameters)
        for name in self._url.fields:
            if name not in (self._parameters.get("properties") or {}):
                raise InvalidInput(f"{where}: {{{name}}} in its URL is none of its parameters")
            if name not in (self._parameters.get("required") or ()):
                raise InvalidInput(f"{where}: {name} stands in its URL, so it must be required")
        taken = self._url.fixed & set(self._parameters.get("properties") or {}) - set(self._url.fields)
        if taken and settings.method in ("GET", "DELETE"):
            raise InvalidInput(f"{where}: {sorted(taken)[0]} is in the query of its URL already")
        self._headers, self._secrets = _checked(settings, where)
        self._timeout = settings.timeout_s or bounds.timeout_s
        self._most = int(bounds.result_kb * 1_000)
        self._transport = transport or _network(self._url.origin, where)
        reads = self._settings.effect == "reads" or (self._settings.effect is None and self._settings.method == "GET")
        self.spec = ToolSpec(
            name=self._settings.name,
            description=self._settings.description,
            parameters=self._parameters,
            effect=Effect.READS if reads else Effect.CHANGES,
            timeout_s=self._settings.timeout_s,
            tokens=self._settings.tokens,
        )

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Make the request. A status that is no success is an error, with what the server says of it.

        Raises:
            InvalidInput: the arguments make no URL.
            UnavailableError: the server cannot be reached, or answers with nothing that can be read.
        """
        in_url = {name: value for name, value in arguments.items() if name in self._url.fields}
        others = {name: value for name, value in arguments.items() if name not in in_url}
        in_query = self._settings.method in ("GET", "DELETE")
        url = self._url.filled(in_url, others if in_query else {})
        try:
            body = None if in_query else json.dumps(repaired(others), allow_nan=False).encode()
        except ValueError as e:
            raise InvalidInput("an argument is a number that JSON does not have") from e
        try:
            for _ in range(REDIRECTS + 1):
                response = await self._send(url, body)
                async with aclosing(response):
                    if not response.has_redirect_location:
                        return await self._read(response)
                    url = self._led_to(url, response)
        except httpx.TimeoutException as e:
            raise UnavailableError("the server took too long") from e
        except httpx.HTTPError as e:  # without its text, which may repeat what was sent
            log.debug("tool %s: %s", self._settings.name, type(e).__name__)
            raise UnavailableError(f"the server cannot be reached ({type(e).__name__})") from e
        raise UnavailableError("the server redirects in circles")

    async def close(self) -> None:
        """Close connections."""
        await self._transport.aclose()

    async def _send(self, url: httpx.URL, body: bytes | None) -> httpx.Response:
        # By the transport alone: a client keeps cookies, by which one user's calls would tell of another's, and logs URLs.
        request = httpx.Request(
            self._settings.method,
            url,
            headers=self._headers if body is None else {"Content-Type": "application/json", **self._headers},
            content=body,
            extensions={"timeout": httpx.Timeout(self._timeout).as_dict()},
        )
        return await self._transport.handle_async_request(request)

    def _led_to(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Where a redirect leads, if it stays on the server and the request may be made again."""
        if self._settings.method != "GET":
            raise UnavailableError(f"the server redirects (status {response.status_code}), which only a GET follows")
        try:
            target = url.join(response.headers["location"])
        except (httpx.InvalidURL, ValueError) as e:
            raise UnavailableError("the server redirects to nowhere") from e
        same = (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port)
        upgraded = target.host == url.host and target.scheme == "https" and target.port is None and url.port is None
        if not (same or upgraded) or target.userinfo:
            raise UnavailableError("the server redirects to another one, which is not followed")
        return target

    async def _read(self, response: httpx.Response) -> ToolOutput:
        raw = await _body(response, self._most)
        status = response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        readable = not kind or kind.startswith(_TEXTS) or kind.endswith(("+json", "+xml"))
        text = raw.decode(_encoding(response), "replace") if readable else ""
        if "\0" in text:
            readable, text = False, ""
        if kind in ("text/html", "application/xhtml+xml"):
            text = await asyncio.to_thread(html_text, text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if not 200 <= status < 300:
            return ToolOutput(text=f"status {status}: {text.strip()[:SAID] or response.reason_phrase}", error=True)
        if raw and not readable:
            return ToolOutput(text=f"the server answered with {kind or 'bytes'}, which is no text", error=True)
        return ToolOutput(text=text if text.strip() else f"done (status {status}, without content)")


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without others than those named, unless they say otherwise: what a model makes up must not reach a server."""
    parts = {"$ref", "allOf", "anyOf", "oneOf", "if"} & parameters.keys()  # which may name properties too
    return {
        "type": "object",
        "properties": {},
        "unevaluatedProperties" if parts else "additionalProperties": False,
    } | dict(parameters)


def _checked(settings: HttpToolSettings, where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The headers of a request, and what of them may not be shown, longest first."""
    headers = {"User-Agent": f"personaagent/{__version__}", "Accept": "application/json, text/*;q=0.9, */*;q=0.5"}
    headers["Accept-Encoding"] = "gzip"
    secrets: set[str] = set()
    for name, hidden in settings.headers.items():
        value = hidden.get_secret_value().strip()  # a secret that was read from a file ends with a line
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise InvalidInput(f"{where}: {name[:80]!r} is no header that can be set")
        if not _VALUE.fullmatch(value):
            raise InvalidInput(f"{where}: the value of its header {name} holds what a header cannot")
        headers = {known: said for known, said in headers.items() if known.lower() != name.lower()} | {name: value}
        if name.lower() not in _PUBLIC:
            secrets |= {part for part in (value, *value.split()) if len(part) >= SHORTEST_SECRET}
    return headers, tuple(sorted(secrets, key=lambda s: (-len(s), s)))


def _network(origin: str, where: str) -> httpx.AsyncHTTPTransport:
    """Requests over the network, by the proxy that the environment names for a server."""
    url = httpx.URL(origin)
    try:
        return httpx.AsyncHTTPTransport(proxy=None if proxy_bypass(url.host) else getproxies().get(url.scheme))
    except (ValueError, ImportError, httpx.InvalidURL) as e:
        raise InvalidInput(f"{where}: the proxy that {url.scheme}_proxy names cannot be used: {e}") from e


def _encoding(response: httpx.Response) -> str:
    try:
        name = codecs.lookup(response.charset_encoding or "utf-8").name
    except (LookupError, ValueError):
        return "utf-8"
    return name if _ENCODINGS.match(name) else "utf-8"


async def _body(response: httpx.Response, most: int) -> bytes:
    """At most so many bytes of what a server answers; the rest is not read."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "deflate"):
        raise UnavailableError("the server answers compressed in a way that was not asked for")
    whole = bytearray()
    unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "deflate") else None
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async with aclosing(aiter(response.stream)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if unpacked is None:
                whole += piece[: most - len(whole)]
            else:
                try:  # never more than is left: a few bytes may unpack to gigabytes
                    whole += unpacked.decompress(piece, most - len(whole))
                except zlib.error as e:
                    raise UnavailableError("the server's answer cannot be unpacked") from e
            if len(whole) >= most or (unpacked is not None and unpacked.eof):
                break
    return bytes(whole)

"""What stands in front of the endpoints: exact paths, whose requests are taken, a bound on bodies, and strict JSON."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personaagent.settings import ServeSettings
from personaagent.strict_json import JsonFault, NotUnicode, loads
from serve.http.failures import error_response
from serve.http.sites import Sites, deliberate, media_type, vary

__all__ = ["KNOWN", "OPEN_PATHS", "JsonRoute", "RequestGuard", "canonical", "decoded"]

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
KNOWN = "personaagent.known"  # in a request's scope: whether it carries the key, if one is needed
# What a page of an allowed origin may send, and read of an answer.
CORS_METHODS = "GET, HEAD, POST, PUT, DELETE"
CORS_HEADERS = "Authorization, Content-Type, X-PersonaAgent, X-PersonaAgent-Remember"
EXPOSED_HEADERS = (
    "Retry-After, X-Interaction-Id, X-PersonaAgent-Ignored, X-PersonaAgent-Capped, X-PersonaAgent-Remembered"
)
NOT_MEANT = "a request that changes something needs the header Content-Type: application/json, or X-PersonaAgent: 1"


class RequestGuard:
    """ASGI middleware in front of everything else.

    Paths: servers hand over a decoded path, in which a slash of a user id looks like a separator. The path is taken from
    `raw_path` instead and kept percent-encoded, segment by segment; `decoded` reads a segment.
    """

    def __init__(self, app: ASGIApp, config: ServeSettings) -> None:
        """Args:
        app: what comes after.
        config: the key that requests must carry, the sites they may come from, and how large they may be.
        """
        self._app = app
        self._key = config.api_key.get_secret_value().encode() if config.api_key else None
        self._max_body = int(config.max_body_mb * 1e6)
        self._sites = Sites(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        method: str = scope["method"]
        if (origin := self._sites.allowed_origin(headers.get(b"origin"))) is not None:
            send = _shared(send, origin)
        if method == "HEAD":
            scope, send = {**scope, "method": "GET"}, _headless(send)
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        try:
            path = canonical(raw)
            unquote_to_bytes(scope.get("query_string", b"")).decode("utf-8")
        except UnicodeDecodeError:
            error = error_response(422, "the address is not UTF-8 after percent-decoding", code="invalid_input")
            await error(scope, receive, send)
            return
        refusal = self._refusal(method, path, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        known = self._key is None or self._authorised(headers.get(b"authorization"))
        inner = {**scope, "path": path, "raw_path": path.encode(), KNOWN: known}
        await self._app(inner, self._bounded(receive), send)

    def _refusal(self, method: str, path: str, headers: dict[bytes, bytes]) -> Response | None:
        """The answer to what does not get in; None for what does. What tells a stranger the least comes first."""
        if fault := self._sites.host_fault(headers.get(b"host")):
            return error_response(403, fault, code="host_not_allowed")
        if fault := self._sites.origin_fault(method, headers):
            return error_response(403, fault, code="origin_not_allowed")
        if method == "OPTIONS" and b"access-control-request-method" in headers and b"origin" in headers:
            allowed = {"Access-Control-Allow-Methods": CORS_METHODS, "Access-Control-Allow-Headers": CORS_HEADERS}
            return Response(status_code=204, headers={**allowed, "Access-Control-Max-Age": "600"})  # carries no key
        if self._key is not None and path not in OPEN_PATHS and not self._authorised(headers.get(b"authorization")):
            error = error_response(401, "missing or wrong API key", code="invalid_api_key")
            error.headers["WWW-Authenticate"] = "Bearer"
            return error
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return error_response(400, "the header Content-Length is not a number of bytes", code="invalid_http")
        if len(length) > 18 or int(length) > self._max_body:
            return self._too_large()
        has_body = int(length) > 0 or b"transfer-encoding" in headers
        if has_body and media_type(headers) != b"application/json":
            # Browsers send other types to any address without asking, so guessing JSON would let any web page in.
            return error_response(415, "send the body as JSON, with Content-Type: application/json", "not_json")
        if has_body and headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
            return error_response(415, "send the body uncompressed, without Content-Encoding", "content_encoding")
        return None

    def _authorised(self, header: bytes | None) -> bool:
        scheme, _, token = (header or b"").partition(b" ")
        # compare_digest takes as long for a wrong key as for a nearly right one.
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._key or b"")

    def _bounded(self, receive: Receive) -> Receive:
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                raise HTTPException(413, self._limit)
            return message

        return bounded

    def _too_large(self) -> JSONResponse:
        return error_response(413, self._limit, code="request_too_large")

    @property
    def _limit(self) -> str:
        return (
            f"a request has at most {self._max_body} bytes (serve.max_body_mb); send interactions in several requests"
        )


def _shared(send: Send, origin: str) -> Send:
    """Let a page of this origin read the answer."""

    async def shared(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            headers["Vary"] = vary([value.encode("latin-1") for value in headers.getlist("vary")]).decode("latin-1")
        await send(message)

    return shared


def _headless(send: Send) -> Send:
    """Send the headers of an answer without its body, as HEAD has it."""

    async def headless(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return headless


class JsonRoute(APIRoute):
    """A route whose body is JSON as the standard has it (see `personaagent.strict_json`), and whose changes are meant."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, over a request that reads JSON strictly.

        Only here is it known that a path has this method at all.
        """
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            if not deliberate(request.method, dict(request.headers.raw)):
                raise HTTPException(403, NOT_MEANT)
            return await handler(_JsonRequest(request.scope, request.receive))

        return strict


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body. Raises HTTPException: 400 if it is not JSON, 422 if it is not text."""
        try:
            return loads(await self.body())
        except NotUnicode as e:
            raise HTTPException(422, f"the body {e}") from e
        except JsonFault as e:
            raise HTTPException(400, f"the body {e}") from e


def canonical(raw: bytes) -> str:
    """A raw path with every segment decoded and encoded again in one way, and without empty segments.

    Clients put a base URL with a slash at its end before a path, or end a path with one. Only behind `users` an empty segment
    stays: there it is a user id of no characters, and what follows it must not become the user.

    Raises:
        UnicodeDecodeError: a segment is not UTF-8 (half a surrogate pair, for one).
    """
    segments: list[bytes] = []
    for segment in raw.split(b"?", 1)[0].split(b"/"):
        if segment or segments == [b"v1", b"users"]:
            segments.append(segment)
    while segments and not segments[-1]:
        segments.pop()
    return "/" + "/".join(quote(unquote_to_bytes(segment).decode("utf-8"), safe="") for segment in segments)


def decoded(segment: str) -> str:
    """What a path parameter says."""
    return unquote(segment, errors="strict")

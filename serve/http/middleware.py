"""What stands around the endpoints: exact paths, whose requests are taken, a bound on bodies, and errors in OpenAI's shape."""

from __future__ import annotations

import hmac
import logging
import random
import re
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personaagent.errors import OverloadedError, PersonaAgentError
from personaagent.settings import ServeSettings
from personaagent.strict_json import JsonFault, NotUnicode, loads
from serve.http.sites import Sites, deliberate, media_type, vary

__all__ = [
    "JsonRoute",
    "RequestGuard",
    "checked",
    "decoded",
    "error_response",
    "failure",
    "install_errors",
    "retry_after",
]

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
RETRY_S = (1, 3)  # asked of who is refused; spread, so that they do not all come back at once


# What a page of an allowed origin may send, and read of an answer.
CORS_METHODS = "GET, HEAD, POST, PUT, DELETE"
CORS_HEADERS = "Authorization, Content-Type, X-PersonaAgent, X-PersonaAgent-Remember"
EXPOSED_HEADERS = (
    "Retry-After, X-Interaction-Id, X-PersonaAgent-Ignored, X-PersonaAgent-Capped, X-PersonaAgent-Remembered"
)


MAX_NAME, MAX_WHERE = 64, 300  # characters shown of a field's name, and of all names on the way to a field
_TYPE = re.compile(
    r"str|int|float|bool|\[key\]|(list|tuple|dict|set|literal)\[.*\]|(function|constrained|nullable)-.*", re.DOTALL
)
_TYPE_NAMES = (
    ("valid dictionary or object to extract fields from", "valid object"),
    ("valid dictionary", "valid object"),
    ("valid tuple", "valid list"),
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
        await self._app({**scope, "path": path, "raw_path": path.encode()}, self._bounded(receive), send)

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


def error_body(
    status: int, message: str, code: str | None = None, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """OpenAI's error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
    """OpenAI's error object as a response."""
    return JSONResponse(error_body(status, message, code, param), status)


def known_error(error: BaseException) -> PersonaAgentError | None:
    """The error of ours that this is, also where Ray has wrapped it on its way from another process."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)  # Ray's wrapper keeps the original here
        if isinstance(cause, PersonaAgentError):
            return cause
        if isinstance(seen, PersonaAgentError):
            return seen
        seen = seen.__cause__
    return None


def retry_after(error: BaseException) -> dict[str, str]:
    """The header that says in how many seconds to come again, if coming again is all that helps."""
    known = known_error(error)
    if not isinstance(known, OverloadedError):
        return {}
    return {"Retry-After": str(known.after_s or random.randint(*RETRY_S))}


def failure(error: BaseException) -> tuple[int, dict[str, dict[str, str | None]]]:
    """Status and body for whatever went wrong. The log says where, never what with: messages may quote users."""
    ours = known_error(error)
    if ours is not None:
        return ours.status, ours.body()
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("unexpected %s\n%s", type(error).__name__, where)
    log.debug("its message: %s", error)
    return 500, error_body(500, "internal error; the server's log says where", "internal_error")


def install_errors(app: FastAPI) -> None:
    """Make every error of an application JSON in OpenAI's shape."""

    async def ours(_: Request, error: Exception) -> JSONResponse:
        status, body = failure(error)
        return JSONResponse(body, status, headers=retry_after(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return validation_response(error.errors())

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status = error.status_code
        codes = {400: "invalid_json", 403: "header_required", 422: "invalid_input"}
        codes |= {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
        messages = {
            404: "there is no such route; GET /openapi.json names those there are",
            405: "this route has no such method; the header Allow names its methods",
        }
        response = error_response(status, messages.get(status, str(error.detail)), codes.get(status))
        response.headers.update(error.headers or {})
        if status == 405:
            response.headers["Allow"] = ", ".join(_methods(app, request.scope))
        return response

    app.add_exception_handler(PersonaAgentError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_middleware(_Unexpected)


def _methods(app: FastAPI, scope: Scope) -> list[str]:
    """The methods that a path has. Starlette would name those of the first route alone."""
    found: set[str] = set()
    for route in app.routes:
        if route.matches(scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


@contextmanager
def checked(*where: str) -> Iterator[None]:
    """Values that come from a request: what does not fit is the client's error, not ours. `where`: they stand in it."""
    try:
        yield
    except ValidationError as e:
        raise RequestValidationError([{**error, "loc": (*where, *error["loc"])} for error in e.errors()]) from e


class _Unexpected:
    """Answers exceptions nobody foresaw. Starlette's own handler for them would raise them again into Serve's log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as e:  # noqa: BLE001 - the server's edge
            status, body = failure(e)
            if not started:
                await JSONResponse(body, status, headers=retry_after(e))(scope, receive, send)


def validation_response(errors: Sequence[Any]) -> JSONResponse:
    """The first thing that is wrong with a body or a query, without quoting it."""
    if errors[0]["type"] == "json_invalid":
        return error_response(400, "the body is not valid JSON", code="invalid_json")
    place, reason = _told(errors)
    where = ".".join(place)[:MAX_WHERE] or "body"
    return error_response(422, f"{where}: {reason}", code="invalid_input", param=where)


def _told(errors: Sequence[Any]) -> tuple[list[str], str]:
    """Place and reason of the first fault. Of a value that may be of several types each type has its own complaint: the one
    that got furthest knows best, and where none got further than the value itself, all are told.
    """
    first = _place(errors[0])
    if len(first) == len(_parts(errors[0])):
        return first, _reason(errors[0])
    alike = [e for e in errors if _place(e)[: len(first)] == first]
    deepest = max(alike, key=lambda e: len(_place(e)))
    if len(_place(deepest)) > len(first):
        return _place(deepest), _reason(deepest)
    begun = "Input should be "
    reasons = list(dict.fromkeys(_reason(e) for e in alike))
    return first, " or ".join(reasons[:1] + [reason.removeprefix(begun) for reason in reasons[1:]])


def _parts(error: Any) -> list[str]:
    parts = [str(part) for part in error["loc"]]
    # a field further down may be called that, too
    return parts[1:] if len(parts) > 1 and parts[0] in ("body", "query", "path", "header") else parts


def _place(error: Any) -> list[str]:
    """The names on the way to a fault, as a client knows them. Names that clients choose are shown safely."""
    *way, last = _parts(error) or [""]
    own = error["type"] == "extra_forbidden"  # then the last is a name for sure
    kept = [part for part in way if not _TYPE.fullmatch(part)] + (
        [last] if last and (own or not _TYPE.fullmatch(last)) else []
    )
    return [part if part.isprintable() and len(part) <= MAX_NAME else ascii(part[:MAX_NAME])[1:-1] for part in kept]


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "this field is not known here"
    reason = str(error["msg"]).removeprefix("Value error, ")
    for pythons, jsons in _TYPE_NAMES:
        reason = reason.replace(pythons, jsons)
    return reason

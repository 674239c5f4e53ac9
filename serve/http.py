"""What stands around the endpoints: exact paths, the API key, a bound on bodies, and errors in OpenAI's shape."""

from __future__ import annotations

import hmac
import logging
import random
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personaagent.errors import OverloadedError, PersonaAgentError

__all__ = ["Gate", "checked", "decoded", "error_response", "failure", "install_errors", "retry_after"]

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
RETRY_S = (1, 3)  # asked of who is refused; spread, so that they do not all come back at once


class Gate:
    """ASGI middleware in front of everything else.

    Paths: servers hand over a decoded path, in which a slash of a user id looks like a separator. The path is taken from
    `raw_path` instead and kept percent-encoded, segment by segment; `decoded` reads a segment.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, max_body: int) -> None:
        """Args:
        app: what comes after.
        api_key: requests must carry it as bearer token; None for no key.
        max_body: bytes of a request's body.
        """
        self._app = app
        self._key = api_key.encode() if api_key else None
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        try:
            path = canonical(raw)
        except UnicodeDecodeError:
            error = error_response(422, "the path is not UTF-8 after percent-decoding", code="invalid_input")
            await error(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._key is not None and path not in OPEN_PATHS and not self._authorised(headers.get(b"authorization")):
            error = error_response(401, "missing or wrong API key", code="invalid_api_key")
            error.headers["WWW-Authenticate"] = "Bearer"
            await error(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body:
            await self._too_large()(scope, receive, send)
            return
        has_body = length != b"0" or b"transfer-encoding" in headers
        media_type = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
        if has_body and media_type != b"application/json":
            # Browsers send other types to any address without asking, so guessing JSON would let any web page in.
            error = error_response(415, "send the body as JSON, with Content-Type: application/json", "not_json")
            await error(scope, receive, send)
            return
        await self._app({**scope, "path": path, "raw_path": path.encode()}, self._bounded(receive), send)

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
        return f"a request has at most {self._max_body} bytes; send interactions in several requests"


def canonical(raw: bytes) -> str:
    """A raw path with every segment decoded and encoded again in one way.

    Raises:
        UnicodeDecodeError: a segment is not UTF-8 (half a surrogate pair, for one).
    """
    segments = raw.split(b"?", 1)[0].split(b"/")
    return "/".join(quote(unquote_to_bytes(segment).decode("utf-8"), safe="") for segment in segments)


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
    overloaded = isinstance(known_error(error), OverloadedError)
    return {"Retry-After": str(random.randint(*RETRY_S))} if overloaded else {}


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

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
        message = {404: "there is no such route"}.get(error.status_code, str(error.detail))
        response = error_response(error.status_code, message, codes.get(error.status_code))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(PersonaAgentError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_middleware(_Unexpected)


@contextmanager
def checked() -> Iterator[None]:
    """Values that come from a request: what does not fit is the client's error, not ours."""
    try:
        yield
    except ValidationError as e:
        raise RequestValidationError(e.errors()) from e


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
    first = errors[0]
    if first["type"] == "json_invalid":
        return error_response(400, "the body is not valid JSON", code="invalid_json")
    loc = [str(part) for part in first["loc"]]
    if len(loc) > 1 and loc[0] in ("body", "query", "path"):  # a field further down may be called that, too
        loc = loc[1:]
    where = ".".join(loc) or "body"
    reason = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        reason = "this field is not known here"
    return error_response(422, f"{where}: {reason}", code="invalid_input", param=where)

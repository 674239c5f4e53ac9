"""What goes wrong, in OpenAI's shape: one line for people, a status and a code for programs, and nothing of what users wrote."""

from __future__ import annotations

import logging
import random
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personaagent.errors import OverloadedError, PersonaAgentError

__all__ = ["checked", "error_body", "error_response", "failure", "install_errors", "retry_after"]

log = logging.getLogger(__name__)

RETRY_S = (1, 3)  # asked of who is refused; spread, so that they do not all come back at once
MAX_NAME, MAX_WHERE = 64, 300  # characters shown of a field's name, and of all names on the way to a field
_TYPE = re.compile(
    r"str|int|float|bool|\[key\]|(list|tuple|dict|set|literal)\[.*\]|(function|constrained|nullable)-.*", re.DOTALL
)
_TYPE_NAMES = (
    ("valid dictionary or object to extract fields from", "valid object"),
    ("valid dictionary", "valid object"),
    ("valid tuple", "valid list"),
)


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

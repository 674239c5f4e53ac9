"""What Serve's HTTP proxy answers by itself, in OpenAI's error shape; and the headers that are not a client's to send.

Serve's proxies call `middlewares` when they start, if the environment variable `VARIABLE` names it. Written for Ray 2.60,
whose proxy answers in plain text where no replica is there to answer, and uvicorn 0.54, which does so where a request is no
HTTP. tests/serve/http/test_edge.py fails when either moves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ray.util.metrics import Counter
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from personaagent.errors import OverloadedError
from serve.http.admission import PLACES, is_chat, refusal
from serve.http.failures import error_body, error_response
from serve.http.shedding import Shedding

__all__ = ["CALLBACK", "VARIABLE", "Edge", "answer_malformed", "middlewares"]

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "serve.http.edge.middlewares"
# Serve's own words with its proxy, from a load balancer in front of it. From a client they would take away its time limit,
# or keep its work going after it has hung up.
_INTERNAL = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
_SERVES_OWN = "/-/"  # its health and routes, which other programs read


def middlewares() -> list[Middleware]:
    """Called by Serve in every proxy."""
    answer_malformed()
    shed = Counter("personaagent_shed_chats", "Chats that this proxy refused because the routers were full.")
    return [Middleware(Edge, shed=shed.inc)]


def answer_malformed() -> None:
    """Make uvicorn answer what is no HTTP as everything else here is answered. It has no setting for this."""
    for protocol in (H11Protocol, HttpToolsProtocol):
        setattr(protocol, "send_400_response", _malformed)  # noqa: B010 - a method of somebody else's class


def _malformed(protocol: Any, _: str) -> None:
    body = json.dumps(error_body(400, "this is not a valid HTTP request", "invalid_http")).encode()
    head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    protocol.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head.encode() + body)
    protocol.transport.close()


class Edge:
    """ASGI middleware around Serve's proxy. Whatever the router answers passes through as it is: its errors are JSON."""

    def __init__(self, app: ASGIApp, shed: Callable[[], None] = lambda: None) -> None:
        """`app`: the proxy; `shed`: called for every chat that is refused here."""
        self._app = app
        self._shed = shed
        self._chats = Shedding()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"].startswith(_SERVES_OWN):
            await self._app(scope, receive, send)
            return
        scope = {**scope, "headers": [h for h in scope["headers"] if h[0].lower() not in _INTERNAL]}
        if not is_chat(scope):
            await self._pass(scope, receive, _Sent(send))
            return
        if (seconds := self._chats.refuse()) is not None:
            self._shed()
            error = OverloadedError("the server has as many chats under way as it takes; try again soon")
            error.after_s = seconds
            await refusal(error)(scope, receive, send)
            return
        number = self._chats.begin()
        sent = _Sent(send, self._chats.answered, self._chats.learn)
        try:
            await self._pass(scope, receive, sent)
        finally:
            self._chats.end(number, sent.status)

    async def _pass(self, scope: Scope, receive: Receive, sent: _Sent) -> None:
        await self._app(scope, receive, sent)
        if sent.status is None or (sent.status >= 400 and not sent.passing):
            await _answer(sent.status or 500, sent.retry_after)(scope, receive, sent.send)


class _Sent:
    """Passes on what is sent, unless it is an error in plain text: that is taken note of."""

    def __init__(
        self, send: Send, begun: Callable[[int], None] = lambda _: None, learn: Callable[[int], None] = lambda _: None
    ) -> None:
        self.send = send
        self._begun = begun
        self._learn = learn
        self.status: int | None = None
        self.passing = False
        self.retry_after: str | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message["headers"]}
            if (places := headers.pop(PLACES, b"")).isdigit():  # a word among ourselves
                self._learn(int(places))
                message = {**message, "headers": [h for h in message["headers"] if h[0].lower() != PLACES]}
            self.status = status = int(message["status"])
            self._begun(status)
            self.passing = self.status < 400 or not headers.get(b"content-type", b"").startswith(b"text/plain")
            self.retry_after = headers.get(b"retry-after", b"").decode("latin-1") or None
        if self.passing:
            await self.send(message)


def _answer(status: int, retry_after: str | None) -> ASGIApp:
    """Our answer in place of Serve's, whose texts tell of its insides."""
    if status == 404:  # our application has every path, so the proxy knows no application yet
        status = 503
    if status == 408:
        response = error_response(503, "no answer came in time; try again later", "unavailable")
    elif status in (429, 503):
        reason = "the server is starting, or has more to do than it can take; try again in a moment"
        response = error_response(status, reason, "overloaded" if status == 429 else "unavailable")
        response.headers["Retry-After"] = retry_after or "1"
    else:
        response = error_response(status, "the part that answers requests failed; try again", "internal_error")
    return response

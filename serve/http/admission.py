"""What lets requests in: bounds on how many are under way, on their bodies and on their time. ASGI, and nothing of Ray.

Work that is not let in costs nothing: it is answered with 429 and `Retry-After` before its body is read. Work that is let
in ends at its deadline or when its client goes away, whichever comes first, and everything done for it is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from personaagent import deadline
from personaagent.errors import DeadlineExceeded, OverloadedError, PersonaAgentError
from personaagent.settings import ServeSettings
from serve.http.failures import error_response, retry_after
from serve.http.turnover import Turnover

__all__ = ["CHATS", "PLACES", "Admission", "Load", "is_chat", "refusal"]

log = logging.getLogger(__name__)

CHATS = 128  # under way in a replica, unless somebody knows better
PROBES = frozenset({"healthz", "readyz"})
# Header of a router's answers to chats, for `serve.http.edge`: how many chats all routers take.
PLACES = b"x-personaagent-places"
GRACE_S = 2.0  # for a stream that has begun to say that its time is over


@dataclass
class Door:
    """How many requests of one kind are under way, and how many may be."""

    what: str
    limit: int
    refused: int = 0  # since the start

    def __post_init__(self) -> None:
        self.turnover = Turnover(self.limit)

    @property
    def inside(self) -> int:
        """How many are under way."""
        return self.turnover.inside

    @property
    def full(self) -> bool:
        """Whether the next one has to be refused."""
        return self.inside >= self.limit


@dataclass
class Load:
    """What a replica has under way."""

    chats: Door
    others: Door
    max_bodies: int  # bytes
    bodies: int = field(default=0)

    @classmethod
    def of(cls, settings: ServeSettings, chats: int) -> Load:
        """Bounds as the settings say; `chats`: of chats, where these leave it open."""
        return cls(
            chats=Door("chats", settings.max_concurrent_chats or chats),
            others=Door("requests", settings.max_concurrent_requests),
            # A single body that is allowed must fit.
            max_bodies=int(max(settings.max_bodies_mb, settings.max_body_mb) * 1e6),
        )

    def report(self) -> dict[str, Any]:
        """Numbers for people and dashboards."""
        doors = {door.what: door for door in (self.chats, self.others)}
        counts = {name: {"now": d.inside, "limit": d.limit, "refused": d.refused} for name, d in doors.items()}
        return {**counts, "body_bytes": {"now": self.bodies, "limit": self.max_bodies}}


class Admission:
    """ASGI middleware behind the check of the API key, so that only those who may come in can use up room."""

    def __init__(self, app: ASGIApp, load: Load, settings: ServeSettings) -> None:
        """Args:
        app: what comes after.
        load: counted here.
        settings: bounds of time.
        """
        self._app = app
        self._load = load
        self._settings = settings
        self._places = b"%d" % (load.chats.limit * max(settings.router_replicas, settings.max_router_replicas))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        segments = [s for s in scope["path"].split("/") if s]
        if len(segments) == 1 and segments[0] in PROBES:
            await self._app(scope, receive, send)
            return
        chat = is_chat(scope)
        door = self._load.chats if chat else self._load.others
        long = not chat and _takes_long(scope["method"], segments)
        seconds = self._settings.long_request_timeout_s if long else self._settings.request_timeout_s
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if chat:
                    message = {**message, "headers": [*message["headers"], (PLACES, self._places)]}
            await send(message)

        try:
            async with self._read(scope, receive, door) as body:
                if body is not None:
                    await self._answer(scope, body, receive, watched, door, seconds)
        except (PersonaAgentError, HTTPException) as e:
            if started:  # all that is left is to break off, which tells the client that something is missing
                log.warning("a response was broken off: its time was over")
                return
            await refusal(e)(scope, receive, watched)

    @asynccontextmanager
    async def _read(self, scope: Scope, receive: Receive, door: Door) -> AsyncIterator[list[Message] | None]:
        """The whole body, which counts until the request is answered; None if the client went away.

        Raises:
            OverloadedError: there is no room for the request, or for its body.
            HTTPException: it took too long to arrive (408), or is too large (413, by who bounds it).
        """
        load, held = self._load, 0
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"0")
        self._check(door, int(length) if length.isdigit() else 0)
        messages: list[Message] = []
        try:
            try:
                async with asyncio.timeout(self._settings.body_timeout_s) as limit:
                    while not messages or messages[-1].get("more_body"):
                        message = await receive()
                        if message["type"] == "http.disconnect":
                            break
                        messages.append(message)
                        size = len(message.get("body", b""))
                        held += size
                        load.bodies += size
                        self._check(door, 0)
            except TimeoutError as e:
                if not limit.expired():
                    raise
                seconds = f"{self._settings.body_timeout_s:g} s (serve.body_timeout_s)"
                raise HTTPException(408, f"the body did not arrive within {seconds}") from e
            yield messages if messages and not messages[-1].get("more_body") else None
        finally:
            load.bodies -= held

    def _check(self, door: Door, more: int) -> None:
        if door.full:
            door.refused += 1
            error = OverloadedError(
                f"the server has {door.limit} {door.what} under way and takes no more; try again soon"
            )
            error.after_s = door.turnover.refuse()
            raise error
        if self._load.bodies + more > self._load.max_bodies:
            door.refused += 1
            raise OverloadedError("the server holds as many request bodies as it takes; try again soon")

    async def _answer(
        self, scope: Scope, body: list[Message], receive: Receive, send: Send, door: Door, seconds: float
    ) -> None:
        """Let the request in, and end it when its time is over or its client is gone."""
        left = asyncio.Event()
        body = body[::-1]

        async def again() -> Message:
            if body:
                return body.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and not limit.expired():
                limit.reschedule(at + GRACE_S)
            await send(message)

        async def watch() -> None:
            # Serve does this, too, unless a header of the client's forbids it.
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            except Exception as e:  # noqa: BLE001 - whatever is wrong with the connection, nobody is there any more
                log.debug("a connection broke off: %s", type(e).__name__)
            left.set()
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        at = asyncio.get_running_loop().time() + seconds
        number = door.turnover.begin()
        try:
            async with asyncio.timeout_at(at) as limit:
                watcher = asyncio.create_task(watch())
                try:
                    with deadline.until(seconds):
                        await self._app(scope, again, sent)
                finally:
                    watcher.cancel()
        except TimeoutError as e:
            if not limit.expired():
                raise
            if not left.is_set():
                raise DeadlineExceeded from e
        finally:
            door.turnover.end(number)


def is_chat(scope: Scope) -> bool:
    """Whether a request asks for a chat completion."""
    return scope["method"] == "POST" and [s for s in scope["path"].split("/") if s] == ["v1", "chat", "completions"]


def _takes_long(method: str, segments: list[str]) -> bool:
    if segments[:2] != ["v1", "users"] or len(segments) < 3:
        return False
    rest = segments[3:]
    if method == "DELETE":
        return not rest
    return rest in (["align"], ["interactions"]) if method == "POST" else rest == ["export"]


def refusal(error: PersonaAgentError | HTTPException) -> JSONResponse:
    """The answer to a request that is not let in."""
    if isinstance(error, PersonaAgentError):
        return JSONResponse(error.body(), error.status, headers=retry_after(error))
    code = {408: "request_timeout", 413: "request_too_large"}.get(error.status_code)
    response = error_response(error.status_code, str(error.detail), code)
    response.headers["Connection"] = "close"  # what is left of the body is not read
    return response

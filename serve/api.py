"""The HTTP API over an agent and its memory. It knows nothing of Ray: whatever fulfils the protocols can stand behind it.

Endpoints translate; the agent, the memory and the aligner do the work.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from urllib.parse import quote

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import TypeAdapter

from personaagent.agent import Agent, Reply
from personaagent.errors import ConflictError, NotFoundError, PersonaAgentError
from personaagent.explanation import Question, explain
from personaagent.limits import check_question
from personaagent.persona import add, again, pin_claim, strike, written
from personaagent.protocols import LLM, Embedder, Memory, export_pages
from personaagent.settings import Settings
from personaagent.types import (
    AlignmentResult,
    ForgetReceipt,
    Interaction,
    Origin,
    Persona,
    PersonaDraft,
    PersonaPage,
    Profile,
    RecallQuery,
    UserId,
    UserPage,
    UserSummary,
    user_key,
)

from .http import Gate, checked, decoded, error_response, failure, install_errors
from .schema import (
    ChatBody,
    ChunkWriter,
    ClaimBody,
    ClaimPinBody,
    FeedbackBody,
    InteractionsBody,
    PersonaBody,
    PinBody,
    RollbackBody,
    completion,
    explanation,
    sse,
)

__all__ = ["Services", "create_api"]

READY_TIMEOUT_S = 5.0
_USER: TypeAdapter[str] = TypeAdapter(UserId)


class Online(Protocol):
    """Online alignment, as the endpoints see it."""

    def notify(self, user: str) -> None:
        """A truth of this user became known. Returns at once."""
        ...

    async def status(self) -> dict[str, Any]:
        """How it is doing; `healthy` among it. Raises UnavailableError if it does not answer."""
        ...


@dataclass(frozen=True)
class Services:
    """What the endpoints call. The checks raise if a part does not answer; the model's makes it generate nothing."""

    settings: Settings
    model: str
    agent: Agent
    memory: Memory
    llm: LLM
    embedder: Embedder
    teacher: LLM | None
    check_llm: Callable[[], Awaitable[object]]
    check_memory: Callable[[], Awaitable[object]]
    online: Online | None = None


async def user_id(user: Annotated[str, Path(description="Percent-encoded; a slash is %2F.")]) -> str:
    """The user that a path names, exactly."""
    with checked():
        return _USER.validate_python(decoded(user))


async def segment(interaction: str) -> str:
    """The interaction that a path names."""
    return decoded(interaction)


User = Annotated[str, Depends(user_id)]


async def known_user(request: Request, user: User) -> str:
    """The user that a path names, who must be there already."""
    memory: Memory = request.app.state.memory
    if await memory.summary(user) is None:
        raise NotFoundError("this user is unknown")
    return user


KnownUser = Annotated[str, Depends(known_user)]


def create_api(services: Services) -> FastAPI:
    """The application."""
    settings = services.settings
    app = FastAPI(title="PersonaAgent on Ray", redirect_slashes=False)
    app.state.memory = services.memory
    install_errors(app)
    _add_chat(app, services)
    _add_users(app, services)
    _add_personas(app, services)
    _add_health(app, services)
    key = settings.serve.api_key
    app.add_middleware(
        Gate, api_key=key.get_secret_value() if key else None, max_body=int(settings.serve.max_body_mb * 1e6)
    )
    return app


def _add_chat(app: FastAPI, services: Services) -> None:
    settings = services.settings
    card = {"id": services.model, "object": "model", "created": 0, "owned_by": "personaagent"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}", response_model=None)
    async def get_model(model: str) -> dict[str, Any] | JSONResponse:
        """The model by its name."""
        return card if decoded(model) == services.model else _unknown_model(decoded(model))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody) -> Response:
        """OpenAI's chat completion, answered by the user's agent and remembered."""
        if body.model != services.model:
            return _unknown_model(body.model)
        if body.n not in (None, 1):
            return error_response(400, "n: only one answer per request is supported", "unsupported_value", "n")
        if body.logprobs:
            reason = "logprobs: not available, because an answer may take several model calls"
            return error_response(400, reason, "unsupported_value", "logprobs")
        interaction = body.personaagent.interaction_id or uuid.uuid4().hex
        with checked():
            turn = body.turn(interaction)
        if turn.remember:  # before the model is asked for nothing
            asked = next((m.text for m in reversed(turn.messages) if m.role == "user"), "")
            check_question(asked, turn.choices or (), settings.memory.limits)
        headers = {"X-Interaction-Id": quote(interaction)}
        if not body.stream:
            reply = await services.agent.respond(turn)
            return JSONResponse(completion(reply, services.model), headers=headers)
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        writer = ChunkWriter(interaction, services.model, include_usage)
        events = _events(services.agent.stream(turn), writer)
        first = await anext(events)  # an error before the first word is still an HTTP error
        headers["Cache-Control"] = "no-cache"
        return StreamingResponse(_prepended(first, events), media_type="text/event-stream", headers=headers)


async def _events(pieces: AsyncIterator[str | Reply], writer: ChunkWriter) -> AsyncIterator[str]:
    started = False
    async with aclosing(pieces) as stream:  # type: ignore[type-var]  # the agent's is a generator
        try:
            async for piece in stream:
                if not started:
                    started = True
                    yield writer.start()
                if isinstance(piece, Reply):
                    for event in writer.end(piece):
                        yield event
                else:
                    yield writer.text(piece)
        except Exception as e:
            if not started:
                raise
            _, body = failure(e)  # the status is sent already; OpenAI's client raises what stands in such an event
            yield sse(body)
            yield "data: [DONE]\n\n"


async def _prepended(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    async with aclosing(rest):  # type: ignore[type-var]
        yield first
        async for event in rest:
            yield event


async def _lines(first: tuple[str, ...], pages: AsyncIterator[tuple[str, ...]]) -> AsyncIterator[str]:
    """An export as it is sent. If it breaks off, so does the response: whoever reads it sees that it is not whole."""
    async with aclosing(pages):  # type: ignore[type-var]
        yield "".join(f"{line}\n" for line in first)
        async for page in pages:
            yield "".join(f"{line}\n" for line in page)


def _unknown_model(name: str) -> JSONResponse:
    message = f"the model {name[:200]!r} does not exist; GET /v1/models names the one that does"
    return error_response(404, message, "model_not_found", "model")


def _add_users(app: FastAPI, services: Services) -> None:
    memory, settings = services.memory, services.settings

    @app.get("/v1/users")
    async def list_users(
        after: Annotated[str, Query(pattern="^([0-9a-f]{32})?$")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> UserPage:
        """Counts of a page of users, without any text; `next` is the cursor of the page behind, null on the last one."""
        found = await memory.users(after, limit)
        return UserPage(users=found, next=user_key(found[-1].user) if len(found) == limit else None)

    @app.get("/v1/users/{user}")
    async def summary(user: User) -> UserSummary:
        """Counts of one user."""
        found = await memory.summary(user)
        if found is None:
            raise NotFoundError("this user is unknown")
        return found

    @app.delete("/v1/users/{user}")
    async def forget(user: User) -> ForgetReceipt:
        """Remove every trace of the user."""
        from actors.forget import forget_everywhere

        told = services.online.notify if services.online is not None else None
        return await forget_everywhere(memory, settings.home, user, "api", told)

    @app.get("/v1/users/{user}/export", response_model=None)
    async def export(user: User) -> StreamingResponse:
        """Everything stored of the user, as JSON Lines that `personaagent import` reads."""
        pages = export_pages(memory, user)
        first = await anext(pages)  # an error before the first line is still an HTTP error
        return StreamingResponse(_lines(first, pages), media_type="application/x-ndjson")

    @app.get("/v1/users/{user}/profile")
    async def profile(user: KnownUser) -> Profile:
        """The semantic memory."""
        return await memory.profile(user)

    @app.get("/v1/users/{user}/memory", response_model=None)
    async def recall(
        user: KnownUser,
        query: Annotated[str | None, Query(max_length=60_000)] = None,
        k: Annotated[int, Query(ge=1, le=1000)] = 10,
    ) -> dict[str, Any]:
        """Episodes that a query recalls, best first; without a query the newest ones, newest first."""
        if query is None:
            latest = await memory.latest(user, k)
            return {"episodes": [{"interaction": i.model_dump(mode="json")} for i in reversed(latest)]}
        found = await memory.recall(user, RecallQuery(text=query, k=k))
        return {"episodes": [e.model_dump(mode="json") for e in found.episodes], "known": found.known}

    @app.post("/v1/users/{user}/explain", response_model=None)
    async def explain_choice(user: User, question: Question) -> dict[str, Any]:
        """What the user would choose by memory alone, and why; nothing is asked of the model, and nothing is remembered."""
        return explanation(await explain(memory, user, question, settings.agent.decision))

    @app.post("/v1/users/{user}/interactions", response_model=None)
    async def append(user: User, body: Annotated[Any, Body()]) -> dict[str, Any]:
        """Add one interaction or many; a repeat (same id, or same content without one) changes nothing."""
        with checked():
            interactions = InteractionsBody.model_validate(body).of(user)
        result = await memory.append(user, interactions, await memory.incarnation(user))
        if services.online is not None and any(i.truth is not None for i in interactions):
            services.online.notify(user)
        return {**result.model_dump(), "ids": [i.id for i in interactions]}

    @app.post("/v1/users/{user}/interactions/{interaction}/feedback")
    async def feedback(user: User, interaction: Annotated[str, Depends(segment)], body: FeedbackBody) -> Interaction:
        """Say what the user really answered or wanted."""
        known = await memory.feedback(user, interaction, body.truth, await memory.incarnation(user))
        if services.online is not None:
            services.online.notify(user)
        return known

    @app.post("/v1/users/{user}/align")
    async def align(user: KnownUser, paper: bool = False) -> AlignmentResult:
        """Align the user's persona now. `paper`: without candidates and gate, as published."""
        from alignment.aligner import Aligner

        chosen = services.settings.alignment
        if paper:
            chosen = chosen.model_copy(update={"paper": True})
        aligner = Aligner(services.agent, memory, services.embedder, chosen, services.teacher)
        return (await aligner.align([user]))[0]


def _add_personas(app: FastAPI, services: Services) -> None:
    memory = services.memory

    async def current(user: str, incarnation: int | None = None) -> Persona:
        persona = await memory.persona(user)
        if persona is not None:
            return persona
        if incarnation is None:  # before the look: one who is forgotten right after it gets no persona
            incarnation = await memory.incarnation(user)
        if await memory.summary(user) is None:
            raise NotFoundError("this user is unknown")
        return await services.agent.ensure_persona(user, incarnation)  # imported, but never spoken to

    @app.get("/v1/users/{user}/persona")
    async def get_persona(user: User) -> Persona:
        """The current version."""
        return await current(user)

    @app.get("/v1/users/{user}/persona/versions")
    async def versions(
        user: User,
        before: Annotated[int | None, Query(ge=1)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> PersonaPage:
        """The newest versions, oldest first; `next` is the `before` that asks for those before them, null if there are none."""
        await current(user)
        return await memory.persona_page(user, before, limit)

    @app.put("/v1/users/{user}/persona")
    async def put_persona(user: User, body: PersonaBody) -> Persona:
        """Write a version by hand, as one claim; starts a new user if there is none. Exemplars and struck claims stay."""
        incarnation = await memory.incarnation(user)
        old = await memory.persona(user)
        decision = body.decision or (old.decision if old else services.settings.agent.decision)
        pinned = (old is not None and old.pinned) if body.pinned is None else body.pinned
        with checked():
            draft = written(body.text, decision, old, pinned)
        number = old.number if old else None
        expected = body.expected if "expected" in body.model_fields_set else number
        return await memory.commit_persona(user, draft, expected, incarnation)

    @app.post("/v1/users/{user}/persona/rollback")
    async def rollback(user: User, body: RollbackBody) -> Persona:
        """Make the claims, exemplars and decision of an older version current again, as a new version."""
        incarnation = await memory.incarnation(user)
        now = await current(user, incarnation)
        old = await memory.persona(user, body.number)
        if old is None:
            raise NotFoundError(f"persona version {body.number} does not exist; there are 1 to {now.number}")
        draft = again(old, Origin.ROLLBACK, now.pinned, now.struck)
        return await memory.commit_persona(user, draft, now.number, incarnation)

    @app.post("/v1/users/{user}/persona/pin")
    async def pin(user: User, body: PinBody) -> Persona:
        """Protect the persona from alignment, or allow it again. A change is a new version."""
        incarnation = await memory.incarnation(user)
        now = await current(user, incarnation)
        if now.pinned == body.pinned:
            return now
        return await memory.commit_persona(user, again(now, Origin.MANUAL, body.pinned), now.number, incarnation)

    async def amended(user: str, expected: int | None, change: Callable[[Persona], PersonaDraft]) -> Persona:
        incarnation = await memory.incarnation(user)
        now = await current(user, incarnation)
        if expected is not None and expected != now.number:  # numbers of claims are those of a version
            raise ConflictError(f"the persona is at version {now.number}, not {expected}; read it again")
        draft = change(now)
        return now if draft is now else await memory.commit_persona(user, draft, now.number, incarnation)

    @app.post("/v1/users/{user}/persona/claims")
    async def add_claim(user: User, body: ClaimBody) -> Persona:
        """Say something of the user, as a new version. It stays until a person takes it away."""
        return await amended(user, body.expected, lambda now: add(now, body.text, body.kind))

    @app.delete("/v1/users/{user}/persona/claims/{number}")
    async def strike_claim(user: User, number: int, expected: int | None = None) -> Persona:
        """Take a claim away, as a new version; alignment does not propose it again."""
        return await amended(user, expected, lambda now: strike(now, number))

    @app.post("/v1/users/{user}/persona/claims/{number}/pin")
    async def pin_one(user: User, number: int, body: ClaimPinBody) -> Persona:
        """Protect a claim from alignment, or allow it again. A change is a new version."""
        return await amended(user, body.expected, lambda now: pin_claim(now, number, body.pinned))


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """This process answers."""
        return {"status": "ok"}

    @app.get("/v1/alignment", response_model=None)
    async def alignment() -> JSONResponse:
        """Online alignment: its queue and what it has done; 503 if work waits and nothing is done."""
        if services.online is None:
            return JSONResponse({"every": 0, "healthy": True})
        status = await services.online.status()
        return JSONResponse(status, 200 if status["healthy"] else 503)

    @app.get("/readyz", response_model=None)
    async def readyz() -> JSONResponse:
        """Whether the model, the embedder and the memory answer; 503 and which part otherwise."""
        parts = {
            "llm": services.check_llm(),
            "embedder": services.embedder.embed(["ready?"]),
            "memory": services.check_memory(),
        }
        states = await asyncio.gather(*(_state(part) for part in parts.values()))
        report = dict(zip(parts, states, strict=True))
        ready = all(state == "ok" for state in states)
        return JSONResponse({"status": "ready" if ready else "not ready", "parts": report}, 200 if ready else 503)


async def _state(part: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await part
    except TimeoutError:
        return f"no answer within {READY_TIMEOUT_S:g} s"
    except PersonaAgentError as e:
        return e.message
    except Exception as e:  # noqa: BLE001 - a probe reports, whatever is wrong
        return f"failed ({type(e).__name__})"
    return "ok"

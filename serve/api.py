"""The HTTP API over an agent and its memory. It knows nothing of Ray: whatever fulfils the protocols can stand behind it.

Endpoints translate; the agent, the memory and the aligner do the work.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from urllib.parse import quote

from fastapi import Body, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BeforeValidator, TypeAdapter

from personaagent import deadline
from personaagent.agent import Agent, Reply
from personaagent.errors import ConflictError, NotFoundError
from personaagent.explanation import Question, explain
from personaagent.first_persona import foreseen
from personaagent.housekeeping import Housekeeping
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

from .admission import CHATS, Admission, Load
from .alignments import Alignments
from .chat_fields import header_names
from .health import Health
from .http import Gate, JsonRoute, checked, decoded, error_response, failure, install_errors
from .openapi import describe
from .schema import (
    RESPONSE,
    ChatBody,
    ChunkWriter,
    ClaimBody,
    ClaimPinBody,
    FeedbackBody,
    InteractionsBody,
    PersonaBody,
    PinBody,
    RollbackBody,
    Said,
    completion,
    explanation,
    sse,
)

__all__ = ["Services", "create_api"]

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
    chats: int = CHATS  # that may be under way, unless the settings say


async def user_id(user: Annotated[str, Path(description="Percent-encoded; a slash is %2F.")]) -> str:
    """The user that a path names, exactly."""
    with checked("path", "user"):
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


def _unless_blank(header: Any) -> Any:
    """A header without a value is as good as absent."""
    return None if isinstance(header, str) and not header.strip() else header


def create_api(services: Services) -> FastAPI:
    """The application."""
    settings = services.settings
    load = Load.of(settings.serve, services.chats)
    health = Health(
        {
            "llm": services.check_llm,
            "embedder": lambda: services.embedder.embed(["ready?"]),
            "memory": services.check_memory,
        }
    )

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        health.refresh()
        yield
        health.close()

    app = FastAPI(title="PersonaAgent on Ray", redirect_slashes=False, lifespan=life)
    app.router.route_class = JsonRoute
    app.state.memory = services.memory
    install_errors(app)
    _add_chat(app, services)
    _add_users(app, services)
    _add_personas(app, services)
    _add_health(app, services, health, load)
    describe(app, keyed=bool(settings.serve.api_key))
    app.add_middleware(Admission, load=load, settings=settings.serve)
    app.add_middleware(Gate, config=settings.serve)
    return app


def _add_chat(app: FastAPI, services: Services) -> None:
    settings, limits = services.settings.serve, services.settings.memory.limits
    card = {"id": services.model, "object": "model", "created": 0, "owned_by": "personaagent"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}", response_model=None)
    async def get_model(model: str) -> dict[str, Any] | JSONResponse:
        """The model by its name."""
        return card if decoded(model) == services.model else _unknown_model(decoded(model))

    housekeeping = Housekeeping(settings.housekeeping_patterns)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(
        body: ChatBody,
        request: Request,
        remember: Annotated[
            bool | None, BeforeValidator(_unless_blank), Header(alias="X-PersonaAgent-Remember")
        ] = None,
    ) -> Response:
        """OpenAI's chat completion, answered by the user's agent and remembered."""
        if body.model is not None and body.model != services.model:
            return _unknown_model(body.model)
        interaction = body.personaagent.interaction_id or uuid.uuid4().hex
        who = body.who(request.scope["headers"], settings)
        with checked():
            turn = body.turn(interaction, who, remember)
        unsaid = remember is None and "remember" not in body.personaagent.model_fields_set
        if unsaid and settings.housekeeping_prompts == "forget" and housekeeping.asks(turn.messages):
            turn = turn.model_copy(update={"remember": False})
        turn = await services.agent.placed(turn)  # results of tools belong to the interaction that called them
        interaction = turn.interaction_id or interaction
        if turn.remember:  # before the model is asked for nothing
            asked = next((m.text for m in reversed(turn.messages) if m.role == "user"), "")
            check_question(asked, turn.choices or (), limits)
        headers = {"X-Interaction-Id": quote(interaction), "X-PersonaAgent-Remembered": str(turn.remember).lower()}
        if ignored := header_names(body.ignored(who.source)):
            headers["X-PersonaAgent-Ignored"] = ignored
        if body.limit is not None and body.limit > services.llm.context_length:
            headers["X-PersonaAgent-Capped"] = f"max_tokens={services.llm.context_length}"
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
            async for piece in deadline.each(stream):
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
    alignments = Alignments(settings.serve.max_concurrent_alignments, settings.serve.long_request_timeout_s)

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
        query: Annotated[Said | None, Query()] = None,
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
        """Say what the user really answered or wanted, or their thumb on the answer. A response's own `id` names it, too."""
        incarnation = await memory.incarnation(user)
        try:
            known = await memory.feedback(user, interaction, body.truth, incarnation, body.rating)
        except NotFoundError:  # an interaction's own id may begin as a response's does, so that is tried first
            own = interaction.removeprefix(RESPONSE)
            if own == interaction:
                raise
            try:
                known = await memory.feedback(user, own, body.truth, incarnation, body.rating)
            except NotFoundError as e:
                raise NotFoundError(f"there is no interaction or response {interaction[:200]!r} of this user") from e
        if services.online is not None and known.truth is not None:
            services.online.notify(user)
        return known

    @app.post("/v1/users/{user}/align")
    async def align(user: KnownUser, paper: bool = False) -> AlignmentResult:
        """Align the user's persona now, or wait for the alignment of this user that is under way.

        `paper`: without candidates and gate, as published.
        """
        from alignment.aligner import Aligner

        chosen = services.settings.alignment
        if paper:
            chosen = chosen.model_copy(update={"paper": True})
        aligner = Aligner(services.agent, memory, services.embedder, chosen, services.teacher)

        async def work() -> AlignmentResult:
            return (await aligner.align([user]))[0]

        # Nobody gets the result of a user who was forgotten and came back.
        return await alignments.run((user, paper, await memory.incarnation(user)), work)


def _add_personas(app: FastAPI, services: Services) -> None:
    memory = services.memory

    async def current(user: str, incarnation: int | None = None) -> Persona:
        persona = await memory.persona(user)
        if persona is not None:
            return persona
        if incarnation is None:  # before the look: one who is forgotten right after it gets no persona
            incarnation = await memory.incarnation(user)
        await known(user)
        return await services.agent.ensure_persona(user, incarnation)  # imported, but never spoken to

    async def first(user: str) -> Persona:
        persona = await foreseen(memory, user, services.agent.settings)
        await known(user)  # after the look: of one who is forgotten meanwhile there is nothing to show
        return persona

    async def known(user: str) -> None:
        if await memory.summary(user) is None:
            raise NotFoundError("this user is unknown")

    @app.get("/v1/users/{user}/persona")
    async def get_persona(user: User) -> Persona:
        """The current version. Of a user without one, the version that they would start with; it is not stored."""
        return await memory.persona(user) or await first(user)

    @app.get("/v1/users/{user}/persona/versions")
    async def versions(
        user: User,
        before: Annotated[int | None, Query(ge=1)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> PersonaPage:
        """The newest versions, oldest first; `next` is the `before` that asks for those before them, null if there are none.

        Of a user without any, the version that they would start with; it is not stored.
        """
        page = await memory.persona_page(user, before, limit)
        return page if page.versions or before is not None else PersonaPage(versions=(await first(user),), next=None)

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
        expected = number if body.expected is None else body.expected or None  # 0: there must be none yet
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


def _add_health(app: FastAPI, services: Services, health: Health, load: Load) -> None:
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
        """Whether this replica takes requests: 503 while it is being ended. Beside it what is known of the parts behind it.

        `parts` are from looks in the background, `age_s` seconds ago: a part that hangs or has too much to do holds up no probe.
        """
        parts, ages = await health.report()
        report = {"parts": parts, "age_s": ages, "load": load.report()}
        if health.closing:
            return JSONResponse({"status": "closing", **report}, 503)
        return JSONResponse({"status": "ready", **report})

"""Chat: OpenAI's completions, answered by the user's agent, at once or as a stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BeforeValidator

from personaagent import deadline
from personaagent.agent.agent import Reply, Turn
from personaagent.memory.limits import check_question
from personaagent.settings import LimitsSettings
from serve.http.caller import Identity
from serve.http.chat_answers import ChunkWriter, completion, sse
from serve.http.chat_bodies import ChatBody
from serve.http.chat_fields import header_names
from serve.http.dependencies import AppShared, Shared
from serve.http.failures import checked, failure
from serve.http.middleware import JsonRoute
from serve.http.model_routes import unknown_model

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute)


def _unless_blank(header: Any) -> Any:
    """A header without a value is as good as absent."""
    return None if isinstance(header, str) and not header.strip() else header


@router.post("/v1/chat/completions", response_model=None)
async def chat(
    body: ChatBody,
    request: Request,
    shared: AppShared,
    remember: Annotated[bool | None, BeforeValidator(_unless_blank), Header(alias="X-PersonaAgent-Remember")] = None,
) -> Response:
    """OpenAI's chat completion, answered by the user's agent and remembered."""
    services = shared.services
    if body.model is not None and body.model != services.model:
        return unknown_model(body.model)
    who = body.who(request.scope["headers"], services.settings.serve)
    turn = await services.agent.placed(_turn(body, who, remember, shared))  # results belong to the call of their tool
    interaction = turn.interaction_id
    assert interaction is not None  # `placed` has given it one
    if turn.remember:  # before the model is asked for nothing
        _check_size(turn, services.settings.memory.limits)
    headers = _headers(body, turn, interaction, who, services.llm.context_length)
    if not body.stream:
        return JSONResponse(completion(await services.agent.respond(turn), services.model), headers=headers)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    events = _events(services.agent.stream(turn), ChunkWriter(interaction, services.model, include_usage))
    first = await anext(events)  # an error before the first word is still an HTTP error
    headers["Cache-Control"] = "no-cache"
    return StreamingResponse(_prepended(first, events), media_type="text/event-stream", headers=headers)


def _turn(body: ChatBody, who: Identity, remember: bool | None, shared: Shared) -> Turn:
    """The turn that is asked for. What a client asks for its own sake is not remembered, unless the request says so."""
    with checked():
        turn = body.turn(body.personaagent.interaction_id or uuid.uuid4().hex, who, remember)
    unsaid = remember is None and "remember" not in body.personaagent.model_fields_set
    forgets = shared.services.settings.serve.housekeeping_prompts == "forget"
    if unsaid and forgets and shared.housekeeping.asks(turn.messages):
        return turn.model_copy(update={"remember": False})
    return turn


def _check_size(turn: Turn, limits: LimitsSettings) -> None:
    """Raise TooLarge if this could not be remembered."""
    asked = next((m.text for m in reversed(turn.messages) if m.role == "user"), "")
    check_question(asked, turn.choices or (), limits)


def _headers(body: ChatBody, turn: Turn, interaction: str, who: Identity, context_length: int) -> dict[str, str]:
    """What the answer's headers say of how the request was taken."""
    headers = {"X-Interaction-Id": quote(interaction), "X-PersonaAgent-Remembered": str(turn.remember).lower()}
    if ignored := header_names(body.ignored(who.source)):
        headers["X-PersonaAgent-Ignored"] = ignored
    if body.limit is not None and body.limit > context_length:
        headers["X-PersonaAgent-Capped"] = f"max_tokens={context_length}"
    return headers


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

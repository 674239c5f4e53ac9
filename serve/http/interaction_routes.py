"""Interactions of a user: adding them, and telling later what the user really wanted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body

from personaagent.errors import NotFoundError
from personaagent.protocols import Memory
from personaagent.types import Interaction
from serve.http.chat_answers import RESPONSE
from serve.http.dependencies import AppServices, NamedInteraction, User
from serve.http.failures import checked
from serve.http.interaction_bodies import DeletedInteraction, FeedbackBody, InteractionsBody
from serve.http.middleware import JsonRoute

__all__ = ["router"]

router = APIRouter(prefix="/v1/users/{user}/interactions", route_class=JsonRoute)


@router.post("", response_model=None)
async def append(user: User, body: Annotated[Any, Body()], services: AppServices) -> dict[str, Any]:
    """Add one interaction or many; a repeat (same id, or same content without one) changes nothing."""
    with checked():
        interactions = InteractionsBody.model_validate(body).of(user)
    memory = services.memory
    result = await memory.append(user, interactions, await memory.incarnation(user))
    if any(i.truth is not None for i in interactions):
        services.notify(user)
    return {**result.model_dump(), "ids": [i.id for i in interactions]}


@router.post("/{interaction}/feedback")
async def feedback(user: User, interaction: NamedInteraction, body: FeedbackBody, services: AppServices) -> Interaction:
    """Say what the user really answered or wanted, or their thumb on the answer. A response's own `id` names it, too."""
    known = await _told(services.memory, user, interaction, body)
    if known.truth is not None:
        services.notify(user)
    return known


@router.delete("/{interaction}")
async def delete(user: User, interaction: NamedInteraction, services: AppServices) -> DeletedInteraction:
    """Delete one interaction, and what was learned from it alone. A response's own `id` names it, too."""
    memory = services.memory
    incarnation = await memory.incarnation(user)
    for name in dict.fromkeys((interaction, interaction.removeprefix(RESPONSE))):
        if await memory.delete(user, [name], "api", incarnation):
            return DeletedInteraction(id=name)
    raise NotFoundError(f"there is no interaction or response {interaction[:200]!r} of this user")


async def _told(memory: Memory, user: str, name: str, body: FeedbackBody) -> Interaction:
    """The interaction with the feedback. Its own id may begin as a response's does, so what was sent is tried first."""
    incarnation = await memory.incarnation(user)
    own = name.removeprefix(RESPONSE)
    try:
        return await memory.feedback(user, name, body.truth, incarnation, body.rating)
    except NotFoundError:
        if own == name:
            raise
    try:
        return await memory.feedback(user, own, body.truth, incarnation, body.rating)
    except NotFoundError as e:
        raise NotFoundError(f"there is no interaction or response {name[:200]!r} of this user") from e

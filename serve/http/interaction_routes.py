"""Interactions of a user: adding them, and telling later what the user really wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body

from personaagent.errors import NotFoundError
from personaagent.protocols import Memory
from personaagent.tools.lessons import lessons, remember, teach
from personaagent.tools.tool import ToolSpec
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
        told = InteractionsBody.model_validate(body)
        interactions, taught = told.of(user, await services.specs() if told.acts else ())
    memory = services.memory
    result = await remember(memory, user, interactions, taught, await memory.incarnation(user))
    if taught or any(i.truth is not None for i in interactions):
        services.notify(user)
    return {**result.model_dump(), "ids": [i.id for i in interactions]}


@router.post("/{interaction}/feedback")
async def feedback(user: User, interaction: NamedInteraction, body: FeedbackBody, services: AppServices) -> Interaction:
    """Say what the user really answered or wanted, their thumb on the answer, or which tool was right. A response's own `id`
    names it, too."""
    specs = await services.specs() if body.action is not None else ()
    known = await _told(services.memory, user, interaction, body, specs)
    if known.truth is not None or body.action is not None:
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


async def _told(memory: Memory, user: str, name: str, body: FeedbackBody, specs: Sequence[ToolSpec]) -> Interaction:
    """The interaction with the feedback. Its own id may begin as a response's does, so what was sent is tried first."""
    incarnation = await memory.incarnation(user)
    own = name.removeprefix(RESPONSE)
    try:
        return await _say(memory, user, name, body, specs, incarnation)
    except NotFoundError:
        if own == name:
            raise
    try:
        return await _say(memory, user, own, body, specs, incarnation)
    except NotFoundError as e:
        raise NotFoundError(f"there is no interaction or response {name[:200]!r} of this user") from e


async def _say(
    memory: Memory, user: str, name: str, body: FeedbackBody, specs: Sequence[ToolSpec], incarnation: int
) -> Interaction:
    """The interaction of this very id with the feedback. Raises NotFoundError if there is none."""
    if body.action is None:
        return await memory.feedback(user, name, body.truth, incarnation, body.rating)
    found = await memory.interactions(user, [name])
    if not found:
        raise NotFoundError(f"interaction {name!r} does not exist")
    known = found[0]
    lessons(known, body.action, specs)  # what is wrong with it is found out before anything is written
    if body.truth is not None or body.rating is not None:
        known = await memory.feedback(user, name, body.truth, incarnation, body.rating)
    await teach(memory, user, name, body.action, specs, incarnation)
    return known

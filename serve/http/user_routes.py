"""Users: who there is, what is stored of them, and what memory alone makes of it; forgetting and exporting one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from actors.forget import forget_everywhere
from personaagent.agent.explanation import Question, explain, why
from personaagent.errors import UnknownUserError
from personaagent.protocols import export_pages
from personaagent.types import (
    ForgetReceipt,
    Profile,
    RecallQuery,
    UserPage,
    UserSummary,
    user_key,
)
from serve.http.bodies import Said
from serve.http.dependencies import AppMemory, AppServices, KnownUser, User
from serve.http.middleware import JsonRoute

__all__ = ["router"]

router = APIRouter(prefix="/v1/users", route_class=JsonRoute)


@router.get("")
async def list_users(
    memory: AppMemory,
    after: Annotated[str, Query(pattern="^([0-9a-f]{32})?$")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> UserPage:
    """Counts of a page of users, without any text; `next` is the cursor of the page behind, null on the last one."""
    found = await memory.users(after, limit)
    return UserPage(users=found, next=user_key(found[-1].user) if len(found) == limit else None)


@router.get("/{user}")
async def summary(user: User, memory: AppMemory) -> UserSummary:
    """Counts of one user."""
    found = await memory.summary(user)
    if found is None:
        raise UnknownUserError("this user is unknown")
    return found


@router.delete("/{user}")
async def forget(user: User, services: AppServices) -> ForgetReceipt:
    """Remove every trace of the user."""
    return await forget_everywhere(services.memory, services.settings.home, user, "api", services.notify)


@router.get("/{user}/export", response_model=None)
async def export(user: User, memory: AppMemory) -> StreamingResponse:
    """Everything stored of the user, as JSON Lines that `personaagent import` reads."""
    pages = export_pages(memory, user)
    first = await anext(pages)  # an error before the first line is still an HTTP error
    return StreamingResponse(_lines(first, pages), media_type="application/x-ndjson")


@router.get("/{user}/profile")
async def profile(user: KnownUser, memory: AppMemory) -> Profile:
    """The semantic memory."""
    return await memory.profile(user)


@router.get("/{user}/memory", response_model=None)
async def recall(
    user: KnownUser,
    memory: AppMemory,
    query: Annotated[Said | None, Query()] = None,
    k: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> dict[str, Any]:
    """Episodes that a query recalls, best first; without a query the newest ones, newest first."""
    if query is None:
        latest = await memory.latest(user, k)
        return {"episodes": [{"interaction": i.model_dump(mode="json")} for i in reversed(latest)]}
    found = await memory.recall(user, RecallQuery(text=query, k=k))
    return {"episodes": [e.model_dump(mode="json") for e in found.episodes], "known": found.known}


@router.post("/{user}/explain", response_model=None)
async def explain_choice(user: User, question: Question, services: AppServices) -> dict[str, Any]:
    """What the user would choose by memory alone, and why; nothing is asked of the model, and nothing is remembered."""
    found = await explain(services.memory, user, question, services.settings.agent.decision)
    return {**found.model_dump(exclude={"reasons"}), "why": why(found.reasons)}


async def _lines(first: tuple[str, ...], pages: AsyncIterator[tuple[str, ...]]) -> AsyncIterator[str]:
    """An export as it is sent. If it breaks off, so does the response: whoever reads it sees that it is not whole."""
    async with aclosing(pages):  # type: ignore[type-var]
        yield "".join(f"{line}\n" for line in first)
        async for page in pages:
            yield "".join(f"{line}\n" for line in page)

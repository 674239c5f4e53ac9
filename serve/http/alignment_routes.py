"""Aligning one user's persona while they wait for it."""

from __future__ import annotations

from fastapi import APIRouter

from alignment.aligner import Aligner
from personaagent.types import AlignmentResult
from serve.http.dependencies import AppShared, KnownUser
from serve.http.middleware import JsonRoute

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/users/{user}/align")
async def align(user: KnownUser, shared: AppShared, paper: bool = False) -> AlignmentResult:
    """Align the user's persona now, or wait for the alignment of this user that is under way.

    `paper`: without candidates and gate, as published.
    """
    services = shared.services
    chosen = services.settings.alignment
    if paper:
        chosen = chosen.model_copy(update={"paper": True})
    aligner = Aligner(services.agent, services.memory, services.embedder, chosen, services.teacher)

    async def work() -> AlignmentResult:
        return (await aligner.align([user]))[0]

    # Nobody gets the result of a user who was forgotten and came back.
    return await shared.alignments.run((user, paper, await services.memory.incarnation(user)), work)

"""Personas: `PersonaVersions` over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from personaagent.types import Persona, PersonaPage
from serve.http.dependencies import AppPersonas, User
from serve.http.middleware import JsonRoute
from serve.http.persona_bodies import ClaimBody, ClaimPinBody, PersonaBody, PinBody, RollbackBody

__all__ = ["router"]

router = APIRouter(prefix="/v1/users/{user}/persona", route_class=JsonRoute)


@router.get("")
async def get_persona(user: User, personas: AppPersonas) -> Persona:
    """The current version. Of a user without one, the version that they would start with; it is not stored."""
    return await personas.shown(user)


@router.get("/versions")
async def versions(
    user: User,
    personas: AppPersonas,
    before: Annotated[int | None, Query(ge=1)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> PersonaPage:
    """The newest versions, oldest first; `next` is the `before` that asks for those before them, null if there are none.

    Of a user without any, the version that they would start with; it is not stored.
    """
    return await personas.page(user, before, limit)


@router.put("")
async def put_persona(user: User, body: PersonaBody, personas: AppPersonas) -> Persona:
    """Write a version by hand, as one claim; starts a new user if there is none. Exemplars and struck claims stay."""
    return await personas.write(user, body.text, body.decision, body.pinned, body.expected)


@router.post("/rollback")
async def rollback(user: User, body: RollbackBody, personas: AppPersonas) -> Persona:
    """Make the claims, exemplars and decision of an older version current again, as a new version."""
    return await personas.roll_back(user, body.number)


@router.post("/pin")
async def pin(user: User, body: PinBody, personas: AppPersonas) -> Persona:
    """Protect the persona from alignment, or allow it again. A change is a new version."""
    return await personas.pin(user, body.pinned)


@router.post("/claims")
async def add_claim(user: User, body: ClaimBody, personas: AppPersonas) -> Persona:
    """Say something of the user, as a new version. It stays until a person takes it away."""
    return await personas.add_claim(user, body.text, body.kind, body.expected)


@router.delete("/claims/{number}")
async def strike_claim(user: User, number: int, personas: AppPersonas, expected: int | None = None) -> Persona:
    """Take a claim away, as a new version; alignment does not propose it again."""
    return await personas.strike_claim(user, number, expected)


@router.post("/claims/{number}/pin")
async def pin_one(user: User, number: int, body: ClaimPinBody, personas: AppPersonas) -> Persona:
    """Protect a claim from alignment, or allow it again. A change is a new version."""
    return await personas.pin_claim(user, number, body.pinned, body.expected)

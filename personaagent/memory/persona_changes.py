"""Changes to what is said of a user, as a call is about to write them: personas, the profile, and what alignment has read."""

from __future__ import annotations

from datetime import UTC, datetime

from personaagent.errors import ConflictError, TooLarge
from personaagent.memory.changes import Change
from personaagent.memory.limits import persona_fault
from personaagent.settings import LimitsSettings
from personaagent.types import Persona, PersonaDraft, Profile

__all__ = ["plan_persona", "plan_profile", "plan_seen"]


def plan_persona(current: Persona | None, draft: PersonaDraft, expected: int | None, limits: LimitsSettings) -> Persona:
    """The version that follows `current`.

    Raises:
        ConflictError: that is not version `expected`.
        TooLarge: it is larger than limits allow.
    """
    if fault := persona_fault(draft, limits):
        raise TooLarge(fault)
    number = current.number if current else None
    if number != expected:
        raise ConflictError(f"the persona is at version {number or 'none'}, not {expected or 'none'}; read it again")
    fields = {name: getattr(draft, name) for name in PersonaDraft.model_fields}
    return Persona(**fields, number=(number or 0) + 1, parent=number, time=datetime.now(UTC))


def plan_seen(user: str, current: int | None, seen: int) -> Change:
    """What an alignment writes that has looked at truths that arrived up to `seen`; nothing if a later one has, too."""
    return Change(user=user, seen=seen if current is None or current < seen else None)


def plan_profile(current: Profile, profile: Profile, expected: int) -> Profile:
    """The profile that follows `current`. Raises ConflictError if that is not version `expected`."""
    if current.version != expected:
        raise ConflictError(f"the profile is at version {current.version}, not {expected}; read it again")
    return profile.model_copy(update={"version": expected + 1})

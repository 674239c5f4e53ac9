"""The persona that a user starts with, made from what memory holds of them. Nothing is stored here."""

from __future__ import annotations

from personaagent.persona.counting import counted_claims
from personaagent.persona.persona import initial_persona
from personaagent.persona.safety import objection
from personaagent.protocols import Memory
from personaagent.settings import AgentSettings
from personaagent.types import Persona, PersonaDraft, Profile, utc_now

__all__ = ["first_draft", "foreseen"]

COUNTED = 200  # latest interactions that a first persona is counted from


async def first_draft(memory: Memory, user: str, profile: Profile, settings: AgentSettings) -> PersonaDraft:
    """What counting and this profile find."""
    asked = await memory.latest(user, COUNTED, with_truth=True)
    taught = await memory.latest(user, COUNTED, with_truth=True, lessons=True)
    counted = counted_claims([*asked, *taught])
    claims = [c for c in counted if objection(c.text) is None]
    return initial_persona(profile, settings.decision, settings.persona_tokens, claims)


async def foreseen(memory: Memory, user: str, settings: AgentSettings) -> Persona:
    """The version that a user without a persona would start with now, for those who only look."""
    draft = await first_draft(memory, user, await memory.profile(user), settings)
    return Persona.model_validate({**dict(draft), "number": 1, "parent": None, "time": utc_now()})

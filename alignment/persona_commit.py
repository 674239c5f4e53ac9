"""Committing what an alignment found."""

from __future__ import annotations

from alignment.budget import Caller
from personaagent.protocols import Memory
from personaagent.types import Persona, PersonaDraft

__all__ = ["commit_patiently"]


async def commit_patiently(memory: Memory, user: str, draft: PersonaDraft, expected: int, caller: Caller) -> Persona:
    """Commit, also if the store goes down meanwhile and nobody knows whether it has the persona already.

    Raises:
        ConflictError: another persona than version `expected` is the current one.
        ForgottenError: the user was forgotten after the work had begun.
    """

    async def once() -> Persona:
        current = await memory.persona(user)
        if current is not None and current.number == expected + 1 and current.parent == expected:
            wanted, there = (
                (d.text, d.decision, d.run, d.origin, d.claims, d.exemplars, d.struck) for d in (draft, current)
            )
            if wanted == there:
                return current
        return await memory.commit_persona(user, draft, expected, caller.incarnation)

    return await caller.patiently(once)

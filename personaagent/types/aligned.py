"""How an alignment ended for one user."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from personaagent.base import Frozen

__all__ = ["AlignmentResult", "Outcome"]


class Outcome(StrEnum):
    """How an alignment ended for one user."""

    ACCEPTED = "accepted"  # a better persona was committed
    REJECTED = "rejected"  # the gate kept the old persona
    SKIPPED = "skipped"  # nothing to learn from, or pinned
    CONFLICT = "conflict"  # the persona changed meanwhile, also after a retry
    FAILED = "failed"  # an error; the persona is as it was


class AlignmentResult(Frozen):
    """What alignment did for one user, and what it cost."""

    user: str
    outcome: Outcome
    reason: str = ""
    score_before: float | None = None  # on the gate's held-out interactions, higher is better
    score_after: float | None = None
    persona_before: int | None = None
    persona_after: int | None = None
    held_out: int = 0
    candidates: int = 0
    words_judged_by: Literal["likelihood", "simulated answers"] | None = None  # None: nothing was judged
    text_gain: float | None = None  # nats per token that what the user said became likelier by; of the gate
    text_error: float | None = None  # its standard deviation
    text_items: int = 0  # answers it was judged on
    refused: dict[str, int] = Field(default_factory=dict)  # claims that may not be in a persona, by reason
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them, found in the engine's cache
    completion_tokens: int = 0
    seconds: float = 0.0
    run: str | None = None

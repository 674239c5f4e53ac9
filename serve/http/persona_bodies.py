"""The bodies that change a persona."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from personaagent.claims import ClaimKind
from personaagent.memory.incoming import said
from personaagent.types import MAX_TEXT, Decision
from serve.http.bodies import Body, Whole, whole

__all__ = ["ClaimBody", "ClaimPinBody", "PersonaBody", "PinBody", "RollbackBody"]


class DecisionBody(Decision):
    """A decision as clients send it: true is no number, and 0 is not false."""

    model_config = ConfigDict(strict=True)

    _episodes = field_validator("episodes", mode="before")(whole)


class PersonaBody(Body):
    """PUT .../persona: a version written by hand. `expected`: the version it must replace, if that matters; 0 is none."""

    text: Annotated[str, AfterValidator(said), Field(min_length=1, max_length=MAX_TEXT)]
    decision: DecisionBody | None = None
    pinned: Annotated[bool, Field(strict=True)] | None = None
    expected: Whole | None = None


class RollbackBody(Body):
    """POST .../persona/rollback: the version to go back to."""

    number: Annotated[Whole, Field(ge=1)]


class PinBody(Body):
    """POST .../persona/pin: whether alignment must leave the persona alone."""

    pinned: Annotated[bool, Field(strict=True)]


class ClaimBody(Body):
    """POST .../persona/claims: something said of the user on a person's word. `expected` as in `PersonaBody`."""

    text: Annotated[str, AfterValidator(said), Field(min_length=1, max_length=MAX_TEXT)]
    kind: ClaimKind = ClaimKind.FACT
    expected: Whole | None = None


class ClaimPinBody(Body):
    """POST .../claims/{number}/pin: whether alignment must leave the claim alone. `expected` as in `PersonaBody`."""

    pinned: Annotated[bool, Field(strict=True)]
    expected: Whole | None = None

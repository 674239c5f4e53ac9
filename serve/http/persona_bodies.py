"""The bodies that change a persona."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from personaagent.claims import ClaimKind
from personaagent.types import Decision
from serve.http.bodies import Body, Said, Whole, whole

__all__ = ["ClaimBody", "ClaimPinBody", "PersonaBody", "PinBody", "RollbackBody"]


class DecisionBody(Decision):
    """A decision as clients send it: true is no number, and 0 is not false."""

    model_config = ConfigDict(strict=True)

    _episodes = field_validator("episodes", mode="before")(whole)


class PersonaBody(Body):
    """PUT .../persona: a version written by hand. `expected`: the version it must replace, if that matters; 0 is none."""

    text: Said
    decision: DecisionBody | None = None
    pinned: Annotated[bool, Field(strict=True)] | None = None
    expected: Whole | None = None


class RollbackBody(Body):
    """POST .../persona/rollback: the version to go back to."""

    number: Annotated[int, Field(strict=True, ge=1), BeforeValidator(whole)]


class PinBody(Body):
    """POST .../persona/pin: whether alignment must leave the persona alone."""

    pinned: Annotated[bool, Field(strict=True)]


class ClaimBody(Body):
    """POST .../persona/claims: something said of the user on a person's word. `expected` as in `PersonaBody`."""

    text: Said
    kind: ClaimKind = ClaimKind.FACT
    expected: Whole | None = None


class ClaimPinBody(Body):
    """POST .../claims/{number}/pin: whether alignment must leave the claim alone. `expected` as in `PersonaBody`."""

    pinned: Annotated[bool, Field(strict=True)]
    expected: Whole | None = None

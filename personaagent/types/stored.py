"""What memory says of its users, and of what was done to them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from personaagent.base import Frozen
from personaagent.types.persona_draft import Persona

__all__ = [
    "AppendResult",
    "ExportCursor",
    "ExportPage",
    "ForgetReceipt",
    "Oversized",
    "PersonaPage",
    "UserPage",
    "UserSummary",
]


class Oversized(Frozen):
    """An interaction that was left out because of `memory.limits`."""

    user: str
    id: str
    reason: str


class AppendResult(Frozen):
    """How many interactions were new, and how many were already there."""

    added: int
    repeated: int
    updated: int = 0  # a truth or response became known for an interaction already there
    refused: Annotated[int, Field(exclude=True)] = 0  # of users who were forgotten after the work had begun
    # (user, id) of those whose id is another question's already; nothing of them was stored
    conflicts: Annotated[tuple[tuple[str, str], ...], Field(exclude=True, repr=False)] = ()
    oversized: Annotated[tuple[Oversized, ...], Field(exclude=True)] = ()  # of an append for many users, which goes on

    def __add__(self, other: AppendResult) -> AppendResult:
        names = ("added", "repeated", "updated", "refused", "conflicts", "oversized")
        return AppendResult(**{name: getattr(self, name) + getattr(other, name) for name in names})


class ExportCursor(Frozen):
    """Where the next page of an export begins. `until`: rows that arrived later are not part of it."""

    part: Literal["rows", "personas", "rest"] = "rows"
    after: int = 0  # the arrival of a row (-1 before the first one), or the number of a version
    until: int
    incarnation: int


class ExportPage(Frozen):
    """Lines of an export, and where it goes on; None if it is at its end."""

    lines: tuple[str, ...]
    next: ExportCursor | None = None


class PersonaPage(Frozen):
    """Some persona versions, oldest first, and the number that asks for those before them; None if there are none."""

    versions: tuple[Persona, ...]
    next: int | None = None


class UserSummary(Frozen):
    """What an operator sees of a user without reading any text.

    `taught` are the requests of which it is known which tool was right. `truths_since_alignment` are those truths that arrived
    since an alignment last looked at this user, whatever came of it; a request with a truth and a tool counts once.
    """

    user: str
    interactions: int
    truths: int
    persona: int | None  # current version
    pinned: bool = False
    last_time: datetime | None = None
    truths_since_alignment: int = 0
    taught: int = 0

    @property
    def learned(self) -> int:
        """Of how many requests at least it is known what was right: one may have a truth and a tool."""
        return max(self.truths, self.taught)


class UserPage(Frozen):
    """Some users, and the cursor that asks for those behind them; None if there are no more."""

    users: tuple[UserSummary, ...]
    next: str | None = None


class ForgetReceipt(Frozen):
    """What `forget` removed. `remaining` is looked up after the deletion, in the store and in its files, and must be zero.

    `run_rows` were removed from the results of alignment runs.
    """

    user_key: str
    time: datetime
    interactions: int
    personas: int
    facts: int
    remaining: int
    audit_id: str
    note: str = ""
    run_rows: int = 0

"""The bodies that tell interactions of a user, and what they wanted, and what is said of one that was deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from personaagent.errors import InvalidInput
from personaagent.memory.incoming import InteractionLine, Reading, first_times
from personaagent.tools.lessons import lessons
from personaagent.tools.tool import ToolSpec
from personaagent.types import Action, Interaction
from serve.http.bodies import Body, Said

__all__ = ["MAX_INTERACTIONS", "DeletedInteraction", "FeedbackBody", "InteractionsBody"]

MAX_INTERACTIONS = 10_000  # of one request


class InteractionItem(InteractionLine):
    """An interaction as clients send it: a line of a history file, except that the user comes from the path."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_path(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if name != "user"} if isinstance(data, dict) else data


class InteractionsBody(BaseModel):
    """POST .../interactions: one interaction, a list of them, or {"interactions": [...]}."""

    model_config = ConfigDict(extra="forbid")

    interactions: Annotated[tuple[InteractionItem, ...], Field(min_length=1, max_length=MAX_INTERACTIONS)]

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, data: Any) -> Any:
        if isinstance(data, list):
            return {"interactions": data}
        if not isinstance(data, dict) or "interactions" not in data:
            return {"interactions": [data]}
        if unknown := sorted(data.keys() - {"interactions"}):
            raise ValueError(f"unknown field {unknown[0][:40]!r} beside `interactions`")
        return data

    @property
    def acts(self) -> bool:
        """Whether any of them tells which tool was right."""
        return any(i.action is not None for i in self.interactions)

    def of(self, user: str, specs: Sequence[ToolSpec] = ()) -> tuple[list[Interaction], list[Interaction]]:
        """The interactions as the user's, read as an import reads lines, see `personaagent.memory.incoming`; and the lessons
        that their actions are, see `personaagent.tools.lessons`.

        Args:
            user: whose.
            specs: the tools that there are.

        Raises:
            FutureTimeError: a time lies in the far future.
            InvalidInput: an action names what no tool could do.
        """
        reading = Reading(first=lambda: first_times((n, user, i.time) for n, i in enumerate(self.interactions)))
        made, taught = [], []
        for number, line in enumerate(self.interactions):
            try:
                made.append(reading.interaction(line, number, user))
                taught += lessons(made[-1], line.action, specs) if line.action is not None else []
            except InvalidInput as e:
                raise type(e)(f"interactions.{number}.{e.message}") from e
        return made, taught


class DeletedInteraction(BaseModel):
    """What is said of an interaction that is no more."""

    id: str
    deleted: Literal[True] = True


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # which Python takes for 1
        raise ValueError("Input should be 1 or -1")
    return value


class FeedbackBody(Body):
    """POST .../feedback: what the user really answered or wanted, their thumb on the answer, or which tool was right.

    A `rating` of 1 confirms the answer as the truth; one of -1 refuses it, with what was wanted instead or without. An `action`
    says which tool should have been called, with which arguments, or that none should (`answer`); it may stand alone.
    """

    truth: Said | None = None
    rating: Annotated[Literal[1, -1], BeforeValidator(_number)] | None = None
    action: Action | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.truth is None and self.rating is None and self.action is None:
            raise ValueError("say the truth, a rating of 1 or -1, or an action")
        if self.truth is not None and self.rating == 1:
            raise ValueError("a rating of 1 says that the answer is the truth; send that or another truth, not both")
        return self

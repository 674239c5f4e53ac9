"""The bodies that tell interactions of a user, and what they wanted, and what is said of one that was deleted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from personaagent.errors import FutureTimeError
from personaagent.memory.incoming import InteractionLine, Reading, first_times
from personaagent.types import Interaction
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

    def of(self, user: str) -> list[Interaction]:
        """The interactions as the user's, read as an import reads lines; see `personaagent.memory.incoming`.

        Raises:
            FutureTimeError: a time lies in the far future.
        """
        reading = Reading(first=lambda: first_times((n, user, i.time) for n, i in enumerate(self.interactions)))
        made = []
        for number, line in enumerate(self.interactions):
            try:
                made.append(reading.interaction(line, number, user))
            except FutureTimeError as e:
                raise FutureTimeError(f"interactions.{number}.{e.message}") from e
        return made


class DeletedInteraction(BaseModel):
    """What is said of an interaction that is no more."""

    id: str
    deleted: Literal[True] = True


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # which Python takes for 1
        raise ValueError("Input should be 1 or -1")
    return value


class FeedbackBody(Body):
    """POST .../feedback: what the user really answered or wanted, or their thumb on the answer.

    A `rating` of 1 confirms the answer as the truth; one of -1 refuses it, with what was wanted instead or without.
    """

    truth: Said | None = None
    rating: Annotated[Literal[1, -1], BeforeValidator(_number)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackBody:
        if self.truth is None and self.rating is None:
            raise ValueError("say the truth, or a rating of 1 or -1")
        if self.truth is not None and self.rating == 1:
            raise ValueError("a rating of 1 says that the answer is the truth; send that or another truth, not both")
        return self

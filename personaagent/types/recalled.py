"""What memory is asked and what it answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from personaagent.base import Frozen
from personaagent.types.interaction import Interaction
from personaagent.types.persona_draft import Decision

__all__ = ["Episode", "Reason", "Recall", "RecallQuery", "Truths"]


class Episode(Frozen):
    """A recalled interaction with why it was recalled.

    `similarity` is the cosine of query embeddings, `score` the fused rank score, `age` how many newer
    interactions the user had at the moment of recall (0 is the newest).
    """

    interaction: Interaction
    similarity: float
    score: float
    age: int


class RecallQuery(Frozen):
    """What to recall for one request.

    `before` limits memory to what was known earlier than that interaction (an honest replay); `exclude` leaves
    out single interactions. With `choices`, one row of evidence per entry of `decisions` is computed too.
    """

    text: str
    k: Annotated[int, Field(ge=0, le=1000)] = 4
    choices: tuple[str, ...] | None = None
    decisions: tuple[Decision, ...] = ()
    before: str | None = None  # id of an interaction of the same user
    exclude: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)  # equality filters
    lessons: bool = False  # what tells which tool or argument was right, instead of what was asked and answered
    with_truth: bool = False  # only episodes whose truth is known
    max_tokens: int | None = None  # budget over the recalled texts
    ranking: Literal["hybrid", "dense", "bm25"] = "hybrid"
    explain: bool = False  # also say why memory prefers what it prefers
    about: str | None = None  # the choice to explain instead of the likeliest

    @model_validator(mode="after")
    def _one_of_them(self) -> RecallQuery:
        if self.about is not None and self.about not in (self.choices or ()):
            raise ValueError("about: must be one of the choices")
        return self


class Reason(Frozen):
    """Something that speaks for an answer (weight above 0) or against it, with the interactions it was learned from.

    `text` is a word or phrase of the option, or the past request; it is empty where only the interactions tell. `weight` is
    what it adds to the answer's utility over the other options, in nats; for ratings, to the liking, in standard deviations.
    """

    text: str
    weight: float
    sources: tuple[str, ...]


class Recall(Frozen):
    """Recalled episodes, best first, and evidence[i][j], the log-probability of choice j under decision i.

    Each row of evidence is a distribution: its exponentials sum to 1, and they are equal where memory knows nothing.
    """

    episodes: tuple[Episode, ...] = ()
    evidence: tuple[tuple[float, ...], ...] = ()
    reasons: tuple[Reason, ...] = ()  # for the first decision, if asked for
    known: int = 0  # episodes of the user that were in reach
    lessons: int | None = None  # how many the user has, whatever was asked; None: nobody looked


class Truths(Frozen):
    """Interactions whose truth became known, in the order in which the truths arrived: a page of them.

    Arrivals are microseconds since 1970 by the memory's clock; a truth always arrives later than those before it, even if
    the clock was put back. A truth that is corrected arrives again.
    """

    interactions: tuple[Interaction, ...] = ()
    arrived: tuple[int, ...] = ()  # when the truth of each arrived
    mark: int = 0  # the next page is of truths that arrived later than this
    newest: int = 0  # when the newest truth of all arrived; 0 if there is none
    taught: int = 0  # when the newest lesson arrived, of which none is in a page; 0 if there is none

    @property
    def more(self) -> bool:
        """Whether there is a next page."""
        return self.mark < self.newest

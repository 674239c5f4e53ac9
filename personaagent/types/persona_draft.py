"""What is learned of a user: persona versions with how memory enters, and the profile's facts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from personaagent.base import Frozen
from personaagent.claims import Claim, Exemplar, prose
from personaagent.types.scalars import Moment, Text

__all__ = ["Decision", "Fact", "Origin", "Persona", "PersonaDraft", "Profile"]


class Decision(Frozen):
    """The decision parameters of a persona: how memory enters the answer (fitted by alignment).

    `episodes` recalled episodes go into the prompt, as prior user/assistant exchanges (`exchanges`) or as a list in the
    system prompt (`list`). A closed choice is made by p_memory * p_LM ^ `model_weight`, both distributions over the options;
    without `evidence` by p_LM alone.
    What memory says (`personaagent.evidence.evidence`) depends on how strong this user's tastes are against what people have in
    common (`prior_scale`, a factor of their variance), and on how fast they change (`change`, a factor of the usual rate; 0:
    never).
    """

    episodes: Annotated[int, Field(ge=0, le=32)] = 3
    form: Literal["exchanges", "list"] = "exchanges"
    evidence: bool = True
    model_weight: Annotated[float, Field(ge=0, le=100)] = 0.1
    prior_scale: Annotated[float, Field(gt=0, le=1000)] = 1.0
    change: Annotated[float, Field(ge=0, le=1000)] = 1.0


# How personas of version 0.1 said that memory is read; it is read in another way now.
_FORMER = frozenset({"evidence_weight", "neighbours", "temperature", "half_life"})


class Origin(StrEnum):
    """Where a persona version came from."""

    INITIAL = "initial"
    ALIGNED = "aligned"
    MANUAL = "manual"
    ROLLBACK = "rollback"


class PersonaDraft(Frozen):
    """A persona about to be committed; the store numbers it and stamps the time.

    `text` is what stands in the prompt: the claims as `claims.render` shows them, or prose that a person or an older version
    wrote, which is read as one claim (`stated`). `exemplars` stand behind it as exchanges. `struck` are claims that somebody
    took away for good: alignment never proposes them again.
    """

    text: Text
    origin: Origin
    decision: Decision = Decision()
    claims: tuple[Claim, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    struck: tuple[Text, ...] = ()
    score_before: float | None = None
    score_after: float | None = None
    run: str | None = None
    sources: tuple[str, ...] = ()  # ids of the interactions it was rewritten from
    pinned: bool = False  # never aligned while set

    @property
    def stated(self) -> tuple[Claim, ...]:
        """The claims; a persona written as prose is one."""
        # Going back to what a person wrote leaves it theirs; what a model wrote has sources.
        person = self.origin is Origin.MANUAL or (self.origin is Origin.ROLLBACK and not self.sources)
        return self.claims or prose(self.text, person, self.sources)

    @field_validator("decision", mode="before")
    @classmethod
    def _older(cls, value: Any) -> Any:
        """Stored personas of version 0.1 are read as well; one that left memory out still does."""
        if not isinstance(value, dict) or not _FORMER & value.keys():
            return value
        kept = {name: part for name, part in value.items() if name not in _FORMER}
        return {**kept, "evidence": value.get("evidence_weight") != 0}


class Persona(PersonaDraft):
    """A version of a user's persona. `number` counts from 1; `parent` is the version it replaced.

    It never changes but for one thing: once it is `dropped`, its texts are gone, because a user's versions take up no more
    than `memory.limits.persona_chain_mb`. Number, origin, scores and time stay.
    """

    number: Annotated[int, Field(ge=1)]
    parent: int | None
    time: Moment
    dropped: bool = False

    def without_texts(self) -> Persona:
        """This version, dropped."""
        gone: dict[str, Any] = {"text": "", "claims": (), "exemplars": (), "struck": (), "sources": ()}
        return self.model_copy(update={**gone, "dropped": True})

    def plain(self) -> dict[str, Any]:
        """As JSON. `dropped` is told only of those that are: versions of the program before know no such field."""
        return self.model_dump(mode="json", exclude=None if self.dropped else {"dropped"})


class Fact(Frozen):
    """Something the interactions say about the user, with the episodes that say it.

    `valid_until` is set when a newer fact (`superseded_by`) took its place; history keeps both.
    """

    id: str
    text: Annotated[str, Field(max_length=2_000)]
    topic: Annotated[str, Field(max_length=500)] = ""
    evidence: tuple[str, ...]
    first_seen: Moment
    last_seen: Moment
    valid_until: Moment | None = None
    superseded_by: str | None = None
    source: Literal["model", "extracted"] = "model"


class Profile(Frozen):
    """A user's semantic memory. `version` is 0 before the first build; `covered` counts truths read so far.

    A profile without `mark` was built by a version that went by the times of interactions, and may have left out some. It
    counts as one that has read nothing yet; reading the same truth again changes no fact.
    """

    version: Annotated[int, Field(ge=0)] = 0
    facts: tuple[Fact, ...] = ()
    covered: int = 0  # truths that the profile has read; one that was corrected counts again
    mark: int | None = None  # the truths that arrived up to here were read, in microseconds since 1970

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, data: Any) -> Any:
        if isinstance(data, dict) and "watermark" in data:
            return {name: value for name, value in data.items() if name != "watermark"}
        return data

    @property
    def current(self) -> tuple[Fact, ...]:
        """Facts that are valid now."""
        return tuple(f for f in self.facts if f.valid_until is None)

"""The one reading of an interaction as people and programs write it, whatever door it comes through.

`InteractionLine` is what one JSON object says, `Reading` what a file or a request of them means: where a line leaves out its
time or id, that follows from the lines before it. `import` and the HTTP API both read with these, so that the same line has
the same time, id and content, or is refused for the same reason. Nothing here knows files, HTTP or the store.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from personaagent.base import encodable
from personaagent.errors import FutureTimeError, InvalidInput
from personaagent.types import (
    ACTION,
    LESSON,
    OF,
    Action,
    Interaction,
    Kind,
    Moment,
    Text,
    UserId,
    choice_kind,
    future_fault,
    interaction_id,
    moment,
    utc_now,
)

__all__ = ["InteractionLine", "Reading", "blank", "first_times", "label", "meant_by", "resolved", "said"]

FIELDS = frozenset({"user", "query", "time", "response", "truth", "choices", "metadata", "id", "action"})
STAMPS = frozenset({"arrived", "truth_arrived"})  # an export keeps when the store heard of something; coming in is anew
EARLIEST = datetime.min.replace(tzinfo=UTC)
MAX_DEPTH = 64  # of metadata: lists and objects inside each other
Dated = Mapping[str, tuple[datetime, int]]  # a time and its line, by user
# Categories of characters that show nothing by themselves; and such characters that Unicode counts among letters and symbols.
_UNSEEN = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Mn", "Mc", "Me"})
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_LABEL = re.compile(r"[(\[]?\s*([A-Za-z]|[0-9]{1,3})\s*[)\].:]*")
_OWN = re.compile(r"\s*[(\[]?\s*([A-Za-z]|[0-9]{1,3})\s*[)\].:](?=\s)")  # "B) tea": an option that says its own label


class Asked(Protocol):
    """A memory that has interactions by their ids."""

    async def interactions(self, user: str, ids: Sequence[str]) -> tuple[Interaction, ...]:
        """See `Memory`."""
        ...


def blank(text: str) -> bool:
    """Whether there is nothing in a text to read: space, characters of no width, marks without a letter."""
    return all(unicodedata.category(c) in _UNSEEN or c in _FILLERS for c in text)


def said(text: str) -> str:
    """The text itself. Raises ValueError if there is nothing in it to read."""
    if blank(text):
        raise ValueError("is empty")
    return text


def _truth(text: str) -> str:
    if blank(text):
        raise ValueError("is empty; leave it out, or write null, where it is not known")
    return text


def label(truth: str) -> str | None:
    """The letter or number of an option that a truth such as `B`, `b)`, `(B)` or `2.` is; None for any other text."""
    match = _LABEL.fullmatch(unicodedata.normalize("NFKC", truth).strip())
    return None if match is None else match[1].lower()


def resolved(truth: str, choices: Sequence[str] | None) -> str:
    """What the user wanted where the truth is an option's letter or number; any other truth is itself.

    A letter means the option that is that letter, or else the one that says it in front of itself, as in `B) coffee`, or else
    the one in its place. Grades, and letters and numbers that are none of those among the options, are meant as they are.

    Raises:
        ValueError: no option has that letter or number, or it can be read in two ways.
    """
    if not choices or truth in choices:
        return truth
    mark = label(truth)
    if mark is None:
        return truth
    labels = [label(choice) for choice in choices]
    if labels.count(mark) == 1:
        return choices[labels.index(mark)]
    if any(labels) or choice_kind(choices) is Kind.RATING:
        return truth
    own = [m[1].lower() if (m := _OWN.match(unicodedata.normalize("NFKC", c))) else None for c in choices]
    if any(own):
        named = [choice for choice, name in zip(choices, own, strict=True) if name == mark]
        if len(named) == 1:
            return named[0]
        raise ValueError("is an option's letter or number, and not exactly one option has it; write the option's text")
    place = int(mark) - 1 if mark.isdecimal() else ord(mark) - ord("a")
    if not 0 <= place < len(choices):
        raise ValueError(
            f"is an option's letter or number, but there are {len(choices)} options; write the option's text"
        )
    begun = {at for at, choice in enumerate(choices) if choice.lower().split()[:1] == [mark]}
    if begun - {place}:
        raise ValueError("is an option's letter or number, but another option begins with it; write the option's text")
    return choices[place]


async def meant_by(memory: Asked, user: str, interaction: str, truth: str) -> str:
    """What feedback on an interaction says, where an option's letter or number means the option.

    Raises:
        InvalidInput: it says nothing, or has a letter or number that is not exactly one option's.
    """
    try:
        _truth(truth)
        if label(truth) is not None:
            for stored in await memory.interactions(user, [interaction]):
                return resolved(truth, stored.choices)
    except ValueError as e:
        raise InvalidInput(f"truth: {e}") from e
    return truth


def _depth(value: Any) -> int:
    """How many lists and objects lie inside each other, without recursion."""
    deepest, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        deepest += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return deepest


def _too_large(value: Any) -> bool:
    """Whether a whole number is among it that no double holds, and so few readers of JSON."""
    level = [value]
    while level:
        if any(isinstance(v, int) and abs(v) > sys.float_info.max for v in level):
            return True
        level = [i for v in level if isinstance(v, dict | list) for i in (v.values() if isinstance(v, dict) else v)]
    return False


def first_times(lines: Iterable[tuple[int, str, object]]) -> dict[str, tuple[datetime, int]]:
    """The first time of every user that lines (number, user, time as written) give; what is no time does not count."""
    first: dict[str, tuple[datetime, int]] = {}
    for number, user, written in lines:
        if user in first or written is None:
            continue
        try:
            time = moment(written)
        except ValueError:  # the line itself says so when it is read
            continue
        if not future_fault(time):
            first[user] = (time, number)
    return first


class InteractionLine(BaseModel):
    """One interaction as a JSON object. Null is absence in every field, and so is an empty list of choices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: UserId | None = None
    query: Annotated[Text, AfterValidator(said)]
    time: Moment | None = Field(default=None, description="ISO 8601, or seconds since 1970; without it, see `Reading`.")
    response: Text | None = None
    truth: Annotated[Text, AfterValidator(_truth)] | None = Field(
        default=None,
        description="What the user really answered or wanted; an option's letter or number means the option.",
    )
    choices: tuple[Text, ...] | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    id: Annotated[str, AfterValidator(encodable), Field(min_length=1, max_length=128)] | None = None
    action: Action | None = Field(
        default=None,
        description="Which tool was right at this request, with which arguments, among which tools.",
    )

    @model_validator(mode="before")
    @classmethod
    def _present(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise ValueError('not a JSON object; write one interaction a line, like {"user": ..., "query": ...}')
        exported = data.get("type") is not None
        if exported and data["type"] != "interaction":
            raise ValueError("unknown type; types are interaction, user, persona and profile")
        left_out = {"type", *STAMPS} if exported else {"type"}
        content = {name: value for name, value in data.items() if name not in left_out}
        if unknown := sorted(map(str, content.keys() - FIELDS)):
            raise ValueError(f"unknown field {unknown[0][:40]!r}; fields are {', '.join(sorted(FIELDS))}")
        content = {name: value for name, value in content.items() if value is not None}
        if "query" not in content:
            raise ValueError("`query` is missing")
        if content.get("choices") == []:
            del content["choices"]
        if not exported and isinstance(given := content.get("metadata", {}), dict):
            content["metadata"] = {"source": "history"} | given
        return content

    @field_validator("choices")
    @classmethod
    def _different(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) < 2 or len(set(value)) != len(value) or any(map(blank, value))):
            raise ValueError("must be at least two different, non-empty strings")
        return value

    @field_validator("metadata", mode="before")
    @classmethod
    def _metadata(cls, value: Any) -> Any:
        """Python reads NaN, and what is no Unicode text; once stored, no reader of JSON could read either."""
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if _depth(value) > MAX_DEPTH:
            raise ValueError(f"nested too deeply; at most {MAX_DEPTH} lists and objects inside each other")
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
        except UnicodeEncodeError as e:
            raise ValueError("contains a lone surrogate, which is not valid Unicode text") from e
        except TypeError as e:
            raise ValueError("contains what is no JSON") from e
        except ValueError as e:
            raise ValueError("contains NaN or a number too large for JSON") from e
        if _too_large(value):
            raise ValueError("contains NaN or a number too large for JSON")
        return value

    @field_validator("action")
    @classmethod
    def _storable(cls, value: Action | None) -> Action | None:
        if value is not None:
            cls._metadata(dict(value.arguments))
        return value

    @model_validator(mode="after")
    def _resolvable(self) -> InteractionLine:
        if self.id is not None and self.id.startswith(LESSON):
            if not (self.choices and {ACTION, OF} <= self.metadata.keys()):
                raise ValueError(
                    f"id: ids that begin with {LESSON!r} are those of lessons on tools; choose another one"
                )
            if self.action is not None:
                raise ValueError(
                    "action: this is a lesson on a tool itself; say it of the interaction that it is about"
                )
        try:
            _ = self.meant
        except ValueError as e:
            raise ValueError(f"truth: {e}") from e
        return self

    @property
    def meant(self) -> str | None:
        """The truth, where an option's letter or number means the option."""
        return None if self.truth is None else resolved(self.truth, self.choices)


class Reading:
    """The lines of one file or request, in their order."""

    def __init__(self, now: datetime | None = None, first: Callable[[], Dated] = dict) -> None:
        """`now`: the time of users' lines of which none is dated. `first`: the first given time of every user, and its line;
        called once, and only if a line without a time comes before its user's first one.
        """
        self._now = utc_now() if now is None else now
        self._find_first = first
        self._first: Dated | None = None
        self._times: dict[str, tuple[datetime, int]] = {}  # last time given per user, and its line
        self._seen: Counter[str] = Counter()  # interactions of equal content so far

    def interaction(self, line: InteractionLine, number: int, user: str | None = None) -> Interaction:
        """What a line means.

        A line without a time is of right after the last one of the same user that has one, else of right before the first,
        else of now; so the order of lines is kept. Without an id, one is derived from what is written, so that
        reading it again gives the same interaction the
        same id. The form of these ids is that of all older versions: who imports a file again finds everything there.

        Args:
            line: the line.
            number: where it stands; later lines have higher numbers.
            user: whose it is; by default whom it names.

        Raises:
            ValueError: there is no user, or a field does not fit.
            FutureTimeError: the time lies in the far future.
        """
        owner = line.user if user is None else user
        if owner is None:
            raise ValueError("`user` is missing")
        interaction = Interaction(
            id="-" if line.id is None else line.id,
            user=owner,
            time=self._default(owner, number) if line.time is None else line.time,
            query=line.query,
            response=line.response,
            truth=line.meant,
            choices=line.choices,
            metadata=line.metadata,
        )
        if fault := future_fault(interaction.time):
            raise FutureTimeError(fault)
        # Only now is it sure that the line counts.
        if line.time is not None:
            self._times[owner] = (line.time, number)
        if line.id is not None:
            return interaction
        given = None if line.time is None else line.time.isoformat()
        same = interaction_id(owner, given, line.query, line.truth, line.choices)
        nth = self._seen[same]
        self._seen[same] += 1
        return interaction.model_copy(update={"id": interaction_id(same, nth) if nth else same})

    def _default(self, user: str, number: int) -> datetime:
        near = self._times.get(user)
        if near is None:
            if self._first is None:
                self._first = self._find_first()
            near = self._first.get(user)
        time, at = (self._now, 0) if near is None else near
        return time + max(timedelta(microseconds=number - at), EARLIEST - time)

"""Every type that crosses a boundary between processes, packages or the network.

It knows nothing of Ray, Milvus, HTTP or any model. All types are immutable; collections are tuples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from personaagent.base import Frozen, encodable, readable, repaired
from personaagent.claims import Claim, Exemplar, prose
from personaagent.strict_json import finite

__all__ = [
    "AlignmentResult",
    "AppendResult",
    "Choices",
    "Decision",
    "Episode",
    "ExportCursor",
    "ExportPage",
    "Fact",
    "ForgetReceipt",
    "Frozen",
    "Interaction",
    "Kind",
    "Likelihood",
    "LikelihoodRequest",
    "Moment",
    "Origin",
    "Outcome",
    "Oversized",
    "Persona",
    "PersonaDraft",
    "PersonaPage",
    "Profile",
    "Reason",
    "Recall",
    "RecallQuery",
    "Text",
    "Truths",
    "UserId",
    "UserPage",
    "UserSummary",
    "future_fault",
    "interaction_id",
    "moment",
    "user_key",
    "utc_now",
]

MAX_USER_ID = 256  # characters
MAX_TEXT = 60_000  # characters of one text field, at any time and by any version; `memory.limits` counts bytes
MAX_CHOICES = 1_000  # of one request from outside: memory compares every option with every other
THUMB = "thumb"  # key of an interaction's metadata: 1 where the user confirmed the answer, -1 where they refused it
LARGEST_GRADE = 1e12  # of a rating; what is larger is a name ("1e308"), and differences of such numbers overflow
AHEAD = timedelta(days=1)  # so far clocks may be off; what lies further in the future is refused


def utc_now() -> datetime:
    """The present moment, timezone-aware."""
    return datetime.now(UTC)


def _from_seconds(seconds: float) -> datetime:
    """The time so many seconds after 1970. Raises ValueError if it is not in the years 1 to 9999."""
    # Not datetime.fromtimestamp, whose range and rounding depend on the platform; and pydantic guesses at milliseconds.
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (ValueError, OverflowError) as e:
        raise ValueError("is not a time in seconds since 1970 (seconds, not milliseconds)") from e


def future_fault(time: datetime, now: datetime | None = None) -> str:
    """What is wrong with a time that lies in the far future, for a message; empty for any other.

    One such time would be the newest for good. It is not a fault of the type `Interaction`: older stores hold such times.
    """
    now = utc_now() if now is None else now
    if time - now <= AHEAD:
        return ""
    return (
        f"time: {time:%Y-%m-%d} lies in the future, by this machine's clock ({now:%Y-%m-%d %H:%M} UTC); correct the time or"
        " the clock"
    )


def _user_id(user: str) -> str:
    if not 1 <= len(user) <= MAX_USER_ID:
        raise ValueError(f"a user id has 1 to {MAX_USER_ID} characters, not {len(user)}")
    return encodable(user)


UserId = Annotated[str, AfterValidator(_user_id), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_USER_ID})]
Text = Annotated[str, AfterValidator(encodable), Field(max_length=MAX_TEXT)]


def _different(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) < 2 or len(set(value)) != len(value) or not all(choice.strip() for choice in value):
        raise ValueError("must be at least two different, non-empty strings")
    if len(value) > MAX_CHOICES:
        raise ValueError(f"are at most {MAX_CHOICES:,}, not {len(value):,}")
    return value


_CHOICES = {
    "type": "array",
    "items": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
    "minItems": 2,
    "maxItems": MAX_CHOICES,
    "uniqueItems": True,
}
Choices = Annotated[tuple[Text, ...], AfterValidator(_different), WithJsonSchema(_CHOICES)]  # of a request


def user_key(user: str) -> str:
    """32 hex digits that stand for a user id in the store, in filters and in shard routing.

    A digest holds no character a filter language could misread, so no user id can reach another user's rows.
    """
    return hashlib.blake2b(user.encode("utf-8"), digest_size=16).hexdigest()


def interaction_id(*parts: object) -> str:
    """A stable id for an interaction that came without one: the same content gives the same id."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        raw = repr(part).encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def moment(value: object) -> datetime:
    """The time that text in ISO 8601 or a number of seconds since 1970 stands for, in UTC; without a zone it is taken to be.

    Every door reads times with this: pydantic alone would guess at milliseconds, and take digits in quotes for a number.

    Raises:
        ValueError: it is neither, or not in the years 1 to 9999 in UTC.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | datetime):
        raise ValueError(
            "is not a time; write ISO 8601 text like 2025-03-01T08:30:00Z or a number of seconds since 1970"
        )
    if isinstance(value, int | float):
        return _from_seconds(value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip().upper())  # RFC 3339 lets T and Z be small letters
        except ValueError as e:
            raise ValueError("is not a time; write ISO 8601 text like 2025-03-01T08:30:00Z") from e
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as e:
        raise ValueError("is not a time in the years 1 to 9999 in UTC") from e


Moment = Annotated[datetime, BeforeValidator(moment)]


class Kind(StrEnum):
    """How an interaction is scored."""

    CHOICE = "choice"  # closed choice: exact match
    RATING = "rating"  # a number: absolute error
    TEXT = "text"  # free text: embedding similarity, or an LLM judge


def _is_number(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and abs(number) <= LARGEST_GRADE


class Interaction(Frozen):
    """One thing a user asked, what the agent did, and what the user really wanted.

    `truth` may come later, as feedback. `id` makes appends idempotent: a repeat is the same interaction.
    `metadata` carries provenance (`source`; of a chat also `identity`, which says how the request named its user), the user's
    thumb on the answer (`THUMB`) and anything the application wants to keep beside it.
    """

    id: Annotated[str, AfterValidator(encodable), Field(min_length=1, max_length=128)]
    user: UserId
    time: Moment
    query: Text
    response: Text | None = None
    truth: Text | None = None
    choices: tuple[Text, ...] | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("metadata", mode="before")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Older versions stored NaN and infinities, which JSON does not have: they are read as null."""
        return finite(value) if value else value

    @field_validator("choices")
    @classmethod
    def _choices(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (len(value) < 2 or len(set(value)) != len(value) or not all(value)):
            raise ValueError("choices must be at least two different, non-empty strings")
        return value

    @property
    def kind(self) -> Kind:
        """Closed choice, rating (all choices are numbers) or free text."""
        return choice_kind(self.choices)

    @property
    def refused(self) -> bool:
        """Whether the user refused the answer with a thumb down; what they wanted instead may be known or not."""
        return self.metadata.get(THUMB) == -1


def choice_kind(choices: Sequence[str] | None) -> Kind:
    """The kind of a request with these choices."""
    if not choices:
        return Kind.TEXT
    return Kind.RATING if all(_is_number(c) for c in choices) else Kind.CHOICE


class Episode(Frozen):
    """A recalled interaction with why it was recalled.

    `similarity` is the cosine of query embeddings, `score` the fused rank score, `age` how many newer
    interactions the user had at the moment of recall (0 is the newest).
    """

    interaction: Interaction
    similarity: float
    score: float
    age: int


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


class Truths(Frozen):
    """Interactions whose truth became known, in the order in which the truths arrived: a page of them.

    Arrivals are microseconds since 1970 by the memory's clock; a truth always arrives later than those before it, even if
    the clock was put back. A truth that is corrected arrives again.
    """

    interactions: tuple[Interaction, ...] = ()
    arrived: tuple[int, ...] = ()  # when the truth of each arrived
    mark: int = 0  # the next page is of truths that arrived later than this
    newest: int = 0  # when the newest truth of all arrived; 0 if there is none

    @property
    def more(self) -> bool:
        """Whether there is a next page."""
        return self.mark < self.newest


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

    `truths_since_alignment` are those that arrived since an alignment last looked at this user, whatever came of it.
    """

    user: str
    interactions: int
    truths: int
    persona: int | None  # current version
    pinned: bool = False
    last_time: datetime | None = None
    truths_since_alignment: int = 0


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


class Usage(Frozen):
    """LLM calls and tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls - other.calls,
            prompt_tokens=self.prompt_tokens - other.prompt_tokens,
            completion_tokens=self.completion_tokens - other.completion_tokens,
            cached_tokens=self.cached_tokens - other.cached_tokens,
        )


class Message(Frozen):
    """One chat message in OpenAI's form; multi-part content is kept as the client sent it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The textual content, with the text parts of multi-part content joined."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(p.get("text", "")) for p in self.content or [] if p.get("type") == "text")


class LikelihoodRequest(Frozen):
    """An answer whose likelihood is asked for: the conversation before it, which ends with a user message, and its text."""

    messages: tuple[Message, ...]
    answer: str
    priority: int = 0
    cache_salt: str | None = None  # what the engine's prefix cache holds is found under the same salt only


class Likelihood(Frozen):
    """log p(answer | conversation) of a model, in nats, summed over the answer's `tokens` (its end included)."""

    logprob: float
    tokens: int
    usage: Usage = Usage()

    @property
    def per_token(self) -> float:
        """Nats per token of the answer."""
        return self.logprob / max(1, self.tokens)


class ChatRequest(Frozen):
    """One call of the model. `priority`: lower runs earlier; `choices` constrains the answer to one of them."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = None
    top_logprobs: int = 0
    continue_final: bool = False  # the last message is an assistant's, to be continued
    priority: int = 0
    extra: dict[str, Any] = Field(default_factory=dict)  # further OpenAI fields, passed through unchanged


class ChatResult(Frozen):
    """The model's answer. `first_logprobs`: (token text, log-probability) of the first position, if asked for.

    Whatever the server sent, text and message are valid Unicode.
    """

    text: Annotated[str, AfterValidator(readable)]
    finish_reason: str = "stop"
    usage: Usage = Usage()
    first_logprobs: tuple[tuple[str, float], ...] = ()
    # The whole assistant message (tool calls included)
    message: Annotated[dict[str, Any], AfterValidator(repaired)] = Field(default_factory=dict)
    raw: dict[str, Any] = Field(default_factory=dict)  # the engine's whole response, for passing through

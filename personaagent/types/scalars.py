"""Ids, times and texts: what every other type is made of."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from personaagent.base import encodable

__all__ = [
    "AHEAD",
    "LARGEST_GRADE",
    "MAX_CHOICES",
    "MAX_TEXT",
    "MAX_USER_ID",
    "THUMB",
    "Choices",
    "Moment",
    "Text",
    "UserId",
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

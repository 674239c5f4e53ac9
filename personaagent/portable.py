"""A user's stored state as JSON Lines that reads back to an equal store.

Format: first {"type": "user", "user", "version": 1}; then one line per interaction in order of arrival:
{"type": "interaction", "arrived", "truth_arrived"} (microseconds since 1970, null while there is no truth) beside the
fields of `Interaction`; one per persona version, oldest first: {"type": "persona"} beside the fields of `Persona`; if
there is one, {"type": "profile"} beside the fields of `Profile`; and, once alignment has looked at the user,
{"type": "alignment", "seen"}, up to which arrival it has. Vectors are not exported: they follow from the texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from personaagent.changes import Incoming
from personaagent.errors import FutureTimeError, InvalidInput
from personaagent.store import Row, dump_json
from personaagent.types import AHEAD, Fact, Interaction, Persona, Profile, future_fault, utc_now

__all__ = ["Exported", "export_lines", "parse_export"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def export_lines(
    user: str, rows: Sequence[Row], personas: Sequence[Persona], profile: Profile, seen: int | None = None
) -> tuple[str, ...]:
    """A user's stored state as JSON Lines."""
    lines: list[dict[str, Any]] = [{"type": "user", "user": user, "version": 1}]
    for row in rows:
        stamps = {"arrived": row.arrived, "truth_arrived": row.truth_arrived or None}
        lines.append({"type": "interaction", **stamps, **json.loads(row.payload)})
    lines += [{"type": "persona", **p.model_dump(mode="json")} for p in personas]
    if profile.version:
        lines.append({"type": "profile", **profile.model_dump(mode="json")})
    if seen is not None:
        lines.append({"type": "alignment", "seen": seen})
    return tuple(dump_json(line) for line in lines)


@dataclass(frozen=True, slots=True)
class Exported:
    """A parsed export: what was stored, without vectors."""

    user: str
    interactions: tuple[Interaction, ...]
    arrived: tuple[int, ...]
    truth_arrived: tuple[int, ...]  # 0 while there is no truth
    personas: tuple[Persona, ...]
    profile: Profile | None
    seen: int | None = None  # see `StoredUser`

    def stamp(self, items: Sequence[Incoming]) -> list[Incoming]:
        """The interactions, now with vectors, with the times at which they and their truths arrived."""
        return [
            replace(item, arrived=arrived, truth_arrived=known)
            for item, arrived, known in zip(items, self.arrived, self.truth_arrived, strict=True)
        ]


def parse_export(lines: Sequence[str]) -> Exported:
    """Read back what `export` wrote.

    Raises:
        InvalidInput: a line is not of the format, or an interaction of the far future (FutureTimeError); the message names the
            line. What a clock that was ahead stamped itself is stamped anew.
    """
    user: str | None = None
    interactions: list[Interaction] = []
    stamps: list[tuple[int, int]] = []
    personas: list[Persona] = []
    profile: Profile | None = None
    seen: int | None = None
    now = utc_now()
    for number, line in enumerate(lines, start=1):
        try:
            content: dict[str, Any] = json.loads(line)
            kind = content.pop("type")
            if (user is None) != (kind == "user"):
                raise InvalidInput(f"line {number}: an export has one line of type user, and it comes first")
            if kind == "user":
                if content["version"] != 1:
                    raise InvalidInput(f"line {number}: export version {content['version']} is not known; update first")
                user = str(content["user"])
            elif kind == "interaction":
                stamp = (
                    _arrival(content.pop("arrived")),
                    _arrival(0 if (told := content.pop("truth_arrived")) is None else told),
                )
                interaction = Interaction.model_validate(content)
                if interaction.user != user:
                    raise InvalidInput(f"line {number}: an interaction of another user")
                if fault := future_fault(interaction.time):
                    raise FutureTimeError(f"line {number}: {fault}")
                stamps.append(stamp)
                interactions.append(interaction)
            elif kind == "persona":
                persona = Persona.model_validate(content)
                if persona.number != len(personas) + 1:
                    raise InvalidInput(
                        f"line {number}: this is the persona of number {persona.number}, but versions are 1, 2, 3 and so on, each"
                        " once and in this order"
                    )
                personas.append(
                    persona.model_copy(update={"time": now if future_fault(persona.time, now) else persona.time})
                )
            elif kind == "profile":
                if profile is not None:
                    raise InvalidInput(f"line {number}: an export has one line of type profile at most")
                if content.get("mark") is not None:
                    _arrival(content["mark"])
                profile = Profile.model_validate(content)
            elif kind == "alignment":
                seen = _arrival(content["seen"])
            else:
                raise InvalidInput(f"line {number}: unknown type {kind!r}")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
            reason = e.errors()[0]["msg"] if isinstance(e, ValidationError) else f"{type(e).__name__}: {e}"
            raise InvalidInput(f"line {number}: {reason}") from e
    if user is None:
        raise InvalidInput("the export is empty; its first line names the user")
    mark = None if profile is None else profile.mark
    moved = _present([*(s for pair in stamps for s in pair), mark or 0, seen or 0], now)
    if profile is not None:
        profile = _told(profile, interactions, now)
        if mark is not None:
            profile = profile.model_copy(update={"mark": moved.get(mark, mark)})
    return Exported(
        user=user,
        interactions=tuple(interactions),
        arrived=tuple(moved.get(a, a) for a, _ in stamps),
        truth_arrived=tuple(moved.get(t, t) for _, t in stamps),
        personas=tuple(personas),
        profile=profile,
        seen=None if seen is None else moved.get(seen, seen),
    )


def _arrival(value: Any) -> int:
    """A moment of arrival, microseconds since 1970. Raises ValueError if it is none."""
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"arrivals are whole numbers of microseconds since 1970, not {value!r}")
    return value


def _told(profile: Profile, interactions: Sequence[Interaction], now: datetime) -> Profile:
    """The profile without times of the far future, as a clock that was ahead leaves them: such a fact could never be replaced.

    What is known of it instead is the time of the interactions that say it.
    """
    times = {i.id: i.time for i in interactions}

    def dated(fact: Fact) -> Fact:
        if not any(future_fault(t, now) for t in (fact.first_seen, fact.last_seen, fact.valid_until or now)):
            return fact
        known = sorted(times[i] for i in fact.evidence if i in times) or [now]
        until = None if fact.valid_until is None else min(fact.valid_until, now)
        return fact.model_copy(
            update={
                "first_seen": min(fact.first_seen, known[0]),
                "last_seen": min(fact.last_seen, known[-1]),
                "valid_until": until,
            }
        )

    return profile.model_copy(update={"facts": tuple(map(dated, profile.facts))})


def _present(stamps: Sequence[int], now: datetime) -> dict[int, int]:
    """What to put in the place of arrivals of the far future, in the same order: a clock was ahead when they were written."""
    latest = (now + AHEAD - EPOCH) // timedelta(microseconds=1)
    near = max((stamp for stamp in stamps if stamp <= latest), default=0)
    first = max(near, (now - EPOCH) // timedelta(microseconds=1)) + 1
    return {stamp: first + n for n, stamp in enumerate(sorted({s for s in stamps if s > latest}))}

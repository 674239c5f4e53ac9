"""A user's stored state as JSON Lines that reads back to an equal store.

Format: first {"type": "user", "user", "version": 1}; then one line per interaction in order of arrival:
{"type": "interaction", "arrived", "truth_arrived"} (microseconds since 1970, null while there is no truth) beside the
fields of `Interaction`; one per persona version, oldest first: {"type": "persona"} beside the fields of `Persona`; if
there is one, {"type": "profile"} beside the fields of `Profile`; and, once alignment has looked at the user,
{"type": "alignment", "seen"}, up to which arrival it has. Vectors are not exported: they follow from the texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from pydantic import TypeAdapter

from personaagent.base import why
from personaagent.errors import FutureTimeError, InvalidInput, NotFoundError
from personaagent.memory.changes import Incoming
from personaagent.memory.limits import chunks
from personaagent.memory.persona_chain import PAGE_BYTES, PersonaChain
from personaagent.memory.store import Row, dump_json
from personaagent.types import (
    AHEAD,
    ExportCursor,
    ExportPage,
    Fact,
    Interaction,
    Persona,
    Profile,
    UserId,
    future_fault,
    utc_now,
)

__all__ = ["Exported", "export_page", "parse_export"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINS = re.compile(r'\s*\{\s*"type"\s*:\s*"user"')  # a line that names a user, whatever has become of its end
_USER: TypeAdapter[str] = TypeAdapter(UserId)


class Source(Protocol):
    """A user's memory, as an export reads it."""

    user: str

    @property
    def exists(self) -> bool:
        """Whether anything is stored of the user."""
        ...

    @property
    def last_arrived(self) -> int:
        """Whatever comes from now on arrives later than this."""
        ...

    @property
    def seen(self) -> int | None:
        """Alignment has looked at the truths that arrived up to here."""
        ...

    @property
    def chain(self) -> PersonaChain:
        """The persona versions."""
        ...

    def rows_after(self, arrived: int) -> Iterator[Row]:
        """Rows that arrived later than that, oldest arrival first."""
        ...

    def profile(self) -> Profile:
        """The semantic memory."""
        ...


def export_page(
    source: Source, cursor: ExportCursor | None, incarnation: int = 0, most: int = PAGE_BYTES
) -> ExportPage:
    """The lines of an export from a cursor on (None: from its beginning), about `most` bytes of them.

    Interactions that arrive while an export goes on are not part of it.

    Raises:
        NotFoundError: nothing is stored of this user.
    """
    lines: list[str] = []
    left = most

    def add(content: dict[str, Any]) -> None:
        nonlocal left
        lines.append(dump_json(content))
        left -= len(lines[-1])

    if cursor is None:
        if not source.exists:
            raise NotFoundError("this user is unknown")
        add({"type": "user", "user": source.user, "version": 1})
        cursor = ExportCursor(until=source.last_arrived, incarnation=incarnation, after=-1)
    at, after = cursor.part, cursor.after
    if at == "rows":
        for row in source.rows_after(after):
            if row.arrived > cursor.until:
                break
            if left <= 0 and row.arrived != after:  # of rows of one moment, which hand-made exports have, none is lost
                return ExportPage(lines=tuple(lines), next=cursor.model_copy(update={"after": after}))
            stamps = {"arrived": row.arrived, "truth_arrived": row.truth_arrived or None}
            add({"type": "interaction", **stamps, **json.loads(row.payload)})
            after = row.arrived
        at, after = "personas", 0
    if at == "personas":
        for persona in source.chain.each(after + 1):
            if left <= 0:
                going_on = {"part": at, "after": persona.number - 1}
                return ExportPage(lines=tuple(lines), next=cursor.model_copy(update=going_on))
            add({"type": "persona", **persona.plain()})
    profile, seen = source.profile(), source.seen
    if profile.version:
        add({"type": "profile", **profile.model_dump(mode="json")})
    if seen is not None:
        add({"type": "alignment", "seen": seen})
    return ExportPage(lines=tuple(lines))


@dataclass(frozen=True, slots=True)
class Exported:
    """A parsed export: what was stored, without vectors; or, of one that is restored in several parts, a part of it.

    Every part but the last has `more` set: its profile and `seen` are compared with what is there, and taken over with the
    last one. The first part brings the personas, the last one says in `everything` what all parts have of truths.
    """

    user: str
    interactions: tuple[Interaction, ...]
    arrived: tuple[int, ...]
    truth_arrived: tuple[int, ...]  # 0 while there is no truth
    personas: tuple[Persona, ...] | None  # None: another part has them
    profile: Profile | None
    seen: int | None = None  # see `StoredUser`
    more: bool = False
    everything: tuple[tuple[str, int], ...] | None = None

    @property
    def told(self) -> tuple[tuple[str, int], ...]:
        """Ids of the interactions, and when their truths arrived."""
        if self.everything is not None:
            return self.everything
        return tuple((i.id, arrived) for i, arrived in zip(self.interactions, self.truth_arrived, strict=True))

    def parts(self, count: int, most: int) -> list[Exported]:
        """This export in parts of at most `count` interactions and about `most` bytes, to be restored one after the other."""
        groups = list(chunks(self.interactions, count, most))
        if len(groups) < 2:
            return [self]
        found, first = [], 0
        for n, group in enumerate(groups):
            end, last = first + len(group), n == len(groups) - 1
            part = replace(
                self,
                interactions=tuple(group),
                arrived=self.arrived[first:end],
                truth_arrived=self.truth_arrived[first:end],
                personas=self.personas if n == 0 else None,
                more=not last,
                everything=self.told if last else None,
            )
            found.append(part)
            first = end
        return found

    def stamp(self, items: Sequence[Incoming]) -> list[Incoming]:
        """The interactions, now with vectors, with the times at which they and their truths arrived."""
        return [
            replace(item, arrived=arrived, truth_arrived=known)
            for item, arrived, known in zip(items, self.arrived, self.truth_arrived, strict=True)
        ]


def parse_export(lines: Sequence[str], left_out: Callable[[int, str], None] | None = None) -> Exported:
    """Read back what `export` wrote.

    Args:
        lines: of the export.
        left_out: told the number and the fault of a line that holds no readable interaction, which is then left out; a
            persona, a profile, the user's line or another user's interaction is never left out, since what stands behind it
            may be somebody else's. Without it such a line is an error, too.

    Raises:
        InvalidInput: a line is not of the format, or an interaction of the far future (FutureTimeError); the message names the
            line. What a clock that was ahead stamped itself is stamped anew.
    """
    reader = _ExportReader(utc_now())
    for number, line in enumerate(lines, start=1):
        try:
            reader.take(line)
        except (InvalidInput, ValueError, TypeError, KeyError, OverflowError, RecursionError) as e:
            reason = _reason(e)
            if left_out is not None and reader.goes_on:
                left_out(number, reason)
                continue
            error = FutureTimeError if isinstance(e, FutureTimeError) else InvalidInput
            raise error(f"line {number}: {reason}") from e
    return reader.exported()


class _ExportReader:
    """What the lines of an export have said so far."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._user: str | None = None
        self._interactions: list[Interaction] = []
        self._stamps: list[tuple[int, int]] = []
        self._personas: list[Persona] = []
        self._profile: Profile | None = None
        self._seen: int | None = None
        self._kind: str | None = ""  # of the latest line; None: what follows may be another user's

    @property
    def goes_on(self) -> bool:
        """Whether the export can be read on without the latest line."""
        return self._user is not None and self._kind not in ("user", "persona", "profile", None)

    def take(self, line: str) -> None:
        """Read one line. What is wrong with it is raised, as a program error too: it may be anything."""
        self._kind = "user" if _BEGINS.match(line) else ""
        content = _content(line)
        self._kind = kind = str(content.pop("type"))
        if (self._user is None) != (kind == "user"):
            raise InvalidInput("an export has one line of type user, and it comes first")
        if kind == "user":
            self._user = _owner(content)
        elif kind == "interaction":
            self._take_interaction(content)
        elif kind == "persona":
            self._take_persona(content)
        elif kind == "profile":
            self._take_profile(content)
        elif kind == "alignment":
            self._seen = _arrival(content["seen"])
        else:
            raise InvalidInput(f"unknown type {kind[:40]!r}")

    def _take_interaction(self, content: dict[str, Any]) -> None:
        stamp, interaction = _stamped(content, self._now)
        if interaction.user != self._user:
            self._kind = None
            raise InvalidInput("an interaction of another user, whose export begins with a line of type user")
        self._stamps.append(stamp)
        self._interactions.append(interaction)

    def _take_persona(self, content: dict[str, Any]) -> None:
        persona = Persona.model_validate(content)
        if persona.number != len(self._personas) + 1:
            raise InvalidInput(
                f"this is the persona of number {persona.number}, but versions are 1, 2, 3 and so on, each"
                " once and in this order"
            )
        time = self._now if future_fault(persona.time, self._now) else persona.time
        self._personas.append(persona.model_copy(update={"time": time}))

    def _take_profile(self, content: dict[str, Any]) -> None:
        if self._profile is not None:
            raise InvalidInput("an export has one line of type profile at most")
        if content.get("mark") is not None:
            _arrival(content["mark"])
        self._profile = Profile.model_validate(content)

    def exported(self) -> Exported:
        """All of it, without times of the far future. Raises InvalidInput if there was no line."""
        if self._user is None:
            raise InvalidInput("the export is empty; its first line names the user")
        profile, seen = self._profile, self._seen
        mark = None if profile is None else profile.mark
        moved = _present([*(s for pair in self._stamps for s in pair), mark or 0, seen or 0], self._now)
        if profile is not None:
            profile = _told(profile, self._interactions, self._now)
            if mark is not None:
                profile = profile.model_copy(update={"mark": moved.get(mark, mark)})
        return Exported(
            user=self._user,
            interactions=tuple(self._interactions),
            arrived=tuple(moved.get(a, a) for a, _ in self._stamps),
            truth_arrived=tuple(moved.get(t, t) for _, t in self._stamps),
            personas=tuple(self._personas),
            profile=profile,
            seen=None if seen is None else moved.get(seen, seen),
        )


def _content(line: str) -> dict[str, Any]:
    """A line's object. Raises ValueError if it is none, or names no type."""
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    if not isinstance(content.get("type"), str):
        raise ValueError("`type` is missing; a line of an export says what it holds")
    return content


def _owner(content: dict[str, Any]) -> str:
    """Whose export this is, of its first line. Raises InvalidInput if it is one of another version."""
    version = content["version"]
    if type(version) is not int or version != 1:
        raise InvalidInput(f"export version {str(version)[:40]} is not known; update first")
    if not isinstance(content["user"], str):
        raise InvalidInput("user: must be text")
    owner: str = _USER.validate_python(content["user"])
    return owner


def _stamped(content: dict[str, Any], now: datetime) -> tuple[tuple[int, int], Interaction]:
    """When an interaction and its truth arrived (0: there is none), and the interaction.

    Raises:
        FutureTimeError: it is of the far future.
        KeyError: it does not say when it arrived.
        ValueError: it is none.
    """
    told = content.pop("truth_arrived")
    stamp = _arrival(content.pop("arrived")), _arrival(0 if told is None else told)
    interaction = Interaction.model_validate(content)
    if fault := future_fault(interaction.time, now):
        raise FutureTimeError(fault)
    return stamp, interaction


def _reason(error: Exception) -> str:
    """What is wrong with a line, in words; it never repeats the user's text."""
    if isinstance(error, InvalidInput):
        return error.message
    if isinstance(error, RecursionError):
        return "JSON is nested too deeply"
    return f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else why(error)


def _arrival(value: Any) -> int:
    """A moment of arrival, microseconds since 1970. Raises ValueError if it is none."""
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("arrivals are whole numbers of microseconds since 1970")
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

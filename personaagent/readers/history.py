"""JSON Lines, one interaction a line: the project's own history format, and what `personaagent export` writes.

A line holds `user` and `query`, and optionally `time` (ISO 8601 or seconds since 1970), `response`, `truth`, `choices`,
`metadata`, `id` and `action`; what it means is in `personaagent.memory.incoming`, and what becomes of an action in
`personaagent.tools.lessons`. Without an `id`, one is derived from the content, so that
reading a file again, or after other lines were mended or inserted, gives every interaction the same id. The truth is part of
it: lines that get their truth later need an `id`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO

from personaagent.base import why
from personaagent.errors import InvalidInput
from personaagent.memory.incoming import InteractionLine, Reading, first_times
from personaagent.readers.kinds import refuse_other_kinds
from personaagent.readers.read_result import ReadResult, Record, loads, opened
from personaagent.tools.known_tools import KnownTools
from personaagent.tools.lessons import lessons
from personaagent.types import Action, Interaction, Persona, Profile, utc_now

__all__ = ["read"]

WANTED = "a JSON Lines file with one interaction a line"
MAX_LINE = 8 << 20  # bytes


def read(path: Path, limit_users: int | None = None, tools: KnownTools | None = None) -> ReadResult:
    """Interactions in the order of the file, each with its lessons behind it; personas and profiles of an export are in the
    result's `records`.

    Args:
        path: the file.
        limit_users: only the first so many users of the file.
        tools: that an action means which does not say which there were; None: it has to say.

    Raises:
        InvalidInput: the file is missing or of another kind; the message says which.
    """
    refuse_other_kinds(path, WANTED)
    opened(path, WANTED)
    now = utc_now()  # of what has no time, however often the file is read
    return ReadResult(lambda result: _read(path, limit_users, result, now, tools or KnownTools()))


@dataclass
class _State:
    """What a line depends on besides itself."""

    reading: Reading
    tools: KnownTools
    taught: tuple[Interaction, ...] = ()  # the lessons of the latest line
    exported: str | None = None  # the user whose export this is, from the last line of type `user`
    users: set[str] = field(default_factory=set)


def _read(
    path: Path, limit_users: int | None, result: ReadResult, now: datetime, tools: KnownTools
) -> Iterator[Interaction]:
    state = _State(Reading(now, lambda: first_times(_times(path))), tools)
    with path.open("rb") as file:
        for number, raw in _lines(file):
            if not raw.strip():
                continue
            try:
                parsed = _line(raw, number, state)
            except (ValueError, OverflowError, RecursionError, InvalidInput) as e:
                result.fail(number, why(e))
                continue
            if parsed is None:
                continue
            if parsed.user not in state.users:
                if limit_users is not None and len(state.users) >= limit_users:
                    continue
                state.users.add(parsed.user)
            if isinstance(parsed, Record):
                result.records.append(parsed)
            else:
                result.line = number
                yield parsed
                yield from state.taught


def _times(path: Path) -> Iterator[tuple[int, str, object]]:
    """(number, user, time as written) of the lines that have these."""
    with path.open("rb") as file:
        for number, raw in _lines(file):
            try:
                content = loads(raw.decode("utf-8")) if len(raw) <= MAX_LINE else None
            except ValueError:
                continue
            if isinstance(content, dict) and isinstance(user := content.get("user"), str):
                yield number, user, content.get("time")


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long only so much that its parser refuses it."""
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        while not raw.endswith(b"\n") and len(raw) > MAX_LINE:
            raw = file.readline(MAX_LINE + 1)


def _taught(interaction: Interaction, action: Action | None, tools: KnownTools) -> tuple[Interaction, ...]:
    return () if action is None else tuple(lessons(interaction, tools.among(action), tools.specs))


def _line(raw: bytes, number: int, state: _State) -> Interaction | Record | None:
    if len(raw) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE >> 20} MiB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 at byte {e.start + 1}") from e
    content = loads(text)
    kind = content.get("type") if isinstance(content, dict) else None
    if kind is None or kind == "interaction":
        line = InteractionLine.model_validate(content)
        interaction = state.reading.interaction(line, number)
        state.taught = _taught(interaction, line.action, state.tools)
        return interaction
    content = {name: value for name, value in content.items() if name != "type"}
    if kind == "user":
        state.exported = content["user"] if isinstance(content.get("user"), str) else None
        return None
    if kind == "alignment":
        return None
    if kind in ("persona", "profile"):
        if state.exported is None:
            raise ValueError(f"a {kind} comes after the export's line of type user")
        item = Persona.model_validate(content) if kind == "persona" else Profile.model_validate(content)
        return Record(number, state.exported, item)
    raise ValueError("unknown type; types are interaction, user, persona and profile")

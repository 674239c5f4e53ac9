"""JSON Lines, one interaction a line: the project's own history format, and what `personaagent export` writes.

A line holds `user` and `query`, and optionally `time` (ISO 8601 or seconds since 1970), `response`, `truth`, `choices`,
`metadata` and `id`. Without an `id`, one is derived from the content, so that reading a file again, or after other lines
were mended or inserted, gives every interaction the same id. The truth is part of it: lines that get their truth later
need an `id`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from personaagent.readers.base import ReadResult, Record, checked, loads, opened, why
from personaagent.types import Interaction, Persona, Profile, interaction_id, moment

__all__ = ["read"]

WANTED = "a JSON Lines file with one interaction a line"
FIELDS = frozenset({"user", "query", "time", "response", "truth", "choices", "metadata", "id"})
STAMPS = frozenset({"arrived", "truth_arrived"})  # an export keeps when the store heard of something; importing is anew
MAX_LINE = 8 << 20  # bytes
UNTIMED = datetime(2000, 1, 1, tzinfo=UTC)  # interactions without any time are older than all that have one


def read(path: Path, limit_users: int | None = None) -> ReadResult:
    """Interactions in the order of the file; personas and profiles of an export are in the result's `records`.

    A line without a time comes right after the line of the same user before it.

    Raises:
        InvalidInput: the file is missing or not text.
    """
    opened(path, WANTED)
    return ReadResult(lambda result: _read(path, limit_users, result))


@dataclass
class _State:
    """What a line depends on besides itself."""

    exported: str | None = None  # the user whose export this is, from the last line of type `user`
    users: set[str] = field(default_factory=set)
    times: dict[str, tuple[datetime, int]] = field(default_factory=dict)  # last time given per user, and its line
    seen: Counter[str] = field(default_factory=Counter)  # interactions of equal content so far


def _read(path: Path, limit_users: int | None, result: ReadResult) -> Iterator[Interaction]:
    state = _State()
    with path.open("rb") as file:
        for number, raw in _lines(file):
            if not raw.strip():
                continue
            try:
                parsed = _line(raw, number, state)
            except (ValueError, OverflowError, RecursionError) as e:
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


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long only so much that its parser refuses it."""
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        while not raw.endswith(b"\n") and len(raw) > MAX_LINE:
            raw = file.readline(MAX_LINE + 1)


def _line(raw: bytes, number: int, state: _State) -> Interaction | Record | None:
    if len(raw) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE >> 20} MiB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError(f"not UTF-8 at byte {e.start + 1}") from e
    content = loads(text)
    if not isinstance(content, dict):
        raise ValueError('not a JSON object; write one interaction a line, like {"user": ..., "query": ...}')
    if "type" not in content:
        content["metadata"] = {"source": "history"} | _valid(_metadata(content))
        return _interaction(content, number, state)
    kind = content.pop("type")
    if kind == "user":
        state.exported = content["user"] if isinstance(content.get("user"), str) else None
        return None
    if kind == "interaction":
        return _interaction({k: v for k, v in content.items() if k not in STAMPS}, number, state)
    if kind == "alignment":
        return None
    if kind in ("persona", "profile"):
        if state.exported is None:
            raise ValueError(f"a {kind} comes after the export's line of type user")
        item = Persona.model_validate(content) if kind == "persona" else Profile.model_validate(content)
        return Record(number, state.exported, item)
    raise ValueError("unknown type; types are interaction, user, persona and profile")


def _interaction(content: dict[str, Any], number: int, state: _State) -> Interaction:
    if missing := [name for name in ("user", "query") if content.get(name) is None]:
        raise ValueError(f"`{missing[0]}` is missing")
    if unknown := sorted(content.keys() - FIELDS):
        raise ValueError(f"unknown field {unknown[0][:40]!r}; fields are {', '.join(sorted(FIELDS))}")
    given = None if content.get("time") is None else _time(content["time"])
    chosen = content.get("id")
    interaction = Interaction.model_validate(
        {
            **content,
            "id": "-" if chosen is None else chosen,
            "time": given or _default_time(content["user"], number, state),
            "metadata": _metadata(content),
        }
    )
    checked(interaction)
    # Only now is it sure that the line counts.
    if given is not None:
        state.times[interaction.user] = (given, number)
    if chosen is not None:
        return interaction
    same = interaction_id(
        interaction.user,
        given.isoformat() if given else None,
        interaction.query,
        interaction.truth,
        interaction.choices,
    )
    nth = state.seen[same]
    state.seen[same] += 1
    return interaction.model_copy(update={"id": interaction_id(same, nth) if nth else same})


def _metadata(content: dict[str, Any]) -> dict[str, Any]:
    metadata = content.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ValueError("metadata: not a JSON object")
    return metadata


def _valid(metadata: dict[str, Any]) -> dict[str, Any]:
    """Python reads NaN, and what is no Unicode text; an export hands on what it was once given, a new line may not begin."""
    try:
        json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as e:
        raise ValueError("metadata: contains a lone surrogate, which is not valid Unicode text") from e
    except ValueError as e:
        raise ValueError("metadata: contains NaN or a number too large for JSON") from e
    return metadata


def _time(value: object) -> datetime:
    try:
        return moment(value)
    except ValueError as e:
        raise ValueError(f"time: {e}") from e


def _default_time(user: object, number: int, state: _State) -> datetime:
    """Keeps the order of the file, and is the same whenever the same line is read, mended neighbours or not."""
    last = state.times.get(user) if isinstance(user, str) else None
    if last is None:
        return UNTIMED + timedelta(seconds=number)
    return last[0] + timedelta(microseconds=number - last[1])

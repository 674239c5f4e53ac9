"""What every reader gives back, and how JSON files are opened without surprises.

A reader checks that it can read the file at all before it returns; what is wrong with a single line is collected while
the lines are read, and never stops the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from personaagent.base import why
from personaagent.errors import InvalidInput
from personaagent.types import Interaction, Persona, Profile, future_fault

__all__ = ["LineError", "ReadResult", "Record", "checked", "existing", "json_items", "loads", "opened"]

_CHUNK = 1 << 20  # characters read at a time


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line was left out. Lines count from 1; in a file that is one JSON array they are its items."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """A line of an export that is no interaction: a persona version or the profile of `user`."""

    line: int
    user: str
    item: Persona | Profile


class ReadResult:
    """The interactions of a file, read while one iterates over it.

    `errors`, `records` and `skipped` fill up meanwhile and are complete at the end; iterating again reads the file
    again. Interactions of one user come oldest first unless the file itself has them in another order.
    """

    def __init__(self, lines: Callable[[ReadResult], Iterator[Interaction]]) -> None:
        self._lines = lines
        self.errors: list[LineError] = []
        self.records: list[Record] = []
        self.line = 0  # of the interaction read last, where the reader tells
        self.skipped = 0  # items that the data set is known to contain and that no answer fits; not errors
        self.line = 0  # of the interaction that was read last, where the file has one on a line

    def __iter__(self) -> Iterator[Interaction]:
        self.errors.clear()
        self.records.clear()
        self.line = 0
        self.skipped = 0
        return self._lines(self)

    def fail(self, line: int, reason: str) -> None:
        """Note a line that was left out."""
        self.errors.append(LineError(line, " ".join(reason.split())))


def checked(interaction: Interaction) -> Interaction:
    """The interaction itself. Raises ValueError if it is of a time in the far future."""
    if fault := future_fault(interaction.time):
        raise ValueError(fault)
    return interaction


def existing(path: Path, wanted: str) -> Path:
    """`path` itself, if there is such a file.

    Raises:
        InvalidInput: it is missing, or a folder; `wanted` says what belongs there.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give {wanted}")
    if not path.is_file() and path.exists():
        raise InvalidInput(
            f"{path} is no file but a pipe or a device, and cannot be read twice; write it into a file first"
        )
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}; give {wanted}")
    return path


def opened(path: Path, wanted: str) -> bytes:
    """The first bytes of a text file.

    Raises:
        InvalidInput: the file is missing, cannot be opened or is not text; `wanted` says what belongs there.
    """
    try:
        with existing(path, wanted).open("rb") as file:
            head = file.read(4096)
    except OSError as e:
        raise InvalidInput(f"cannot read {path}: {e.strerror}") from e
    if b"\0" in head or head.startswith((b"PK\x03\x04", b"\x1f\x8b")):
        raise InvalidInput(f"{path} is not a text file; give {wanted}")
    return head


def loads(text: str) -> Any:
    """One JSON value.

    Raises:
        ValueError: `text` is something else.
    """
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError("JSON is nested too deeply") from e


def json_items(path: Path, wanted: str) -> Iterator[tuple[int, Any]]:
    """(number from 1, item) of a file that is one JSON array, holding one item in memory at a time.

    Where the JSON breaks off, the last thing yielded is (number, ValueError).

    Raises:
        InvalidInput: at once, if the file cannot be opened or does not begin as a JSON array of objects.
    """
    if not opened(path, wanted).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise InvalidInput(f"{path} is not a JSON array; give {wanted}")
    items = _array(path)
    first = next(items, None)
    if first is None:
        return items
    if isinstance(first[1], ValueError):
        raise InvalidInput(f"{path} is not readable JSON ({first[1]}); give {wanted}")
    return chain([first], items)


def _array(path: Path) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        text, at, number, size = "", 0, 0, _CHUNK

        def more() -> bool:
            nonlocal text, at, size
            piece = file.read(size)
            text, at = text[at:] + piece, 0
            size *= 2  # an item larger than a chunk is parsed again and again: keep that linear in its length
            return bool(piece)

        def token() -> str:
            """The next character that is not space, still unread; nothing at the end of the file."""
            nonlocal at
            while True:
                while at < len(text) and text[at] in " \t\r\n":
                    at += 1
                if at < len(text) or not more():
                    return text[at : at + 1]

        try:
            token()
            at += 1  # the opening bracket
            if token() == "]":
                return
            while True:
                number += 1
                size = _CHUNK
                token()
                while True:
                    try:
                        item, end = decoder.raw_decode(text, at)
                        break
                    except json.JSONDecodeError:
                        if not more():
                            raise
                at = end
                yield number, item
                separator = token()
                at += 1
                if separator == "]":
                    return
                if separator != ",":
                    raise ValueError("the array is cut off")
        except RecursionError:
            yield max(number, 1), ValueError("JSON is nested too deeply")
        except ValueError as e:  # broken JSON and broken UTF-8 alike
            yield max(number, 1), ValueError(why(e))

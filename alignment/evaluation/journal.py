"""The journal of one evaluation: what it has found out so far, so that a run that was cut short can go on.

    FOLDER/journal.jsonl   a head that says whose journal it is, then one JSON object a line, in the order they came
    FOLDER/lock            held by the process that works on it

A line reaches the system as soon as it is written, so it outlives the process however that ends; a thread forces the lines
to the disk every few seconds, so that a power failure costs no more than that. It knows nothing of what the lines mean.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from personaagent.errors import ConflictError, InvalidInput, StoreError
from personaagent.private_files import private_folder
from personaagent.process_lock import ProcessLock
from personaagent.types import utc_now

__all__ = ["Finished", "Journal", "JournalEntry", "Place"]

FORMAT = 1
SYNC_S = 3.0  # lines younger than that may not survive a power failure
_HEAD = b'{"what": "evaluation"'  # how every journal begins

Place = tuple[str | int, ...]  # what an entry is, and where it belongs: ("answer", "newest", "rag", 17)


@dataclass(frozen=True)
class JournalEntry:
    """The last line of a place. Of two entries the one with the higher `serial` was written later."""

    serial: int
    value: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """The result of an evaluation that is finished, and when it was."""

    result: dict[str, Any]
    time: datetime


class Journal:
    """The entries of one evaluation, owned by one process at a time; a context manager.

    Raises (on entering):
        InvalidInput: the folder holds the journal of another evaluation, or a file that is no journal.
        ConflictError: another process works on it.
        StoreError: it cannot be read or written.
    """

    def __init__(
        self,
        folder: Path | None = None,
        key: str = "",
        about: Mapping[str, Any] | None = None,
        restart: bool = False,
    ) -> None:
        """Args:
        folder: where it is kept; None: in this process only, without entering it.
        key: of the evaluation.
        about: what the key was made from, JSON-able; it tells people what is different about another evaluation.
        restart: begin anew and drop what is there, also of another evaluation.
        """
        self._folder = folder
        self._key = key
        self._about = dict(about or {})
        self._restart = restart
        self._entries: dict[Place, JournalEntry] = {}
        self._serial = 0
        self._lock = ProcessLock(folder / "lock") if folder is not None else None
        self._file: int | None = None
        self._dirty = False
        self._failure: OSError | None = None
        self._closing = threading.Event()
        self._syncing = threading.Thread(target=self._sync_now_and_then, name="journal", daemon=True)
        self.damaged = 0  # lines that could not be read, other than a last one that was cut short

    def __enter__(self) -> Journal:
        if self._folder is None or self._lock is None:
            return self
        try:
            private_folder(self._folder)
            if not self._lock.take():
                raise ConflictError(f"another process works on the evaluation in {self._folder}; wait for it")
            self._file = os.open(self._folder / "journal.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._read(self._file)
        except OSError as e:
            self._close()
            raise StoreError(f"cannot write {self._folder}: {e.strerror or e}") from e
        except BaseException:
            self._close()
            raise
        self._syncing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._syncing.is_alive():
            self._closing.set()
            self._syncing.join()
            self._sync()
        self._close()
        if error is None:
            self._check()

    def find(self, *place: str | int) -> JournalEntry | None:
        """The last entry that was written for a place."""
        return self._entries.get(place)

    def all(self, what: str) -> Iterator[tuple[Place, JournalEntry]]:
        """The last entries of all places that begin with `what`."""
        return ((place, entry) for place, entry in self._entries.items() if place[0] == what)

    def write(self, place: Place, value: Mapping[str, Any]) -> JournalEntry:
        """Add an entry; if the process is killed after this has returned, it is there all the same.

        Raises:
            StoreError: the disk is full or broken.
        """
        if self._file is not None:
            self._check()
            try:
                self._append(self._file, {"what": place[0], "at": place[1:], "value": value})
            except OSError as e:
                raise self._error(e) from e
        return self._add(place, dict(value))

    def finish(self, result: Mapping[str, Any], complete: bool) -> None:
        """Keep the result. `complete`: nothing is missing, so the evaluation need not be run again."""
        self.write(("result",), {"complete": complete, "time": utc_now().isoformat(), "result": dict(result)})

    @property
    def finished(self) -> Finished | None:
        """The result, if nothing was missing in it."""
        entry = self.find("result")
        if entry is None or not entry.value["complete"]:
            return None
        return Finished(entry.value["result"], datetime.fromisoformat(entry.value["time"]))

    # Reading

    def _read(self, file: int) -> None:
        with os.fdopen(os.dup(file), "rb") as stream:
            content = stream.read()
        *lines, torn = content.split(b"\n")
        mine = lines[0].startswith(_HEAD) if lines else torn[: len(_HEAD)] == _HEAD[: len(torn)]
        if not mine:
            raise InvalidInput(f"{self._path} is not the journal of an evaluation; name another folder")
        if lines and not self._restart:
            self._known(lines[0])
        if self._restart or not lines:
            os.ftruncate(file, 0)
            self._append(file, {"what": "evaluation", "format": FORMAT, "key": self._key, "about": self._about})
            return
        if torn:  # the process that wrote it was killed
            os.ftruncate(file, len(content) - len(torn))
        for line in lines[1:]:
            self._parse(line)

    def _known(self, head: bytes) -> None:
        """Refuse the journal of another evaluation."""
        try:
            there = json.loads(head)
            version, key, about = there["format"], there["key"], dict(there["about"])
        except (ValueError, TypeError, KeyError) as e:
            raise InvalidInput(f"{self._path} begins with a damaged line; --restart begins anew") from e
        if version != FORMAT:
            raise InvalidInput(f"{self._path} was written by another version; --restart begins anew")
        if key != self._key:
            others = _differences(about, self._about)
            raise InvalidInput(
                f"{self._folder} holds another evaluation ({'; '.join(others[:3])}): name another folder, or begin anew "
                "with --restart"
            )

    def _parse(self, line: bytes) -> None:
        try:
            read = json.loads(line)
            place, value = (str(read["what"]), *read["at"]), dict(read["value"])
        except (ValueError, TypeError, KeyError):
            self.damaged += 1
            return
        self._add(place, value)

    def _add(self, place: Place, value: dict[str, Any]) -> JournalEntry:
        self._serial += 1
        entry = self._entries[place] = JournalEntry(self._serial, value)
        return entry

    # Writing

    @property
    def _path(self) -> Path:
        assert self._folder is not None
        return self._folder / "journal.jsonl"

    def _append(self, file: int, line: Mapping[str, Any]) -> None:
        raw = memoryview(json.dumps(line).encode("ascii") + b"\n")
        while raw:
            raw = raw[os.write(file, raw) :]
        self._dirty = True

    def _sync_now_and_then(self) -> None:
        """A thread of its own: forcing lines to the disk may take long, and the event loop must not wait for it."""
        while not self._closing.wait(SYNC_S):
            self._sync()

    def _sync(self) -> None:
        if self._file is None or not self._dirty:
            return
        self._dirty = False
        try:
            os.fsync(self._file)
        except OSError as e:
            self._failure = e

    def _check(self) -> None:
        """Raise what the thread could not."""
        if self._failure is not None:
            raise self._error(self._failure) from self._failure

    def _error(self, error: OSError) -> StoreError:
        return StoreError(f"cannot write {self._folder}: {error.strerror or error}")

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._lock is not None:
            self._lock.release()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> list[str]:
    """What is different, in words: `seed is 0 there and 1 here`."""
    found: list[str] = []
    for name in dict.fromkeys((*there, *here)):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{above}{name}.")
        elif a != b:
            found.append(f"{above}{name} is {json.dumps(a)} there and {json.dumps(b)} here")
    return found

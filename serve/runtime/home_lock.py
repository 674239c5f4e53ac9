"""The home folder as one running system's property: a lock, and a note by which others find the server that runs on it."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from personaagent.errors import StoreError, UnavailableError
from personaagent.private_files import opener, private_folder, tighten

__all__ = ["HomeLock"]


class HomeLock:
    """Held by whoever runs the memory of a home. The system lets go of it however the process ends."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "run"
        self._file: IO[str] | None = None
        self.left_behind: str | None = None  # mark of an owner that was killed

    @property
    def note(self) -> Path:
        """Where the running server says how to reach it."""
        return self._folder / "server.json"

    def acquire(self, serving: bool, mark: str = "") -> bool:
        """Take the lock; False if somebody else has it.

        Args:
            serving: whether other processes will be able to join us.
            mark: that our processes carry; whoever comes after us may have to end them (`left_behind`).

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            private_folder(self._home)
            private_folder(self._folder)
            file = open(self._folder / "lock", "a+", encoding="utf-8", opener=opener)  # noqa: SIM115 - kept while we run
        except OSError as e:
            raise StoreError(f"the home folder {self._home} cannot be written: {e.strerror or e}") from e
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        tighten(self._home)
        self.left_behind = self.owner().get("mark")
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "serving": serving, "mark": mark}))
        file.flush()
        self._file = file
        self.note.unlink(missing_ok=True)  # left by a server that was killed
        return True

    def owner(self) -> dict[str, Any]:
        """Who holds or held the lock, as far as is known: `pid`, `serving` and `mark`."""
        try:
            content = json.loads((self._folder / "lock").read_text("utf-8"))
        except (OSError, ValueError):  # it is being written at this moment
            return {}
        return content if isinstance(content, dict) else {}

    def publish(self, note: dict[str, Any]) -> None:
        """Tell others how to reach the server; they see all of the note or none."""
        partial = self.note.with_suffix(f".{os.getpid()}.tmp")
        try:
            with open(partial, "w", encoding="utf-8", opener=opener) as file:
                file.write(json.dumps(note))
            partial.replace(self.note)
        except OSError as e:
            raise StoreError(f"the home folder {self._home} cannot be written: {e.strerror or e}") from e

    def read(self) -> dict[str, Any] | None:
        """The running server's note; None while there is none."""
        try:
            content = json.loads(self.note.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise UnavailableError(f"{self.note} cannot be read: {e}") from e
        return content if isinstance(content, dict) else None

    def release(self) -> None:
        """Let go. Safe to call twice, and without holding it."""
        if self._file is not None:
            self.note.unlink(missing_ok=True)
            self._file.truncate(0)  # nothing is left behind
            self._file.close()
            self._file = None

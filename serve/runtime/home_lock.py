"""The home folder as one running system's property: a lock, and a note by which others find the server that runs on it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from personaagent.errors import StoreError, UnavailableError
from personaagent.private_files import private_folder, tighten
from personaagent.process_lock import ProcessLock
from personaagent.whole_file import write_whole

__all__ = ["HomeLock"]


class HomeLock:
    """Held by whoever runs the memory of a home. The system lets go of it however the process ends."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "run"
        self._lock = ProcessLock(self._folder / "lock")
        self._held = False
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
            if not self._lock.take():
                return False
        except OSError as e:
            raise self._error(e) from e
        tighten(self._home)
        self.left_behind = self.owner().get("mark")
        self._held = True
        try:
            self._write_owner(json.dumps({"pid": os.getpid(), "serving": serving, "mark": mark}))
        except StoreError:
            self._held = False
            self._lock.release()
            raise
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
        try:
            write_whole(self.note, json.dumps(note).encode(), private=True, durable=False)
        except OSError as e:
            raise self._error(e) from e

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
        if self._held:
            self._held = False
            try:
                self.note.unlink(missing_ok=True)
                self._write_owner("")  # nothing is left behind
            finally:
                self._lock.release()

    def _write_owner(self, text: str) -> None:
        """Into the lock file itself, which stays the same one: another file in its place would be another lock."""
        try:
            (self._folder / "lock").write_text(text, "utf-8")
        except OSError as e:
            raise self._error(e) from e

    def _error(self, error: OSError) -> StoreError:
        return StoreError(f"the home folder {self._home} cannot be written: {error.strerror or error}")

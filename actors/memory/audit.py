"""The audit log: who changed what and when, one JSON line per change, only ever appended to.

It holds user keys (digests) and counts, never a user's id or text, so it may be kept when a user is forgotten.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from personaagent.errors import StoreError
from personaagent.private_files import private_folder
from personaagent.types import utc_now

__all__ = ["AuditEntry", "AuditLog"]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line: what was done to whom, by whom."""

    action: str
    user_key: str
    by: str
    details: Mapping[str, int | str]


class AuditLog:
    """Appends to <folder>/<name>-<year>-<month>.jsonl. One process per name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._lock = threading.Lock()

    def write(
        self, action: str, user_key: str, by: str, details: Mapping[str, int | str], *, sync: bool = False
    ) -> None:
        """Append one entry; with `sync` it is on the disk when this returns.

        Raises:
            StoreError: it cannot be written. What cannot be logged must not be done.
        """
        self.write_all([AuditEntry(action, user_key, by, details)], sync=sync)

    def write_all(self, entries: Sequence[AuditEntry], *, sync: bool = False) -> None:
        """Append entries in one write; see `write`."""
        if not entries:
            return
        now = utc_now()
        lines = [
            {"time": now.isoformat(), "action": e.action, "user_key": e.user_key, "by": e.by, **e.details}
            for e in entries
        ]
        text = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode("ascii")
        path = self._folder / f"{self._name}-{now:%Y-%m}.jsonl"
        try:
            with self._lock:
                private_folder(self._folder)
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    size = os.fstat(descriptor).st_size
                    if (
                        size and os.pread(descriptor, 1, size - 1) != b"\n"
                    ):  # torn by a process that was killed meanwhile
                        text = b"\n" + text
                    if os.write(descriptor, text) < len(text):
                        os.ftruncate(descriptor, size)
                        raise OSError(errno.ENOSPC, "only a part of it fitted on the disk")
                    if sync:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as e:
            raise StoreError(
                f"the audit log {path} cannot be written: {e.strerror}; nothing is changed without it"
            ) from e

"""The audit log: who changed what and when, one JSON line per change, only ever appended to.

It holds user keys (digests) and counts, never a user's id or text, so it may be kept when a user is forgotten.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personaagent.errors import StoreError
from personaagent.types import utc_now

__all__ = ["AuditLog"]


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
        now = utc_now()
        entry = {"time": now.isoformat(), "action": action, "user_key": user_key, "by": by, **details}
        line = (json.dumps(entry, ensure_ascii=True) + "\n").encode("ascii")
        path = self._folder / f"{self._name}-{now:%Y-%m}.jsonl"
        try:
            with self._lock:
                self._folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    os.write(descriptor, line)
                    if sync:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as e:
            raise StoreError(
                f"the audit log {path} cannot be written: {e.strerror}; nothing is changed without it"
            ) from e

    def find(self, audit_id: str) -> list[dict[str, Any]]:
        """The entries with this audit id of this and last month, in order.

        Raises:
            StoreError: the log cannot be read.
        """
        found: list[dict[str, Any]] = []
        try:
            for path in sorted(self._folder.glob(f"{self._name}-*.jsonl"))[-2:]:
                with path.open(encoding="ascii", errors="replace") as lines:
                    found += [json.loads(line) for line in lines if audit_id in line]
        except (OSError, ValueError) as e:
            raise StoreError(
                f"the audit log in {self._folder} cannot be read: {e}; nothing is changed without it"
            ) from e
        return [entry for entry in found if entry.get("audit_id") == audit_id]

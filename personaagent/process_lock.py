"""A lock between processes: a file that one holder at a time has.

The system lets go of it however the holder's process ends, so no lock is ever stale, and nobody has to remove the file. It is
`flock`: among hosts that share a file system it holds as far as that file system passes `flock` on. Where a file system knows
no `flock`, taking the lock fails; a lock that other hosts do not see would be worse than none. A process that is forked or
started while the lock is held does not hold it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from personaagent.private_files import FILE

__all__ = ["ProcessLock"]

POLL_S = 0.01  # how often whoever waits tries again
GONE_S = 0.02  # a lock file that was removed while it was opened is opened again within this time


class ProcessLock:
    """One file's lock. Two of the same file exclude each other, also within a process, in any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path, mode=FILE, thread_local=False, poll_interval=POLL_S, fallback_to_soft=False)

    def take(self) -> bool:
        """Take the lock now; False if somebody has it, be it through this object.

        Raises:
            FileNotFoundError: there is no such folder.
            OSError: the file cannot be opened or locked.
        """
        if self._lock.is_locked:
            return False
        self._need_folder()
        try:
            self._lock.acquire(timeout=GONE_S)
        except Timeout:
            return False
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, without bound, and hold it for a block. Raises OSError as `take`."""
        self._need_folder()
        with self._lock:
            yield

    def release(self) -> None:
        """Let go. Safe to call twice, and without holding it."""
        self._lock.release()

    def _need_folder(self) -> None:
        """The library would make the folder, with whatever permissions."""
        if not self._path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))

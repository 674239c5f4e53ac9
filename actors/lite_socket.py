"""Where Milvus Lite listens: a socket in a folder that only this user of the machine may enter.

Its gRPC server asks for no password, and every user of a machine may connect to a port on loopback.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import uuid
from pathlib import Path

from personaagent.errors import StoreError

__all__ = ["clear_sockets", "socket_path"]

MAX_PATH = 100  # bytes; the operating system's bound is 104 to 108


def socket_path(store: Path) -> Path:
    """A path for a new socket of this store. It is not below the home, whose path may be too long for a socket's.

    Raises:
        StoreError: there is no folder for it.
    """
    path = _folder() / f"{_name(store)}.{uuid.uuid4().hex[:8]}"
    if len(os.fsencode(path)) > MAX_PATH:
        raise StoreError(f"{path.parent} is too long a path for a socket; set TMPDIR to a shorter one")
    return path


def clear_sockets(store: Path, kept: Path) -> None:
    """Remove the sockets that processes which were killed have left. Call it while the store's folder is locked."""
    for path in kept.parent.glob(f"{_name(store)}.*"):
        if path != kept:
            path.unlink(missing_ok=True)


def _name(store: Path) -> str:
    return hashlib.blake2b(os.fsencode(store.resolve()), digest_size=8).hexdigest()


def _folder() -> Path:
    """The user's own folder for sockets. In a folder for all users, somebody else may have taken its name."""
    path = Path(tempfile.gettempdir()) / f"personaagent-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            path.chmod(0o700)
            return path
        return Path(tempfile.mkdtemp(prefix="personaagent-"))
    except OSError as e:
        raise StoreError(f"no folder for sockets can be made in {path.parent}: {e.strerror or e}") from e

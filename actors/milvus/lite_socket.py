"""Where Milvus Lite listens: a socket in a folder that only this user of the machine may enter.

Its gRPC server asks for no password, and every user of a machine may connect to a port on loopback.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from personaagent.errors import StoreError

__all__ = ["SOCKET", "clear_folders", "remove_folder", "socket_folder"]

MAX_PATH = 100  # bytes of a socket's path; the operating system's bound is 104 to 108
SOCKET = "lite:0"  # the server listens at `host:port`, which is how the name of its socket ends


def socket_folder(store: Path) -> Path:
    """A new folder for the socket of this store. It is not below the home, whose path may be too long for a socket's.

    Raises:
        StoreError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    try:
        path = Path(tempfile.mkdtemp(prefix=_prefix(store), dir=parent))  # nobody else may enter what this makes
    except OSError as e:
        raise StoreError(f"no folder for a socket can be made in {parent}: {e.strerror or e}") from e
    if len(os.fsencode(path / SOCKET)) > MAX_PATH:
        path.rmdir()
        raise StoreError(f"{parent} is too long a path for a socket; set TMPDIR to a shorter one")
    return path


def remove_folder(path: Path) -> None:
    """Remove a folder of `socket_folder` once nobody listens there any more; harmless when it is gone."""
    shutil.rmtree(path, ignore_errors=True)


def clear_folders(store: Path, kept: Path) -> None:
    """Remove the folders that processes which were killed have left. Call it while the store's folder is locked."""
    for path in kept.parent.glob(f"{_prefix(store)}*"):
        if path != kept and not path.is_symlink() and path.stat().st_uid == os.getuid():
            remove_folder(path)


def _prefix(store: Path) -> str:
    name = hashlib.blake2b(os.fsencode(store.resolve()), digest_size=6).hexdigest()
    return f"personaagent-{name}-"

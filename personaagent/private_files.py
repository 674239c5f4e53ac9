"""Folders and files that only their owner reads: whatever lies below a home tells of users.

New folders get mode 0700 and new files 0600, whatever the umask; what an older version made is tightened when it is opened.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["keep_private", "opener", "private_folder", "tighten"]

log = logging.getLogger(__name__)

FOLDER, FILE = 0o700, 0o600
OTHERS = 0o077
SHARED = "models"  # converted models, which say nothing of users


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=...)`: a new file is its owner's alone."""
    return os.open(path, flags, FILE)


def private_folder(path: Path) -> None:
    """Make a folder, with what is missing above it, that its owner alone may enter. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER, exist_ok=True)
    _tighten(path)


def keep_private() -> None:
    """From now on, new files of this process are private: for libraries that choose no mode themselves."""
    os.umask(os.umask(OTHERS) | OTHERS)


def tighten(root: Path) -> None:
    """Take the permissions of others off a folder and everything in it, except converted models. Links are left alone."""
    _tighten(root)
    for folder, folders, files in os.walk(root):
        if Path(folder) == root and SHARED in folders:
            folders.remove(SHARED)
        for name in (*folders, *files):
            _tighten(Path(folder, name))


def _tighten(path: Path) -> None:
    try:
        if not path.is_symlink() and (mode := path.stat().st_mode) & OTHERS:
            path.chmod(mode & 0o700)
    except FileNotFoundError:  # removed meanwhile
        return
    except OSError as e:  # somebody else's, such as the root of a mounted volume, which they look after
        log.info("the permissions of %s stay as they are: %s", path, e.strerror or e)

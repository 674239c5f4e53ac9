"""Files that are written whole or not at all: readers see the old content or all of the new, also after a crash."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from personaagent.private_files import opener

__all__ = ["replacing", "sync_folder", "write_whole"]

_NAME = 50  # characters of the name that are kept for the part: a name has at most 255 bytes


@contextmanager
def replacing(path: Path, *, private: bool, durable: bool) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends; if the block fails, `path` stays as it was.

    A process that is killed meanwhile leaves `.<name>.<pid>.tmp` beside it.

    Args:
        path: the folder it is in must exist.
        private: only the owner may read it; otherwise the umask says who.
        durable: it is on the disk when the block has ended, and survives a power failure.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f".{path.name[:_NAME]}.{os.getpid()}.tmp")
    try:
        with open(part, "wb", opener=opener if private else None) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def write_whole(path: Path, content: bytes, *, private: bool, durable: bool) -> None:
    """Write a file whole or not at all; see `replacing`. Raises OSError."""
    with replacing(path, private=private, durable=durable) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Have what was renamed in a folder on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know this of files alone
            raise
    finally:
        os.close(descriptor)

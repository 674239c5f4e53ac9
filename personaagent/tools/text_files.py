"""The text files of a folder: which there are, and what stands in them. Whatever is in a file, reading it does not raise."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from personaagent.base import readable
from personaagent.tools.html_text import html_text

__all__ = ["LARGEST", "SUFFIXES", "TextFile", "Unusable", "read_text", "text_files"]

SUFFIXES = frozenset({".md", ".txt", ".rst", ".html", ".htm"})
LARGEST = 4_000_000  # bytes of a file
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Unusable(Exception):
    """Why a file cannot be read as text, in a few words."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file as it stands now. `stamp` is another one once its content is."""

    path: Path
    name: str  # below the folder, with slashes
    stamp: tuple[int, int, int]  # time of its last change in ns, bytes, inode


def text_files(folder: Path, missed: Callable[[str, str], None]) -> Iterator[TextFile]:
    """The text files below a folder, in the order of their names. Hidden ones are left out.

    A link to a file counts if that file lies below the folder, as in a volume of Kubernetes; a link to a folder is not
    followed, and nothing outside of the folder is ever read.

    Args:
        folder: where to look.
        missed: is told the name of what is left out though it is a text file or a folder, and why.
    """
    root = folder.resolve()

    def unlisted(e: OSError) -> None:
        missed(_named(Path(str(e.filename)), root), f"cannot be listed: {e.strerror}")

    for place, folders, files in os.walk(root, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            try:
                real = path.resolve(strict=True)
                found = real.stat()
            except (OSError, RuntimeError):  # gone meanwhile, or a link to nothing or to itself
                missed(_named(path, root), "cannot be found")
                continue
            if not real.is_relative_to(root):
                missed(_named(path, root), "links to another place")
            elif not stat.S_ISREG(found.st_mode):
                missed(_named(path, root), "no file")
            else:
                yield TextFile(real, _named(path, root), (found.st_mtime_ns, found.st_size, found.st_ino))


def _named(path: Path, root: Path) -> str:
    return readable(path.relative_to(root).as_posix()) if path.is_relative_to(root) else readable(path.name)


def read_text(file: TextFile) -> str:
    """What stands in a file, of HTML its text.

    Raises:
        Unusable: it cannot be read, is too large, or is no text.
    """
    if file.stamp[1] > LARGEST:
        raise Unusable(f"larger than {LARGEST // 1_000_000} MB")
    try:
        # What became a link or a pipe since it was listed is not opened.
        with open(os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            raw = opened.read(LARGEST + 1)
    except OSError as e:
        raise Unusable(f"cannot be read: {e.strerror or type(e).__name__}") from e
    if len(raw) > LARGEST:
        raise Unusable(f"larger than {LARGEST // 1_000_000} MB")
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as e:
        raise Unusable("not UTF-8") from e
    if "\0" in text:
        raise Unusable("binary")
    return html_text(text) if file.path.suffix.lower() in (".html", ".htm") else text

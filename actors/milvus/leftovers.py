"""Folders beside that of a tenant's Lite stores, while its users are moved to another number of shards and after.

    <tenant>.reshard-N          a copy that is growing; an interrupted reshard leaves it, and goes on with it
    <tenant>.before-reshard-N   the old store after the swap: deleted at the end, unless it was asked for to be kept

Both hold users' texts. So what nobody asked to be kept goes with the first opening after the swap, and a copy goes with
whatever is deleted for good from the store itself: a reshard that is run again begins it anew. No reshard can be under way
meanwhile, since it has all shards' files locked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from personaagent.errors import StoreError

__all__ = ["BEFORE_RESHARD", "RESHARD", "drop", "drop_copies", "drop_replaced", "kept", "leftovers", "mark"]

RESHARD, BEFORE_RESHARD = ".reshard-", ".before-reshard-"  # no tenant has a dot
REPLACED = "replaced"  # a file in a store that is about to be replaced and is not to be kept


def leftovers(folder: Path) -> list[Path]:
    """What an interrupted reshard left, or a finished one was asked to keep, beside a tenant's folder."""
    return sorted([*_beside(folder, RESHARD), *_beside(folder, BEFORE_RESHARD)])


def mark(folder: Path, keep: bool) -> None:
    """Note in a store that is about to be replaced whether it is to be kept."""
    if keep:
        (folder / REPLACED).unlink(missing_ok=True)
    else:
        (folder / REPLACED).touch()


def kept(folder: Path) -> list[Path]:
    """Old stores that were kept, or that a version left which did not note whether they were to be."""
    return sorted(path for path in _beside(folder, BEFORE_RESHARD) if not (path / REPLACED).exists())


def drop_replaced(folder: Path) -> None:
    """Delete old stores that were replaced by the one in `folder` and not to be kept. Raises StoreError."""
    for path in _beside(folder, BEFORE_RESHARD):
        if (path / REPLACED).exists():
            drop(path)


def drop_copies(folder: Path) -> None:
    """Delete what an interrupted reshard has copied so far. Raises StoreError."""
    for path in _beside(folder, RESHARD):
        drop(path)


def drop(path: Path) -> None:
    """Delete such a folder; the mark goes last, since it says that the rest goes, too. Raises StoreError."""
    try:
        for inner in sorted(path.iterdir(), key=lambda p: p.name == REPLACED):
            shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
        path.rmdir()
    except FileNotFoundError:  # another shard deletes it, too
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            raise StoreError(f"{path} holds users' texts and could not be deleted; try again") from None
    except OSError as e:
        raise StoreError(f"{path} holds users' texts and cannot be deleted ({e.strerror}); delete it") from e


def _beside(folder: Path, suffix: str) -> Iterator[Path]:
    return folder.parent.glob(f"{folder.name}{suffix}*")

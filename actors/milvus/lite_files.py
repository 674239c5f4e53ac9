"""Getting rows out of Milvus Lite's files, and looking whether they are out.

A row that was deleted or replaced stays in its data file until Milvus Lite compacts it. Its own compaction of a single file
drops what was deleted, but not what a newer file replaces; so it is told which rows those are. Afterwards the files on the
disk are read, whether or not the engine knows them: what counts is what somebody finds who has the disk.

Written for milvus-lite 3.2, whose private parts it uses; a version without them is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from milvus_lite.storage.snapshots import snapshot_references

from personaagent.errors import StoreError

__all__ = ["KEY", "Owners", "owners", "purge"]

KEY = 32  # characters of a primary key that name its owner


@dataclass
class Owners:
    """Whose rows a collection holds: live ones, and ones that were deleted or replaced but are in its files still."""

    live: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)


class _Dead:
    """Which rows of some owners are out of date, in the form in which the compaction asks: by key and sequence number."""

    def __init__(self, engine: Any, owners: frozenset[str]) -> None:
        self._owners = owners
        self._deleted = engine._delta_index
        self._newest: dict[str, int] = {}
        for segment in engine._segment_cache.values():
            for pk, seq in zip(segment.pks, segment.seqs.tolist(), strict=True):
                if pk[:KEY] in owners and self._newest.get(pk, -1) < seq:
                    self._newest[pk] = seq

    def __len__(self) -> int:
        return len(self._newest) + len(self._deleted)

    def is_deleted(self, pk: str, seq: int) -> bool:
        return bool(self._deleted.is_deleted(pk, seq)) or self._newest.get(pk, seq) > seq

    def live(self, segment: Any) -> Iterator[tuple[str, int]]:
        """Keys and sequence numbers of the other rows of these owners in a file."""
        for pk, seq in zip(segment.pks, segment.seqs.tolist(), strict=True):
            if pk[:KEY] in self._owners and not self.is_deleted(pk, seq):
                yield pk, seq

    def concerns(self, segment: Any) -> bool:
        """Whether a file holds such rows of these owners."""
        rows = zip(segment.pks, segment.seqs.tolist(), strict=True)
        return any(pk[:KEY] in self._owners and self.is_deleted(pk, seq) for pk, seq in rows)


def purge(engine: Any, owners: frozenset[str]) -> int:
    """Rewrite the files of a collection that hold deleted or replaced rows of `owners`; how many a look still finds.

    Raises:
        StoreError: a file cannot be read or written, or this version of milvus-lite is not known.
    """
    try:
        engine._wait_for_bg()
        with engine._maintenance_lock:
            _sweep(engine)
            dead = _Dead(engine, owners)
            try:
                for (partition, name), segment in list(engine._segment_cache.items()):
                    if dead.concerns(segment):
                        folder = Path(engine.data_dir) / "partitions" / partition
                        engine._compaction_mgr._compact_files(partition, str(folder), [name], engine._manifest, dead)
            finally:
                engine._refresh_segment_cache()
            # What is not live is too much: of files that it does not know the engine need not know any more what was deleted.
            live = {row for segment in engine._segment_cache.values() for row in dead.live(segment)}
            return sum(row not in live for row in _on_disk(Path(engine.data_dir), owners))
    except AttributeError as e:
        raise StoreError(f"this version of milvus-lite cannot rewrite its files: {e}; install 3.2") from e
    except (OSError, pa.ArrowException) as e:
        raise StoreError(f"the store's files could not be rewritten ({e}); free some space, then try again") from e


def _sweep(engine: Any) -> None:
    """Remove data files that neither the manifest nor a snapshot names: what a rewriting left that broke off.

    The engine does so when it opens a folder, but nobody should have to wait for that. It forgets a file before it has saved
    that it did, so the manifest is saved first: a file that the saved one names must not go.
    """
    folder = Path(engine.data_dir)
    named = engine._manifest.get_all_data_files()
    pinned = snapshot_references(str(folder))[0]
    stray = [
        path
        for path in (folder / "partitions").glob("*/data/*")
        if (name := f"data/{path.name}") not in named.get(path.parts[-3], ())
        and name not in pinned.get(path.parts[-3], ())
    ]
    if stray:
        engine._manifest.save()
    for path in stray:
        path.unlink()


def owners(engine: Any) -> Owners:
    """Whose rows are in a collection's data files and in its log. Raises StoreError as `purge`."""
    try:
        with engine._maintenance_lock:
            segments = list(engine._segment_cache.values())
            deleted = engine._delta_index.frozen_copy()
            memtable = engine._memtable
        pks, seqs, _, _, _ = memtable.to_search_snapshot(None, include_table=True)
        dropped = {pk: entry[0] for pk, entry in memtable.delete_index_snapshot().items()}
    except AttributeError as e:
        raise StoreError(f"this version of milvus-lite cannot be looked into: {e}; install 3.2") from e
    newest = {pk: int(seq) for pk, seq in zip(pks, seqs, strict=True)}
    for segment in segments:
        for pk, seq in zip(segment.pks, segment.seqs.tolist(), strict=True):
            if newest.get(pk, -1) < seq:
                newest[pk] = seq
    found = Owners(live={pk[:KEY] for pk in pks})
    for segment in segments:
        for pk, seq in zip(segment.pks, segment.seqs.tolist(), strict=True):
            if deleted.is_deleted(pk, seq) or dropped.get(pk, -1) > seq or newest[pk] > seq:
                found.outdated.add(pk[:KEY])
            else:
                found.live.add(pk[:KEY])
    return found


def _on_disk(folder: Path, owners: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Keys and sequence numbers of all rows of `owners` in the data files below a folder, named by a manifest or not."""
    wanted = pa.array(sorted(owners), type=pa.string())
    for path in sorted((folder / "partitions").glob("*/data/*")):
        table = pq.read_table(path, columns=["pk", "_seq"])
        found = table.filter(pc.is_in(pc.utf8_slice_codeunits(table["pk"], 0, KEY), value_set=wanted))
        yield from zip(found["pk"].to_pylist(), found["_seq"].to_pylist(), strict=True)

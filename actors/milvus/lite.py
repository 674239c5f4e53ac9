"""Milvus Lite inside this process: checking its folder before it is touched, starting it, and what its API leaves out.

Milvus Lite repairs a folder when it opens it, and part of that is deleting files its manifest does not name. A folder
with a damaged manifest would be emptied. So the folder is checked first and refused with its data as it was.

It also hides rows from readers while a flush is under way, and its writers are not safe beside each other. `FlushGate` keeps
readers and flushes apart.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milvus_lite import DataDirLockedError, MilvusLiteError
from milvus_lite.adapter.grpc.server import start_server_in_thread

from actors.milvus.lite_files import Owners, owners, purge
from actors.milvus.lite_socket import SOCKET, clear_folders, remove_folder, socket_folder
from personaagent.errors import StoreError
from personaagent.private_files import keep_private, private_folder, tighten

__all__ = ["FlushGate", "LiteEngine", "check_disk", "inspect_folder"]

logger = logging.getLogger(__name__)

MIN_FREE = 64 * 2**20  # bytes that must stay free on the disk; a flush needs room to rewrite files


class FlushGate:
    """Many readers, or one flush. Readers that come while a flush waits go after it, or it would wait for ever."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._flushes = 0  # waiting or under way
        self._flushing = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold off flushes."""
        with self._condition:
            self._condition.wait_for(lambda: not self._flushes)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """Hold off readers."""
        with self._condition:
            self._flushes += 1
            self._condition.wait_for(lambda: not self._readers and not self._flushing)
            self._flushing = True
        try:
            yield
        finally:
            with self._condition:
                self._flushing = False
                self._flushes -= 1
                self._condition.notify_all()


class LiteEngine:
    """A Milvus Lite server in this process, for one folder.

    Raises:
        StoreError: the folder is damaged, not a store, or in use by another process.
    """

    def __init__(self, path: Path) -> None:
        inspect_folder(path)
        keep_private()  # Milvus Lite and pyarrow choose no modes for their files
        private_folder(path.parent)
        tighten(path)
        _remove_unborn(path)
        self._folder = socket_folder(path)
        self.uri = f"unix:{self._folder / SOCKET}"
        try:
            host = self.uri.removesuffix(":0")
            self._server, self._db, _ = start_server_in_thread(str(path), host=host, port=0)
        except DataDirLockedError as e:
            remove_folder(self._folder)
            raise StoreError(f"{path} is in use by another process; stop it or choose another home") from e
        except (MilvusLiteError, OSError, ValueError, RuntimeError) as e:
            remove_folder(self._folder)
            raise StoreError(f"{path} cannot be opened: {_line(e)}; restore it from a backup or move it away") from e
        clear_folders(path, self._folder)
        self._closed = False

    def scan(self, collection: str, fields: Sequence[str]) -> list[tuple[Any, ...]]:
        """These scalar fields of all live rows, the first of them being the primary key.

        `Collection.query` would build a dictionary with the vector in it for every row, which takes 3 s per 100,000 rows;
        reading the columns takes a tenth of that.
        """
        engine = self._db.get_collection(collection)
        try:
            with engine._maintenance_lock:
                segments = list(engine._segment_cache.values())
                deleted = engine._delta_index.frozen_copy()
                memtable = engine._memtable
            dropped = {pk: entry[0] for pk, entry in memtable.delete_index_snapshot().items()}
            pks, seqs, _, _, table = memtable.to_search_snapshot(None, include_table=True)
            sources = [(s.pks, s.seqs.tolist(), s.table) for s in segments]
            if pks:
                sources.append((pks, [int(x) for x in seqs], table))
            newest: dict[Any, tuple[int, tuple[Any, ...]]] = {}
            for keys, versions, columns in sources:
                rows = zip(*(columns.column(f).to_pylist() for f in fields), strict=True)
                for pk, version, row in zip(keys, versions, rows, strict=True):
                    if pk not in newest or newest[pk][0] < version:
                        newest[pk] = (version, row)
            return [
                row
                for pk, (version, row) in newest.items()
                if not deleted.is_deleted(pk, version) and dropped.get(pk, -1) <= version
            ]
        except (AttributeError, KeyError) as e:
            logger.warning("this version of milvus-lite is not known; reading its rows the slow way: %s", e)
            return [tuple(r[f] for f in fields) for r in engine.query(None, output_fields=list(fields))]

    def purge(self, collection: str, owners: Collection[str]) -> int:
        """Rewrite the data files that hold rows of `owners` which were deleted or replaced, so that their bytes leave now.

        Milvus Lite compacts by itself, but only when files pile up, and its API has no call for it. See
        `actors.milvus.lite_files`. Call it after a flush, with readers held off.

        Returns:
            How many such rows a look at the files finds afterwards.

        Raises:
            StoreError: the disk is full, or this version of Milvus Lite is not known.
        """
        return purge(self._db.get_collection(collection), frozenset(owners))

    def owners(self, collection: str) -> Owners:
        """Whose rows are in the data files, by the first parts of their keys."""
        return owners(self._db.get_collection(collection))

    def close(self) -> None:
        """Save and stop; harmless when closed already."""
        if not self._closed:
            self._closed = True
            self._stop()
            self._db.close()

    def abandon(self) -> None:
        """Stop as a crash would, saving nothing: the next engine on this folder starts from its log.

        For a store whose flush broke off. Saving would delete the log, which alone still has what was to be flushed.
        """
        if self._closed:
            return
        self._closed = True
        self._stop()
        try:
            for engine in self._db._collections.values():
                engine._bg_closed = True
                engine._bg_executor.shutdown(wait=True)
            self._db._release_lock()
        except AttributeError as e:
            logger.warning("this version of milvus-lite keeps the folder locked until the process ends: %s", e)

    def _stop(self) -> None:
        self._server.stop(grace=2).wait()
        remove_folder(self._folder)


def check_disk(path: Path, needed: int = 0) -> None:
    """Refuse early what a full disk would break half-way.

    Raises:
        StoreError: fewer than `needed` bytes and a reserve are free.
    """
    free = shutil.disk_usage(path).free
    if free < needed + MIN_FREE:
        raise StoreError(f"the disk of {path} has {free >> 20} MB left; free some space, then try again")


def inspect_folder(path: Path) -> None:
    """Check that a folder is absent, empty, or a whole Milvus Lite store.

    Raises:
        StoreError: it is something else, or files that its manifests name are missing or cut short.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise StoreError(f"{path} is a file, not a store folder; move it away or choose another home")
    if not any(path.iterdir()):
        return
    if not (path / "LOCK").exists() or not (path / "collections").is_dir():
        raise StoreError(f"{path} is not a memory store; move it away or choose another home")
    for collection in sorted((path / "collections").iterdir()):
        if collection.is_dir():
            _inspect_collection(collection)


def _inspect_collection(folder: Path) -> None:
    if not any(folder.iterdir()):
        return  # creation was interrupted before anything was in it
    _read_json(folder / "schema.json")
    partitions = folder / "partitions"
    present = list(partitions.rglob("*.parquet")) if partitions.is_dir() else []
    manifest = folder / "manifest.json"
    if not manifest.exists():
        if present:
            raise StoreError(f"{manifest} is missing; restore it from a backup, the data beside it is untouched")
        return
    content = _read_json(manifest)
    for partition, files in content.get("partitions", {}).items():
        for name in [*files.get("data_files", []), *files.get("delta_files", [])]:
            _inspect_parquet(partitions / partition / name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise StoreError(f"{path} cannot be read ({_line(e)}); restore it from a backup") from e
    if not isinstance(content, dict):
        raise StoreError(f"{path} is not what it should be; restore it from a backup")
    return content


def _inspect_parquet(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-4, 2)
            tail = file.read(4)
    except OSError as e:
        raise StoreError(f"{path} is missing or cut short; restore it from a backup") from e
    if head != b"PAR1" or tail != b"PAR1":
        raise StoreError(f"{path} is cut short or damaged; restore it from a backup")


def _remove_unborn(path: Path) -> None:
    """Remove empty folders of collections; Milvus Lite cannot create a collection over one."""
    if (path / "collections").is_dir():
        for folder in (path / "collections").iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

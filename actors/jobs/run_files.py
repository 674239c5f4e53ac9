"""Files of alignment runs: written whole or not at all, or by whole lines; on disk when a call returns."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from personaagent.errors import StoreError
from personaagent.private_files import opener
from personaagent.whole_file import write_whole

__all__ = ["append", "read", "replace", "write"]


def read(file: Path, schema: pa.Schema) -> pa.Table:
    """Read the columns of a schema from a Parquet file. Raises StoreError if that fails."""
    try:
        return pq.read_table(file, columns=schema.names, schema=schema)
    except (pa.ArrowException, OSError) as e:
        raise StoreError(
            f"cannot read {file}, which may be damaged: remove it, or put it back from a backup, and try again ({e})"
        ) from e


def append(file: Path, lines: str) -> None:
    """Add whole lines. Raises FileNotFoundError if there is no such folder, StoreError if writing fails."""
    try:
        with open(file, "a+b", opener=opener) as out:
            end = out.seek(0, os.SEEK_END)
            if end:
                out.seek(end - 1)
                if out.read(1) != b"\n":  # a killed process left half a line
                    out.write(b"\n")
            out.write(lines.encode())
            out.flush()
            os.fsync(out.fileno())
    except FileNotFoundError:
        raise
    except OSError as e:
        raise StoreError(f"cannot write {file}: {e.strerror}") from e


def write(file: Path, table: pa.Table) -> None:
    """Write a table as Parquet, whole or not at all. Raises StoreError if that fails."""
    buffer = BytesIO()
    pq.write_table(table, buffer)
    replace(file, buffer.getvalue())


def replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises StoreError if that fails."""
    try:
        write_whole(file, content, private=True, durable=True)
    except OSError as e:
        raise StoreError(f"cannot write {file}: {e.strerror}") from e

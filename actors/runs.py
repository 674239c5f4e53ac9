"""What alignment runs leave on disk: the users of a run and its results as Parquet, in one folder per run.

    home/runs/<run>/users.parquet      whom the run is about, written at its first start
    home/runs/<run>/part-00007.parquet results, one file per finished batch
    home/runs/<run>/run.json           seconds of work so far
    home/runs/<run>/population.json    that the run has learned what users have in common
    home/runs/<run>/gone               digests of users forgotten while the run was under way, until it ends

Every file is written whole or not at all, so a killed job leaves nothing half-made. Users' texts are in none of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from personaagent.errors import ConflictError, InvalidInput, NotFoundError, StoreError
from personaagent.types import AlignmentResult, user_key

__all__ = ["SCHEMA", "RunFolder", "erase_user", "from_table", "latest_run", "read_results", "to_table"]

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("score_before", pa.float64()),
        ("score_after", pa.float64()),
        ("persona_before", pa.int64()),
        ("persona_after", pa.int64()),
        ("held_out", pa.int64()),
        ("candidates", pa.int64()),
        ("calls", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("run", pa.string()),
    ]
)
_USERS = pa.schema([("user", pa.string())])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def to_table(results: Iterable[AlignmentResult]) -> pa.Table:
    """Results as a table, one row each."""
    return pa.Table.from_pylist([r.model_dump(mode="json") for r in results], schema=SCHEMA)


def from_table(table: pa.Table) -> list[AlignmentResult]:
    """The results of a table that `to_table` made."""
    return [AlignmentResult.model_validate(row) for row in table.to_pylist()]


class RunFolder:
    """One run's folder, owned by one process at a time; a context manager.

    Raises (on entering):
        InvalidInput: the run id is not a plain name.
        ConflictError: another process is working on this run.
        StoreError: the folder cannot be made.
    """

    def __init__(self, home: Path, run: str) -> None:
        if not _NAME.fullmatch(run):
            raise InvalidInput("a run id has 1 to 100 letters, digits, dots, dashes and underscores")
        self.path = home / "runs" / run
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT)
        except OSError as e:
            raise StoreError(f"cannot write {self.path}: {e.strerror}") from e
        try:  # released by the system when the process dies, however it dies
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(self._lock)
            raise ConflictError(f"run {self.path.name} is under way in another process") from e
        try:
            self._keep_promises()  # a process that was killed did not
        except BaseException:
            os.close(self._lock)
            self._lock = None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            try:
                self._keep_promises()
            finally:
                os.close(self._lock)
                self._lock = None

    def plan(self, users: Sequence[str]) -> list[str]:
        """Whom the run is about: the users of its first start, and any others among `users`."""
        planned = self._users()
        known = set(planned)
        more = [u for u in dict.fromkeys(users) if u not in known]
        if more or not planned:
            planned += more
            _write(self.path / "users.parquet", pa.Table.from_pylist([{"user": u} for u in planned], schema=_USERS))
        return planned

    def results(self) -> dict[str, AlignmentResult]:
        """The last result of each user."""
        found: dict[str, AlignmentResult] = {}
        for part in self._parts():
            found.update((r.user, r) for r in from_table(pq.read_table(part, schema=SCHEMA)))
        return found

    def write(self, results: Sequence[AlignmentResult]) -> None:
        """Add results; they are on disk when it returns. Users forgotten meanwhile are left out."""
        gone = self._gone()
        results = [r for r in results if user_key(r.user) not in gone]
        parts = self._parts()
        number = int(parts[-1].stem.removeprefix("part-")) + 1 if parts else 0
        _write(self.path / f"part-{number:05d}.parquet", to_table(results))
        if self._gone() != gone:  # somebody was forgotten between the look and the write
            self._erase(self._gone())

    @property
    def seconds(self) -> float:
        """Time of work so far, over all starts."""
        try:
            return float(json.loads((self.path / "run.json").read_text())["seconds"])
        except FileNotFoundError:
            return 0.0

    def spend(self, seconds: float) -> None:
        """Set the time of work so far."""
        _replace(self.path / "run.json", json.dumps({"run": self.path.name, "seconds": round(seconds, 3)}).encode())

    @property
    def learned(self) -> bool:
        """Whether the run has learned what users have in common."""
        return (self.path / "population.json").is_file()

    def note_learned(self, number: int | None) -> None:
        """Note that it was learned, as which number; None: there were too few users."""
        _replace(self.path / "population.json", json.dumps({"number": number}).encode())

    def erase(self, user: str) -> int:
        """Remove a user from the plan and the results; how many rows that were."""
        return self._erase({user_key(user)})

    def keep_out(self, user: str) -> None:
        """Make the process that works on this run leave a user out of what it writes from now on."""
        with (self.path / "gone").open("a") as out:
            out.write(user_key(user) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def _erase(self, keys: Collection[str]) -> int:
        # Not the folder's lock, which a run under way holds: whoever erases at the same time would bring back whom we erase.
        with (self.path / "erasing").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            return self._rewrite(keys)

    def _rewrite(self, keys: Collection[str]) -> int:
        removed = 0
        for file, schema in ((self.path / "users.parquet", _USERS), *((part, SCHEMA) for part in self._parts())):
            if not file.is_file():
                continue
            rows = pq.read_table(file, schema=schema).to_pylist()
            kept = [row for row in rows if user_key(row["user"]) not in keys]
            if len(kept) < len(rows):
                removed += len(rows) - len(kept)
                _write(file, pa.Table.from_pylist(kept, schema=schema))
        return removed

    def _keep_promises(self) -> None:
        """Erase who was forgotten while the run was under way, and forget the promise. The caller holds the lock."""
        if gone := self._gone():
            self._erase(gone)
        (self.path / "gone").unlink(missing_ok=True)

    def _gone(self) -> set[str]:
        try:
            return set((self.path / "gone").read_text().split())
        except FileNotFoundError:
            return set()

    def _users(self) -> list[str]:
        file = self.path / "users.parquet"
        return pq.read_table(file, schema=_USERS)["user"].to_pylist() if file.is_file() else []

    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))


def read_results(home: Path, run: str) -> list[AlignmentResult]:
    """A run's results, one per user, in the order of its plan. Raises NotFoundError if there is no such run."""
    folder = RunFolder(home, run)
    if not folder.path.is_dir():
        raise NotFoundError(f"there is no run {run} below {home / 'runs'}")
    return list(folder.results().values())


def latest_run(home: Path) -> str | None:
    """The run that was worked on last, or None."""
    files = list((home / "runs").glob("*/run.json"))
    return max(files, key=lambda f: f.stat().st_mtime).parent.name if files else None


def erase_user(home: Path, user: str) -> int:
    """Remove a user from all runs, also from one that is under way; how many rows that were. Part of forgetting a user."""
    removed = 0
    for path in sorted((home / "runs").glob("*")):
        if not path.is_dir():
            continue
        folder = RunFolder(home, path.name)
        try:
            with folder:
                removed += folder.erase(user)
        except ConflictError:
            folder.keep_out(user)
            removed += folder.erase(user)  # finished parts are never written again, so this disturbs nobody
    return removed


def _write(file: Path, table: pa.Table) -> None:
    buffer = BytesIO()
    pq.write_table(table, buffer)
    _replace(file, buffer.getvalue())


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    part: Any = file.with_name(f".{file.name}.tmp")
    try:
        with part.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except OSError as e:
        raise StoreError(f"cannot write {file}: {e.strerror}") from e

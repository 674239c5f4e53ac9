"""What alignment runs leave on disk: the users of a run and its results as Parquet, in one folder per run.

    home/runs/<run>/users.parquet      whom the run is about, written at its first start
    home/runs/<run>/part-00007.parquet results, one file per finished batch
    home/runs/<run>/run.json           seconds of work so far
    home/runs/<run>/population.json    that the run has learned what users have in common
    home/runs/<run>/gone               digests of users forgotten while the run was under way, until it ends
    home/runs/<run>/index              digests of users and the files they are in, so that forgetting reads no others

Every file is written whole or not at all, so a killed job leaves nothing half-made; lines of the index are on disk before the
file they speak of. Users' texts are in none of them. A job enters its folder before it lists users: whoever is forgotten from
then on is kept out until it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from actors.jobs.run_files import append, read, replace, write
from personaagent.errors import ConflictError, InvalidInput, NotFoundError, StoreError
from personaagent.private_files import private_folder
from personaagent.process_lock import ProcessLock
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
        ("words_judged_by", pa.string()),
        ("text_gain", pa.float64()),
        ("text_error", pa.float64()),
        ("text_items", pa.int64()),
        ("refused", pa.string()),  # JSON
        ("calls", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("run", pa.string()),
    ]
)
_USERS = pa.schema([("user", pa.string())])
_PART = re.compile(r"part-([0-9]+)\.parquet")
_KEY = 32  # hex digits of a user key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def to_table(results: Iterable[AlignmentResult]) -> pa.Table:
    """Results as a table, one row each."""
    rows = [{**r.model_dump(mode="json"), "refused": json.dumps(r.refused)} for r in results]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table) -> list[AlignmentResult]:
    """The results of a table that `to_table` made, now or when there were fewer columns."""
    rows = ({name: value for name, value in row.items() if value is not None} for row in table.to_pylist())
    return [AlignmentResult.model_validate({**row, "refused": json.loads(row.get("refused", "{}"))}) for row in rows]


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
        self._lock: ProcessLock | None = None
        self._entered = 0

    @classmethod
    def at(cls, path: Path) -> RunFolder:
        """A folder whatever its name, such as a copy that somebody made."""
        folder = cls(path, "any")
        folder.path = path
        return folder

    def __enter__(self) -> RunFolder:
        if self._entered:  # who holds it may hand it on to whoever would enter it
            self._entered += 1
            return self
        while not self._locked():
            pass
        try:
            self._keep_promises()  # a process that was killed did not
            with self._turn():
                self._sweep("*")
        except BaseException:
            self._unlock()
            raise
        self._entered = 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._lock is not None and not self._entered:
            try:
                self._keep_promises()
                self._leave_nothing_empty()
            finally:
                self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _locked(self) -> bool:
        """Take the lock; False if somebody removed the folder, which was empty, meanwhile."""
        lock = ProcessLock(self.path / "lock")
        try:
            private_folder(self.path)
            if not lock.take():
                raise ConflictError(f"run {self.path.name} is under way in another process")
        except FileNotFoundError:
            return False
        except OSError as e:
            raise StoreError(f"cannot write {self.path}: {e.strerror}") from e
        self._lock = lock
        return True

    def _leave_nothing_empty(self) -> None:
        """Remove a folder in which no run began, as when there was no user to align. The caller holds the lock."""
        if {file.name for file in self.path.iterdir()} <= {"lock", "erasing", "index"} and not self._files():
            for name in ("index", "erasing", "lock"):
                (self.path / name).unlink(missing_ok=True)
            try:
                self.path.rmdir()
            except OSError:  # somebody else has just begun to use it
                return

    def plan(self, users: Sequence[str]) -> list[str]:
        """Whom the run is about: the users of its first start, and any others among `users` who were not forgotten since."""
        with self._turn():  # who is forgotten during this is erased after it
            gone = self._gone()
            former = self._users()
            planned = [u for u in dict.fromkeys([*former, *users]) if user_key(u) not in gone]
            if planned != former or not planned:
                file = self.path / "users.parquet"
                self._note(file, planned)
                write(file, pa.Table.from_pylist([{"user": u} for u in planned], schema=_USERS))
        return planned

    def results(self) -> dict[str, AlignmentResult]:
        """The last result of each user."""
        found: dict[str, AlignmentResult] = {}
        for part in self._parts():
            found.update((r.user, r) for r in from_table(read(part, SCHEMA)))
        return found

    def write(self, results: Sequence[AlignmentResult]) -> None:
        """Add results; they are on disk when it returns. Users forgotten meanwhile are left out."""
        with self._turn():  # who is forgotten during this is erased after it
            gone = self._gone()
            results = [r for r in results if user_key(r.user) not in gone]
            numbers = [int(found[1]) for part in self._parts() if (found := _PART.fullmatch(part.name))]
            file = self.path / f"part-{max(numbers, default=-1) + 1:05d}.parquet"
            self._note(file, [r.user for r in results])
            write(file, to_table(results))

    @property
    def seconds(self) -> float:
        """Time of work so far, over all starts."""
        try:
            return float(json.loads((self.path / "run.json").read_text())["seconds"])
        except FileNotFoundError:
            return 0.0

    def spend(self, seconds: float) -> None:
        """Set the time of work so far."""
        replace(self.path / "run.json", json.dumps({"run": self.path.name, "seconds": round(seconds, 3)}).encode())

    @property
    def learned(self) -> bool:
        """Whether the run has learned what users have in common."""
        return (self.path / "population.json").is_file()

    def note_learned(self, number: int | None) -> None:
        """Note that it was learned, as which number; None: there were too few users."""
        replace(self.path / "population.json", json.dumps({"number": number}).encode())

    def erase(self, user: str) -> int:
        """Remove a user from the plan and the results; how many rows that were."""
        return self._erase({user_key(user)})

    def keep_out(self, user: str) -> None:
        """Make the process that works on this run leave a user out of what it writes from now on."""
        append(self.path / "gone", user_key(user) + "\n")

    def _erase(self, keys: Collection[str]) -> int:
        with self._turn():
            self._sweep()
            return self._rewrite(keys)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One at a time writes files that name users. Not the folder's lock, which a run under way holds all the time."""
        file = self.path / "erasing"
        with ExitStack() as turn:
            try:
                turn.enter_context(ProcessLock(file).held())
            except OSError as e:
                raise StoreError(f"cannot open {file}: {e.strerror}; remove it if it is in the way") from e
            yield

    def _sweep(self, names: str = "*.parquet*") -> None:
        """Remove what killed processes left half-written; the caller has its turn, so nobody writes such files now."""
        for file in self.path.glob(f".{names}.tmp"):
            file.unlink(missing_ok=True)

    def _rewrite(self, keys: Collection[str]) -> int:
        removed = 0
        index = self._index()
        found = [file for file in self._files() if any(key in index[file.name] for key in keys)]
        for file in found:
            schema = _schema(file)
            rows = read(file, schema).to_pylist()
            kept = [row for row in rows if user_key(row["user"]) not in keys]
            if len(kept) < len(rows):
                removed += len(rows) - len(kept)
                write(file, pa.Table.from_pylist(kept, schema=schema))
        if any(key in noted for noted in index.values() for key in keys):
            lines = (_lines(name, noted.difference(keys)) for name, noted in index.items())
            replace(self.path / "index", "".join(lines).encode())
        return removed

    def _index(self) -> dict[str, set[str]]:
        """Keys of the users in each file. Files it does not know yet, as those of older versions, are read once."""
        index: dict[str, set[str]] = {}
        try:
            lines = (self.path / "index").read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            lines = []
        except OSError as e:
            raise StoreError(f"cannot read {self.path / 'index'}: {e.strerror}; remove it, and it is made anew") from e
        for line in lines:  # one that was cut off speaks of a file that was never written
            key, _, name = line.partition(" ")
            if name and (key == "-" or len(key) == _KEY):
                noted = index.setdefault(name, set())
                if key != "-":
                    noted.add(key)
        unknown = [file for file in self._files() if file.name not in index]
        for file in unknown:
            index[file.name] = {user_key(u) for u in read(file, _USERS)["user"].to_pylist()}
        if unknown:
            append(self.path / "index", "".join(_lines(file.name, index[file.name]) for file in unknown))
        return index

    def _note(self, file: Path, users: Iterable[str]) -> None:
        """Note who is in a file that is about to be written."""
        append(self.path / "index", _lines(file.name, {user_key(u) for u in users}))

    def _files(self) -> list[Path]:
        """All that name users."""
        plan = self.path / "users.parquet"
        return [*([plan] if plan.is_file() else []), *self._parts()]

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
        return read(file, _USERS)["user"].to_pylist() if file.is_file() else []

    def _parts(self) -> list[Path]:
        return sorted(file for file in self.path.glob("part-*.parquet") if file.is_file())


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
        folder = RunFolder.at(path)
        if not path.is_dir() or not ((path / "lock").exists() or folder._files()):
            continue
        try:
            with folder:
                removed += folder.erase(user)
        except ConflictError:
            try:
                folder.keep_out(user)
            except FileNotFoundError:  # it held nothing, and was removed at its end
                continue
            removed += folder.erase(user)
    return removed


def _schema(file: Path) -> pa.Schema:
    return _USERS if file.name == "users.parquet" else SCHEMA


def _lines(name: str, keys: Iterable[str]) -> str:
    """Lines of the index: that it knows this file, and whom it holds."""
    return "".join(f"{key} {name}\n" for key in ("-", *sorted(keys)))

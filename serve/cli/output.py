"""What a command shows: tables and progress for people, one JSON object for programs.

Results go to stdout and everything else to stderr. Ray, vLLM and the processes they start print to whatever descriptors 1
and 2 are, so a command that starts them first moves these two elsewhere and keeps private copies for itself.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from personaagent.errors import InvalidInput

__all__ = ["Output", "Tell", "check_report", "number", "plain_json", "printable"]


class Tell(Protocol):
    """`tell(stage, done, total)`: `done` steps of `total` of a stage are done; total 0 means that it is not known."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`note` stands below the bar, or behind the line."""
        ...


WIDE = 10_000
LINE_EVERY_S = 10.0  # of progress, where there is no terminal
OWN_LOGGERS = ("personaagent", "actors", "alignment", "serve")


# What moves the cursor, changes colours, reverses the order of letters or makes one line two. Not joiners, which words need.
_CONTROL = re.compile(
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff]"
)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable(text: str, lines: bool = True) -> str:
    """The text with every character that a terminal would obey written as an escape; what a user is called is anybody's choice.

    `lines`: line breaks and tabs stay.
    """
    text = _CONTROL.sub(_escape, text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def plain_json(text: str) -> str:
    """JSON that says the same, without characters that a terminal would obey."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\r" else f"\\u{ord(found[0]):04x}", text)


class Output:
    """The streams of one command."""

    def __init__(self, json: bool = False, verbose: bool = False) -> None:
        """`json`: people's output is left out, and `result` prints one object. `verbose`: nothing is held back."""
        self.json = json
        self.verbose = verbose
        self._out: IO[str] | None = None
        self._err: IO[str] | None = None
        self._log: Path | None = None
        self._connect()

    def _connect(self) -> None:
        # Without markup: what users and models wrote is shown as it is.
        self.console = Console(file=self._out, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self.err = Console(
            file=self._err, stderr=self._err is None, markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    # Results

    def result(self, value: Any) -> None:
        """The command's one JSON object on stdout, if JSON was asked for. Numbers that JSON lacks become null."""
        if self.json:
            from pydantic_core import to_json

            self.write(plain_json(to_json(value, inf_nan_mode="null").decode()) + "\n")

    @property
    def stream(self) -> IO[str]:
        """Stdout, whatever the parts of the system print."""
        return self._out if self._out is not None else sys.stdout

    def write(self, text: str) -> None:
        """Text on stdout exactly as it is."""
        self.stream.write(text)
        self.stream.flush()

    def show(self, *parts: Any, style: str | None = None) -> None:
        """Text or a rich renderable on stdout, for people."""
        if not self.json:
            self.console.print(*(printable(p) if isinstance(p, str) else p for p in parts), style=style)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
        """A table on stdout, for people. Columns whose name starts with `>` are aligned to the right."""
        if self.json:
            return
        shown = [
            [number(c) if isinstance(c, float | None) else printable(str(c), lines=False) for c in row] for row in rows
        ]
        table = Table(title=None if title is None else Text(printable(title, lines=False)), title_justify="left")
        for at, column in enumerate(columns):
            name = column.lstrip(">")
            words = [word for cell in (name, *(row[at] for row in shown)) for word in cell.split()]
            # Narrow terminals break cells between words, never inside one; the first column names the row and stays whole.
            table.add_column(
                name,
                justify="right" if column.startswith(">") else "left",
                no_wrap=at == 0,
                min_width=max(map(len, words), default=0),
            )
        for row in shown:
            table.add_row(*map(Text, row))
        natural = Measurement.get(self.console, self.console.options.update(width=WIDE), table)
        width = natural.minimum if self.console.is_terminal else natural.maximum
        self.console.print(table, soft_wrap=False, crop=False, width=max(width, self.console.width))

    def diff(self, before: str, after: str) -> None:
        """What changed from one text to the other, line by line, on stdout."""
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=2):
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            self.show(line, style=style)

    # Beside the result

    def note(self, text: str, style: str = "dim") -> None:
        """A line on stderr."""
        self.err.print(printable(text), style=style)

    def fail(self, message: str) -> None:
        """One line on stderr that says what went wrong."""
        self.err.print(f"error: {printable(' '.join(message.split()), lines=False)}", style="red")

    @contextmanager
    def stage(self, text: str) -> Iterator[Callable[[str], None]]:
        """A spinner on stderr while something runs, plain lines where stderr is no terminal. Yields what changes its text."""
        if self.err.is_terminal:
            with self.err.status(printable(text, lines=False)) as status:
                yield lambda text: status.update(printable(text, lines=False))
        else:
            self.note(f"{text} ...")
            yield lambda text: self.note(f"{text} ...")

    @contextmanager
    def progress(self, stage: str | None = None, total: int = 0) -> Iterator[Tell]:
        """A progress bar on stderr for the stage under way; stages before it are lines above. Where stderr is no terminal, as
        in the logs of a job, a line now and then."""
        if not self.err.is_terminal:
            yield self._lines()
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with _Bar(*columns, console=self.err) as bar:
            if stage is not None:
                stage = printable(stage, lines=False)
                bar.add_task(stage, total=total or None, note="")

            def tell(stage: str, done: int, total: int, note: str = "") -> None:
                stage, note = printable(stage, lines=False), printable(note)
                current = bar.tasks[-1] if bar.tasks else None
                if current is not None and current.description == stage:
                    bar.update(current.id, completed=done, total=total or None, note=note)
                    return
                if current is not None:
                    # As a line: more bars than the terminal has lines would hide the one that moves.
                    if current.completed:
                        self.note(_steps(current.description, int(current.completed), int(current.total or 0)))
                    bar.remove_task(current.id)
                # What was done before, by an earlier run, is not this one's speed.
                bar.add_task(stage, completed=done, total=total or None, note=note)

            yield tell

    def _lines(self) -> Tell:
        shown, due, whole = "", 0.0, False

        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            nonlocal shown, due, whole
            now = time.monotonic()
            ends = done == total > 0
            if stage != shown or now >= due or (ends and not whole):
                shown, due, whole = stage, now + LINE_EVERY_S, ends
                self.note(_steps(stage, done, total, note))

        return tell

    # Chatter of other people's code

    def divert(self) -> None:
        """Send everything that is not written through this object to a log file, or to stderr with `verbose`.

        Descriptors are moved, not only Python's streams: child processes and C++ code write to those. Does nothing where
        stdout is not the process's own (inside a test runner).
        """
        out: IO[str] = sys.stdout
        if self._out is not None or out is not sys.__stdout__:
            return
        out.flush()
        sys.stderr.flush()
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        self._err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        if self.verbose:
            os.dup2(2, 1)
        else:
            log, name = tempfile.mkstemp(prefix="personaagent-", suffix=".log")
            self._log = Path(name)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
        self._connect()
        handler = logging.StreamHandler(self._err)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        for name in OWN_LOGGERS:
            logger = logging.getLogger(name)
            logger.addHandler(handler)
            logger.setLevel(logging.INFO if self.verbose else logging.WARNING)
            logger.propagate = False

    def finish(self, failed: bool) -> None:
        """Drop the log of a command that went well; say where it is otherwise."""
        if self._log is None:
            return
        if failed and self._log.exists() and self._log.stat().st_size:
            self.note(f"what the parts of the system printed is in {self._log}")
        else:
            self._log.unlink(missing_ok=True)


class _Bar(Progress):
    """A bar with its note on a line of its own: beside it the note would push the numbers out of a narrow terminal."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """See `Progress`."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := task.fields["note"]:
                yield Text(f"  {note}", style="dim", overflow="ellipsis", no_wrap=True)


def _steps(stage: str, done: int, total: int, note: str = "") -> str:
    """A line of progress."""
    return " ".join(filter(None, [stage, f"{done}/{total}" if total else "", note]))


def number(value: float | None, digits: int = 3) -> str:
    """A score for a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def check_report(report: Path | None) -> None:
    """Raises InvalidInput if a report could not be written there; better now than after the work."""
    if report is not None:
        path = report.expanduser().absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise InvalidInput(f"--report {report}: name a file in a folder that exists")

"""A child process that is spoken to in lines. It ends with us, and what it says on its standard error goes to the debug log."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from personaagent.errors import UnavailableError

__all__ = ["LineProcess"]

log = logging.getLogger(__name__)

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
CHUNK = 2**16  # bytes read at once
SAID = 500  # bytes of standard error in a line of the log
GRACE_S = 2.0  # from the end of its input to SIGTERM, and from there to SIGKILL
REAPED_S = 20.0  # for which the end after SIGKILL may take on a machine that has much to do
POLL_S = 0.01

# Becomes the program after having asked the kernel to end it when the thread that started it ends: so it also ends when we are
# killed, which no handler of ours would see. The second look is for the case that we ended before it asked.
_TIED = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class LineProcess:
    """A program with lines on its standard input and output. Made by `start`; whoever starts it closes it."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, limit: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._limit = limit
        self._stderr = asyncio.create_task(_logged(process.stderr, name))

    @classmethod
    async def start(cls, command: Sequence[str], env: Mapping[str, str], name: str, limit: int) -> LineProcess:
        """Start a program in a process group of its own.

        Args:
            command: the program and its arguments.
            env: its environment, beside a few names that it has from ours.
            name: for the log.
            limit: bytes that a line may have.

        Raises:
            UnavailableError: there is no such program, or the system starts no further process.
        """
        whole = {key: os.environ[key] for key in INHERITED if key in os.environ} | dict(env)
        if shutil.which(command[0], path=whole.get("PATH")) is None:
            raise UnavailableError(f"there is no program {command[0]!r} that can be started")
        tied = (sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command)
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *tied, stdin=pipe, stdout=pipe, stderr=pipe, env=whole, start_new_session=True
            )
        except (OSError, ValueError) as e:
            raise UnavailableError(f"{command[0]!r} cannot be started: {type(e).__name__}") from e
        return cls(process, name, limit)

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[bytes]:
        """What it writes, line by line without their ends, until it ends or closes its output.

        Raises:
            UnavailableError: a line is longer than it may be.
        """
        line = bytearray()
        while chunk := await self._stdout.read(CHUNK):
            first, *others = chunk.split(b"\n")
            line += first
            for other in others:
                yield bytes(line)
                line[:] = other
            if len(line) > self._limit:
                raise UnavailableError(f"it wrote more than {self._limit // 1000} kB in one line")

    async def write(self, line: bytes) -> None:
        """Write a line; waits while the process does not read.

        Raises:
            UnavailableError: it has ended, or closed its input.
        """
        try:
            self._stdin.write(line + b"\n")
            await self._stdin.drain()
        except OSError as e:
            raise UnavailableError("it has closed its input") from e

    async def ended(self, within_s: float) -> bool:
        """Whether it ends within so many seconds. Its children may still hold its pipes."""
        until = asyncio.get_running_loop().time() + within_s
        while self._process.returncode is None:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(POLL_S)
        return True

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.returncode

    async def close(self) -> None:
        """End it and its children: by the end of its input, then by SIGTERM, then by SIGKILL, after which it always ends."""
        with suppress(OSError):
            self._stdin.close()
        rest = asyncio.create_task(self._drained())
        if not await self.ended(GRACE_S):
            self._signal(signal.SIGTERM)
            await self.ended(GRACE_S)
        self._signal(signal.SIGKILL)  # to what is left of its group
        if not await self.ended(REAPED_S):
            log.warning("process %d does not end", self.pid)
        await asyncio.wait([rest, self._stderr], timeout=GRACE_S)  # a child that left the group may hold the pipes
        rest.cancel()
        self._stderr.cancel()

    async def _drained(self) -> None:
        """Nobody is kept from ending by a full pipe."""
        while await self._stdout.read(CHUNK):
            pass

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


async def _logged(stderr: asyncio.StreamReader, name: str) -> None:
    """Read all of it, so that the pipe is never full, whether it is logged or not."""
    rest = b""
    while chunk := await stderr.read(CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            log.debug("%s: %s", name, line[:SAID].decode("utf-8", "replace"))
        rest = rest[:SAID]

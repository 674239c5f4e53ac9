"""Child processes that are spoken to in lines."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from personaagent.errors import UnavailableError
from personaagent.tools import line_process
from personaagent.tools.line_process import LineProcess

LOUD = "import sys; sys.stderr.write('é' * 300_000 + '\\n'); sys.stderr.flush(); print(input()); print('x' * 50); print('end')"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def start(*command: str, limit: int = 1000) -> LineProcess:
    return await LineProcess.start(command, {"COLOUR": "red"}, "child", limit)


async def test_lines_go_both_ways_and_standard_error_goes_to_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="personaagent.tools.line_process")
    process = await start(sys.executable, "-c", LOUD)
    await process.write("hellö".encode())
    assert [line.decode() async for line in process.lines()] == ["hellö", "x" * 50, "end"]
    assert await process.ended(5)
    assert process.code == 0
    await process.close()
    assert [len(r.getMessage()) < 600 for r in caplog.records] == [True]
    assert gone(process.pid)


async def test_a_line_has_a_bound() -> None:
    process = await start(sys.executable, "-c", "print('x' * 200_000)")
    with pytest.raises(UnavailableError, match="more than 1 kB"):
        [line async for line in process.lines()]
    await process.close()


async def test_a_child_has_a_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_SECRET", "x")
    process = await start(sys.executable, "-c", "import os; print(*sorted(os.environ))")
    names = (await anext(process.lines())).decode().split()
    await process.close()
    assert {"PATH", "COLOUR"} <= set(names)
    assert "OUR_SECRET" not in names


async def test_what_cannot_be_started_is_said() -> None:
    with pytest.raises(UnavailableError, match="no program 'no-such-program'"):
        await start("no-such-program")


async def test_who_does_not_listen_is_ended_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_process, "GRACE_S", 0.1)
    process = await start("sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60")
    child = int(await anext(process.lines()))
    await process.close()
    assert process.code is not None
    assert gone(process.pid)
    await asyncio.sleep(0.05)
    assert gone(child) or _zombie_of_another(child)


def _zombie_of_another(pid: int) -> bool:
    """A grandchild that ended is reaped by whoever inherits it, which is not us."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "Z"


OBSTINATE = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
for line in sys.stdin:
    pass
"""
PLAIN = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-c", PLAIN),  # it does not look at its input: the kernel's SIGTERM ends it
        (sys.executable, "-c", OBSTINATE),  # the end of its input does
        ("sh", "-c", f"{sys.executable} -c '{OBSTINATE}'; true"),  # a program that another one started, as npx does
    ],
    ids=["signal", "end of input", "child of a child"],
)
def test_nothing_is_left_when_we_are_killed(command: tuple[str, ...]) -> None:
    code = f"""
import asyncio, os, signal
from personaagent.tools.line_process import LineProcess

async def main():
    process = await LineProcess.start({command!r}, {{}}, "child", 1000)
    pid = int(await anext(process.lines()))
    print(process.pid, pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": str(Path(line_process.__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, env=env)
    assert killed.returncode == -signal.SIGKILL
    left = [int(pid) for pid in killed.stdout.split()]
    assert len(left) == 2
    for _ in range(500):
        left = [pid for pid in left if not (gone(pid) or _zombie_of_another(pid))]
        if not left:
            return
        time.sleep(0.02)
    raise AssertionError(f"{left} live on")

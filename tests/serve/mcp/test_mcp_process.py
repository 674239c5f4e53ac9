"""`personaagent mcp` as programs start it: by the official client, on a memory in a store, without any model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from tests.serve.mcp.test_memory_server import answered, refused

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder with a short name: Ray's sockets are below it, and paths of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="pa-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def left(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().decode())
    return found


def gone(mark: str, seconds: float = 30.0) -> bool:
    """Whether nothing of a command is left, after a while."""
    until = time.monotonic() + seconds
    while left(mark) and time.monotonic() < until:
        time.sleep(0.2)
    return not left(mark)


def interrupted(command: list[str], env: dict[str, str]) -> tuple[int, str, str]:
    """Start the command, interrupt it as soon as it serves; its exit code and what it wrote."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, env=env, cwd=ROOT, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "serving the memory" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.cluster
async def test_the_command_serves_a_user_to_the_official_client_and_ends(tmp_path: Path, temporary: Path) -> None:
    mark = f"mark-{temporary.name}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERSONAAGENT_")}
    env = {**kept, "CLI_TEST_MARK": mark, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "serve.cli", "--home", str(tmp_path / "home"), "mcp", "--user", "anna"]
    program = StdioServerParameters(command=command[0], args=command[1:], env=env, cwd=ROOT)
    async with Client(program, read_timeout_seconds=120) as client:
        assert len((await client.list_tools()).tools) == 6
        first = await answered(client, "add_memory", text="I do not eat fish.")
        await answered(client, "record_truth", query="a seat?", choices=["window", "aisle"], truth="aisle")
        found = await answered(client, "search_memories", query="What should I not cook with fish?", limit=1)
        assert [m["id"] for m in found["memories"]] == [first["id"]]
        assert len((await answered(client, "get_memories"))["memories"]) == 2
        assert (await answered(client, "get_persona"))["version"] == 1
        await answered(client, "delete_memory", memory_id=first["id"])
        assert "there is no memory" in await refused(client, "delete_memory", memory_id=first["id"])
    assert gone(mark), left(mark)

    # What was acknowledged is there for the next one, which ends by a signal; nothing but the protocol was on its output.
    code, out, err = interrupted(command, env)
    assert (code, out) == (0, ""), err
    assert "Traceback" not in err
    assert gone(mark), left(mark)
    async with Client(program, read_timeout_seconds=120) as client:
        memories = (await answered(client, "get_memories"))["memories"]
        assert [(m["query"], m["truth"]) for m in memories] == [("a seat?", "aisle")]
    assert gone(mark), left(mark)

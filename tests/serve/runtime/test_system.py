"""What must fail before anything is started, and who owns a home. No Ray is started here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from personaagent.errors import InvalidInput, PersonaAgentError, StoreError, UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.settings import Settings, load_settings
from serve.app import build
from serve.runtime import ray_cluster as cluster
from serve.runtime.home_lock import HomeLock
from serve.runtime.ray_cluster import LISTENING_PORTS, free_port
from serve.runtime.system import System
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "init_ray", lambda *_: pytest.fail("Ray was started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def tree(home: Path, **sections: Any) -> Settings:
    model = home.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return load_settings(home=home, **{"llm": {"model": str(model)}, "serve": {"port": 0}, **sections})


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"llm": {"model": "/no/such/model"}}, "is not a folder"),
        ({"embedder": {"model": "/no/such/model"}}, "is not a folder"),
        ({"memory": {"uri": "http://127.0.0.1:9"}}, "Milvus at 127.0.0.1:9 cannot be reached"),
        ({"memory": {"uri": "http://:bad"}}, r"memory\.uri"),
        ({"llm": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}}, "127.0.0.1:9"),
        ({"llm": {"base_url": "http://127.0.0.1:9/v1"}}, r"llm\.model"),
        ({"serve": {"host": "203.0.113.1", "api_key": "k"}}, "cannot listen on"),
        ({"serve": {"host": "0.0.0.0"}}, r"serve\.api_key"),
    ],
)
async def test_settings_that_cannot_work_are_one_line_before_the_start(
    tmp_path: Path, sections: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PersonaAgentError, match=reason) as error:
        await System.start(tree(tmp_path / "home", **sections), http=True)
    assert "\n" not in error.value.message
    assert HomeLock(tmp_path / "home").acquire(False)  # nothing holds it any more


async def test_tools_are_started_only_for_who_asks_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[Settings]()

    async def start(settings: Settings, *_: Any, connect: bool) -> None:
        started.append(settings)
        assert not connect

    monkeypatch.setattr("serve.runtime.system.start_tools", start)
    system = System(tree(tmp_path / "home"), False, lambda _: None)
    system.llm, system.embedder = FakeLLM(), HashEmbedder()
    system.memory = LocalMemory(system.embedder)  # type: ignore[assignment]
    await system._assemble(llm=False)
    assert not started
    await system._assemble(llm=True)
    assert started == [system.settings]
    await system.close()


async def test_a_port_in_use_is_said_before_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"{port}.*already in use.*--port"):
            await System.start(tree(tmp_path / "home", serve={"port": port}), http=True)


def test_a_chosen_port_is_free_and_not_one_that_outgoing_connections_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(free_port("127.0.0.1") in LISTENING_PORTS for _ in range(20))
    first = free_port("127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        second = next(p for p in LISTENING_PORTS if p != first)
        monkeypatch.setattr("serve.runtime.ray_cluster.random.sample", lambda *_: [first, second])
        assert free_port("127.0.0.1") == second
        monkeypatch.setattr("serve.runtime.ray_cluster.random.sample", lambda *_: [first])
        with pytest.raises(UnavailableError, match="--port"):
            free_port("127.0.0.1")


async def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        await System.start(tree(tmp_path / "home"))


async def test_two_servers_on_one_home(tmp_path: Path) -> None:
    first = HomeLock(tmp_path / "home")
    assert first.acquire(serving=True)
    with pytest.raises(InvalidInput, match=f"pid {os.getpid()}"):
        await System.start(tree(tmp_path / "home"), http=True)


async def test_a_home_that_another_command_works_on(tmp_path: Path) -> None:
    first = HomeLock(tmp_path / "home")
    assert first.acquire(serving=False)
    with pytest.raises(UnavailableError, match="in use by another command"):
        await System.start(tree(tmp_path / "home"), llm=False)
    first.release()


def test_a_killed_owner_holds_nothing(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from serve.runtime.home_lock import HomeLock
lock = HomeLock(Path({str(tmp_path)!r}))
assert lock.acquire(True, "mark-1")
lock.publish({{"pid": 1}})
print("held", flush=True)
input()
"""
    root = str(Path(__file__).resolve().parents[3])
    owner = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    lock = HomeLock(tmp_path)
    assert not lock.acquire(False)
    assert lock.owner() == {"pid": owner.pid, "serving": True, "mark": "mark-1"}
    assert lock.read() == {"pid": 1}
    owner.kill()
    owner.communicate()
    assert lock.acquire(False)
    assert lock.read() is None  # what it said is not true any more
    assert lock.left_behind == "mark-1"
    lock.release()
    lock.release()
    assert lock.acquire(False)
    assert lock.left_behind is None  # this time it ended in order
    lock.release()


def test_processes_of_a_killed_owner_are_ended_and_no_others() -> None:
    def sleeper(mark: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"], env={**os.environ, "PERSONAAGENT_SYSTEM": mark})

    mine, other = sleeper("mark-1"), sleeper("mark-2")
    try:
        reaper = threading.Thread(target=mine.wait)  # an orphan would be waited for by the system
        reaper.start()
        cluster.end("mark-1", 0.0)
        reaper.join(10)
        assert mine.returncode == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_note_is_whole_or_not_there(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    assert lock.acquire(True)
    assert lock.read() is None
    lock.publish({"url": "http://x"})
    assert json.loads(lock.note.read_text()) == {"url": "http://x"}
    assert [p.name for p in lock.note.parent.glob("*.tmp")] == []


def test_a_serve_config_file_builds_the_application() -> None:
    remote = {"llm": {"base_url": "http://model:8000/v1", "model": "m"}, "memory": {"shards": 3}}
    with pytest.raises(InvalidInput, match=r"serve\.api_key"):  # where it listens is not seen here
        build(remote)
    built = build({**remote, "serve": {"api_key": "k"}})
    assert type(built).__name__ == "Application"
    with pytest.raises(InvalidInput, match="shard"):
        build({"memory": {"shard": 3}})


def test_logical_cpus_are_enough_for_what_is_deployed() -> None:
    small = cluster.needed_cpus(load_settings())
    assert small >= 4
    assert cluster.needed_cpus(load_settings(llm={"max_replicas": 3})) == small + 4
    assert cluster.needed_cpus(load_settings(llm={"base_url": "http://x/v1", "model": "m"})) < small


def test_the_reason_of_a_failed_replica_is_found_in_serves_message() -> None:
    message = """The deployment failed to start 1 times in a row. See controller logs for details. Error:
ray::ServeReplica:initialize_and_get_metadata() (pid=1)
  File "x.py", line 1, in y
RuntimeError: Traceback (most recent call last):
  File "engine.py", line 9, in __init__
ValueError: the model is too large: 4 GiB do not fit
"""
    assert cluster._last_line(message) == "ValueError: the model is too large: 4 GiB do not fit"
    assert cluster._last_line("") == "no reason given"

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from personaagent.process_lock import ProcessLock

ROOT = str(Path(__file__).resolve().parents[2])


def other(path: Path, what: str) -> subprocess.Popen[str]:
    """Another process that holds a lock of a file until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{what}; print('held', flush=True); input()", str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holder_at_a_time_also_within_a_process(tmp_path: Path) -> None:
    one, two = ProcessLock(tmp_path / "lock"), ProcessLock(tmp_path / "lock")
    assert one.take()
    assert not one.take()
    assert not two.take()
    two.release()  # which does not hold it
    assert not two.take()
    one.release()
    one.release()
    assert two.take()
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    two.release()
    assert (tmp_path / "lock").exists()  # another file of this name would be another lock


@pytest.mark.parametrize(
    "what",
    [
        "import sys, pathlib; from personaagent.process_lock import ProcessLock; l = ProcessLock(pathlib.Path(sys.argv[1])); "
        "assert l.take()",
        "import sys, fcntl; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX)",  # as older versions took it
    ],
)
def test_a_killed_holder_holds_nothing(tmp_path: Path, what: str) -> None:
    process = other(tmp_path / "lock", what)
    lock = ProcessLock(tmp_path / "lock")
    assert not lock.take()
    process.kill()
    process.communicate()
    assert lock.take()
    lock.release()


def test_what_stands_in_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("who")
    with ProcessLock(tmp_path / "lock").held():
        assert (tmp_path / "lock").read_text() == "who"
        (tmp_path / "lock").write_text("me")  # closing the file once more lets nobody in
        assert not ProcessLock(tmp_path / "lock").take()
    assert (tmp_path / "lock").read_text() == "me"


def test_a_lock_is_let_go_in_another_thread(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path / "lock")
    taker = threading.Thread(target=lock.take)
    taker.start()
    taker.join()
    assert not ProcessLock(tmp_path / "lock").take()
    lock.release()
    assert lock.take()
    lock.release()


def test_who_waits_gets_it_next(tmp_path: Path) -> None:
    first = ProcessLock(tmp_path / "lock")
    assert first.take()
    order: list[str] = []

    def wait() -> None:
        with ProcessLock(tmp_path / "lock").held():
            order.append("second")

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.05)
    order.append("first")
    first.release()
    waiting.join(10)
    assert order == ["first", "second"]


def test_no_folder_is_made_for_it(tmp_path: Path) -> None:
    lock = ProcessLock(tmp_path / "gone" / "lock")
    with pytest.raises(FileNotFoundError):
        lock.take()
    with pytest.raises(FileNotFoundError), lock.held():
        pass
    assert not (tmp_path / "gone").exists()


def test_a_file_that_was_removed_by_its_last_holder_locks_nobody_out(tmp_path: Path) -> None:
    first = ProcessLock(tmp_path / "lock")
    assert first.take()
    (tmp_path / "lock").unlink()
    first.release()
    second = ProcessLock(tmp_path / "lock")
    assert second.take()
    assert not first.take()
    second.release()


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="not implemented"):
        ProcessLock(tmp_path / "lock").take()


def test_a_forked_process_does_not_hold_it(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys, time
from personaagent.process_lock import ProcessLock
lock = ProcessLock(pathlib.Path(sys.argv[1]))
assert lock.take()
if os.fork() == 0:
    time.sleep(60)
lock.release()
assert ProcessLock(pathlib.Path(sys.argv[1])).take()
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=ROOT, start_new_session=True)
    try:
        assert process.wait(20) == 0
        lock = ProcessLock(tmp_path / "lock")
        assert lock.take()  # though the child of whoever held it is still there
        lock.release()
    finally:
        os.killpg(process.pid, 9)

"""What lies below a home is its owner's alone, whatever the umask, and also where an older version left it open."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.jobs.run_folder import RunFolder
from actors.memory.shard import MemoryShard
from actors.milvus.lite import LiteEngine
from actors.milvus.lite_socket import SOCKET, clear_folders, remove_folder, socket_folder
from alignment.evaluation.journal import Journal
from personaagent.errors import StoreError
from personaagent.private_files import private_folder, tighten
from serve.runtime.home_lock import HomeLock
from tests.support.shards import batch, config, interaction


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def readable_by_others(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)} {stat.S_IMODE(path.stat().st_mode):o}"
        for path in (root, *root.rglob("*"))
        if path.stat().st_mode & 0o077
    ]


async def test_all_that_is_written_is_private(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    lock = HomeLock(home)
    assert lock.acquire(True)
    lock.publish({"url": "http://x"})
    with RunFolder(home, "r1") as run:
        run.plan(["anna"])
    with Journal(home / "evaluations" / "e", {}):
        pass
    os.umask(0)
    shard = MemoryShard(config(home))
    await shard.append("anna", await batch(interaction("1", user="anna")), "t")
    await shard.flush()
    uri = shard._store._milvus._lite.uri  # type: ignore[union-attr]
    assert uri.startswith("unix:")  # no port, to which every user of the machine could connect
    assert stat.S_IMODE(Path(uri.removeprefix("unix:")).parent.stat().st_mode) == 0o700
    await shard.close()
    written = {path.name for path in home.rglob("*")}
    assert {"lock", "server.json", "store.json", "journal.jsonl", "LOCK", "users.parquet"} <= written
    assert readable_by_others(home) == []
    lock.release()


def test_an_old_home_is_tightened_when_it_is_opened(tmp_path: Path) -> None:
    for name in ("store/x.db/LOCK", "audit/a.jsonl", "models/m/config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("x")
    (tmp_path / "store" / "link").symlink_to(outside)
    lock = HomeLock(tmp_path)
    assert lock.acquire(False)
    lock.release()
    assert {line.split("/")[0] for line in readable_by_others(tmp_path)} == {"models 777", "models", "store"}
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE(outside.stat().st_mode) == 0o666  # a link leads to what is not ours


def test_what_is_missing_or_not_ours_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tighten(tmp_path / "nothing")

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(Path, "chmod", refused)
    private_folder(tmp_path / "theirs")


def test_folders_of_sockets_that_killed_processes_left_are_removed(tmp_path: Path) -> None:
    left, other, ours = (socket_folder(tmp_path / name) for name in ("a", "b", "a"))
    for folder in (left, other, ours):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / SOCKET).touch()
    clear_folders(tmp_path / "a", ours)
    assert (left.exists(), other.exists(), ours.exists()) == (False, True, True)
    for folder in (other, ours):
        remove_folder(folder)


def test_a_store_that_is_closed_or_cannot_be_opened_leaves_no_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = Path(tempfile.mkdtemp())  # the path of a socket is short
    monkeypatch.setattr("tempfile.tempdir", str(sockets))
    one = LiteEngine(tmp_path / "store")
    assert len(list(sockets.iterdir())) == 1
    with pytest.raises(StoreError, match="in use"):
        LiteEngine(tmp_path / "store")
    assert len(list(sockets.iterdir())) == 1
    one.close()
    LiteEngine(tmp_path / "store").abandon()
    sockets.rmdir()  # which nothing is in

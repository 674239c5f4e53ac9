from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from personaagent.whole_file import replacing, sync_folder, write_whole


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(("private", "mode"), [(True, 0o600), (False, 0o644)])
def test_a_file_is_replaced(tmp_path: Path, private: bool, mode: int, durable: bool) -> None:
    file = tmp_path / "x"
    umask = os.umask(0o022)
    try:
        for content in (b"one", b""):
            write_whole(file, content, private=private, durable=durable)
            assert file.read_bytes() == content
    finally:
        os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / ("ö" * 120)  # 240 of the 255 bytes that a name may have
    file.write_bytes(b"old")
    with replacing(file, private=True, durable=True) as out:
        out.write(b"new")
        out.flush()
        assert file.read_bytes() == b"old"
        assert len(list(tmp_path.iterdir())) == 2
    assert file.read_bytes() == b"new"

    def interrupted() -> None:
        with replacing(file, private=True, durable=True) as out:
            out.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_durable_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def syncing(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def moving(part: Path, target: Path) -> Path:
        done.append("rename")
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", moving)
    write_whole(tmp_path / "x", b"x", private=True, durable=True)
    assert done == ["file", "rename", "folder"]
    done.clear()
    write_whole(tmp_path / "x", b"x", private=True, durable=False)
    assert done == ["rename"]


def test_errors_are_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "gone" / "x", b"x", private=True, durable=True)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "x", b"x", private=True, durable=True)
    with pytest.raises(OSError, match="No space"):
        sync_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_sync_folders_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unknown)
    sync_folder(tmp_path)

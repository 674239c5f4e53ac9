"""The audit log when a line gets only half onto the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.memory.audit import AuditLog
from actors.memory.shard import MemoryShard
from personaagent.errors import StoreError
from personaagent.memory.export import parse_export
from personaagent.types import Origin, PersonaDraft, Profile
from tests.support.shards import EMBEDDER, batch, config, interaction


def test_a_line_that_did_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path, "shard")
    log.write("append", "a", "user", {})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, text: write(descriptor, text[:20]))
    with pytest.raises(StoreError, match="only a part"):
        log.write("append", "b", "user", {})
    monkeypatch.undo()
    log.write("append", "c", "user", {})
    (file,) = tmp_path.glob("*.jsonl")
    assert [json.loads(line)["user_key"] for line in file.read_text().splitlines()] == ["a", "c"]


def test_a_line_torn_by_a_killed_process_spoils_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, "shard")
    log.write("append", "a", "user", {})
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("a") as out:
        out.write('{"time": "20')
    log.write("append", "b", "user", {})
    lines = file.read_text().splitlines()
    assert [json.loads(lines[i])["user_key"] for i in (0, 2)] == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("most", [100, 1_000])  # searched in the store, and in RAM
async def test_what_cannot_be_logged_is_done_neither_in_ram_nor_in_the_store(tmp_path: Path, most: int) -> None:
    shard = MemoryShard(config(tmp_path, max_active_episodes=most))
    await shard.append("ann", await batch(*(interaction(str(n), minute=n) for n in range(101))), "test")
    await shard.commit_persona("ann", PersonaDraft(text="p", origin=Origin.INITIAL), None, "1", "test")
    before = await shard.export("ann")
    others = parse_export([line.replace('"id":"', '"id":"other ') for line in before])
    (tmp_path / "audit").rename(tmp_path / "kept")
    (tmp_path / "audit").write_text("no folder")
    vector = EMBEDDER.encode(["tea"])[0]
    one, many = await batch(interaction("new")), await batch(interaction("new"), interaction("1", "bob"))
    restored = await batch(*others.interactions)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: shard.append("ann", one, "test"),
        lambda: shard.append_many(many, "test"),
        lambda: shard.feedback("ann", "1", "tea", vector, "test"),
        lambda: shard.commit_persona("ann", PersonaDraft(text="q", origin=Origin.ALIGNED), 1, "2", "test"),
        lambda: shard.commit_profile("ann", Profile(), 0, "3", "test"),
        lambda: shard.note_alignment("ann", 5, "test"),
        lambda: shard.restore(others, restored, "test"),
        lambda: shard.expire(1),
        lambda: shard.forget("ann", "test", "a"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="nothing is changed without it"):
            await call()
        assert await shard.export("ann") == before
        assert await shard.summary("bob") is None
        await shard.passivate()
        assert await shard.export("ann") == before
    await shard.close()

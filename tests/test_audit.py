"""The audit log when a line gets only half onto the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from actors.audit import AuditLog
from personaagent.errors import StoreError


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

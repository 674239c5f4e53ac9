from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from alignment.evaluation.journal import Journal
from personaagent.errors import ConflictError, InvalidInput, StoreError

ABOUT = {"options": {"seed": 1, "noise": 0.0}, "data": "abc"}


def opened(folder: Path, key: str = "k", **more: object) -> Journal:
    return Journal(folder, key, {**ABOUT, **more})


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b") as journal:
        journal.write(("answer", "newest", 3), {"text": "caffè \ud800", "score": 0.1, "odd": float("inf")})
        first = journal.write(("answer", "newest", 4), {"n": 1})
        second = journal.write(("answer", "newest", 4), {"n": 2})
        assert first.serial < second.serial
    with opened(tmp_path / "a" / "b") as journal:
        found = journal.find("answer", "newest", 3)
        assert found is not None
        assert found.value == {"text": "caffè \ud800", "score": 0.1, "odd": float("inf")}
        assert [entry.value for _, entry in journal.all("answer")][1:] == [{"n": 2}]  # the last one counts
        assert journal.find("answer", "newest", 5) is None
        assert journal.damaged == 0


def test_others_on_this_machine_cannot_read_it(tmp_path: Path) -> None:
    with opened(tmp_path / "a"):
        assert (tmp_path / "a").stat().st_mode & 0o077 == 0
        assert (tmp_path / "a" / "journal.jsonl").stat().st_mode & 0o077 == 0


def test_a_line_is_in_the_file_when_write_returns(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        for n in range(3):
            journal.write(("answer", n), {})
            assert len((tmp_path / "journal.jsonl").read_bytes().splitlines()) == n + 2


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_that_was_cut_short_is_written_over(tmp_path: Path, cut: int) -> None:
    with opened(tmp_path) as journal:
        journal.write(("answer", 1), {"text": "one"})
        journal.write(("answer", 2), {"text": "two"})
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    with opened(tmp_path) as journal:
        assert journal.find("answer", 1) is not None
        assert journal.find("answer", 2) is None
        journal.write(("answer", 2), {"text": "again"})
        assert journal.damaged == 0
    with opened(tmp_path) as journal:
        found = journal.find("answer", 2)
        assert found is not None
        assert found.value == {"text": "again"}


def test_a_head_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    file = tmp_path / "journal.jsonl"
    whole = file.read_bytes()
    for cut in (1, len(whole) - 3, len(whole)):
        file.write_bytes(whole[:-cut])
        with opened(tmp_path):
            pass
        assert file.read_bytes() == whole


def test_damaged_lines_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.write(("answer", 1), {})
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'\x00\x00\n{"what": 1}\n[]\n{"what": "answer", "at": [2], "value": {}}\n')
    with opened(tmp_path) as journal:
        assert journal.damaged == 3
        assert [place for place, _ in journal.all("answer")] == [("answer", 1), ("answer", 2)]


def test_another_evaluation_is_refused_and_what_differs_is_said(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.write(("answer", 1), {})
    other = {"options": {"seed": 2, "noise": 0.0}, "data": "abc"}
    with pytest.raises(InvalidInput, match=r"options\.seed is 1 there and 2 here"), Journal(tmp_path, "l", other):
        pass
    with opened(tmp_path) as journal:
        assert journal.find("answer", 1) is not None
    with Journal(tmp_path, "l", other, restart=True) as journal:
        assert list(journal.all("answer")) == []
    with Journal(tmp_path, "l", other):
        pass


@pytest.mark.parametrize("text", ["my diary\n", "my diary", '{"user": "anna"}\n', "\n"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_file_of_somebody_else_is_never_touched(tmp_path: Path, text: str, restart: bool) -> None:
    file = tmp_path / "journal.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidInput), Journal(tmp_path, "k", restart=restart):
        pass
    assert file.read_text() == text


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConflictError, match="another process"), opened(tmp_path):
        pass
    with opened(tmp_path):  # a refused one does not keep the lock
        pass


def test_beginning_anew_drops_what_was_there(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.finish({"score": 1}, complete=True)
    with opened(tmp_path) as journal:
        assert journal.finished is not None
        assert journal.finished.result == {"score": 1}
    with Journal(tmp_path, "k", ABOUT, restart=True) as journal:
        assert journal.finished is None
    assert len((tmp_path / "journal.jsonl").read_bytes().splitlines()) == 1


def test_a_result_with_something_missing_is_not_finished(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.finish({"score": 1}, complete=False)
    with opened(tmp_path) as journal:
        assert journal.finished is None


def test_a_disk_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as journal, monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            journal.write(("answer", 1), {})
    journal = opened(tmp_path)
    journal.__enter__()
    journal.write(("answer", 1), {})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            journal.__exit__(None, None, None)
    with pytest.raises(StoreError), Journal(tmp_path / "journal.jsonl", "k"):
        pass


def test_lines_reach_the_disk_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    synced = threading.Event()
    monkeypatch.setattr("alignment.evaluation.journal.SYNC_S", 0.01)
    monkeypatch.setattr(os, "fsync", lambda _: synced.set())
    with opened(tmp_path) as journal:
        journal.write(("answer", 1), {})
        assert synced.wait(10)


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    journal = Journal()
    journal.write(("answer", 1), {"a": 1})
    assert journal.find("answer", 1) is not None
    assert list(tmp_path.iterdir()) == []


def test_the_head_says_what_the_evaluation_is(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    head = json.loads((tmp_path / "journal.jsonl").read_text())
    assert head == {"what": "evaluation", "format": 1, "key": "k", "about": ABOUT}

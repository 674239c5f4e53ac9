"""The use case that forgets a user everywhere, broken off between any two of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.forget import forget_everywhere
from actors.online import DueQueue
from actors.runs import RunFolder, erase_user, read_results
from personaagent.errors import NotFoundError, StoreError
from personaagent.local_memory import LocalMemory
from personaagent.types import AlignmentResult, ForgetReceipt, Outcome, UserSummary
from tests.doubles import HashEmbedder
from tests.test_memory_shard import interaction


def result(user: str) -> AlignmentResult:
    return AlignmentResult(user=user, outcome=Outcome.REJECTED, persona_before=1, persona_after=1)


@pytest.fixture
async def memory(tmp_path: Path) -> LocalMemory:
    memory = LocalMemory(HashEmbedder())
    for user in ("ann", "bob"):
        await memory.append(user, [interaction("1", user)])
    with RunFolder(tmp_path, "run") as folder:
        folder.plan(["ann", "bob"])
        folder.write([result("ann"), result("bob")])
    return memory


async def test_memory_runs_and_queues_forget(memory: LocalMemory, tmp_path: Path) -> None:
    told: list[str] = []
    receipt = await forget_everywhere(memory, tmp_path, "ann", "test", told.append)
    assert (receipt.interactions, receipt.run_rows, receipt.remaining, told) == (1, 2, 0, ["ann"])
    assert [r.user for r in read_results(tmp_path, "run")] == ["bob"]
    assert [u.user for u in await memory.users()] == ["bob"]
    with pytest.raises(NotFoundError):
        await forget_everywhere(memory, tmp_path, "ann", "test")


async def test_a_repeated_call_finishes_and_never_says_unknown_with_data_left(
    memory: LocalMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = memory.forget

    async def refuses(user: str, by: str = "user") -> ForgetReceipt:
        raise StoreError("the disk is full")

    async def written_meanwhile(user: str, by: str = "user") -> ForgetReceipt:
        receipt = await forget(user, by)
        with RunFolder(tmp_path, "late") as folder:
            folder.plan(["ann"])
            folder.write([result("ann")])
        return receipt

    monkeypatch.setattr(memory, "forget", refuses)
    with pytest.raises(StoreError):
        await forget_everywhere(memory, tmp_path, "ann", "test")
    monkeypatch.setattr(memory, "forget", written_meanwhile)
    assert (await forget_everywhere(memory, tmp_path, "ann", "test")).run_rows == 2  # of the run that was late
    assert read_results(tmp_path, "late") == []
    monkeypatch.setattr(memory, "forget", forget)
    with RunFolder(tmp_path, "left") as folder:  # as when a call was killed between memory and runs
        folder.write([result("ann")])
    receipt = await forget_everywhere(memory, tmp_path, "ann", "test")
    assert (receipt.interactions, receipt.run_rows) == (0, 1)
    assert "runs did" in receipt.note
    with pytest.raises(NotFoundError):
        await forget_everywhere(memory, tmp_path, "ann", "test")


def test_a_run_that_was_killed_keeps_its_promise_at_the_next_start(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r") as folder:
        folder.plan(["ann", "bob"])
        assert erase_user(tmp_path, "ann") == 1
        folder.path.joinpath("part-00000.parquet").unlink(missing_ok=True)
        gone = (folder.path / "gone").read_bytes()
    with RunFolder(tmp_path, "r") as folder:
        folder.write([result("ann"), result("bob")])
    (tmp_path / "runs" / "r" / "gone").write_bytes(gone)  # the process died before it could erase
    with RunFolder(tmp_path, "r"):
        pass
    assert [r.user for r in read_results(tmp_path, "r")] == ["bob"]
    assert not (tmp_path / "runs" / "r" / "gone").exists()


def test_who_is_forgotten_between_the_look_and_the_write_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(tmp_path, "r") as folder:
        parts = folder._parts

        def forgotten_meanwhile() -> list[Path]:
            monkeypatch.undo()
            erase_user(tmp_path, "ann")
            return parts()

        monkeypatch.setattr(folder, "_parts", forgotten_meanwhile)
        folder.write([result("ann"), result("bob")])
        assert [r.user for r in read_results(tmp_path, "r")] == ["bob"]


def test_a_queue_drops_who_was_forgotten() -> None:
    queue = DueQueue(every=1, capacity=9)
    for user in ("ann", "bob"):
        queue.see(UserSummary(user=user, interactions=3, truths=3, persona=1, truths_since_alignment=3))
    queue.drop("ann")
    assert queue.take(9) == ["bob"]
    queue.drop("bob")  # while it is being aligned
    queue.done(["bob"], [])
    assert not any("bob" in book for book in (queue._since, queue._running, queue._failures))

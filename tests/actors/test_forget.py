"""The use case that forgets a user everywhere, broken off between any two of its steps."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest

import actors.jobs.run_folder
from actors.forget import forget_everywhere
from actors.jobs.online import DueQueue
from actors.jobs.run_folder import RunFolder, erase_user, read_results
from personaagent.errors import NotFoundError, StoreError
from personaagent.memory.local import LocalMemory
from personaagent.types import AlignmentResult, ForgetReceipt, Outcome, UserSummary, user_key
from tests.support.doubles import HashEmbedder
from tests.support.shards import interaction


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
        forgets = threading.Thread(target=erase_user, args=(tmp_path, "ann"))

        def forgotten_meanwhile() -> list[Path]:
            monkeypatch.undo()
            forgets.start()
            return parts()

        monkeypatch.setattr(folder, "_parts", forgotten_meanwhile)
        folder.write([result("ann"), result("bob")])
        forgets.join()
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


def holders(home: Path, *marks: bytes) -> list[str]:
    """Files below a folder in which one of these stands."""
    return [f.name for f in home.rglob("*") if f.is_file() and any(m in f.read_bytes() for m in marks)]


def test_who_is_forgotten_after_users_were_listed_stays_out_of_the_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r") as held:
        listed = ["ann", "bob"]
        erase_user(tmp_path, "ann")
        with held as folder:  # as learning what users have in common does
            folder.note_learned(1)
        with held as folder:
            assert folder.plan(listed) == ["bob"]
            folder.write([result("ann"), result("bob")])
            assert not [name for name in holders(tmp_path, b"ann") if name.endswith(".parquet")]
    assert holders(tmp_path, b"ann", user_key("ann").encode()) == []
    assert [r.user for r in read_results(tmp_path, "r")] == ["bob"]


def test_a_planned_user_who_is_forgotten_is_not_planned_again_in_the_same_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r") as folder:
        folder.plan(["ann", "bob"])
        assert erase_user(tmp_path, "ann") == 1
        assert folder.plan(["ann", "bob"]) == ["bob"]


@pytest.mark.parametrize("left", [".part-00000.parquet.4711.tmp", ".part-00000.parquet.tmp"])  # as by older versions
@pytest.mark.parametrize("entered", [True, False])
def test_half_written_files_of_a_killed_run_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entered: bool, left: str
) -> None:
    def killed(part: Path, file: Path) -> None:
        if file.name.startswith("part-"):  # killed, not interrupted: nothing can be cleaned up any more
            part.rename(part.with_name(left))
            raise KeyboardInterrupt
        part.rename(file)

    with RunFolder(tmp_path, "r") as folder:
        folder.plan(["bob"])
        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.write([result("ann")])
        monkeypatch.undo()
        assert holders(tmp_path, b"ann") == [left]
        if not entered:
            erase_user(tmp_path, "ann")
            assert holders(tmp_path, b"ann") == []
    with RunFolder(tmp_path, "r"):
        assert holders(tmp_path, b"ann") == []


def test_a_job_that_had_nothing_to_do_leaves_no_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r"):
        erase_user(tmp_path, "ann")
        (tmp_path / "runs" / "r" / "gone").unlink()
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_forgetting_reads_only_files_that_hold_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder(tmp_path, "r") as folder:
        folder.plan([f"u{i}" for i in range(30)])
        for i in range(30):
            folder.write([result(f"u{i}")])
    reads: list[str] = []
    read = actors.jobs.run_folder.read

    def counted(file: Path, schema: pa.Schema) -> pa.Table:
        reads.append(file.name)
        return read(file, schema)

    monkeypatch.setattr(actors.jobs.run_folder, "read", counted)
    assert erase_user(tmp_path, "nobody") == 0
    assert reads == []
    assert erase_user(tmp_path, "u7") == 2
    assert sorted(reads) == ["part-00007.parquet", "users.parquet"]
    index = tmp_path / "runs" / "r" / "index"
    assert user_key("u7") not in index.read_text()
    index.unlink()  # as in runs of older versions
    assert erase_user(tmp_path, "u8") == 2
    reads.clear()
    assert erase_user(tmp_path, "u9") == 2
    assert sorted(reads) == ["part-00009.parquet", "users.parquet"]


def test_an_index_that_was_cut_off_hides_nobody(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r") as folder:
        folder.plan(["ann"])
        with (folder.path / "index").open("a") as out:
            out.write(f"{user_key('bob')} part-000")
        folder.write([result("ann")])
    assert erase_user(tmp_path, "ann") == 2


def test_odd_things_below_the_runs_keep_nobody_from_being_forgotten(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r") as folder:
        folder.plan(["ann", "bob"])
        folder.write([result("ann")])
    runs = tmp_path / "runs"
    shutil.copytree(runs / "r", runs / "r (copy)")
    (runs / ".ipynb_checkpoints").mkdir()
    (runs / "r" / "part-00001.parquet").mkdir()
    (runs / "notes.txt").write_text("ours")
    assert erase_user(tmp_path, "ann") == 4
    assert holders(tmp_path, b"ann", user_key("ann").encode()) == []
    assert not list((runs / ".ipynb_checkpoints").iterdir())


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "r") as folder:
        folder.plan(["ann"])
        folder.write([result("ann")])
    (tmp_path / "runs" / "r" / "part-00000.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(StoreError, match=r"part-00000\.parquet.*remove it"):
        erase_user(tmp_path, "ann")

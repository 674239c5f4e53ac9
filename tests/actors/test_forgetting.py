"""Forgetting is final: it can break off anywhere, nothing of the user is left in any file, and nothing brings it back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from cryptography.fernet import Fernet
from milvus_lite.engine import compaction
from milvus_lite.engine.compaction import CompactionManager
from milvus_lite.storage.manifest import Manifest

from actors.memory.shard import MemoryShard
from actors.memory.writer import Writer
from actors.milvus import rows
from actors.milvus.lite import LiteEngine
from actors.milvus.milvus_store import MilvusStore
from actors.milvus.open import ShardConfig
from actors.milvus.upkeep_store import LOOKED, UpkeepStore
from alignment.aligner import Aligner
from personaagent.agent.agent import Agent, Turn
from personaagent.errors import ForgottenError, NotFoundError, StoreError, UnavailableError
from personaagent.memory.store import row_key
from personaagent.persona.profile import build_profile
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.types import (
    ChatRequest,
    ChatResult,
    Fact,
    Interaction,
    Message,
    Origin,
    Outcome,
    PersonaDraft,
    Profile,
    Usage,
    user_key,
)
from serve.cli.importing import Imported, import_export, import_interactions
from tests.support.direct_memory import DirectMemory
from tests.support.fake_llm import FakeLLM
from tests.support.milvus_servers import LiteServer, StandaloneServer
from tests.support.shards import EMBEDDER, START, batch, config, interaction

SECRET = "SECRET"


def found(folder: Path, needle: str = SECRET) -> list[str]:
    """The files below a folder with a text in them, compressed or not."""
    hits = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        texts = [path.read_bytes()]
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            texts += [str(table[name].to_pylist()).encode() for name in table.column_names if name != "vector"]
        hits += [str(path.relative_to(folder)) for text in texts if needle.encode() in text]
    return hits


def copied(folder: Path) -> tuple[Path, bytes]:
    """A data file of interactions with a secret in it, and its bytes; the engine may merge it into another one meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            path = next(folder / name for name in found(folder) if "_episodes/" in name and name.endswith(".parquet"))
            return path, path.read_bytes()


def fact(text: str, evidence: str = "1") -> Fact:
    return Fact(id=text, text=text, evidence=(evidence,), first_seen=START, last_seen=START)


async def told(shard: MemoryShard) -> None:
    """Two users with everything a user can have, ann's with a secret in every text of every version."""
    for user, word in (("ann", SECRET), ("bob", "tea")):
        rows = [interaction(str(i), user, query=f"{word} {i} " + "é" * (40_000 if i == 2 else 1)) for i in range(4)]
        await shard.append(user, await batch(*rows), "test")
        await shard.flush()
        for truth in (f"{word} old", f"{word} new"):
            await shard.feedback(user, "1", truth, EMBEDDER.encode([truth])[0], "test")
            await shard.flush()
        for n in range(3):
            await shard.commit_profile(user, Profile(facts=(fact(f"{word} fact {n}"),)), n, f"{user}{n}", "test")
            await shard.flush()
            draft = PersonaDraft(text=f"{word} persona {n} " + "é" * (40_000 if n == 1 else 1), origin=Origin.MANUAL)
            await shard.commit_persona(user, draft, n or None, f"{user}{n}", "test")
    await shard.append("ann", await batch(interaction("unflushed", query=f"{SECRET} too")), "test")


def crash(shard: MemoryShard) -> None:
    """End as a killed process would: nothing more is saved."""
    store = shard._store
    assert store is not None
    store._milvus._broken = "crashed"
    store.close()
    shard._store = None


class Killed(BaseException):
    """What is raised in the place of a SIGKILL."""


STEPS: list[tuple[type[Any], str]] = [(MilvusStore, "bury"), (MilvusStore, "_delete_user"), (LiteEngine, "purge")]


def kill_at(patch: pytest.MonkeyPatch, number: int, after: bool) -> list[str]:
    """Raise before or after the so-manieth of the steps that matter; what was done until then is added to the result."""
    done: list[str] = []

    def counting(step: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if len(done) == number and not after:
                raise Killed
            result = step(*args)
            done.append(name)
            if len(done) == number + 1 and after:
                raise Killed
            return result

        return call

    for owner, name in STEPS:
        patch.setattr(owner, name, counting(getattr(owner, name), name))
    return done


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(6))
async def test_a_kill_at_any_step_leaves_nothing_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await told(shard)
    with monkeypatch.context() as patch:
        done = kill_at(patch, number, after)
        with pytest.raises(Killed):
            await shard.forget("ann", "user", "first")
        crash(shard)
    assert len(done) == number + after
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await shard.ready(config(tmp_path))
    begun = bool(done)
    if begun:  # the opening finishes what was begun
        assert found(tmp_path / "store") == []
        assert await shard.latest("ann", 9, False) == ()
        assert [s.user for s in await shard.users()] == ["bob"]
    # Nobody got a receipt yet, so there is one. Once it was on its way, only the same call can have it again.
    receipt = await shard.forget("ann", "user", "first" if len(done) == 6 else "second")
    assert (receipt.interactions, receipt.personas, receipt.facts, receipt.remaining) == (5, 3, 1, 0)
    assert "searched" in receipt.note
    assert receipt.audit_id == ("first" if begun else "second")
    assert found(tmp_path / "store") == []
    with pytest.raises(NotFoundError):
        await shard.forget("ann", "user", "third")
    summary = await shard.summary("bob")
    assert summary is not None
    assert (summary.interactions, summary.persona) == (4, 3)
    assert len((await shard.export("bob"))[0]) > 0
    await shard.close()
    assert found(tmp_path / "store") == []


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_kill_at_any_step_leaves_nothing_on_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, milvus: StandaloneServer
) -> None:
    """One pair of collections for all steps: to make new ones takes a real server seconds."""
    settings = config(tmp_path, uri=milvus.uri, collection=f"t{uuid.uuid4().hex}", lease_s=0.1)
    for number, user in enumerate(("ann", "eve", "joe", "mia")):
        shard = MemoryShard(settings)
        for name in (user, "bob"):
            await shard.append(name, await batch(*(interaction(str(i), name, query=SECRET) for i in range(3))), "test")
        await shard.commit_persona(user, PersonaDraft(text=SECRET, origin=Origin.MANUAL), None, user, "test")
        await shard.commit_profile(user, Profile(facts=(fact(SECRET),)), 0, user, "test")
        store = shard._store
        assert store is not None
        if number % 2:  # counts that are stored, and counts that are followed in RAM
            store._counts.settle(idle=0)
        assert {s.user: (s.interactions, s.persona) for s in await shard.users()} == {user: (3, 1), "bob": (3, None)}
        with monkeypatch.context() as patch:
            done = kill_at(patch, number, after=False)
            with pytest.raises(Killed):
                await shard.forget(user, "user", "first")
            crash(shard)
        assert len(done) == number
        shard = MemoryShard(settings)
        assert {s.user for s in await shard.users()} == ({"bob"} if done else {user, "bob"})
        receipt = await shard.forget(user, "user", "second")
        assert (receipt.interactions, receipt.personas, receipt.facts, receipt.remaining) == (3, 1, 1, 0)
        with pytest.raises(NotFoundError):
            await shard.forget(user, "user", "third")
        store = shard._store
        assert store is not None
        assert set(store.directory()) == {user_key("bob")}
        assert sorted(key for key, _ in store.buried()) == sorted(
            map(user_key, ("ann", "eve", "joe", "mia")[: number + 1])
        )
        await shard.append(user, await batch(interaction("back", user, query="hello")), "test")
        assert {s.user: s.interactions for s in await shard.users()} == {user: 1, "bob": 3}
        assert (await shard.forget(user, "user", "fourth")).interactions == 1
        assert [s.user for s in await shard.users()] == ["bob"]
        await shard.close()


@pytest.mark.slow
async def test_a_full_disk_leaves_no_receipt_and_the_next_call_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await told(shard)

    def full(*args: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(LiteEngine, "purge", full)
        for _ in range(2):
            with pytest.raises(StoreError, match="full"):
                await shard.forget("ann", "user", "a")
        with pytest.raises(StoreError):  # not an empty answer: it would say that the user is gone
            await shard.latest("ann", 1, False)
        with pytest.raises(StoreError):
            await shard.append("ann", await batch(interaction("9")), "test")
    assert (await shard.forget("ann", "user", "b")).interactions == 5
    assert found(tmp_path / "store") == []
    with pytest.raises(NotFoundError):
        await shard.forget("ann", "user", "c")
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("versions", range(2, 10))
async def test_no_replaced_version_survives_in_any_segment(tmp_path: Path, versions: int) -> None:
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await shard.append("bob", await batch(interaction("b", "bob")), "test")
    await shard.append("ann", await batch(interaction("1")), "test")
    for n in range(versions):
        await shard.commit_profile("ann", Profile(facts=(fact(f"{SECRET} {n}"),)), n, str(n), "test")
        await shard.flush()
    await shard.forget("ann", "user", "a")
    assert found(tmp_path / "store") == []
    await shard.close()


@pytest.mark.slow
async def test_a_look_at_the_files_decides_about_the_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await told(shard)
    await shard.flush()
    kept, content = copied(tmp_path / "store")
    rewrite = CompactionManager._compact_files

    def leave_a_copy(*args: Any) -> None:
        rewrite(*args)
        (kept.parent / "data_900001_900002.parquet").write_bytes(content)  # a file that no manifest names

    with monkeypatch.context() as patch:
        patch.setattr(CompactionManager, "_compact_files", leave_a_copy)
        with pytest.raises(StoreError, match="still holds"):
            await shard.forget("ann", "user", "a")
    assert (await shard.forget("ann", "user", "b")).remaining == 0  # what no manifest names is removed
    assert found(tmp_path / "store") == []
    await shard.close()


def stored(where: str, folder: Path, request: pytest.FixtureRequest) -> ShardConfig:
    """A shard on files of its own, or on a server that ends with the test."""
    if where == "lite":
        return config(folder, flush_s=1000)
    server = LiteServer(folder / "served")
    request.addfinalizer(server.stop)
    return config(folder, uri=server.uri)


@pytest.mark.parametrize("where", ["lite", pytest.param("server", marks=pytest.mark.milvus)])
async def test_a_forgetting_that_broke_off_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, request: pytest.FixtureRequest
) -> None:
    settings = stored(where, tmp_path, request)
    shard = MemoryShard(settings)
    users = sorted(("ann", "bob", "eve"), key=user_key)
    for user in users:
        await shard.append(user, await batch(interaction("1", user, query=SECRET if user == "ann" else "tea")), "test")

    def broken(*args: object) -> None:
        raise StoreError("it broke off here")

    async def both(name: str, incarnation: int | None = None) -> tuple[int, int]:
        items = await batch(interaction(name), interaction(name, "bob"))
        result = await shard.append_many(items, "test", incarnation)
        return result.added, result.refused

    began = await shard.incarnation()
    others = [user for user in users if user != "ann"]
    with monkeypatch.context() as patch:
        patch.setattr(MilvusStore, "_delete_user", broken)
        with pytest.raises(StoreError, match="broke off"):
            await shard.forget("ann", "user", "a")
        assert [s.user for s in await shard.users()] == others
        assert [s.user for s in await shard.users("", 1)] == others[:1]
        assert [s.user for s in await shard.users(user_key(others[0]), 5)] == others[1:]
        assert await both("2") == (1, 1)
        assert await both("3", began) == (1, 1)
        assert [s.user for s in await shard.users()] == others
    assert await both("4", began) == (1, 1)  # finished by now, and this began before
    assert await both("5") == (2, 0)  # who comes back is welcome
    assert [i.id for i in await shard.latest("ann", 9, False)] == ["5"]
    assert {i.id for i in await shard.latest("bob", 9, False)} == {"1", "2", "3", "4", "5"}
    assert [s.user for s in await shard.users()] == users
    await shard.close()
    assert where == "server" or found(tmp_path / "store") == []


def failing_once(patch: pytest.MonkeyPatch, owner: Any, name: str, done: bool) -> list[str]:
    """Have a step of rewriting files find the disk full, once; before or after it is `done`. Says which step failed."""
    failed: list[str] = []
    rewriting: list[bool] = []
    purge, step = LiteEngine.purge, getattr(owner, name)

    def purging(*args: Any) -> Any:
        rewriting.append(True)
        try:
            return purge(*args)
        finally:
            rewriting.pop()

    def failing(*args: Any, **named: Any) -> Any:
        if rewriting and not failed:
            failed.append(name)
            if done:
                step(*args, **named)
            raise OSError(errno.ENOSPC, "No space left on device")
        return step(*args, **named)

    patch.setattr(LiteEngine, "purge", purging)
    patch.setattr(owner, name, failing)
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"), [(Manifest, "save"), (os, "remove"), (compaction, "write_data_file"), (Path, "unlink")]
)
async def test_a_disk_that_is_full_once_does_not_hold_up_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, done: bool
) -> None:
    """Wherever in the rewriting of files that was, and with the store open all the while."""
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await told(shard)
    await shard.flush()
    if owner is Path:  # only what broke off before is removed so
        kept, content = copied(tmp_path / "store")
        (kept.parent / "data_900001_900002.parquet").write_bytes(content)
    with monkeypatch.context() as patch:
        failed = failing_once(patch, owner, name, done)
        if not (name == "remove" and done):
            with pytest.raises(StoreError):
                await shard.forget("ann", "user", "a")
            assert failed
    assert (await shard.forget("ann", "user", "b")).remaining == 0
    assert found(tmp_path / "store") == []
    await shard.append("bob", await batch(interaction("more", "bob")), "test")
    await shard.flush()
    await shard.close()
    shard = MemoryShard(config(tmp_path))
    summary = await shard.summary("bob")
    assert summary is not None
    assert summary.interactions == 5
    assert found(tmp_path / "store") == []
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["", "recover", "scrub", "note_looked_through"])
async def test_what_a_version_before_left_in_the_files_goes_at_the_first_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Or at the next one, if the first was broken off."""
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await told(shard)
    store = shard._store
    assert store is not None
    await shard.flush()
    for name in (store._episodes, store._records):
        store._delete_user(name, user_key("ann"))
    await shard.append("ann", await batch(interaction("new")), "test")  # who has come back since
    store._milvus.delete(store._records, [store._owner_key, LOOKED])
    await shard.close()
    assert found(tmp_path / "store")
    if broken:

        def kill(*args: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Writer if broken == "recover" else UpkeepStore, broken, kill)
            shard = MemoryShard(config(tmp_path))
            with pytest.raises(Killed):
                await shard.latest("ann", 9, False)
            crash(shard)
    shard = MemoryShard(config(tmp_path))
    assert [i.id for i in await shard.latest("ann", 9, False)] == ["new"]
    assert found(tmp_path / "store") == []
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
async def test_retention_that_was_killed_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    now = datetime.now(UTC)
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    rows = [
        Interaction(id="old", user="ann", time=now - timedelta(days=9), query=f"{SECRET} query", truth=f"{SECRET} t"),
        Interaction(id="new", user="ann", time=now, query="tea"),
    ]
    await shard.append("ann", await batch(*rows), "test")
    await shard.flush()
    await shard.commit_profile("ann", Profile(facts=(fact(f"{SECRET} fact", "old"),)), 0, "a", "test")
    await shard.flush()
    await shard.commit_profile("ann", Profile(facts=(fact(f"{SECRET} fact", "old"), fact("f", "new"))), 1, "b", "test")
    await shard.flush()
    steps: list[tuple[Any, str]] = [(UpkeepStore, "put_profile"), (UpkeepStore, "remove"), (LiteEngine, "purge")]
    with monkeypatch.context() as patch:

        def killed(*args: object) -> None:
            raise Killed

        patch.setattr(*steps[number], killed)
        with pytest.raises(Killed):
            await shard.expire(5)
        crash(shard)
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await shard.expire(5)
    assert [i.id for i in await shard.latest("ann", 9, False)] == ["new"]
    assert [f.text for f in (await shard.profile("ann")).facts] == ["f"]
    assert found(tmp_path / "store") == []
    await shard.close()
    assert row_key("ann", "old")  # only its digest may be left, in what says that it was deleted


# Answers that get lost


def losing(patch: pytest.MonkeyPatch, store: Any, method: str, number: int, before: bool = False) -> None:
    """Let the so-manieth call of a store's method do its work, or not, and fail as if the server had not answered."""
    call, calls = getattr(store, method), iter(range(1_000))

    def lost(*args: Any, **named: Any) -> Any:
        fails = next(calls) == number
        result = None if fails and before else call(*args, **named)
        if fails:
            raise UnavailableError("away")
        return result

    patch.setattr(store, method, lost)


@pytest.mark.slow
@pytest.mark.parametrize("written", [True, False])
async def test_a_tombstone_that_may_be_written_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    shard = MemoryShard(config(tmp_path))
    await told(shard)
    with monkeypatch.context() as patch:
        losing(patch, shard._store._user_records, "put", 0, before=not written)
        with pytest.raises(UnavailableError):
            await shard.forget("ann", "user", "a")
    assert (
        await shard.latest("ann", 9, False) == ()
    ) is written  # what was begun is finished, and nothing else is done
    added = await shard.append("ann", await batch(interaction("new")), "test", await shard.incarnation())
    assert added.added == 1
    assert len(await shard.latest("ann", 9, False)) == (1 if written else 6)
    await shard.close()


@pytest.mark.slow
async def test_forgetting_whose_end_got_no_answer_does_not_take_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = MemoryShard(config(tmp_path))
    await told(shard)
    with monkeypatch.context() as patch:
        losing(patch, shard._store._user_records, "put", 1)
        with pytest.raises(UnavailableError):
            await shard.forget("ann", "user", "a")
    assert (await shard.append_many(await batch(interaction("new")), "test", await shard.incarnation())).added == 1
    assert [i.id for i in await shard.latest("ann", 9, False)] == ["new"]
    await shard.close()


@pytest.mark.slow
async def test_work_that_began_between_two_tries_of_forgetting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = MemoryShard(config(tmp_path))
    await told(shard)
    with monkeypatch.context() as patch:
        patch.setattr(MilvusStore, "_delete_user", lambda *_: (_ for _ in ()).throw(StoreError("broken off")))
        with pytest.raises(StoreError):
            await shard.forget("ann", "user", "a")
    began = await shard.incarnation()
    assert (await shard.forget("ann", "user", "b")).remaining == 0
    with pytest.raises(ForgottenError):
        await shard.append("ann", await batch(interaction("late")), "test", began)
    assert await shard.latest("ann", 9, False) == ()
    await shard.close()


# Work under way


class WaitingLLM(FakeLLM):
    """Waits with every answer until it may go on; a stream has begun before."""

    def __init__(self) -> None:
        answer = ChatResult(text=f"- wants {SECRET} tea [1]", usage=Usage(calls=1))
        super().__init__(lambda _: answer, context_length=4096)
        self.started, self.go = asyncio.Event(), asyncio.Event()
        self.before = self._wait

    async def _wait(self, request: ChatRequest) -> None:
        self.started.set()
        await self.go.wait()

    async def stream(self, request: ChatRequest) -> AsyncIterator[str | ChatResult]:
        yield "- "
        async for piece in super().stream(request):
            yield piece


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[DirectMemory]:
    shard = MemoryShard(config(tmp_path))
    yield DirectMemory(shard)
    await shard.close()
    assert found(tmp_path / "store") == []


async def known(memory: DirectMemory) -> None:
    rows = [interaction(str(i), query=f"{SECRET} question {i}", truth=f"{SECRET} tea", minute=i) for i in range(12)]
    await memory.append("ann", rows)


async def gone(memory: DirectMemory) -> None:
    assert await memory.summary("ann") is None
    assert await memory.users() == ()
    store = memory.shard._store
    assert store is not None
    assert store.load("ann") == type(store.load("ann"))()


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("back", [False, True])
async def test_a_turn_that_ends_after_the_receipt_is_not_remembered(
    memory: DirectMemory, streamed: bool, back: bool
) -> None:
    llm = WaitingLLM()
    agent = Agent(llm, memory, AgentSettings(tools=False))
    await known(memory)
    turn = Turn(user="ann", messages=(Message(role="user", content=f"my {SECRET} question"),))

    async def whole() -> None:
        if streamed:
            async for _ in agent.stream(turn):
                pass
        else:
            await agent.respond(turn)

    asked = asyncio.create_task(whole())
    await llm.started.wait()
    assert (await memory.forget("ann")).remaining == 0
    if back:  # a turn that begins after the receipt is a new life, which the old turn must not get into
        await memory.append("ann", [interaction("new", query="hello")], await memory.incarnation("ann"))
    llm.go.set()
    with pytest.raises(ForgottenError, match="nothing of this was stored"):
        await asked
    if back:
        assert [i.query for i in await memory.latest("ann", 9)] == ["hello"]
    else:
        await gone(memory)


@pytest.mark.slow
async def test_who_comes_back_is_welcome(memory: DirectMemory) -> None:
    llm = WaitingLLM()
    llm.go.set()
    agent = Agent(llm, memory, AgentSettings(tools=False), EMBEDDER)
    for _ in range(2):
        await memory.append("ann", [interaction("1", query="hello", truth="tea")])
        reply = await agent.respond(Turn(user="ann", messages=(Message(role="user", content="tea?"),), choices=None))
        assert reply.persona == 1
        assert len(await memory.latest("ann", 9)) == 2
        assert (await memory.forget("ann")).interactions == 2
    await gone(memory)


async def test_a_first_profile_under_way_is_not_committed(memory: DirectMemory) -> None:
    llm = WaitingLLM()
    await known(memory)
    built = asyncio.create_task(build_profile(memory, EMBEDDER, "ann", llm))
    await llm.started.wait()
    await memory.forget("ann")
    llm.go.set()
    with pytest.raises(ForgottenError):
        await built
    await gone(memory)


async def test_a_first_persona_under_way_is_not_committed(
    memory: DirectMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await known(memory)
    latest = memory.latest

    async def forgotten_meanwhile(user: str, n: int, **asked: bool) -> tuple[Interaction, ...]:
        answer = await latest(user, n, **asked)
        if not asked.get("lessons"):  # which are read after it
            await memory.forget(user)
        return answer

    monkeypatch.setattr(memory, "latest", forgotten_meanwhile)
    with pytest.raises(ForgottenError):
        await Agent(WaitingLLM(), memory, AgentSettings()).ensure_persona("ann")
    await gone(memory)


async def test_an_alignment_under_way_stores_nothing(memory: DirectMemory) -> None:
    llm = WaitingLLM()
    await known(memory)
    agent = Agent(llm, memory, AgentSettings(tools=False))
    aligner = Aligner(agent, memory, EMBEDDER, AlignmentSettings(paper=True, retry_s=0))
    running = asyncio.create_task(aligner.align(["ann"]))
    await llm.started.wait()
    await memory.forget("ann")
    llm.go.set()
    (result,) = await running
    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "the user was forgotten meanwhile")
    await gone(memory)


@pytest.mark.slow
async def test_an_import_under_way_leaves_out_who_was_forgotten(memory: DirectMemory) -> None:
    rows = [
        interaction(f"{n}", "ann" if n % 2 else "bob", query=f"{SECRET if n % 2 else 'tea'} {n}") for n in range(3_000)
    ]
    receipts = []
    append_many = memory.append_many

    async def with_a_pause(*args: Any) -> Any:
        result = await append_many(*args)
        if not receipts:  # the first part is in; the rest has not arrived yet
            receipts.append(await memory.forget("ann"))
        return result

    memory.append_many = with_a_pause  # type: ignore[method-assign]
    done = Imported()
    await import_interactions(memory, rows, done, lambda _: None)
    assert receipts[0].interactions == 500
    assert (done.added, done.refused) == (2_000, 1_000)
    assert [(s.user, s.interactions) for s in await memory.users()] == [("bob", 1_500)]


async def test_an_export_is_not_restored_by_an_import_from_before(memory: DirectMemory) -> None:
    await known(memory)
    lines = list(enumerate(await memory.export("ann"), start=1))
    restore = memory.restore

    async def too_late(*args: Any) -> Any:
        await memory.forget("ann")
        return await restore(*args)

    memory.restore = too_late  # type: ignore[method-assign]
    done = Imported()
    await import_export(memory, [lines], done, lambda _: None)
    assert [reason for _, reason in done.errors] == ["the user was forgotten meanwhile; nothing of this was stored"]
    await gone(memory)
    memory.restore = restore  # type: ignore[method-assign]
    await import_export(memory, [lines], done, lambda _: None)  # whoever imports again means it
    assert len(await memory.latest("ann", 99)) == 12
    await memory.forget("ann")


# The audit log


async def test_what_cannot_be_logged_is_in_neither_store_nor_ram(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path))
    await shard.append("ann", await batch(interaction("1")), "test")
    for path in (tmp_path / "audit").iterdir():
        path.unlink()
        path.mkdir()
    draft = PersonaDraft(text="p", origin=Origin.INITIAL)
    for call in (
        shard.append("ann", await batch(interaction("2")), "test"),
        shard.append_many(await batch(interaction("2"), interaction("3", "bob")), "test"),
        shard.feedback("ann", "1", "t", EMBEDDER.encode(["t"])[0], "test"),
        shard.commit_persona("ann", draft, None, "t", "test"),
        shard.commit_profile("ann", Profile(), 0, "t", "test"),
        shard.forget("ann", "user", "a"),
    ):
        with pytest.raises(StoreError, match="nothing is changed without it"):
            await call
    for _ in range(2):
        assert [(i.id, i.truth) for i in await shard.latest("ann", 9, False)] == [("1", None)]
        assert await shard.persona("ann", None) is None
        assert (await shard.profile("ann")).version == 0
        assert await shard.latest("bob", 9, False) == ()
        await shard.passivate()
    await shard.close()


async def test_a_change_that_failed_after_it_was_logged_is_logged_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = MemoryShard(config(tmp_path))
    await shard.append("ann", await batch(interaction("1")), "test")

    def full(*args: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(shard._store, "put", full)
    with pytest.raises(StoreError, match="full"):
        await shard.append("ann", await batch(interaction("2")), "test")
    lines = [line for path in (tmp_path / "audit").iterdir() for line in path.read_text().splitlines()]
    assert ['"append"' in lines[-2], '"failed"' in lines[-1], '"what": "append"' in lines[-1]] == [True] * 3
    await shard.close()


async def test_what_a_failed_first_write_left_is_forgotten_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name and the parts of a long text are stored before the row that they belong to."""
    shard = MemoryShard(config(tmp_path))
    await shard.append("bob", await batch(interaction("1", "bob")), "test")
    store = shard._store
    assert store is not None
    write = store._milvus.write

    def failing(collection: str, *args: Any) -> None:
        if collection.endswith("_episodes"):
            raise StoreError("no room is left")
        write(collection, *args)

    with monkeypatch.context() as patch:
        patch.setattr(store._milvus, "write", failing)
        with pytest.raises(StoreError):
            await shard.append(SECRET, await batch(interaction("1", SECRET, query=SECRET + "é" * 40_000)), "test")
    await shard.flush()
    assert found(tmp_path / "store")
    assert (await shard.forget(SECRET, "test", "a")).remaining == 0
    assert not found(tmp_path / "store")
    with pytest.raises(NotFoundError):
        await shard.forget(SECRET, "test", "b")
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("kind", ["persona", "profile", "user", "part", "episode"])
async def test_who_has_damaged_records_can_be_forgotten(tmp_path: Path, kind: str, encrypted: bool) -> None:
    key = Fernet.generate_key().decode() if encrypted else None
    shard = MemoryShard(config(tmp_path, flush_s=1000, encryption_key=key))
    await told(shard)
    text = "".join(
        chr(0x4E00 + n % 20_000) for n in np.random.default_rng(1).integers(0, 2**31, 40_000)
    )  # too long for one
    await shard.commit_persona("ann", PersonaDraft(text=text, origin=Origin.MANUAL), 3, "long", "test")
    store = shard._store
    assert store is not None
    key, body = user_key("ann"), "{damaged"
    if kind == "episode":
        pk = key + row_key("ann", "1")[1].hex()
        entity = store.entities([pk], records=False)[0]
        store._milvus.write(store._episodes, [{**entity, "body": body}])
    else:
        entities = store.entities(sorted(store._user_records.keys[key]), records=True)
        damaged = [{**e, "body": body, "vector": rows.DUMMY} for e in entities if e["kind"] == kind]
        assert damaged
        store._milvus.write(store._records, damaged)
    await shard.passivate()
    receipt = await shard.forget("ann", "user", "a")
    assert (receipt.interactions, receipt.personas, receipt.remaining) == (5, 4, 0)
    assert receipt.facts == (0 if kind == "profile" else 1)
    assert found(tmp_path / "store") == []
    with pytest.raises(NotFoundError):
        await shard.forget("ann", "user", "b")
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["lite", pytest.param("server", marks=pytest.mark.milvus)])
async def test_who_has_nothing_left_after_retention_leaves_no_name(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    settings = stored(where, tmp_path, request)
    memory = DirectMemory(shard := MemoryShard(settings))
    for user in (SECRET, "bob", "eve"):
        await memory.append(user, [interaction("1", user, query="drink?", truth="tea")])
        await build_profile(memory, EMBEDDER, user)
        await memory.note_alignment(user, 5)
    await memory.append("bob", [Interaction(id="2", user="bob", time=datetime.now(UTC), query="q", truth="t")])
    await memory.commit_persona("eve", PersonaDraft(text="kind", origin=Origin.MANUAL), None)
    await shard.flush()
    assert await shard.expire(30) == 3
    assert {s.user: s.interactions for s in await shard.users()} == {"bob": 1, "eve": 0}
    assert where == "server" or found(tmp_path / "store") == []
    store = shard._store
    assert store is not None
    assert set(store.directory()) == {user_key("bob"), user_key("eve")}
    await memory.append(SECRET, [interaction("1", SECRET, query="drink?", truth="tea")])  # who comes back is welcome
    assert {s.user for s in await shard.users()} == {SECRET, "bob", "eve"}
    assert (await build_profile(memory, EMBEDDER, SECRET)).read == 1
    await shard.close()

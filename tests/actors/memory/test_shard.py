from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from actors.memory.client import ShardedMemory
from actors.memory.shard import MemoryShard
from actors.memory.startup import start_memory
from personaagent.errors import ConflictError, InvalidInput, NotFoundError, StoreError, UnavailableError
from personaagent.evidence.commons import SIZE, Population, packed, places
from personaagent.memory.export import parse_export
from personaagent.memory.local import LocalMemory
from personaagent.memory.store import quantised
from personaagent.settings import MemorySettings, Settings
from personaagent.types import Decision, Origin, PersonaDraft, Profile, RecallQuery, user_key
from tests.support.direct_memory import DirectMemory
from tests.support.doubles import HashEmbedder
from tests.support.shards import EMBEDDER, NONE, START, batch, config, interaction


@pytest.fixture
async def shard(tmp_path: Path) -> AsyncIterator[MemoryShard]:
    shard = MemoryShard(config(tmp_path))
    yield shard
    await shard.close()


async def test_appended_interactions_are_recalled_and_survive_passivation(shard: MemoryShard) -> None:
    rows = [interaction(str(i), minute=i, truth="x" if i % 2 else None) for i in range(20)]
    assert (await shard.append("ann", await batch(*rows), "test")).added == 20
    for _ in range(2):
        asked = [(RecallQuery(text=t, k=1), EMBEDDER.encode([t])[0], NONE) for t in ("query 7", "query 3")]
        found = await shard.recall("ann", asked)
        assert [[e.interaction for e in recall.episodes] for recall in found] == [[rows[7]], [rows[3]]]
        assert pickle.loads(await shard.recall_packed(pickle.dumps(("ann", asked, "test")))) == found
        assert [i.id for i in await shard.latest("ann", 2, False)] == ["18", "19"]
        assert await shard.passivate() == 1
    stats = await shard.stats()
    assert (stats["active_users"], stats["episodes"], stats["activations"]) == (0, 20, 2)
    assert stats["ram_bytes"] == 0


async def test_many_users_are_appended_in_one_write_without_being_activated(shard: MemoryShard) -> None:
    await shard.append("user 1", await batch(interaction("0", "user 1")), "test")  # this one is active
    rows = [interaction(str(i), f"user {i % 3}", minute=i) for i in range(30)]
    assert (await shard.append_many(await batch(*rows), "test")).model_dump() == {
        "added": 30,
        "repeated": 0,
        "updated": 0,
    }
    assert (await shard.stats())["active_users"] == 1
    told = [r.model_copy(update={"truth": "yes"}) for r in rows[:6]]
    again = await shard.append_many(await batch(*told, *rows[6:]), "test")
    assert again.model_dump() == {"added": 0, "repeated": 24, "updated": 6}
    for n, count in ((0, 10), (1, 11), (2, 10)):
        summary = await shard.summary(f"user {n}")
        assert summary is not None
        assert (summary.interactions, summary.truths) == (count, 2)


async def test_changes_of_one_user_run_one_after_the_other(shard: MemoryShard) -> None:
    batches = [await batch(interaction(str(i), minute=i)) for i in range(40)]
    drafts = [PersonaDraft(text=str(i), origin=Origin.ALIGNED) for i in range(5)]
    results = await asyncio.gather(
        *(shard.append("ann", b, "test") for b in batches),
        *(shard.append("ann", b, "test") for b in batches),
        *(shard.commit_persona("ann", d, None, uuid.uuid4().hex, "test") for d in drafts),
        return_exceptions=True,
    )
    assert sum(getattr(r, "added", 0) for r in results) == 40
    assert sum(getattr(r, "repeated", 0) for r in results) == 40
    assert sum(isinstance(r, ConflictError) for r in results) == 4
    assert len(await shard.personas("ann")) == 1
    assert len(await shard.latest("ann", 100, False)) == 40


async def test_a_cancelled_call_is_finished_all_the_same(shard: MemoryShard) -> None:
    await shard.append("ann", await batch(interaction("0")), "test")
    call = asyncio.create_task(shard.append("ann", await batch(interaction("1", minute=1)), "test"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await shard.append("ann", await batch(interaction("1", minute=1)), "test")).repeated == 1
    assert [i.id for i in await shard.latest("ann", 9, False)] == ["0", "1"]


async def test_the_least_recently_used_users_leave_when_ram_is_short(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path, max_ram_mb=0.05))
    for n in range(6):
        rows = [interaction(str(i), f"user {n}", query="x" * 500, minute=i) for i in range(20)]
        await shard.append(f"user {n}", await batch(*rows), "test")
    stats = await shard.stats()
    assert stats["active_users"] < 6
    assert stats["ram_bytes"] <= 0.05 * 2**20
    assert stats["passivations"] == 6 - stats["active_users"]
    for n in range(6):
        assert len(await shard.latest(f"user {n}", 99, False)) == 20
    await shard.close()


async def test_idle_users_leave(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path, idle_s=0.2, flush_s=0.1))
    await shard.append("ann", await batch(interaction("1")), "test")
    for _ in range(100):
        stats = await shard.stats()
        if not stats["active_users"] and not stats["unflushed"]:
            break
        await asyncio.sleep(0.05)
    assert (stats["active_users"], stats["unflushed"]) == (0, 0)
    assert [i.id for i in await shard.latest("ann", 1, False)] == ["1"]
    await shard.close()


async def test_a_repeated_commit_is_the_same_commit(shard: MemoryShard) -> None:
    draft = PersonaDraft(text="p", origin=Origin.INITIAL)
    first = await shard.commit_persona("ann", draft, None, "token", "test")
    assert await shard.commit_persona("ann", draft, None, "token", "test") == first
    with pytest.raises(ConflictError):
        await shard.commit_persona("ann", draft, None, "another", "test")
    profile = await shard.commit_profile("ann", Profile(covered=1), 0, "token", "test")
    assert await shard.commit_profile("ann", Profile(covered=1), 0, "token", "test") == profile
    with pytest.raises(ConflictError):
        await shard.commit_profile("ann", Profile(covered=2), 0, "another", "test")
    await shard.passivate()
    assert await shard.commit_persona("ann", draft, None, "token", "test") == first
    assert await shard.profile("ann") == profile


async def test_forget_is_logged_before_and_after_and_can_be_repeated(shard: MemoryShard, tmp_path: Path) -> None:
    for user in ("ann", "bob"):
        await shard.append(user, await batch(*(interaction(str(i), user) for i in range(3))), "test")
    await shard.commit_persona("ann", PersonaDraft(text="p", origin=Origin.INITIAL), None, "t", "test")
    receipt = await shard.forget("ann", "the user", "audit-1")
    assert (receipt.interactions, receipt.personas, receipt.remaining, receipt.audit_id) == (3, 1, 0, "audit-1")
    again = await shard.forget("ann", "the user", "audit-1")  # the answer was lost: the same receipt, not "unknown"
    assert (again.interactions, again.personas) == (3, 1)
    with pytest.raises(NotFoundError):
        await shard.forget("ann", "the user", "audit-2")
    assert await shard.summary("ann") is None
    assert [s.user for s in await shard.users()] == ["bob"]
    lines = [json.loads(x) for p in (tmp_path / "audit").iterdir() for x in p.read_text().splitlines()]
    actions = [(e["action"], e["by"]) for e in lines]
    assert actions[:3] == [("append", "test"), ("append", "test"), ("persona", "test")]
    assert actions[3:5] == [("forget", "the user"), ("forgotten", "the user")]
    assert not any("ann" in json.dumps(e) for e in lines)


async def test_what_cannot_be_logged_is_not_forgotten(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path))
    await shard.append("ann", await batch(interaction("1")), "test")
    for path in (tmp_path / "audit").iterdir():
        path.unlink()
        path.mkdir()
    with pytest.raises(StoreError, match="audit log"):
        await shard.forget("ann", "user", "a")
    assert len(await shard.latest("ann", 5, False)) == 1
    await shard.close()


async def test_calls_of_tools_are_logged_by_their_names(shard: MemoryShard, tmp_path: Path) -> None:
    memory = DirectMemory(shard)
    await memory.note_call("ann", "weather", False)
    await memory.note_call("ann", "x" * 500, True)
    lines = [json.loads(x) for p in (tmp_path / "audit").iterdir() for x in p.read_text().splitlines()]
    assert [{k: v for k, v in e.items() if k != "time"} for e in lines] == [
        {"action": "call", "user_key": user_key("ann"), "by": "test", "tool": "weather"},
        {"action": "failed", "user_key": user_key("ann"), "by": "test", "what": "call", "tool": "x" * 64},
    ]


async def test_a_shard_serves_one_store_only(shard: MemoryShard, tmp_path: Path) -> None:
    await shard.ready(config(tmp_path))
    await shard.ready(config(tmp_path, idle_s=5))
    for other in (config(tmp_path / "elsewhere"), config(tmp_path, shards=2)):
        with pytest.raises(StoreError, match=r"memory\.tenant"):
            await shard.ready(other)


async def test_a_store_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "default"
    folder.mkdir(parents=True)
    (folder / "memory-00.db").write_text("not a store")
    shard = MemoryShard(config(tmp_path))
    with pytest.raises(StoreError, match="move it away"):
        await shard.latest("ann", 1, False)
    (folder / "memory-00.db").unlink()
    assert await shard.latest("ann", 1, False) == ()
    await shard.close()


async def test_reads_of_active_users_go_on_while_the_store_is_away(
    shard: MemoryShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shard.append("ann", await batch(interaction("1")), "test")

    def away(*args: object, **kwargs: object) -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(shard._store, "put", away)
        patch.setattr(shard._store, "load", away)
        with pytest.raises(UnavailableError):
            await shard.append("ann", await batch(interaction("2")), "test")
        with pytest.raises(UnavailableError):
            await shard.latest("bob", 1, False)
        assert [i.id for i in await shard.latest("ann", 5, False)] == ["1"]
    assert (await shard.append("ann", await batch(interaction("2", minute=1)), "test")).added == 1
    assert [i.id for i in await shard.latest("ann", 5, False)] == ["1", "2"]


@pytest.mark.slow
async def test_a_large_user_is_searched_in_the_store_with_the_same_answers(tmp_path: Path) -> None:
    small = MemoryShard(config(tmp_path / "small"))
    large = MemoryShard(config(tmp_path / "large", max_active_episodes=100))
    rows = [
        interaction(str(i), query=f"query {i} about {i % 7}", minute=i // 2, truth=str(i % 5 + 1) if i % 3 else None)
        for i in range(150)
    ]
    queries = [
        RecallQuery(text="query 20 about 6", k=3, ranking="dense"),
        RecallQuery(text="query 20 about 6", k=3, ranking="dense", before="21", exclude=("20", "3")),
        RecallQuery(text="query 20", k=3, ranking="dense", with_truth=True, since=START + timedelta(minutes=30)),
        RecallQuery(text="q", k=0, choices=("1", "2", "3", "4", "5"), decisions=(Decision(),)),
    ]
    for shard in (small, large):
        await shard.append("ann", await batch(*rows), "test")
        await shard.append("ann", await batch(interaction("last", minute=200), *rows[:3]), "test")
        assert (await shard.feedback("ann", "0", "5", EMBEDDER.encode(["5"])[0], "test")).truth == "5"
        await shard.commit_persona("ann", PersonaDraft(text="p", origin=Origin.INITIAL), None, "t", "test")
        await shard.commit_profile("ann", Profile(covered=2), 0, "t", "test")
    assert (await large.stats())["ram_bytes"] < (await small.stats())["ram_bytes"] / 3
    for shard in (small, large):
        read = await shard.interactions("ann", ["7", "gone", "3"])
        assert [(i.id, i.query) for i in read] == [("7", rows[7].query), ("3", rows[3].query)]
        assert await shard.interactions("bob", ["7"]) == ()
    for query in queries:
        vector = EMBEDDER.encode([query.text])[0]
        (one,), (other,) = [await s.recall("ann", [(query, vector, NONE)]) for s in (small, large)]
        assert [(e.interaction, e.age) for e in one.episodes] == [(e.interaction, e.age) for e in other.episodes]
        np.testing.assert_allclose(one.evidence, other.evidence, atol=1e-5)
        assert one.known == other.known
    assert await small.latest("ann", 7, True) == await large.latest("ann", 7, True)
    earlier = await small.latest("ann", 7, True, "test", "99")
    assert earlier == await large.latest("ann", 7, True, "test", "99")
    assert earlier[-1].id == "98"
    for shard in (small, large):
        with pytest.raises(NotFoundError):
            await shard.latest("ann", 7, False, "test", "never")
    one, other = await small.summary("ann"), await large.summary("ann")
    assert one == other
    assert len(await large.export("ann")) == len(await small.export("ann"))
    vector = EMBEDDER.encode(["q"])[0]
    with pytest.raises(NotFoundError):
        await large.recall("ann", [(RecallQuery(text="q", before="never"), vector, NONE)])
    assert (await large.forget("ann", "user", "a")).interactions == 151
    for shard in (small, large):
        await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("most", [100, 1000])  # searched in the store, and in RAM
async def test_evidence_starts_from_what_users_have_in_common(tmp_path: Path, most: int) -> None:
    shard = MemoryShard(config(tmp_path, max_active_episodes=most))
    rows = [interaction(str(i), minute=i, choices=("a", "b"), truth="ab"[i % 2]) for i in range(120)]
    await shard.append("ann", await batch(*rows), "test")
    choices = ("green tea", "black tea")
    query = RecallQuery(text="tea?", k=0, choices=choices, decisions=(Decision(),))
    asked = (query, EMBEDDER.encode(["tea?"])[0], EMBEDDER.encode(choices))

    async def preferred(user: str) -> float:
        ((logprobs,),) = [recall.evidence for recall in await shard.recall(user, [asked])]
        return logprobs[0] - logprobs[1]

    assert await shard.population() is None
    assert await preferred("new") == pytest.approx(0.0)
    own = await preferred("ann")
    table = np.zeros(SIZE)
    table[places("green tea")[0][0]] = 2.0
    learned = Population(number=3, users=9, time=START, choices=packed(table))
    for _ in range(2):
        await shard.commit_population(learned, "test")
    assert await preferred("new") > 0.5
    assert await preferred("ann") > own + 0.1
    with pytest.raises(ConflictError):
        await shard.commit_population(learned.model_copy(update={"number": 2}), "test")
    before = await preferred("new")
    await shard.close()
    shard = MemoryShard(config(tmp_path, max_active_episodes=most))
    assert await preferred("new") == before
    assert await shard.population() == learned
    await shard.commit_population(Population(number=4, users=0, time=START), "test")
    assert await preferred("new") == pytest.approx(0.0)
    entries = [json.loads(line) for file in (tmp_path / "audit").glob("*") for line in file.read_text().splitlines()]
    assert [e["number"] for e in entries if e["action"] == "population"] == [3, 3, 4]
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 150])  # in RAM, and searched in the store
async def test_options_are_kept_whatever_happens_to_their_row(tmp_path: Path, rows: int) -> None:
    shard = MemoryShard(config(tmp_path, max_active_episodes=100))
    choices = ("green tea", "black tea", "milk")
    closed = [interaction(str(i), minute=i, choices=choices) for i in range(4)]
    others = [interaction(str(i), minute=i) for i in range(4, rows)]

    async def check(expected: set[str]) -> None:
        store = shard._store
        assert store is not None
        for _ in range(2):
            found = {row.id: row.option_vectors for row in store.load("ann").rows if row.option_vectors is not None}
            assert found.keys() == expected
            for vectors in found.values():
                np.testing.assert_array_equal(vectors, quantised(EMBEDDER.encode(choices)))
            await shard.passivate()
            await shard.latest("ann", 1, False)

    await shard.append("ann", await batch(*closed[:2], *others), "test")
    await shard.append_many(await batch(*closed[2:]), "test")
    await check({"0", "1", "2", "3"})
    await shard.feedback("ann", "0", "milk", EMBEDDER.encode(["milk"])[0], "test")
    await shard.append("ann", await batch(closed[1].model_copy(update={"truth": "milk"})), "test")
    await shard.append_many(await batch(closed[2].model_copy(update={"response": "milk"})), "test")
    await check({"0", "1", "2", "3"})
    exported = parse_export(await shard.export("ann"))
    await shard.forget("ann", "user", "a")
    await check(set())
    await shard.restore(exported, await batch(*exported.interactions), "test")
    await check({"0", "1", "2", "3"})
    await shard.close()


# With a real Ray


@pytest.fixture
async def memory(ray_cluster: None, tmp_path: Path) -> AsyncIterator[ShardedMemory]:
    memory = await start_memory(home(tmp_path), EMBEDDER)
    yield memory
    await memory.shutdown()


def home(folder: Path, **memory: object) -> Settings:
    tenant = f"t{abs(hash(folder))}"
    return Settings(home=folder, memory=MemorySettings(**{"tenant": tenant, **memory}))  # type: ignore[arg-type]


@pytest.mark.cluster
async def test_a_killed_shard_loses_nothing_acknowledged(memory: ShardedMemory) -> None:
    users = [f"user {n}" for n in range(6)]
    rows = [interaction(str(i), users[i % 6], minute=i) for i in range(60)]
    assert (await memory.append_many(rows)).added == 60
    persona = await memory.commit_persona(users[0], PersonaDraft(text="p", origin=Origin.INITIAL), None)
    for n in range(2):
        acknowledged = [interaction(f"last {n}", user, minute=100 + n) for user in users]
        for row in acknowledged:
            await memory.append(row.user, [row])
        for stats in await memory.stats():
            os.kill(stats["pid"], signal.SIGKILL)
        found = await asyncio.gather(*(memory.latest(user, 1) for user in users))
        assert [row for (row,) in found] == acknowledged
    assert await memory.persona(users[0]) == persona
    assert {s.user: s.interactions for s in await memory.users()} == dict.fromkeys(users, 12)


@pytest.mark.cluster
async def test_sharded_memory_answers_as_memory_in_ram_does(memory: ShardedMemory) -> None:
    local = LocalMemory(EMBEDDER)
    rows = [interaction(str(i), "ann", minute=i, truth=f"truth {i % 4}" if i % 2 else None) for i in range(30)]
    for m in (memory, local):
        await m.append("ann", rows[:20])
        await m.append_many(rows)
        await m.feedback("ann", "2", "truth 9")
    choices = ("truth 1", "truth 9")
    queries = [
        RecallQuery(text="query 12"),
        RecallQuery(text="query 12", before="15", choices=choices, decisions=(Decision(),)),
    ]
    for query in queries:
        assert await memory.recall("ann", query) == await local.recall("ann", query)
    assert await memory.latest("ann", 5, with_truth=True) == await local.latest("ann", 5, with_truth=True)
    for m in (memory, local):
        assert await m.population() is None
        await m.commit_population(Population(users=5, time=START, choices=packed(np.arange(SIZE) / SIZE)))
    assert await memory.population() == await local.population()
    assert await memory.recall("ann", queries[1]) == await local.recall("ann", queries[1])
    with pytest.raises(ConflictError):
        await memory.commit_population(Population(users=6, time=START))
    await memory.commit_population(Population(number=2, users=0, time=START))
    lines = await memory.export("ann")
    await memory.forget("ann")
    assert (await memory.restore(lines)).added == 30
    assert await memory.export("ann") == lines
    assert (await memory.restore(lines)).repeated == 30


@pytest.mark.cluster
async def test_errors_cross_processes_as_themselves(memory: ShardedMemory) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        await memory.feedback("ann", "never", "x")
    with pytest.raises(NotFoundError):
        await memory.export("ann")
    with pytest.raises(InvalidInput):
        await memory.append("ann", [interaction("1", "bob")])
    draft = PersonaDraft(text="p", origin=Origin.INITIAL)
    await memory.commit_persona("ann", draft, None)
    with pytest.raises(ConflictError):
        await memory.commit_persona("ann", draft, None)


@pytest.mark.cluster
async def test_a_second_start_finds_the_shards_and_a_wrong_one_is_refused(
    memory: ShardedMemory, tmp_path: Path
) -> None:
    await memory.append("ann", [interaction("1")])
    second = await start_memory(home(tmp_path), EMBEDDER)
    assert [i.id for i in await second.latest("ann", 1)] == ["1"]
    with pytest.raises(StoreError, match=r"memory\.tenant"):
        await start_memory(home(tmp_path, shards=3), EMBEDDER)
    await memory.shutdown()
    with pytest.raises(StoreError, match="personaagent reshard"):
        await start_memory(home(tmp_path, shards=3), EMBEDDER)
    with pytest.raises(StoreError, match="embedder"):
        await start_memory(home(tmp_path), HashEmbedder(8))
    third = await start_memory(home(tmp_path), EMBEDDER)
    assert [i.id for i in await third.latest("ann", 1)] == ["1"]
    await third.shutdown()


@pytest.mark.cluster
async def test_a_shard_that_was_ended_is_named(memory: ShardedMemory) -> None:
    await memory.shutdown()
    await memory.shutdown()
    with pytest.raises(UnavailableError, match="restart the service"):
        await memory.latest("ann", 1)


async def test_a_write_without_an_answer_shows_as_soon_as_the_store_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = MemoryShard(config(tmp_path, flush_s=0.05))
    await shard.append("ann", await batch(interaction("1")), "test")
    store = shard._store
    assert store is not None
    put = store.put

    def without_answer(rows: object) -> None:
        put(rows)  # type: ignore[arg-type]
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", without_answer)
        with pytest.raises(UnavailableError):
            await shard.append("ann", await batch(interaction("2", minute=1)), "test")
    for _ in range(500):
        found = [i.id for i in await shard.latest("ann", 9, False)]
        if found == ["1", "2"]:
            break
        await asyncio.sleep(0.02)
    assert found == ["1", "2"]
    await shard.close()


async def test_a_change_answers_with_what_it_wrote(shard: MemoryShard, monkeypatch: pytest.MonkeyPatch) -> None:
    await shard.append("ann", await batch(interaction("1")), "test")
    change = shard._change

    async def forgotten_meanwhile(user: str, *args: object) -> object:
        result = await change(user, *args)  # type: ignore[arg-type]
        await shard.forget(user, "user", str(len(args)))
        return result

    draft = PersonaDraft(text="p", origin=Origin.INITIAL)
    monkeypatch.setattr(shard, "_change", forgotten_meanwhile)
    assert (await shard.feedback("ann", "1", "yes", EMBEDDER.encode(["yes"])[0], "test")).truth == "yes"
    assert (await shard.commit_persona("ann", draft, None, "t", "test")).number == 1
    assert (await shard.commit_profile("ann", Profile(), 0, "t", "test")).version == 1


async def test_a_store_is_closed_on_a_full_disk_and_finds_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = MemoryShard(config(tmp_path, flush_s=1000))
    await shard.append("ann", await batch(interaction("1")), "test")

    def full(*args: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("actors.milvus.connection.check_disk", full)
        await shard.close()
    assert [i.id for i in await shard.latest("ann", 9, False)] == ["1"]
    await shard.close()


async def test_a_repeated_commit_is_known_again_though_others_came_after_it(shard: MemoryShard) -> None:
    first, second = (PersonaDraft(text=text, origin=Origin.INITIAL) for text in "ab")
    await shard.commit_persona("ann", first, None, "one", "test")
    await shard.commit_persona("ann", second, 1, "two", "test")
    assert (await shard.commit_persona("ann", first, None, "one", "test")).text == "a"  # nobody had heard the answer
    with pytest.raises(ConflictError):
        await shard.commit_persona("ann", first, None, "three", "test")
    assert [p.text for p in await shard.personas("ann")] == ["a", "b"]


async def test_a_broken_embedder_stores_nothing(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path))
    broken = await batch(interaction("1", truth="t"))
    broken.vectors[:] = np.nan
    with pytest.raises(UnavailableError, match="finite"):
        await shard.append("ann", broken, "t")
    assert await shard.summary("ann") is None
    await shard.close()

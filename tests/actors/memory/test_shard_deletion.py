"""Deleting single interactions in a shard: from RAM, the store and its files, logged first, with what rests on them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.memory.shard import MemoryShard
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.claims import Claim
from personaagent.errors import ForgottenError, StoreError
from personaagent.persona.persona import made
from personaagent.types import ACTION, OF, Decision, Fact, Origin, Profile, RecallQuery
from tests.support.shards import EMBEDDER, NONE, START, batch, config, interaction


@pytest.fixture(params=[100, 1000])  # searched in the store, and in RAM
async def shard(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[MemoryShard]:
    shard = MemoryShard(config(tmp_path, max_active_episodes=request.param))
    yield shard
    await shard.close()


def logged(folder: Path) -> list[tuple[str, str, int | None]]:
    lines = [json.loads(x) for p in (folder / "audit").iterdir() for x in p.read_text().splitlines()]
    return [(e["action"], e["by"], e.get("interactions")) for e in lines]


def in_files(folder: Path, word: str) -> list[Path]:
    return [p for p in (folder / "store").rglob("*") if p.is_file() and word.encode() in p.read_bytes()]


async def test_it_is_gone_from_ram_store_and_files_with_what_rested_on_it(shard: MemoryShard, tmp_path: Path) -> None:
    rows = [interaction(str(i), query=f"query {i} WORD{i}x", minute=i, truth="t") for i in range(120)]
    about = {ACTION: "tool", OF: "7"}
    lesson = interaction("lesson:tool:7", query="query 7 WORD7x", choices=("a", "b"), metadata=about, minute=130)
    await shard.append("ann", await batch(*rows, lesson), "test")
    facts = tuple(
        Fact(id=i, text=f"fact {i}", evidence=e, first_seen=START, last_seen=START)
        for i, e in (("f", ("7",)), ("g", ("7", "8")))
    )
    await shard.commit_profile("ann", Profile(facts=facts), 0, "t", "test")
    claims = [Claim(text="from SEVEN", sources=("7",)), Claim(text="from eight", sources=("8",))]
    for number in range(3):  # also of old versions, which are in the store only
        draft = made(claims, Decision(), Origin.ALIGNED, budget=None)
        await shard.commit_persona("ann", draft, number or None, f"t{number}", "test")
    await shard.flush()
    assert await shard.delete("ann", ["7", "never"], "somebody") == 1
    for _ in range(2):
        assert len(await shard.latest("ann", 200, False)) == 119
        assert await shard.latest("ann", 200, False, lessons=True) == ()
        asked = (RecallQuery(text="query 7 WORD7x", k=200), EMBEDDER.encode(["query 7 WORD7x"])[0], NONE)
        (recall,) = await shard.recall("ann", [asked])
        assert "7" not in {e.interaction.id for e in recall.episodes}
        assert [f.evidence for f in (await shard.profile("ann")).facts] == [("8",)]
        assert [[c.text for c in p.claims] for p in await shard.personas("ann")] == [["from eight"]] * 3
        exported = "".join(await shard.export("ann"))
        assert "WORD7x" not in exported
        assert "SEVEN" not in exported
        await shard.passivate()
    assert (await shard.summary("ann")).interactions == 119  # type: ignore[union-attr]
    assert [u.interactions for u in await shard.users()] == [119]
    assert not in_files(tmp_path, "WORD7x")
    assert not in_files(tmp_path, "SEVEN")
    assert logged(tmp_path)[-1] == ("delete", "somebody", 2)
    assert await shard.delete("ann", ["7"], "somebody") == 0
    assert logged(tmp_path)[-1] == ("delete", "somebody", 2)  # nothing was done, so nothing is logged


async def test_an_unknown_user_has_none_and_stays_unknown(shard: MemoryShard) -> None:
    assert await shard.delete("eve", ["1"], "test") == 0
    assert await shard.users() == ()
    await shard.append("ann", await batch(interaction("1")), "test")
    await shard.append("eve", await batch(interaction("1", "eve")), "test")
    assert await shard.delete("eve", ["1"], "test") == 1
    assert [u.user for u in await shard.users()] == ["ann"]
    assert await shard.summary("eve") is None


async def test_what_cannot_be_logged_is_not_deleted(shard: MemoryShard, tmp_path: Path) -> None:
    await shard.append("ann", await batch(interaction("1")), "test")
    for path in (tmp_path / "audit").iterdir():
        path.unlink()
        path.mkdir()
    with pytest.raises(StoreError, match="audit log"):
        await shard.delete("ann", ["1"], "test")
    assert [i.id for i in await shard.latest("ann", 5, False)] == ["1"]


async def test_a_deletion_that_broke_off_is_finished_by_the_next_call(
    shard: MemoryShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shard.append("ann", await batch(interaction("1", query="WORDx"), interaction("2", minute=1)), "test")
    await shard.flush()

    def full(*_: object) -> str:
        raise StoreError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(UpkeepStore, "scrub", full)
        with pytest.raises(StoreError, match="full"):
            await shard.delete("ann", ["1"], "test")
    assert logged(tmp_path)[-1][0] == "failed"
    assert [i.id for i in await shard.latest("ann", 5, False)] == ["2"]
    assert in_files(tmp_path, "WORDx")
    assert await shard.delete("ann", ["1"], "test") == 0
    assert not in_files(tmp_path, "WORDx")


async def test_work_from_before_a_forgetting_deletes_nothing(shard: MemoryShard) -> None:
    await shard.append("ann", await batch(interaction("1")), "test")
    began = await shard.incarnation()
    await shard.forget("ann", "user", "a")
    await shard.append("ann", await batch(interaction("1")), "test")
    with pytest.raises(ForgottenError):
        await shard.delete("ann", ["1"], "test", began)
    assert await shard.delete("ann", ["1"], "test", await shard.incarnation()) == 1

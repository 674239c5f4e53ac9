"""Sizes in bytes: what is too large to be stored, and that what is large takes no more than its share of RAM."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.memory.large_user import LargeUser
from actors.memory.shard import MemoryShard
from actors.memory.wire import Batch
from personaagent.errors import NotFoundError, TooLarge
from personaagent.memory.changes import embed_interactions
from personaagent.memory.export import parse_export
from personaagent.memory.limits import chunks, interaction_fault, persona_bytes, rough_bytes
from personaagent.memory.local import LocalMemory
from personaagent.memory.persona_chain import PersonaChain
from personaagent.memory.store import pack
from personaagent.persona.persona import again
from personaagent.protocols import export_pages
from personaagent.settings import LimitsSettings, MemorySettings
from personaagent.types import Interaction, Origin, Persona, PersonaDraft, RecallQuery
from serve.cli.importing import Imported, import_export, import_interactions
from tests.support.direct_memory import DirectMemory
from tests.support.doubles import HashEmbedder
from tests.support.shards import EMBEDDER, NONE, START, batch, config, interaction

KB = 1_000
ROOMY = {"metadata_kb": 1e5, "interaction_kb": 1e5}  # what a version without limits would have taken in


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[DirectMemory]:
    memory = DirectMemory(MemoryShard(config(tmp_path)))
    yield memory
    await memory.shard.close()


async def reopened(memory: DirectMemory, folder: Path, **settings: Any) -> DirectMemory:
    await memory.shard.close()
    return DirectMemory(MemoryShard(config(folder, **settings)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "setting", "size"),
    [
        ({"query": "é" * 60_000}, "text_kb", "120,000"),
        ({"truth": "x" * 50_001}, "text_kb", "50,001"),
        ({"response": "x" * 50_001}, "text_kb", "50,001"),
        ({"choices": ("x" * 50_001, "y")}, "text_kb", "50,001"),
        ({"choices": tuple(f"{n:05}" * 500 for n in range(41))}, "choices_kb", "102,500"),
        ({"metadata": {"x": "é" * 10_000}}, "metadata_kb", "20,008"),
        ({"query": "x" * 50_000, "truth": "y" * 50_000, "response": "z" * 50_000}, "interaction_kb", "150,"),
    ],
)
async def test_what_is_too_large_is_refused_with_setting_and_size(
    tmp_path: Path, fields: dict[str, Any], setting: str, size: str
) -> None:
    limits = {"text_kb": 50, "choices_kb": 100, "metadata_kb": 20, "interaction_kb": 130}
    shard = MemoryShard(config(tmp_path, limits=limits))
    large = interaction("large", **fields)
    with pytest.raises(TooLarge, match=rf"has? .*{size}.* memory\.limits\.{setting} allows|have {size}") as refused:
        await shard.append("ann", await batch(large), "test")
    assert (refused.value.status, refused.value.code) == (413, "too_large")
    assert await shard.summary("ann") is None
    # Beside others it is left out, and they go in: of users in RAM and of others.
    for other in ("ann", "ann"):
        result = await shard.append_many(
            await batch(interaction(f"1 {len(await shard.latest(other, 9, False))}"), large, interaction("2", "bob")),
            "test",
        )
        assert [(o.user, o.id) for o in result.oversized] == [("ann", "large")]
        assert setting in result.oversized[0].reason
    assert len(await shard.latest("ann", 9, False)) == 2
    await shard.close()


async def test_a_truth_that_is_too_large_changes_nothing(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path, limits={"text_kb": 1}))
    await shard.append("ann", await batch(interaction("1")), "test")
    long = "x" * 1_001
    with pytest.raises(TooLarge, match="text_kb"):
        await shard.feedback("ann", "1", long, EMBEDDER.encode([long])[0], "test")
    with pytest.raises(TooLarge, match="text_kb"):
        await shard.append("ann", await batch(interaction("1", truth=long)), "test")
    assert (await shard.interaction("ann", "1")).truth is None
    draft = PersonaDraft(text="p", origin=Origin.MANUAL, struck=tuple(f"{n}{'x' * 50_000}" for n in range(11)))
    with pytest.raises(TooLarge, match=r"memory\.limits\.persona_kb allows 512,000"):
        await shard.commit_persona("ann", draft, None, "t", "test")
    assert await shard.persona("ann", None) is None
    await shard.close()


async def test_all_of_a_user_together_has_a_limit(tmp_path: Path) -> None:
    limits = {"user_mb": 0.05, "interaction_kb": 3}
    shard = MemoryShard(config(tmp_path, limits=limits))
    rows = [interaction(str(n), minute=n, query=f"{n} " + "x" * 1_700) for n in range(40)]
    result = await shard.append_many(await batch(*rows[:30]), "test")  # not in RAM
    kept = result.added
    assert 20 < kept < 30
    assert {o.reason.split(";")[1] for o in result.oversized} == {" memory.limits.user_mb allows 50,000"}
    again = await shard.append_many(await batch(*rows[:31]), "test")
    assert (again.added, again.repeated, len(again.oversized)) == (0, kept, 31 - kept)
    await shard.latest("ann", 1, False)  # in RAM now
    with pytest.raises(TooLarge, match="user_mb"):
        await shard.append("ann", await batch(rows[39]), "test")
    assert (await shard.append_many(await batch(rows[38]), "test")).added == 0
    assert (await shard.append("ann", await batch(rows[0].model_copy(update={"truth": "yes"})), "test")).updated == 1
    assert (await shard.append_many(await batch(interaction("1", "bob")), "test")).added == 1
    await shard.close()
    large = MemoryShard(config(tmp_path, limits=limits, max_ram_mb=0.1))  # searched in the store
    assert len(await large.latest("ann", 99, False)) == kept
    assert isinstance(large._active.get("ann"), LargeUser)
    with pytest.raises(TooLarge, match="user_mb"):
        await large.append("ann", await batch(rows[39]), "test")
    await large.close()


@pytest.mark.slow
async def test_what_an_older_version_stored_is_still_read(tmp_path: Path) -> None:
    memory = DirectMemory(MemoryShard(config(tmp_path, limits=ROOMY)))
    rows = [interaction(str(n), minute=n, metadata={"x": f"{n}" * 200_000}) for n in range(12)]
    await memory.append("ann", rows)
    memory = await reopened(memory, tmp_path, max_ram_mb=2)
    assert await memory.latest("ann", 99) == tuple(rows)
    assert isinstance(memory.shard._active.get("ann"), LargeUser)
    assert (await memory.shard.stats())["ram_bytes"] < 50 * KB
    asked = [(RecallQuery(text="query 3", k=2), EMBEDDER.encode(["query 3"])[0], NONE)]
    assert (await memory.shard.recall("ann", asked))[0].episodes[0].interaction == rows[3]
    again = Batch.of(await embed_interactions(EMBEDDER, rows[:2]))  # the client itself would refuse rows of this size
    assert (await memory.shard.append("ann", again, "test")).repeated == 2
    assert (await memory.feedback("ann", "1", "yes")).truth == "yes"
    lines = await memory.export("ann")
    assert len(lines) == 13
    assert [i.id for i in (await memory.truths("ann", 0, 9)).interactions] == ["1"]
    await memory.shard.close()


async def test_a_large_user_drives_nobody_out_of_ram(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path, max_ram_mb=1))
    for n in range(5):
        await shard.append(f"user {n}", await batch(interaction("1", f"user {n}")), "test")
    before = await shard.stats()
    for n in range(20):
        await shard.append("ann", await batch(interaction(str(n), minute=n, query=f"{n} " + "x" * 40_000)), "test")
    await shard.latest("ann", 1, False)
    assert isinstance(shard._active.get("ann"), LargeUser)
    stats = await shard.stats()
    assert stats["active_users"] == 6
    assert stats["ram_bytes"] - before["ram_bytes"] < 30 * KB
    activations = stats["activations"]
    for n in range(5):
        assert len(await shard.latest(f"user {n}", 9, False)) == 1
    assert (await shard.stats())["activations"] == activations  # they never left
    await shard.close()


async def test_pages_of_a_large_user_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.memory.large_user.POOL_BYTES", 100 * KB)
    shard = MemoryShard(config(tmp_path, max_ram_mb=1))
    rows = [interaction(str(n), minute=n, truth=f"{n}", query=f"{n} " + "x" * 30_000) for n in range(12)]
    for row in rows:
        await shard.append("ann", await batch(row), "test")
    assert [i.id for i in await shard.latest("ann", 99, False)] == ["9", "10", "11"]
    found: list[str] = []
    mark = 0
    for _ in range(4):
        page = await shard.truths("ann", mark, 99)
        assert len(page.interactions) == 3
        found += [i.id for i in page.interactions]
        mark = page.mark
        assert page.more == (len(found) < 12)
    assert found == [str(n) for n in range(12)]
    asked = (RecallQuery(text=rows[5].query, k=12), EMBEDDER.encode([rows[5].query])[0], NONE)
    (recall,) = await shard.recall("ann", [asked])
    assert len(recall.episodes) == 3
    assert recall.episodes[0].interaction == rows[5]
    await shard.close()


# Persona versions


async def test_versions_come_in_pages_and_only_the_newest_is_in_ram(memory: DirectMemory) -> None:
    await memory.append("ann", [interaction("1")])
    for n in range(45):
        await memory.commit_persona("ann", PersonaDraft(text=f"{n} " + "x" * 2_000, origin=Origin.MANUAL), n or None)
    for _ in range(2):
        assert (await memory.shard.stats())["ram_bytes"] < 20 * KB
        page = await memory.persona_page("ann", None, 20)
        assert [p.number for p in page.versions] == list(range(26, 46))
        assert page.next == 26
        seen = list(page.versions)
        while page.next is not None:
            page = await memory.persona_page("ann", page.next, 20)
            seen = [*page.versions, *seen]
        assert tuple(seen) == await memory.personas("ann")
        assert [p.number for p in seen] == list(range(1, 46))
        third = await memory.persona("ann", 3)
        assert third is not None
        assert third.text.startswith("2 ")
        assert await memory.persona("ann", 46) is None
        assert (await memory.persona_page("ann", 1, 20)).versions == ()
        await memory.shard.passivate()
    assert (await memory.persona_page("bob", None, 20)).versions == ()


@pytest.mark.slow
async def test_the_oldest_versions_lose_their_texts_when_all_are_too_large(tmp_path: Path) -> None:
    small: dict[str, Any] = {"limits": {"persona_chain_mb": 0.05, "persona_kb": 10}}
    memory = DirectMemory(MemoryShard(config(tmp_path, **small)))
    await memory.append("ann", [interaction("1")])
    for n in range(30):
        if n == 20:
            memory = await reopened(memory, tmp_path, **small)
        draft = PersonaDraft(
            text=f"{n} " + "x" * 3_000, origin=Origin.ALIGNED, pinned=n == 2, score_after=n / 100, sources=("1",)
        )
        await memory.commit_persona("ann", draft, n or None)
    versions = await memory.personas("ann")
    assert [p.number for p in versions] == list(range(1, 31))
    assert sum(map(persona_bytes, versions)) <= 50 * KB
    dropped = [p.number for p in versions if p.dropped]
    assert dropped == [n for n in range(1, len(dropped) + 2) if n != 3]  # the oldest, but not the pinned one
    assert 10 < len(dropped) < 20
    first = versions[0]
    assert (first.text, first.origin, first.score_after, first.sources) == ("", Origin.ALIGNED, 0.0, ())
    with pytest.raises(NotFoundError, match="persona_chain_mb"):
        again(first, Origin.ROLLBACK)
    assert again(versions[-5], Origin.ROLLBACK).text == versions[-5].text
    summary = await memory.summary("ann")
    assert summary is not None
    assert summary.persona == 30
    # Such a user is exported and restored like any other, also beside what is left of the versions that were dropped.
    lines = await memory.export("ann")
    await memory.restore(lines)
    await memory.forget("ann")
    await memory.restore(lines)
    assert await memory.personas("ann") == versions
    assert await memory.export("ann") == lines
    await memory.shard.close()


def test_versions_of_the_program_before_can_read_versions_that_are_whole() -> None:
    persona = Persona(text="p", origin=Origin.MANUAL, number=1, parent=None, time=START)
    assert "dropped" not in persona.plain()
    assert Persona.model_validate(persona.without_texts().plain()).dropped


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(1, 60) | st.none(), st.integers(0, 60) | st.none())
def test_a_chain_reads_the_same_from_ram_and_store(count: int, before: int | None, limit: int | None) -> None:
    personas = [
        Persona(text=str(n), origin=Origin.MANUAL, number=n, parent=n - 1 or None, time=START)
        for n in range(1, count + 1)
    ]

    def read(before: int | None, limit: int | None) -> tuple[Persona, ...]:
        found = [p for p in personas if before is None or p.number < before]
        return tuple(found[max(0, len(found) - limit) if limit is not None else 0 :])

    kept, stored = PersonaChain(personas), PersonaChain(personas[-1:], read)
    wanted = read(before, limit)
    assert kept.versions(before, limit) == stored.versions(before, limit) == wanted
    assert list(stored.each()) == list(kept.each()) == personas
    for number in range(count + 2):
        assert kept.version(number) == stored.version(number)


# Exports, imports and what passes between processes


@pytest.mark.slow
@pytest.mark.parametrize("most", [100, 50_000])  # searched in the store, and in RAM
async def test_an_export_comes_in_pages_and_leaves_out_what_arrives_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    memory = DirectMemory(MemoryShard(config(tmp_path, max_active_episodes=most)))
    rows = [interaction(str(n), minute=n, query=f"{n} " + "x" * 200, truth="t" if n % 3 else None) for n in range(150)]
    await memory.append("ann", rows)
    for n in range(30):
        await memory.commit_persona("ann", PersonaDraft(text=f"{n} " + "x" * 500, origin=Origin.MANUAL), n or None)
    await memory.note_alignment("ann", 7)
    whole = await memory.export("ann")
    monkeypatch.setattr("personaagent.memory.export.export_page.__defaults__", (0, 5 * KB))
    pages = []
    async for page in export_pages(memory, "ann"):
        if len(pages) == 3:
            await memory.append("ann", [interaction("late")])
        pages.append(page)
    assert len(pages) > 10
    assert tuple(line for page in pages for line in page) == whole
    assert max(sum(map(len, page)) for page in pages) < 8 * KB
    parsed = parse_export(whole)
    assert (len(parsed.interactions), len(parsed.personas or ()), parsed.seen) == (150, 30, 7)
    with pytest.raises(NotFoundError):
        await memory.export_page("bob")
    cursor = (await memory.export_page("ann")).next
    await memory.forget("ann")
    await memory.append("ann", rows)
    with pytest.raises(NotFoundError if cursor is None else Exception, match=r"forgotten|unknown"):
        await memory.export_page("ann", cursor)
    await memory.shard.close()


async def test_an_export_restored_in_parts_is_the_same_memory(memory: DirectMemory) -> None:
    source = LocalMemory(HashEmbedder(16))
    await source.append("ann", [interaction(str(n), minute=n, truth="t" if n % 2 else None) for n in range(40)])
    for n in range(3):
        await source.commit_persona("ann", PersonaDraft(text=f"{n}", origin=Origin.ALIGNED), n or None)
    await source.note_alignment("ann", (await source.truths("ann", 0, 10)).mark)
    lines = await source.export("ann")
    parts = parse_export(lines).parts(15, 10**9)
    assert [len(p.interactions) for p in parts] == [15, 15, 10]
    for count in (2, 3):  # it breaks off before the last part, and is repeated
        for part in parts[:count]:
            items = await embed_interactions(EMBEDDER, part.interactions)
            await memory.shard.restore(part, await batch(*(i.interaction for i in items)), "test")
    assert await memory.export("ann") == lines


async def test_lines_that_are_too_large_are_errors_and_the_others_go_in(memory: DirectMemory) -> None:
    limits = LimitsSettings()

    class Lines:
        line = 0

        def __iter__(self) -> Any:
            for n in range(1, 6):
                self.line = n
                yield interaction(str(n), metadata={"x": "y" * (100 * KB if n == 3 else 10)})

    done, lines = Imported(), Lines()
    await import_interactions(memory, lines, done, lambda _: None, lambda: lines.line, limits)
    assert done.errors == [(3, "metadata has 100,008 bytes; memory.limits.metadata_kb allows 64,000")]
    assert done.added == 4
    source = LocalMemory(HashEmbedder(16), MemorySettings(limits=LimitsSettings(**ROOMY)))
    await source.append(
        "bob", [interaction(str(n), "bob", metadata={"x": "y" * (99 * KB * (n % 2))}) for n in range(4)]
    )
    await source.commit_persona("bob", PersonaDraft(text="p", origin=Origin.MANUAL), None)
    done = Imported()
    await import_export(memory, [list(enumerate(await source.export("bob"), start=1))], done, lambda _: None, limits)
    assert [line for line, _ in done.errors] == [3, 5]
    assert all("metadata_kb" in reason for _, reason in done.errors)
    assert (done.added, len(await memory.personas("bob"))) == (2, 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 9_000), max_size=40), st.integers(1, 10), st.integers(1, 20_000))
def test_chunks_keep_order_and_bounds(sizes: list[int], count: int, most: int) -> None:
    items = [interaction(str(n), query="é" * size + "x") for n, size in enumerate(sizes)]
    found = list(chunks(items, count, most))
    assert [i for chunk in found for i in chunk] == items
    for chunk in found:
        assert 1 <= len(chunk) <= count
        assert len(chunk) == 1 or sum(map(rough_bytes, chunk)) <= most


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300), st.text(max_size=300) | st.none(), st.dictionaries(st.text(max_size=9), st.integers()))
def test_nothing_that_the_limits_allow_is_refused(query: str, truth: str | None, metadata: dict[str, Any]) -> None:
    one = Interaction(id="1", user="u", time=START, query=query, truth=truth, metadata=metadata)
    exact = LimitsSettings(
        text_kb=max(1, len(query.encode()), len((truth or "").encode())) / KB,
        metadata_kb=len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()) / KB,
        interaction_kb=len(pack(one)) / KB,
    )
    assert interaction_fault(one, exact) == ""
    smaller = exact.model_copy(update={"interaction_kb": exact.interaction_kb - 0.001})
    assert "interaction_kb" in interaction_fault(one, smaller)


async def test_ram_counts_long_truths(memory: DirectMemory) -> None:
    rows = [interaction(str(n), truth=f"{n}" + "x" * 20_000) for n in range(10)]
    await memory.append("ann", rows)
    assert (await memory.shard.stats())["ram_bytes"] > 10 * 2 * 20_000  # in the payload, and as a key of equal truths
    assert np.isfinite((await memory.shard.stats())["ram_bytes"])

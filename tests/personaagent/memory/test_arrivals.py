"""What is new is told by when it arrived: a profile reads every truth once, and an alignment counts from the last one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.memory.large_user import LargeUser
from actors.memory.shard import MemoryShard
from actors.milvus.tenure import DeposedError, Owner
from personaagent.errors import ForgottenError, FutureTimeError, InvalidInput
from personaagent.memory import changes, store
from personaagent.memory.local import LocalMemory
from personaagent.memory.ram_store import VolatileStore
from personaagent.memory.store import Ledger, microseconds, ordering, row_key
from personaagent.memory.user_memory import UserMemory
from personaagent.persona.profile import build_profile
from personaagent.readers import read
from personaagent.settings import MemorySettings
from personaagent.types import Fact, Interaction, Origin, Outcome, Profile, utc_now
from tests.support.alignment_doubles import SecretLLM, World, drink
from tests.support.api_world import World as Served
from tests.support.direct_memory import DirectMemory
from tests.support.doubles import HashEmbedder
from tests.support.shards import config
from tests.support.store_contract import make_persona, make_row

START = datetime(2024, 5, 1, tzinfo=UTC)
FUTURE = datetime(2999, 1, 1, tzinfo=UTC)
EMBEDDER = HashEmbedder(16)
HOUR = 3_600_000_000  # microseconds


class Clock:
    """The wall clock of memory, which tests put forward and back."""

    def __init__(self) -> None:
        self.now = changes.clock()

    def __call__(self) -> int:
        return self.now


def said(n: int, truth: str | None, query: str = "favourite drink", minute: int = 0) -> Interaction:
    return Interaction(id=f"i{n}", user="ann", time=START + timedelta(minutes=minute), query=query, truth=truth)


async def read_all(memory: LocalMemory, page: int = 3) -> int:
    """Build until nothing is left, one page a build; how many truths were read."""
    total = 0
    while True:
        built = await build_profile(memory, EMBEDDER, "ann", budget=100_000, page=page, pages=1)
        total += built.read
        if not built.read:
            return total


# The profile

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=8)),
        st.tuples(st.just("feedback"), st.integers(0, 10)),
        st.tuples(st.just("build"), st.integers(1, 4)),
        st.tuples(st.just("back"), st.integers(1, 3 * HOUR)),
    ),
    max_size=14,
)


@given(steps)
@settings(max_examples=60, deadline=None)
def test_every_truth_is_read_once_however_late_it_came(todo: list[tuple[str, object]]) -> None:
    async def run() -> None:
        memory, clock = LocalMemory(EMBEDDER, MemorySettings(), VolatileStore(16)), Clock()
        held = await memory._user("ann")
        held._clock = clock
        made, told, read = 0, 0, 0
        waiting: list[str] = []
        for what, how in todo:
            clock.now += 1
            if what == "append":
                assert isinstance(how, list)
                items = [
                    said(made + k, "tea" if known else None, f"q{made + k}", m) for k, (m, known) in enumerate(how)
                ]
                await memory.append("ann", items)
                made += len(items)
                told += sum(i.truth is not None for i in items)
                waiting += [i.id for i in items if i.truth is None]
            elif what == "feedback" and waiting:
                assert isinstance(how, int)
                await memory.feedback("ann", waiting.pop(how % len(waiting)), "late")
                told += 1
            elif what == "build":
                assert isinstance(how, int)
                read += (await build_profile(memory, EMBEDDER, "ann", budget=100_000, page=how, pages=1)).read
            elif what == "back":
                assert isinstance(how, int)
                clock.now -= how
        read += await read_all(memory)
        assert read == told
        profile = await memory.profile("ann")
        assert profile.covered == told
        cited = [i for f in profile.facts for i in f.evidence]
        assert len(cited) == len(set(cited)) == told  # 32 of one fact are kept, and every query is another one

    asyncio.run(run())


@given(st.permutations(list(range(7))), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_the_newest_answer_is_the_current_fact_in_whatever_order_they_arrived(order: list[int], page: int) -> None:
    async def run() -> None:
        memory = LocalMemory(EMBEDDER)
        answers = ["tea", "coffee", "tea", "water", "water", "juice", "tea"]
        for n in order:
            await memory.append("ann", [said(n, answers[n], minute=n)])
        await read_all(memory, page)
        profile = await memory.profile("ann")
        assert [f.text for f in profile.current] == ["asked “favourite drink”, wanted “tea”"]
        assert {f.text.split("wanted ")[1] for f in profile.facts} == {f"“{a}”" for a in answers}
        ids = {f.id for f in profile.facts}
        assert len(ids) == len(profile.facts)
        assert all(f.superseded_by in ids for f in profile.facts if f.valid_until is not None)

    asyncio.run(run())


async def test_a_large_import_is_read_whole_in_one_build_of_many_pages() -> None:
    memory = LocalMemory(EMBEDDER)
    await memory.append("ann", [said(n, "tea", f"q{n}", -n) for n in range(50)])
    first = await build_profile(memory, EMBEDDER, "ann", budget=100_000, page=7, pages=2)
    assert (first.read, first.more) == (14, True)
    rest = await build_profile(memory, EMBEDDER, "ann", budget=100_000, page=7)
    assert (rest.read, rest.more, rest.profile.covered) == (36, False, 50)


async def test_a_corrected_truth_is_read_again_and_takes_its_evidence_away() -> None:
    memory = LocalMemory(EMBEDDER)
    await memory.append("ann", [said(1, "tea"), said(2, "tea", minute=1), said(3, "milk", "something else")])
    await build_profile(memory, EMBEDDER, "ann")
    await memory.feedback("ann", "i2", "coffee")
    built = await build_profile(memory, EMBEDDER, "ann")
    assert built.read == 1
    drinks = {f.text.split("wanted ")[1]: f for f in built.profile.facts if "drink" in f.topic}
    assert drinks["“coffee”"].valid_until is None
    assert (drinks["“tea”"].evidence, drinks["“tea”"].valid_until is not None) == (("i1",), True)
    await memory.feedback("ann", "i1", "coffee")
    built = await build_profile(memory, EMBEDDER, "ann")
    (drink_,) = [f for f in built.profile.facts if "drink" in f.topic]
    assert set(drink_.evidence) == {"i1", "i2"}


@given(st.lists(st.tuples(st.sampled_from(["tea", "coffee"]), st.booleans()), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_a_store_of_the_version_before_goes_on_learning(old: list[tuple[str, bool]]) -> None:
    """Its times may be of the future, its truths may have arrived at one moment, its profile went by times."""

    async def run() -> None:
        kept = VolatileStore(16)
        rows = []
        for n, (truth, ahead) in enumerate(old):
            row = make_row("ann", f"i{n}", "favourite drink", truth, arrived=100, minute=n)
            if ahead:
                late = row.interaction.model_copy(update={"time": FUTURE})
                row = replace(row, time=microseconds(FUTURE), payload=store.pack(late))
            rows.append(row)
        kept.put(rows)
        newest = max(row.interaction.time for row in rows)
        fact = Fact(id="f", text="asked “favourite drink”, wanted “milk”", topic="favourite drink", evidence=("i0",),
                    first_seen=newest, last_seen=newest, source="extracted")  # fmt: skip
        raw = {**Profile(version=4, facts=(fact,), covered=1).model_dump(), "watermark": newest.isoformat()}
        raw.pop("mark")
        kept.put_profile("ann", Profile.model_validate(raw), 0, "t")
        memory = LocalMemory(EMBEDDER, store=kept)
        assert await read_all(memory, page=2) == len(old)
        await memory.append("ann", [said(99, "water", minute=600_000)])
        assert (await memory.latest("ann", 1))[0].id == "i99"
        assert await read_all(memory) == 1
        profile = await memory.profile("ann")
        assert profile.covered == len(old) + 1
        assert [f.text for f in profile.current] == ["asked “favourite drink”, wanted “water”"]

    asyncio.run(run())


# What counts as new to alignment


async def new_of(memory: LocalMemory | DirectMemory) -> int:
    summary = await memory.summary("ann")
    assert summary is not None
    return summary.truths_since_alignment


@pytest.mark.slow
@pytest.mark.parametrize("keep", [True, False])
async def test_truths_that_arrive_meanwhile_are_new_afterwards(keep: bool) -> None:
    llm = SecretLLM(None if keep else lambda _: "This person has a clear taste and always likes nothing.")
    world = World(llm)
    await world.add([drink("ann", i) for i in range(27)])

    async def arrive(_: object) -> None:
        llm.before = None
        await world.add([drink("ann", 100 + i) for i in range(3)])

    llm.before = arrive
    (result,) = await world.aligner().align(["ann"])
    assert result.outcome is (Outcome.ACCEPTED if keep else Outcome.REJECTED)
    assert await new_of(world.memory) == 3
    await world.aligner().align(["ann"])
    assert await new_of(world.memory) == 0
    await world.memory.feedback("ann", "i1", "water")
    assert await new_of(world.memory) == 1


async def test_a_user_whose_budget_is_used_up_is_not_tried_again_for_the_same_truths() -> None:
    world = World(max_calls=3)
    await world.add([drink("ann", i) for i in range(27)])
    (result,) = await world.aligner().align(["ann"])
    assert result.outcome is not Outcome.ACCEPTED
    assert "budget" in result.reason
    assert await new_of(world.memory) == 0


async def test_who_did_not_have_their_turn_stays_due() -> None:
    world = World(run_calls=1)
    for user in ("ann", "bob"):
        await world.add([drink(user, i) for i in range(27)])
    aligner = world.aligner()
    aligner._budget("r").calls = 1
    (result,) = await aligner.align(["ann"], "r")
    assert result.outcome is Outcome.SKIPPED
    assert await new_of(world.memory) == 27


@pytest.mark.parametrize("few", [0, 1])
async def test_a_user_with_too_few_truths_or_a_failure_was_not_looked_at(few: int) -> None:
    world = World()
    await world.add([drink("ann", i) for i in range(1 if few else 27)])

    def down(_: object) -> None:
        raise RuntimeError("broken")

    world.llm.before = None if few else down
    await world.aligner().align(["ann"])
    assert await new_of(world.memory) == (1 if few else 27)


async def test_an_aligned_persona_of_the_version_before_tells_when_it_looked() -> None:
    kept = VolatileStore(16)
    at = microseconds(START)
    kept.put([make_row("ann", str(n), truth="x", arrived=at + n) for n in (-1, 1, 2)])
    kept.put_persona("ann", make_persona(1, origin=Origin.ALIGNED), "t")
    kept.put([make_row("bob", "1", truth="x", arrived=at)])
    ahead = make_persona(1, origin=Origin.ALIGNED).model_copy(update={"time": FUTURE})
    kept.put_persona("bob", ahead, "t")
    assert {s.user: s.truths_since_alignment for s in kept.users()} == {"ann": 2, "bob": 1}
    memory = LocalMemory(EMBEDDER, store=kept)
    await memory.note_alignment("ann", (await memory.truths("ann", 0, 0)).newest)
    assert await new_of(memory) == 0


async def test_what_was_looked_at_moves_with_an_export_and_goes_with_the_user() -> None:
    memory = LocalMemory(EMBEDDER)
    await memory.note_alignment("ann", 5)
    assert await memory.users() == ()  # nothing is noted of somebody unknown
    await memory.append("ann", [said(1, "tea"), said(2, "milk")])
    await memory.note_alignment("ann", (await memory.truths("ann", 0, 0)).newest)
    await memory.note_alignment("ann", 7)
    assert await new_of(memory) == 0
    lines = await memory.export("ann")
    other = LocalMemory(EMBEDDER)
    await other.restore(lines)
    assert await other.export("ann") == lines
    assert await new_of(other) == 0
    began = await memory.incarnation("ann")
    await memory.forget("ann")
    with pytest.raises(ForgottenError):
        await memory.note_alignment("ann", 9, began)
    await memory.append("ann", [said(1, "tea")])
    assert await new_of(memory) == 1


# One shard, with its store


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for where in ("personaagent.memory.changes.time.time_ns", "personaagent.memory.store.clocks.time_ns"):
        monkeypatch.setattr(where, lambda: clock.now * 1000)
    return clock


@pytest.mark.slow
@pytest.mark.parametrize("many", [6, 130])  # more than 100 are not held in RAM
async def test_arrivals_go_on_when_the_clock_is_put_back(tmp_path: Path, clock: Clock, many: int) -> None:
    shard = MemoryShard(config(tmp_path, max_active_episodes=100))
    memory = DirectMemory(shard)
    await memory.append("ann", [said(n, "tea" if n else None, f"q{n}") for n in range(many)])
    first = await memory.truths("ann", 0, 999)
    for restarted in (False, True):
        clock.now -= HOUR
        if restarted:
            await shard.close()
            memory = DirectMemory(shard := MemoryShard(config(tmp_path, max_active_episodes=100)))
        await shard.passivate()
        before = (await memory.truths("ann", 0, 0)).newest
        await shard.passivate()
        await memory.append_many([said(1000 + 10 * restarted, "new", f"new {restarted}")])
        await memory.append("ann", [said(1001 + 10 * restarted, "new", f"newer {restarted}")])
        if not restarted:
            await memory.feedback("ann", "i0", "late")
        page = await memory.truths("ann", before, 99)
        assert [i.id for i in page.interactions] == (["i1010", "i1011"] if restarted else ["i1000", "i1001", "i0"])
        assert list(page.arrived) == sorted(set(page.arrived))
    whole = await memory.truths("ann", 0, 999)
    assert whole.arrived[: many - 1] == first.arrived
    assert len(whole.interactions) == many + 4
    await shard.close()


async def test_an_import_is_read_after_retention_took_what_was_read_and_the_clock_went_back(
    tmp_path: Path, clock: Clock
) -> None:
    memory = DirectMemory(shard := MemoryShard(config(tmp_path)))
    await memory.append("ann", [said(n, "tea" if n != 1 else None, f"q{n}") for n in range(3)])
    built = await build_profile(memory, EMBEDDER, "ann")
    await memory.note_alignment("ann", built.profile.mark or 0)
    opened = shard._store
    assert opened is not None
    opened.remove("ann", [row_key("ann", f"i{n}")[1] for n in (0, 2)])
    await shard.close()
    clock.now -= HOUR
    memory = DirectMemory(shard := MemoryShard(config(tmp_path)))
    await memory.append_many([said(n, "new", f"new {n}") for n in range(10, 15)])
    summary = await memory.summary("ann")
    assert summary is not None
    assert summary.truths_since_alignment == 5
    assert (await build_profile(memory, EMBEDDER, "ann")).read == 5
    await shard.close()


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [timedelta(minutes=50), timedelta(days=2), timedelta(days=365)])
async def test_what_was_said_while_the_clock_was_ahead_does_not_outrank_later_answers(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    def now() -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock.now)

    for module in ("facts", "profile"):
        monkeypatch.setattr(f"personaagent.persona.{module}.utc_now", now)
    memory = DirectMemory(shard := MemoryShard(config(tmp_path)))

    async def drink_is(i: str, truth: str) -> None:
        await memory.append("ann", [Interaction(id=i, user="ann", time=now(), query="favourite drink", truth=truth)])

    clock.now += ahead // timedelta(microseconds=1)
    await drink_is("1", "tea")
    await build_profile(memory, EMBEDDER, "ann")
    clock.now -= ahead // timedelta(microseconds=1)
    for n, answer in enumerate(["coffee", "milk"]):
        clock.now += HOUR // 100
        await drink_is(f"later{n}", answer)
        built = await build_profile(memory, EMBEDDER, "ann")
        assert [f.text for f in built.profile.current] == [f"asked “favourite drink”, wanted “{answer}”"]
        assert max(f.last_seen for f in built.profile.facts) <= now()
    await shard.close()


async def test_pages_of_a_large_user_are_those_of_any_other(tmp_path: Path) -> None:
    kept = VolatileStore(16)
    kept.put([make_row("ann", str(n), truth="x" if n % 3 else None, arrived=n // 2 + 1, minute=-n) for n in range(20)])
    small, large = UserMemory("ann", 16, kept.load("ann")), LargeUser("ann", kept)
    for after in range(12):
        for n in (0, 1, 2, 50):
            assert small.truths(after, n) == large.truths(after, n)
            if n:
                assert {i.id for i in small.truths(after, n).interactions} <= {str(k) for k in range(20) if k % 3}


@pytest.mark.slow
async def test_noting_an_alignment_is_guarded_like_any_other_write(tmp_path: Path) -> None:
    shard = MemoryShard(config(tmp_path))
    memory = DirectMemory(shard)
    await memory.append("ann", [said(n, "tea", f"q{n}") for n in range(3)])
    began = await memory.incarnation("ann")
    newest = (await memory.truths("ann", 0, 0)).newest
    await memory.note_alignment("ann", newest, began)
    for _ in range(2):
        assert await new_of(memory) == 0
        assert [s.truths_since_alignment for s in await memory.users()] == [0]
        await shard.close()
    await memory.forget("ann")
    with pytest.raises(ForgottenError):
        await memory.note_alignment("ann", newest, began)
    assert shard._store is not None
    assert shard._store.load("ann").seen is None
    await memory.append("ann", [said(1, "tea")])
    shard._store.own(Owner(99, "somebody else"))
    with pytest.raises(DeposedError):
        await memory.note_alignment("ann", newest)
    await shard.close()


# Pages


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 4))
def test_pages_hold_everything_once_also_what_arrived_together(known: list[int], n: int) -> None:
    ledger = Ledger()
    for number, arrived in enumerate(known):
        ledger.put(row_key("ann", str(number))[1], 1, 1, arrived)
    found: list[tuple[bytes, int]] = []
    while page := ledger.told(found[-1][1] if found else 0, n):
        found += page
    assert sorted(a for _, a in found) == sorted(a for a in known if a)
    assert len({key for key, _ in found}) == len(found)
    assert ledger.last_truth == max(known, default=0)


def test_what_claims_to_be_of_the_future_counts_as_of_when_it_arrived() -> None:
    now = changes.clock()
    assert ordering(5, 9) == 5
    assert ordering(now - 5, 3) == now - 5
    assert ordering(now + HOUR, 3) == now + HOUR  # clocks may be off
    assert ordering(microseconds(FUTURE), now) == now


# Doors


@pytest.mark.parametrize("time", ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59-05:00"])
async def test_the_api_refuses_the_far_future_and_stores_nothing_of_the_request(time: str) -> None:
    served = Served()
    fine = {"query": "drink?", "truth": "tea"}
    answer = await served.post("ann", "/interactions", {"interactions": [fine, {**fine, "time": time}]})
    error = answer.json()["error"]
    assert answer.status_code == (400 if time.startswith("2999") else 422)
    assert "time" in error["message"]
    assert error["type"] == "invalid_request_error"
    assert await served.memory.users() == ()
    soon = (utc_now() + timedelta(hours=2)).isoformat()
    assert (await served.post("ann", "/interactions", {**fine, "time": soon})).status_code == 200


async def test_memory_itself_refuses_the_far_future() -> None:
    memory = LocalMemory(EMBEDDER)
    late = said(1, "tea").model_copy(update={"time": FUTURE})
    with pytest.raises(FutureTimeError, match="2999-01-01 lies in the future"):
        await memory.append("ann", [said(0, "tea"), late])
    assert await memory.users() == ()


def test_a_line_of_a_file_that_is_of_the_far_future_is_named(tmp_path: Path) -> None:
    lines = [{"user": "ann", "query": f"q{n}", "time": t} for n, t in enumerate(["2024-01-01", "2999-01-01", 4e10])]
    path = tmp_path / "h.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = read("history", path)
    assert [i.query for i in found] == ["q0"]
    assert [e.line for e in found.errors] == [2, 3]
    assert all("in the future" in e.reason for e in found.errors)


async def test_an_export_of_the_far_future_is_refused_by_its_line() -> None:
    memory = LocalMemory(EMBEDDER)
    await memory.append("ann", [said(1, "tea")])
    lines = list(await memory.export("ann"))
    lines[1] = json.dumps({**json.loads(lines[1]), "time": FUTURE.isoformat()})
    with pytest.raises(InvalidInput, match=r"line 2: .*in the future"):
        await LocalMemory(EMBEDDER).restore(lines)


@pytest.mark.parametrize("field", ["arrived", "truth_arrived"])
async def test_what_a_clock_that_was_ahead_has_stamped_arrives_as_of_now(field: str) -> None:
    memory = LocalMemory(EMBEDDER)
    await memory.append("ann", [said(1, "tea")])
    lines = list(await memory.export("ann"))
    lines[1] = json.dumps({**json.loads(lines[1]), field: microseconds(FUTURE)})
    other = LocalMemory(EMBEDDER)
    await other.restore(lines)
    content = json.loads((await other.export("ann"))[1])
    assert content[field] <= microseconds(utc_now() + timedelta(minutes=1))
    assert (await other.restore(lines)).repeated == 1


@pytest.mark.parametrize("field", ["arrived", "truth_arrived"])
@pytest.mark.parametrize("stamp", [True, "12", 1.5, -1, 2**70])
async def test_an_arrival_is_a_whole_number(field: str, stamp: object) -> None:
    memory = LocalMemory(EMBEDDER)
    await memory.append("ann", [said(1, "tea")])
    lines = list(await memory.export("ann"))
    lines[1] = json.dumps({**json.loads(lines[1]), field: stamp})
    with pytest.raises(InvalidInput, match="line 2"):
        await LocalMemory(EMBEDDER).restore(lines)


async def test_truths_restored_behind_a_mark_are_new_and_own_ones_stay_so() -> None:
    source = LocalMemory(EMBEDDER)
    await source.append("ann", [said(1, "tea"), said(2, "milk")])
    plain = await source.export("ann")
    memory = LocalMemory(EMBEDDER)
    await memory.append("ann", [said(3, "juice")])
    await memory.note_alignment("ann", (await memory.truths("ann", 0, 9)).newest)
    await memory.restore(plain)
    assert await new_of(memory) == 2
    other = LocalMemory(EMBEDDER)
    await other.append("ann", [said(3, "juice")])
    await source.append("ann", [said(4, "water")])
    await source.note_alignment("ann", (await source.truths("ann", 0, 9)).newest)
    await other.restore(await source.export("ann"))
    assert await new_of(other) >= 1


async def test_times_without_a_zone_are_of_utc_and_a_restore_that_broke_off_is_completed() -> None:
    persona = {"type": "persona", "text": "p", "origin": "aligned", "parent": None, "time": "2024-01-01T00:00:00"}
    lines = [json.dumps({"type": "user", "user": "ann", "version": 1}), json.dumps({**persona, "number": 1})]
    more = [*lines, json.dumps({**persona, "number": 2, "parent": 1})]
    memory = LocalMemory(EMBEDDER)
    await memory.restore(lines)
    await memory.append("ann", [said(1, "tea")])
    assert len(await memory.users()) == 1
    await memory.restore(more)
    assert len(await memory.personas("ann")) == 2
    with pytest.raises(InvalidInput, match="line 3"):
        await memory.restore([*lines, lines[1]])

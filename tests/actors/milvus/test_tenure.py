"""One writer: whoever opened a shard last owns it, and everybody else is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.memory.shard import MemoryShard
from actors.milvus.tenure import DeposedError, Owner, Tenure
from personaagent.errors import PersonaAgentError, UnavailableError
from personaagent.types import Origin, PersonaDraft, Profile
from tests.support.shards import EMBEDDER, batch, config, interaction

LEASE = 10.0


class Shared:
    """What several processes see of a server."""

    is_shared = True

    def __init__(self) -> None:
        self.stored: Owner | None = None
        self.away = False
        self.asked = 0

    def owner(self) -> Owner | None:
        self.asked += 1
        if self.away:
            raise UnavailableError("away")
        return self.stored

    def own(self, owner: Owner) -> None:
        self.stored = owner


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_last_to_take_a_shard_owns_it_and_waits_until_nobody_else_serves_it() -> None:
    store, clock = Shared(), Clock()
    old, new = (Tenure(store, LEASE, clock) for _ in range(2))
    assert old.take() == 0.0
    old.check()
    assert new.take() == LEASE
    new.check()
    assert not old.lapsed  # within its lease it may not know yet
    clock.now += LEASE + 0.1
    assert old.lapsed  # and now whoever took over has waited long enough
    for _ in range(2):
        with pytest.raises(DeposedError, match="taken over"):
            old.check()
    assert old.lapsed


def test_a_shard_that_was_given_up_need_not_be_waited_for() -> None:
    store = Shared()
    old, new = Tenure(store, LEASE), Tenure(store, LEASE)
    old.take()
    old.release()
    with pytest.raises(DeposedError):
        old.check()
    assert new.take() == 0.0
    old.release()  # takes nothing away from its successor
    new.check()


def test_two_that_take_at_once_cannot_both_write() -> None:
    store = Shared()
    one, other = Tenure(store, LEASE), Tenure(store, LEASE)
    one.take()
    first = store.stored
    assert first is not None
    other.take()
    assert store.stored is not None
    store.own(Owner(first.epoch, "third"))  # of the same epoch
    for tenure in (one, other):
        with pytest.raises(DeposedError):
            tenure.check()


def test_a_store_that_is_away_deposes_nobody_but_the_lease_runs_out() -> None:
    store, clock = Shared(), Clock()
    tenure = Tenure(store, LEASE, clock)
    tenure.take()
    store.away = True
    clock.now += LEASE / 2
    assert (tenure.lapsed, tenure.aging) == (False, True)
    clock.now += LEASE
    assert tenure.lapsed
    with pytest.raises(UnavailableError):
        tenure.check()
    store.away = False
    tenure.check()
    assert (tenure.lapsed, tenure.aging) == (False, False)


def test_incarnations_grow_with_every_user_forgotten_and_every_epoch() -> None:
    store = Shared()
    numbers = []
    for _ in range(3):
        tenure = Tenure(store, LEASE)
        tenure.take()
        numbers.append(tenure.incarnation)
        numbers += [tenure.next_incarnation() for _ in range(3)]
        assert tenure.incarnation == numbers[-1]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 2**63


# Two shards that believe in one user


@pytest.fixture
async def shards(tmp_path: Path) -> AsyncIterator[tuple[MemoryShard, MemoryShard]]:
    old, new = MemoryShard(config(tmp_path)), MemoryShard(config(tmp_path))
    await old.append("ann", await batch(interaction("1", query="secret")), "test")
    draft = PersonaDraft(text="secret", origin=Origin.INITIAL)
    await old.commit_persona("ann", draft, None, "t1", "test")
    new._store = old._store  # as on a server that both can reach
    yield old, new
    await old.close()


async def test_a_shard_that_was_taken_over_serves_and_writes_nothing(shards: tuple[MemoryShard, MemoryShard]) -> None:
    old, new = shards
    vector = EMBEDDER.encode(["truth"])[0]
    assert (await new.feedback("ann", "1", "the truth", vector, "test")).truth == "the truth"
    late = interaction("1", query="secret", response="late", truth="late")
    draft = PersonaDraft(text="late", origin=Origin.ALIGNED)
    for call in (
        old.persona("ann", None),
        old.latest("ann", 5, False),
        old.export("ann"),
        old.users(),
        old.append("ann", await batch(late), "test"),
        old.append_many(await batch(late, interaction("2", "bob")), "test"),
        old.feedback("ann", "1", "late", vector, "test"),
        old.commit_persona("ann", draft, 1, "t2", "test"),
        old.commit_profile("ann", Profile(), 0, "t3", "test"),
        old.expire(1),
        old.forget("ann", "test", "a"),
    ):
        with pytest.raises(DeposedError):
            await call
    assert (await old.stats())["active_users"] == 0
    await new.passivate()
    assert (await new.interaction("ann", "1")).truth == "the truth"
    assert (await new.forget("ann", "test", "b")).remaining == 0
    with pytest.raises(DeposedError):
        await old.persona("ann", None)
    assert await new.summary("ann") is None


async def test_who_is_taken_over_amid_a_write_does_not_acknowledge_it(
    shards: tuple[MemoryShard, MemoryShard], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = shards
    store = old._store
    assert store is not None
    put, owner = store.put, store.owner()
    assert owner is not None

    def taken_over_meanwhile(rows: object) -> None:
        store.own(Owner(owner.epoch + 1, "another"))
        put(rows)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "is_shared", True)
    monkeypatch.setattr(store, "put", taken_over_meanwhile)
    with pytest.raises(DeposedError):
        await old.append("ann", await batch(interaction("2")), "test")
    assert (await old.stats())["active_users"] == 0
    await old.close()


@pytest.mark.parametrize("active", [False, True])
async def test_a_row_is_read_before_it_is_replaced(shards: tuple[MemoryShard, MemoryShard], active: bool) -> None:
    old, new = shards
    other = interaction("2", query="other")
    await old.append("ann", await batch(other), "test")
    if not active:
        await old.passivate()
    tenure = (
        old._tenure
    )  # what RAM has is out of date although nobody took over: a write of before the last epoch came late
    await new.feedback("ann", "1", "the truth", EMBEDDER.encode(["x"])[0], "test")
    await new.append("ann", await batch(interaction("3", query="third", truth="known")), "test")
    assert tenure is not None
    assert tenure._owner is not None
    tenure.store.own(tenure._owner)
    late = [
        interaction("1", query="secret", response="late", truth="late"),
        interaction("3", query="third", truth="no"),
    ]
    result = await old.append_many(await batch(*late), "test")
    assert (result.added, result.updated, result.repeated) == (0, 1, 1)
    assert [(i.id, i.truth, i.response) for i in await old.interactions("ann", ["1", "3"])] == [
        ("1", "the truth", "late"),
        ("3", "known", None),
    ]
    told = await old.append("ann", await batch(interaction("3", query="third", response="r", truth="no")), "test")
    assert (told.updated, (await old.interaction("ann", "3")).truth) == (1, "known")


@pytest.mark.slow
async def test_the_lease_is_renewed_before_a_read_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = MemoryShard(config(tmp_path, lease_s=0.3, flush_s=0.05))
    await shard.append("ann", await batch(interaction("1")), "test")
    store, tenure = shard._store, shard._tenure
    assert store is not None
    assert tenure is not None
    monkeypatch.setattr(type(store), "is_shared", True)
    await shard._renew(tenure)
    asked = tenure._compared
    for _ in range(500):
        if tenure._compared > asked:  # housekeeping asks by itself
            break
        await asyncio.sleep(0.02)
    assert tenure._compared > asked
    owner = store.owner()
    assert owner is not None
    store.own(Owner(owner.epoch + 1, "another"))
    for _ in range(500):
        if not (await shard.stats())["active_users"]:  # and drops what is not its own any more
            break
        await asyncio.sleep(0.02)
    assert ((await shard.stats())["active_users"], tenure.aging) == (0, False)
    flushed: list[bool] = []  # on a server that would write counts, which are the new owner's by now
    monkeypatch.setattr(type(store), "unflushed", 1)
    monkeypatch.setattr(store, "flush", lambda: flushed.append(True))
    await asyncio.sleep(0.3)
    assert flushed == []
    monkeypatch.undo()
    await shard.close()


async def test_a_deposed_shard_says_so_in_our_words(shards: tuple[MemoryShard, MemoryShard]) -> None:
    old, new = shards
    await new.latest("ann", 1, False)
    with pytest.raises(PersonaAgentError) as refused:
        await old.latest("ann", 1, False)
    assert (refused.value.status, refused.value.code) == (503, "store_error")
    await old.close()  # started anew it takes the shard back
    await new.close()
    assert [i.id for i in await old.latest("ann", 1, False)] == ["1"]


def test_a_call_that_changes_the_server_is_not_sent_on_what_was_compared_long_ago() -> None:
    store, clock = Shared(), Clock()
    old, new = (Tenure(store, LEASE, clock) for _ in range(2))
    old.take()
    asked = store.asked
    clock.now += LEASE / 2
    old.guard()
    assert store.asked == asked  # within half a lease nobody else can have begun to serve
    clock.now += 1.0
    old.guard()
    assert store.asked == asked + 1
    new.take()
    clock.now += LEASE / 4
    old.guard()  # whoever took over is still waiting
    clock.now += LEASE
    with pytest.raises(DeposedError):
        old.guard()

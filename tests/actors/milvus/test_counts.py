"""Counts of a server's users: what is read to list them, and that no crash makes them wrong."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from actors.milvus import rows
from actors.milvus.connection import MilvusConnection
from actors.milvus.counts import IDLE_S, UserCounts
from actors.milvus.store_identity import shard_of
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import StoreError
from personaagent.memory.changes import clock
from personaagent.memory.forgetting import finish_erasure, forget_user
from personaagent.memory.privacy import Cipher
from personaagent.memory.store import StoredUser, Tombstone
from personaagent.types import Origin, Profile, UserSummary, user_key
from tests.actors.milvus.test_milvus_store import IDENTITY
from tests.support.milvus_servers import LiteServer, StandaloneServer
from tests.support.store_contract import make_persona, make_row

USERS = [f"user {n}" for n in range(12)]


@pytest.fixture
def server(milvus_lite: LiteServer) -> LiteServer:
    return milvus_lite


class Opened:
    """Stores on one pair of collections; what is opened again knows only what is stored."""

    def __init__(self, uri: str) -> None:
        self.uri, self.name = uri, f"t{uuid.uuid4().hex}"
        self.stores: list[UpkeepStore] = []

    def __call__(self, **changes: Any) -> UpkeepStore:
        cipher = changes.pop("cipher", None)
        identity = replace(IDENTITY, encrypted=cipher is not None, **changes)
        self.stores.append(UpkeepStore(self.uri, identity, collection=self.name, timeout=30, cipher=cipher))
        return self.stores[-1]


@pytest.fixture
def opened(server: LiteServer) -> Iterator[Opened]:
    opened = Opened(server.uri)
    yield opened
    for store in opened.stores:
        store.close()


class Reads:
    """Counts the rows that a store reads from its server, by collection."""

    def __init__(self, store: UpkeepStore) -> None:
        self.rows: Counter[str] = Counter()
        query = store._milvus.query

        def counted(collection: str, where: str, fields: list[str], **options: Any) -> list[Any]:
            found = query(collection, where, fields, **options)
            self.rows[collection.rsplit("_", 1)[1]] += 0 if fields == ["count(*)"] else len(found)
            return found

        store._milvus.query = counted  # type: ignore[method-assign]


def fill(store: UpkeepStore, users: Sequence[str] = USERS) -> None:
    store.put([make_row(u, str(i), truth="x" if i % 2 else None, arrived=i, minute=i) for u in users for i in range(5)])
    store.put_persona(USERS[0], make_persona(1), "t")
    store.put_persona(USERS[0], make_persona(2, origin=Origin.ALIGNED).model_copy(update={"pinned": True}), "t")
    store.put_profile("only a profile", Profile(version=1), 0, "t")


def listed(store: UpkeepStore) -> dict[str, UserSummary]:
    return {s.user: s for s in store.users()}


def records(store: UpkeepStore) -> dict[str, dict[str, Any]]:
    found = store._milvus.query(store._records, rows.equals("kind", "counts"), rows.RECORD_FIELDS)
    return {e["user_key"]: {"number": e["number"], **json.loads(e["body"])} for e in found}


def test_users_left_alone_are_listed_without_reading_their_rows(opened: Opened) -> None:
    store = opened()
    fill(store)
    expected = listed(store)
    assert (expected[USERS[0]].persona, expected[USERS[0]].pinned, expected[USERS[0]].truths) == (2, True, 2)
    assert expected["only a profile"].interactions == 0
    reads = Reads(store)
    assert listed(store) == expected
    assert reads.rows["episodes"] == 0  # they are followed in RAM
    store._counts.settle(idle=0)
    assert all("summary" in record for record in records(store).values())
    again = opened()
    reads = Reads(again)
    assert listed(again) == expected
    assert reads.rows["episodes"] == 0
    reads.rows.clear()
    page = list(again.users(user_key(USERS[3]), 4))
    assert [s.user for s in page] == sorted((u for u in expected if user_key(u) > user_key(USERS[3])), key=user_key)[:4]
    assert reads.rows["records"] <= 4 * len(page)  # Milvus Lite's server does not send the first by key


def test_whatever_follows_is_counted(opened: Opened) -> None:
    store = opened()
    fill(store)
    user = USERS[4]
    for step in range(2):  # first while its counts are followed in RAM, then after they were stored
        before = listed(store)[user]
        store.put([make_row(user, f"new {step}", truth="y", arrived=50 + step)])
        store.put([make_row(user, f"{2 * step}", truth="late", arrived=60 + step)])
        after = listed(store)[user]
        assert (after.interactions, after.truths) == (before.interactions + 1, before.truths + 2)
        store.put_persona(user, make_persona(step + 1), "t")
        assert listed(store)[user].persona == step + 1
        store.remove(user, [make_row(user, f"{2 * step}").key[1]])
        assert listed(store)[user].interactions == before.interactions
        expected = listed(store)
        store._counts.settle(idle=0)
        assert listed(store) == expected == listed(opened())


class Died(BaseException):
    """The process died: nothing of its RAM is used again."""


def dying_at_write(store: UpkeepStore, number: int) -> None:
    left = [number]

    def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Died
            left[0] -= 1
            return call(*args, **options)

        return write

    for name in ("write", "delete", "delete_where"):
        setattr(store._milvus, name, mortal(getattr(store._milvus, name)))


def tell(action: str, key: str, tombstone: Tombstone) -> None:
    """Would write the audit log."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settled", "change"),
    [
        (True, lambda s: s.put([make_row(USERS[1], "new", truth="x", arrived=99), make_row("newcomer", "1")])),
        (True, lambda s: s.put_persona(USERS[1], make_persona(1), "t")),
        (True, lambda s: s.put_profile("another with a profile", Profile(version=1), 0, "t")),
        (True, lambda s: s.remove(USERS[1], [make_row(USERS[1], "1").key[1]])),
        (True, lambda s: forget_user(s, USERS[1], "a", lambda: 1, tell)),
        (False, lambda s: s._counts.settle(idle=0)),
        (False, lambda s: list(s.users())),
    ],
    ids=["put", "persona", "profile", "remove", "forget", "settle", "users"],
)
def test_a_crash_at_any_write_leaves_counts_that_are_right(
    opened: Opened, settled: bool, change: Callable[[UpkeepStore], object]
) -> None:
    for point in range(40):
        opened.name = f"t{uuid.uuid4().hex}"
        store = opened()
        fill(store, USERS[:4])
        if settled:
            store._counts.settle(idle=0)
        dying_at_write(store, point)
        try:
            change(store)
        except Died:
            finished = False
        else:
            finished = True
        after = opened()
        for key in after.unfinished():  # as whoever opens a shard does; until then the user may be listed as before
            finish_erasure(after, key, lambda: 2, tell)
        for user, summary in listed(after).items():
            stored = after.load(user)
            assert summary.interactions == len(stored.rows)
            assert summary.truths == sum(row.truth_arrived > 0 for row in stored.rows)
            assert summary.persona == (stored.personas[-1].number if stored.personas else None)
        known = {e.split("/")[0] for _, found in after.directory().values() for e in found}
        for key in known - {user_key(u) for u in listed(after)}:
            (user,) = [u for u in (*USERS, "newcomer", "another with a profile") if user_key(u) == key]
            stored = after.load(user)
            assert stored == StoredUser(), "a user who has something is not listed"
        if finished:
            return
    raise AssertionError("it never finished")


def test_an_erased_user_leaves_no_counts_and_none_come_back(opened: Opened) -> None:
    store = opened()
    fill(store)
    listed(store)
    assert store.erase(user_key(USERS[2])).remaining == 0
    store._counts.settle(idle=0)
    listed(store)
    assert user_key(USERS[2]) not in records(store)
    assert USERS[2] not in listed(opened())


def test_what_expires_of_a_user_who_was_forgotten_brings_no_name_back(opened: Opened) -> None:
    store = opened()
    fill(store)
    store.erase(user_key(USERS[2]))
    store.remove(USERS[2], [make_row(USERS[2], "1").key[1]])  # found before, and deleted after the user was forgotten
    assert user_key(USERS[2]) not in store.directory()
    assert USERS[2] not in listed(store)


def test_a_user_who_is_changed_while_being_counted_stays_open(opened: Opened) -> None:
    store = opened()
    fill(store)
    count = store._counts._count

    def interrupted(keys: Any) -> Any:
        tallies = count(keys)
        store.put([make_row(USERS[0], "meanwhile", arrived=99)])
        return tallies

    store._counts._count = interrupted  # type: ignore[method-assign]
    store._counts.settle(idle=0)
    listed(store)
    store._counts._count = count  # type: ignore[method-assign]
    assert "summary" not in records(store)[user_key(USERS[0])]
    assert listed(store)[USERS[0]].interactions == 6
    assert listed(opened())[USERS[0]].interactions == 6


def test_users_are_counted_after_a_while_alone(opened: Opened) -> None:
    store = opened()
    now = [0.0]
    store._counts._clock = lambda: now[0]
    fill(store)
    now[0] = IDLE_S / 2
    store.put([make_row(USERS[0], "new", arrived=9)])
    store.flush()
    assert not any("summary" in record for record in records(store).values())
    assert store.unflushed
    now[0] = IDLE_S
    store.flush()
    assert [u for u in USERS if "summary" not in records(store)[user_key(u)]] == [USERS[0]]
    now[0] = 2 * IDLE_S
    store.flush()
    assert store.unflushed == 0


def forget_counts(store: UpkeepStore) -> None:
    """Make it a store of the version that had none."""
    store._milvus.delete_where(store._records, rows.any_of("kind", ["counts", "stamp"]))


def test_a_store_of_the_version_before_is_brought_up_to_date_once(opened: Opened) -> None:
    first = opened()
    fill(first)
    expected = listed(first)
    forget_counts(first)
    second = opened()
    assert listed(second) == expected
    third = opened()
    reads = Reads(third)
    assert listed(third) == expected
    assert reads.rows["episodes"] == 0
    forget_counts(third)
    write = third._milvus.write

    def dying(*args: Any, **options: Any) -> None:
        raise Died

    third._milvus.write = dying  # type: ignore[method-assign]
    with pytest.raises(Died):
        third._counts.adopt()
    third._milvus.write = write  # type: ignore[method-assign]
    assert listed(opened()) == expected


def test_shards_list_their_own_users_also_after_their_number_changed(opened: Opened) -> None:
    for shards in (1, 3, 2, 3):
        stores = [opened(shards=shards, shard=n) for n in range(shards)]
        if shards == 1:
            fill(stores[0])
            stores[0]._counts.settle(idle=0)
        for n, store in enumerate(stores):
            reads = Reads(store)
            found = listed(store)
            assert {shard_of(user_key(u), shards) for u in found} == {n}
            assert reads.rows["episodes"] == 0
        assert sum(len(listed(store)) for store in stores) == len(USERS) + 1
        after = {1: 3, 3: 2, 2: 3}[shards]
        stores[0].restamp_shards(after)
    everyone = opened(shards=2, shard=0).alone()
    assert len(listed(everyone)) == len(USERS) + 1
    with pytest.raises(StoreError, match="reshard"):
        opened(shards=3, shard=0)


def test_counts_of_an_encrypted_store_name_nobody(opened: Opened) -> None:
    cipher = Cipher(SecretStr("a" * 43 + "="))
    store = opened(cipher=cipher)
    store.put([make_row("ann smith", "1")])
    for settle in (False, True):
        if settle:
            store._counts.settle(idle=0)
        found = store._milvus.query(store._records, rows.anything("pk"), rows.RECORD_FIELDS)
        assert not any("ann smith" in json.dumps(e) for e in found)
        assert [s.user for s in store.users()] == ["ann smith"]
        assert [s.user for s in opened(cipher=cipher).users()] == ["ann smith"]


class ManyUsers:
    """A stand-in for a server with counted users, which answers as a real one does and counts the rows it sends."""

    pages = MilvusConnection.pages
    count = MilvusConnection.count

    def __init__(self, users: int, shards: int) -> None:
        self.sent = 0
        self.shards: list[list[tuple[str, str]]] = [[] for _ in range(shards)]
        for key, user in sorted((user_key(f"user {n}"), f"user {n}") for n in range(users)):
            self.shards[shard_of(key, shards)].append((key, user))

    def query(self, collection: str, where: str, fields: list[str], limit: int | None = None) -> list[Any]:
        asked = re.fullmatch(
            r'\(\(kind == "counts"\) and \(number == (\d+)\)\) and \(pk > "(.*?)"\)(?: and \(pk <= "(.*?)"\))?', where
        )
        assert asked is not None, f"{collection} is read by {where}"
        number, after, last = int(asked[1]), asked[2], asked[3] or "~"
        found = [(key, user) for key, user in self.shards[number] if after < f"{key}/counts" <= last]
        if fields == ["count(*)"]:
            return [{"count(*)": len(found)}]
        self.sent += len(found[:limit])
        return [self.entity(key, user, number) for key, user in found[:limit]]

    @staticmethod
    def entity(key: str, user: str, number: int) -> dict[str, Any]:
        body = {"version": 1, "summary": {"user": user, "interactions": 50, "truths": 9, "persona": 1}}
        names = {"pk": f"{key}/counts", "user_key": key, "kind": "counts"}
        return {**names, "number": number, "parts": 0, "body": json.dumps(body)}


@pytest.mark.slow
@pytest.mark.parametrize("users", [1_000, 100_000])
def test_a_page_reads_as_many_rows_as_it_has_users(users: int) -> None:
    server = ManyUsers(users, 16)
    identity = replace(IDENTITY, shards=16, shard=3)
    texts = partial(map, lambda e: {**e, "text": e["body"]})
    counts = UserCounts(server, "episodes", "records", identity, texts, rows.record)  # type: ignore[arg-type]
    first = list(counts.page("", 20))
    second = list(counts.page(user_key(first[-1].user), 20))
    assert server.sent == 40
    expected = [user for _, user in server.shards[3]]
    assert [s.user for s in (*first, *second)] == expected[:40]
    server.sent = 0
    assert [s.user for s in counts.page("", None)] == expected
    assert server.sent == len(expected)


@pytest.mark.slow
def test_a_real_server_lists_the_same_whatever_became_of_its_collections(milvus: StandaloneServer) -> None:
    opened = Opened(milvus.uri)
    store = opened()
    fill(store)
    expected = listed(store)
    assert expected[USERS[0]].interactions == 5
    store._counts.settle(idle=0)
    for name in (store._episodes, store._records):  # as somebody else may, or a restart
        store._milvus._client.release_collection(name)  # type: ignore[union-attr]
    assert listed(store) == expected
    reads = Reads(store)
    pages = [page := list(store.users(limit=4))]
    while len(page) == 4:
        pages.append(page := list(store.users(user_key(page[-1].user), 4)))
    assert [s.user for page in pages for s in page] == list(expected)
    assert dict(reads.rows) == {"records": len(expected)}
    for name in (store._episodes, store._records):
        store._milvus._client.flush(name)  # type: ignore[union-attr]
        store._milvus._client.compact(name)  # type: ignore[union-attr]
    store.put([make_row(USERS[1], "1", truth="again", arrived=9)])
    forget_counts(store)
    again = opened()
    assert listed(again)[USERS[1]].interactions == 5
    assert list(listed(again)) == list(expected)
    for store in opened.stores:
        store.close()


@pytest.mark.slow
def test_a_server_knows_what_arrived_ahead_of_a_clock_that_was_put_back(opened: Opened) -> None:
    now = clock()
    hour = 3_600_000_000
    former = opened()
    former.put([make_row("ann", "1", truth="x", arrived=now - hour), make_row("bob", "1", arrived=now - hour)])
    former.put([replace(make_row("ann", "1", truth="x", arrived=now - hour), truth_arrived=now + hour)])
    assert former.arrivals(["bob"], now) == {"bob": now + hour}  # its own writes hold for everybody
    later = opened()
    assert later.arrivals(["ann", "bob"], now)["ann"] == now + hour
    assert later.arrivals(["ann", "bob"], now + hour) == {}
    later.put([make_row("eve", "1", arrived=now + 100 * hour)])  # as a store of another clock may hold
    assert later.arrivals(["ann", "bob", "eve"], now + hour) == {"eve": now + 100 * hour}

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.milvus import rows
from actors.milvus.milvus_store import MilvusStore
from actors.milvus.store_identity import StoreIdentity, shard_of
from actors.milvus.upkeep_store import UpkeepStore
from personaagent.errors import StoreError, UnavailableError
from personaagent.memory.ram_store import VolatileStore
from personaagent.memory.store import Store, row_key
from personaagent.types import user_key
from tests.support.milvus_servers import LiteServer, StandaloneServer
from tests.support.store_contract import ALWAYS, DIM, EMBEDDER, StoreContract, assert_same, make_persona, make_row

# For tests that ask for the real server by name.
REAL = (pytest.mark.milvus,)
IDENTITY = StoreIdentity(embedder="test", dim=DIM, shards=1, tenant="default", shard=0)


@pytest.fixture
def server(milvus_lite: LiteServer) -> LiteServer:
    return milvus_lite


def on_server(server: LiteServer | StandaloneServer, **changes: object) -> MilvusStore:
    name = str(changes.pop("collection", f"t{uuid.uuid4().hex}"))
    identity = replace(IDENTITY, **changes)  # type: ignore[arg-type]
    if isinstance(server, LiteServer):
        return UpkeepStore(server.uri, identity, collection=name, timeout=5)
    for _ in range(5):  # a machine that does other work may not let the client connect in the seconds that it takes
        try:
            return UpkeepStore(server.uri, identity, collection=name, timeout=60)
        except UnavailableError:
            continue
    return UpkeepStore(server.uri, identity, collection=name, timeout=60)


class TestVolatileStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return VolatileStore(DIM)


class TestMilvusLite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = UpkeepStore(tmp_path / "memory-00.db", IDENTITY)
        yield store
        store.close()


class TestMilvusServer(StoreContract):
    @pytest.fixture
    def store(self, server: LiteServer) -> Iterator[Store]:
        store = on_server(server)
        yield store
        store.close()


class TestRealMilvusServer(StoreContract):
    """One pair of collections for all tests, emptied before each: to make and load new ones takes a real server seconds."""

    @pytest.fixture
    def store(self, milvus: StandaloneServer) -> Iterator[Store]:
        store = on_server(milvus, collection="contract")
        for name in (store._episodes, store._records):
            store._milvus.delete_where(name, rows.anything("pk"))
        store.close()
        store = on_server(milvus, collection="contract")
        yield store
        store.close()


def fill(store: Store) -> None:
    store.put([make_row("ann", str(i), "é" * (50_000 if i == 5 else i), "x", arrived=i) for i in range(40)])
    store.flush()
    store.put([make_row("bob", str(i), arrived=i) for i in range(3)])
    store.put_persona("ann", make_persona(1), "t")
    store.erase(user_key("bob"))


def test_a_store_opened_again_holds_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "memory-00.db"
    first = MilvusStore(path, IDENTITY)
    fill(first)
    before = first.load("ann")
    first.close()
    second = MilvusStore(path, IDENTITY)
    for row, expected in zip(second.load("ann").rows, before.rows, strict=True):
        assert_same(row, expected)
    assert second.load("ann").personas == before.personas
    assert [s.user for s in second.users()] == ["ann"]
    assert (second.count("ann"), second.count("bob")) == (40, 0)
    second.close()


WRITER = """
import sys, time
from pathlib import Path
from actors.milvus.milvus_store import MilvusStore
from tests.support.milvus_servers import LiteServer, StandaloneServer
from tests.support.store_contract import make_persona, make_row
from tests.actors.milvus.test_milvus_store import IDENTITY

store = MilvusStore(Path(sys.argv[1]), IDENTITY)
for i in range(10_000):
    store.put([make_row("ann", str(i), f"query {i}", "x", arrived=i)])
    print("put", i, flush=True)
    if i % 5 == 0:
        store.put_persona("ann", make_persona(i // 5 + 1), "t")
        print("persona", i // 5 + 1, flush=True)
    if i % 7 == 0:
        store.flush()
    if i == 11:
        store.erase(user_key("bob"))
    if i < 5:
        store.put([make_row("bob", str(i), arrived=i)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("acknowledged", [1, 23, 60])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "memory-00.db"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert writer.stdout is not None
    told: dict[str, int] = {}
    for line in writer.stdout:
        kind, number = line.split()
        told[kind] = int(number)
        if told.get("put") == acknowledged:
            break
    writer.send_signal(signal.SIGKILL)
    for line in writer.stdout:  # what it said before it died
        kind, number = line.split()
        told[kind] = int(number)
    writer.wait()
    store = MilvusStore(path, IDENTITY)
    stored = store.load("ann")
    assert [r.id for r in stored.rows][: told["put"] + 1] == [str(i) for i in range(told["put"] + 1)]
    assert len(stored.rows) <= told["put"] + 2  # one more may have been on its way
    assert [p.number for p in stored.personas][: told["persona"]] == list(range(1, told["persona"] + 1))
    assert_same(
        stored.rows[-1], make_row("ann", stored.rows[-1].id, f"query {stored.rows[-1].id}", "x", len(stored.rows) - 1)
    )
    if told["put"] > 11:
        assert store.count("bob") == 0
    store.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedder": "other"}, "embedder"),
        ({"dim": DIM * 2}, "embedder"),
        ({"shards": 3}, "personaagent reshard"),
        ({"tenant": "other"}, "tenant"),
        ({"schema": 2}, "update"),
    ],
)
@pytest.mark.parametrize("where", ["lite", "server"])
def test_another_store_than_expected_is_refused(
    tmp_path: Path, server: LiteServer, where: str, change: dict[str, object], words: str
) -> None:
    name = f"t{uuid.uuid4().hex}"

    def open_store(**changes: object) -> MilvusStore:
        if where == "lite":
            return MilvusStore(tmp_path / "memory-00.db", replace(IDENTITY, **changes))  # type: ignore[arg-type]
        return on_server(server, collection=name, **changes)

    store = open_store()
    store.put([make_row("ann", "1")])
    store.close()
    with pytest.raises(StoreError, match=words):
        open_store(**change)
    store = open_store()
    assert store.count("ann") == 1
    store.close()


@pytest.mark.slow
def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory-00.db"
    code = (
        "import sys; from pathlib import Path; from actors.milvus.milvus_store import MilvusStore;"
        "from tests.actors.milvus.test_milvus_store import IDENTITY;"
        "MilvusStore(Path(sys.argv[1]), IDENTITY); print('open', flush=True);"
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    try:
        with pytest.raises(StoreError, match="in use by another process"):
            MilvusStore(path, IDENTITY)
    finally:
        other.kill()
        other.wait()
    MilvusStore(path, IDENTITY).close()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def drop_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json.prev").unlink(missing_ok=True)


def damage_schema(folder: Path) -> None:
    (folder / "schema.json").write_text("[]")


def cut_data(folder: Path) -> None:
    file = next(folder.rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])


def drop_data(folder: Path) -> None:
    next(folder.rglob("*.parquet")).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [damage_manifest, drop_manifest, damage_schema, cut_data, drop_data])
def test_a_damaged_folder_is_refused_and_left_alone(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "memory-00.db"
    store = MilvusStore(path, IDENTITY)
    fill(store)
    store.close()
    damage(path / "collections" / "personaagent_episodes")  # type: ignore[operator]
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match="restore it from a backup"):
        MilvusStore(path, IDENTITY)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_foreign_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file.db").write_text("SQLite format 3")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / "holiday.jpg").write_text("x")
    for name in ("file.db", "folder.db"):
        with pytest.raises(StoreError, match="move it away"):
            MilvusStore(tmp_path / name, IDENTITY)
    assert os.listdir(tmp_path / "folder.db") == ["holiday.jpg"]


def test_a_creation_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "memory-00.db"
    MilvusStore(path, IDENTITY).close()
    collections = path / "collections"
    (collections / "half").mkdir()
    for file in (collections / "personaagent_episodes").rglob("*"):
        if file.is_file():
            file.unlink()
    (collections / "personaagent_episodes" / "wal").rmdir()
    store = MilvusStore(path, IDENTITY)
    store.put([make_row("ann", "1")])
    assert store.count("ann") == 1
    store.close()


def test_a_full_disk_refuses_writes_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MilvusStore(tmp_path / "memory-00.db", IDENTITY)
    store.put([make_row("ann", "1")])
    with monkeypatch.context() as full:
        full.setattr("actors.milvus.lite.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000})())
        for write in (
            lambda: store.put([make_row("ann", "2")]),
            lambda: store.put_persona("ann", make_persona(1), "t"),
            store.flush,
        ):
            with pytest.raises(StoreError, match="free some space"):
                write()
        assert [r.id for r in store.load("ann").rows] == ["1"]
    store.put([make_row("ann", "2", arrived=2)])
    store.flush()
    assert [r.id for r in store.load("ann").rows] == ["1", "2"]
    store.close()


def test_a_flush_that_breaks_stops_writing_until_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory-00.db"
    store = MilvusStore(path, IDENTITY)
    store.put([make_row("ann", "1")])

    def broken(*args: object, **kwargs: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("milvus_lite.engine.flush.write_data_file", broken)
        with pytest.raises(StoreError, match="disk is full"):
            store.flush()
    for call in (lambda: store.put([make_row("ann", "2")]), store.flush, lambda: store.load("ann")):
        with pytest.raises(StoreError, match="could not be flushed"):
            call()
    store.close()
    again = MilvusStore(path, IDENTITY)
    assert [r.id for r in again.load("ann").rows] == ["1"]
    again.close()


@pytest.mark.slow
def test_readers_never_miss_a_row_while_another_thread_writes_and_flushes(tmp_path: Path) -> None:
    store = MilvusStore(tmp_path / "memory-00.db", IDENTITY)
    acknowledged = 0
    missed: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            expected = acknowledged
            if (found := len(store.load("ann").rows)) < expected:
                missed.append((expected, found))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(25):
        store.put([make_row("ann", f"{n}-{i}", arrived=10 * n + i) for i in range(10)])
        acknowledged += 10
        store.flush()
    done.set()
    for reader in readers:
        reader.join()
    assert missed == []
    store.close()


def test_erased_text_leaves_the_files(tmp_path: Path) -> None:
    path = tmp_path / "memory-00.db"
    store = MilvusStore(path, IDENTITY)
    store.put([make_row("ann", str(i), f"SECRETWORD number {i}", arrived=i) for i in range(50)])
    store.put([make_row("bob", str(i), f"BOBSWORD {i}", arrived=i) for i in range(50)])
    store.put_persona("ann", make_persona(1, "SECRETWORD persona"), "t")
    store.flush()
    store.put([make_row("ann", "late", "SECRETWORD late", "SECRETWORD", arrived=99)])
    assert "rewritten" in store.erase(user_key("ann")).note
    found = [p for p in path.rglob("*") if p.is_file() and contains(p, "SECRETWORD")]
    assert found == []
    assert any(contains(p, "BOBSWORD") for p in path.rglob("*") if p.is_file())
    assert len(store.load("bob").rows) == 50
    store.close()


def contains(path: Path, word: str) -> bool:
    """Whether a file holds a word: as bytes, or in a column of a (compressed) Parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return word in json.dumps(pq.read_table(path).to_pylist(), default=str)
    return word.encode() in path.read_bytes()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LiteServer]:
    server = LiteServer(tmp_path / "data")
    yield server
    server.stop()


@pytest.mark.slow
def test_a_server_that_is_away_is_named_and_comes_back(own_server: LiteServer) -> None:
    store = on_server(own_server, collection="away")
    store.put([make_row("ann", "1")])
    own_server.stop()
    for call in (lambda: store.put([make_row("ann", "2")]), lambda: store.load("ann")):
        with pytest.raises(UnavailableError, match="does not answer"):
            call()
    with pytest.raises(UnavailableError, match="does not answer"):
        MilvusStore(own_server.uri, IDENTITY, timeout=2)
    own_server.start()
    for _ in range(100):
        try:
            store.put([make_row("ann", "3", arrived=3)])
            break
        except UnavailableError:
            time.sleep(0.2)
    assert "3" in [r.id for r in store.load("ann").rows]
    store.close()


def test_two_shards_that_believe_in_one_user_do_not_both_commit(server: LiteServer) -> None:
    one = on_server(server, collection="split")
    two = on_server(server, collection="split")
    one.put_persona("ann", make_persona(1), "a")
    for other, token in ((two, "b"), (one, "c")):
        with pytest.raises(Exception, match="exists already"):
            other.put_persona("ann", make_persona(1, "mine"), token)
    two.put([make_row("ann", "1")])
    assert one.count("ann") == 1
    one.close()
    two.close()


def test_shards_of_one_server_list_their_own_users(server: LiteServer) -> None:
    shards = [on_server(server, collection="shared", shards=2, shard=n) for n in range(2)]
    users = [f"user {n}" for n in range(20)]
    for user in users:
        shards[shard_of(user_key(user), 2)].put([make_row(user, "1")])
    listed = [[s.user for s in shard.users()] for shard in shards]
    assert sorted(listed[0] + listed[1]) == sorted(users)
    assert all(listed)
    assert shards[0].search("user 1", EMBEDDER.encode(["q"])[0], 5, **ALWAYS)  # type: ignore[arg-type]
    for shard in shards:
        shard.close()


@pytest.mark.parametrize(
    ("version", "works", "partitions"),
    [
        ("v2.2.16-lite", False, False),
        ("2.2.9", False, False),
        ("v2.3.5-lite", True, False),
        ("v2.4.0", True, True),
        ("2.6.1-dev", True, True),
        ("v10.0.0", True, True),
        ("milvus_lite-3.2.2", True, True),
        ("v2.2-testing-20230824-68-ga34a9d6-lite", True, False),  # what the 2.3.0 of PyPI says
        ("Zilliz Cloud", True, False),
        ("", True, False),
    ],
)
def test_a_server_that_is_too_old_is_refused(
    server: LiteServer, monkeypatch: pytest.MonkeyPatch, version: str, works: bool, partitions: bool
) -> None:
    monkeypatch.setattr("actors.milvus.connection.MilvusClient.get_server_version", lambda *_, **__: version)
    if not works:
        with pytest.raises(StoreError, match=r"the oldest that works is 2\.3\.0"):
            on_server(server)
        return
    store = on_server(server)
    described = store._milvus._client.describe_collection(store._episodes)  # type: ignore[union-attr]
    assert any(field.get("is_partition_key") for field in described["fields"]) == partitions
    store.close()


def test_partitions_that_a_server_gets_wrong_are_refused(server: LiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    on_server(server, collection="partitioned").close()
    monkeypatch.setattr("actors.milvus.connection.MilvusClient.get_server_version", lambda *_, **__: "v2.3.5")
    with pytest.raises(StoreError, match="has a partition key"):
        on_server(server, collection="partitioned")


@pytest.mark.slow
@pytest.mark.parametrize(  # a real server takes long for many small pages, and need not halve any
    ("where", "size"),
    [
        *(pytest.param("lite", size, marks=pytest.mark.milvus) for size in (2, 3, 10, 60, 200)),
        *(pytest.param("real", size, marks=REAL) for size in (10, 60, 200)),
    ],
)
def test_pages_hold_every_row_once(where: str, size: int, request: pytest.FixtureRequest) -> None:
    """Milvus Lite's server sends the first rows that were written, a real one the first by primary key."""
    server = request.getfixturevalue("server" if where == "lite" else "milvus")
    store = on_server(server, collection="pages")
    ids = [f"{n:03d}" for n in range(60)]
    if not store.count("ann"):
        for n in (2, 0, 1):  # keys in no order of writing, and twice
            store.put([make_row("ann", id, arrived=1) for id in ids[n::3]])
            store.put([make_row("ann", id, truth="x", arrived=1) for id in ids[n::6]])
        store.put([make_row(f"{n}", "1") for n in range(20)])
    found = [e["pk"] for e in store._milvus.pages(store._episodes, "", ["pk"], size=size)]
    assert (found, len(found)) == (sorted(set(found)), 80)
    key = user_key("ann")
    hers = [e["pk"] for e in store._milvus.pages(store._episodes, rows.equals("user_key", key), ["pk"], size=size)]
    assert hers == sorted(rows.pk_of("ann", row_key("ann", id)[1]) for id in ids)
    after = hers[20]
    assert hers[21:] == [
        e["pk"]
        for e in store._milvus.pages(
            store._episodes, rows.equals("user_key", key), ["pk", "truth_arrived"], after=after, size=size
        )
    ]
    store.close()

"""Forgetting and moving a whole store: neither undoes the other, wherever one of them breaks off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.memory.audit import AuditLog
from actors.memory.shard import MemoryShard
from actors.memory.writer import Writer
from actors.milvus.open import open_store
from actors.milvus.store_identity import shard_of
from actors.milvus.tenure import Owner, Tenure
from actors.milvus.upkeep_store import UpkeepStore
from actors.upkeep import move as moving
from actors.upkeep.move import migrate, reshard
from actors.upkeep.retention import expire
from personaagent.errors import StoreError
from personaagent.memory.store import Row, Tombstone
from personaagent.settings import Settings
from personaagent.types import user_key
from tests.actors.milvus.test_milvus_store import contains, server
from tests.actors.upkeep.test_store_upkeep import Killed, config, everything, home, stores
from tests.support.milvus_servers import LiteServer
from tests.support.store_contract import make_row

__all__ = ["server"]  # a fixture

ANN, BOB = user_key("ann"), user_key("bob")
BEGUN = Tombstone(incarnation=(1 << 32) + 1, audit_id="a", interactions=1)


def own(store: UpkeepStore, epoch: int = 1) -> None:
    store.own(Owner(epoch, f"epoch {epoch}", released=True))


def killed_reshard(settings: Settings, shards: int, monkeypatch: pytest.MonkeyPatch, at: str = "_verify") -> None:
    def kill(*args: Any, **kwargs: Any) -> Any:
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(moving, at, kill)
        with pytest.raises(Killed):
            reshard(settings, shards)


def served(settings: Settings) -> dict[str, int]:
    """Interactions by user, after every shard was opened as a service opens it."""
    found = {}
    with stores(settings) as opened:
        for store in opened:
            tenure = Tenure(store, 0)
            tenure.take()
            Writer(store, tenure, AuditLog(settings.home / "audit", "test")).recover()
            found.update({s.user: s.interactions for s in store.users()})
    return found


@pytest.mark.slow
def test_what_a_user_wrote_after_coming_back_survives_a_reshard_that_once_copied_their_forgetting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        own(store)
        store.put([make_row("bob", "1"), make_row("ann", "1")])
    killed_reshard(settings, 2, monkeypatch)
    beside = tmp_path / "store" / "default.reshard-2"
    for shard in range(2):  # as the version before left it
        copy = open_store(config(home(tmp_path, shards=2), shard), beside)
        if shard == shard_of(ANN, 2):
            copy.bury(ANN, BEGUN)
        copy.close()
    with stores(settings) as (store,):
        store.bury(ANN, replace(BEGUN, done=True))
        store.erase(ANN)
        store.put([make_row("ann", "2", arrived=2)])
    reshard(settings, 2)
    assert served(home(tmp_path, shards=2)) == {"ann": 1, "bob": 1}


@pytest.mark.slow
def test_forgetting_that_broke_off_is_finished_before_anything_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        own(store)
        store.put([make_row("bob", "1"), make_row("ann", "1")])
        store.bury(ANN, BEGUN)
    with monkeypatch.context() as context:
        full = StoreError("the disk is full")
        context.setattr(UpkeepStore, "erase", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(StoreError, match=f"{ANN}.*disk is full"):
            reshard(settings, 2)
    reshard(settings, 2)
    with stores(home(tmp_path, shards=2)) as opened:
        stone = opened[shard_of(ANN, 2)].tombstone(ANN)
        assert stone is not None
        assert stone.done
        assert stone.incarnation > BEGUN.incarnation
        assert all(store.owner().epoch >= 2 for store in opened)  # type: ignore[union-attr]
    assert served(home(tmp_path, shards=2)) == {"bob": 1}


@pytest.mark.slow
def test_a_migrate_erases_nobody_who_lives_on_the_server(tmp_path: Path, server: LiteServer) -> None:
    settings = home(tmp_path, shards=2, collection="lived")
    there = home(tmp_path, shards=2, collection="lived", uri=server.uri)
    with stores(settings) as opened:
        for store in opened:
            own(store)
        opened[shard_of(BOB, 2)].put([make_row("bob", "1")])
        opened[shard_of(ANN, 2)].put([make_row("ann", "old")])
        opened[shard_of(ANN, 2)].bury(ANN, BEGUN)
    with stores(there) as opened:
        opened[0].put([make_row("ann", "new")])
    with pytest.raises(StoreError, match=f"forgotten.*{ANN}"):
        migrate(settings, server.uri)
    assert served(there) == {"ann": 1}
    with stores(there) as opened:
        opened[0].erase(ANN)
    migrate(settings, server.uri)
    with stores(there) as opened:
        opened[0].put([make_row("ann", "back")])
    migrate(settings, server.uri)
    assert served(there) == {"ann": 1, "bob": 1}


@pytest.mark.slow
def test_not_even_the_name_of_who_was_forgotten_is_in_a_store_whose_reshard_had_just_begun_to_copy_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        store.put([make_row("bob", "1"), make_row("SECRETNAME", "1")])
    real = UpkeepStore.put

    def put(store: UpkeepStore, items: Sequence[Row]) -> None:
        if items[0].user == "SECRETNAME":
            store.name("SECRETNAME")
            raise Killed
        real(store, items)

    with monkeypatch.context() as context:
        context.setattr(UpkeepStore, "put", put)
        with pytest.raises(Killed):
            reshard(settings, 2)
    with stores(settings) as (store,):
        store.erase(user_key("SECRETNAME"))
    reshard(settings, 2)
    assert everything(home(tmp_path, shards=2)).keys() == {"bob"}
    assert not texts(tmp_path, "SECRETNAME")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["_verify", "_clean"])
async def test_a_receipt_is_true_after_a_reshard_that_broke_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        store.put([make_row("bob", "1"), make_row("ann", "1", query="SECRETWORD")])
    killed_reshard(settings, 2, monkeypatch, at)
    now = home(tmp_path, shards=1 if at == "_verify" else 2)
    shard = MemoryShard(config(now, shard_of(ANN, now.memory.shards)))
    receipt = await shard.forget("ann", "test", "a")
    await shard.close()
    assert receipt.remaining == 0
    assert not texts(tmp_path, "SECRETWORD")
    reshard(now, 2)
    assert served(home(tmp_path, shards=2)) == {"bob": 1}


@pytest.mark.slow
async def test_a_receipt_names_an_old_store_that_was_kept(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        store.put([make_row("ann", "1", query="SECRETWORD")])
    reshard(settings, 2, keep=True)
    shard = MemoryShard(config(home(tmp_path, shards=2), shard_of(ANN, 2)))
    receipt = await shard.forget("ann", "test", "a")
    await shard.close()
    assert "default.before-reshard-2" in receipt.note
    assert texts(tmp_path / "store" / "default.before-reshard-2", "SECRETWORD")


@pytest.mark.slow
def test_what_expires_is_not_left_in_an_unfinished_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        store.put([make_row("ann", "1", query="SECRETWORD")])
    killed_reshard(settings, 2, monkeypatch)
    expire(settings, 1)
    assert not texts(tmp_path, "SECRETWORD")


def texts(folder: Path, word: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and contains(p, word)]

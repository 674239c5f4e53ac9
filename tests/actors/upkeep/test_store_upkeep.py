from __future__ import annotations

import asyncio
import json
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from actors.memory.client import ShardedMemory
from actors.memory.redaction import Redaction
from actors.memory.shard import MemoryShard
from actors.milvus import rows
from actors.milvus.open import ShardConfig, open_store
from actors.milvus.store_identity import shard_of
from actors.milvus.upkeep_store import UpkeepStore
from actors.upkeep import move as moving
from actors.upkeep.closed_stores import open_stores
from actors.upkeep.doctor import doctor
from actors.upkeep.move import checksum, migrate, reshard
from actors.upkeep.retention import expire
from personaagent.claims import Claim, Exemplar
from personaagent.errors import InvalidInput, StoreError
from personaagent.memory.privacy import Redactor
from personaagent.memory.store import Store, StoredUser, microseconds, pack
from personaagent.persona.persona import made
from personaagent.prompts import INSTRUCTIONS
from personaagent.settings import MemorySettings, Settings
from personaagent.types import Decision, Fact, Interaction, Origin, Persona, Profile, user_key, utc_now
from serve.cli import app
from tests.actors.milvus.test_milvus_store import contains, server
from tests.support.direct_memory import Handle
from tests.support.doubles import HashEmbedder
from tests.support.milvus_servers import LiteServer
from tests.support.store_contract import DIM, START, StoreContract, make_persona, make_population, make_row

__all__ = ["server"]  # a fixture

NOISE = "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9000), k=50_000)))  # does not compress into one field
USERS = ["ann", "bob", 'eve" or 1==1', "🫖", "dan", "x" * 256]


def home(folder: Path, **memory: Any) -> Settings:
    return Settings(home=folder, memory=MemorySettings(**memory))


def config(settings: Settings, shard: int) -> ShardConfig:
    return ShardConfig(
        memory=settings.memory,
        store_dir=settings.store_dir,
        audit_dir=settings.home / "audit",
        embedder="test",
        dim=DIM,
        shard=shard,
    )


@contextmanager
def stores(settings: Settings) -> Iterator[list[UpkeepStore]]:
    opened = [open_store(config(settings, n)) for n in range(settings.memory.shards)]
    try:
        yield opened
    finally:
        for store in opened:
            store.close()


def fact(id: str, *evidence: str, superseded_by: str | None = None) -> Fact:
    return Fact(
        id=id, text=f"fact {id}", evidence=evidence, first_seen=START, last_seen=START, superseded_by=superseded_by
    )


def fill(settings: Settings) -> dict[str, StoredUser]:
    with stores(settings) as opened:
        for user in USERS:
            store = opened[shard_of(user_key(user), settings.memory.shards)]
            store.put(
                [
                    make_row(
                        user,
                        str(i),
                        "é" * 40_000 if i == 2 else f"SECRETWORD {i}",
                        f"t{i}",
                        arrived=i + 1,
                        minute=i,
                        choices=("t1", "t2", "t3") if i in (2, 3) else None,
                    )
                    for i in range(5)
                ]
            )
            store.put_persona(user, make_persona(1), "a")
            store.put_persona(
                user, make_persona(2, "SECRETWORD persona").model_copy(update={"sources": ("0", "4")}), "b"
            )
            store.put_profile(user, Profile(version=3, facts=(fact("f", "0", "4"), fact("g", "1"))), 0, "c")
            store.put_seen(user, 5)
    return everything(settings)


def everything(settings: Settings) -> dict[str, StoredUser]:
    with open_stores(settings) as opened:
        return {s.user: store.load(s.user) for store in opened for s in store.users()}


def same(one: dict[str, StoredUser], other: dict[str, StoredUser]) -> bool:
    return {u: checksum(s) for u, s in one.items()} == {u: checksum(s) for u, s in other.items()}


# Moving


@pytest.mark.slow
def test_resharding_moves_everything(tmp_path: Path) -> None:
    before = fill(home(tmp_path, shards=2))
    moved = reshard(home(tmp_path), 3)
    assert (moved.users, moved.interactions, moved.copied) == (len(USERS), 5 * len(USERS), len(USERS))
    assert same(everything(home(tmp_path, shards=3)), before)
    with stores(home(tmp_path, shards=3)) as opened:
        assert sum(store.episodes for store in opened) == 5 * len(USERS)
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["default"]
    assert "already" in reshard(home(tmp_path), 3).note
    with pytest.raises(StoreError, match="personaagent reshard"), stores(home(tmp_path, shards=2)):
        pass
    assert doctor(home(tmp_path))["remaining"] == 0


class Killed(BaseException):
    """Like SIGKILL, in that no `except Exception` sees it."""


@pytest.mark.slow
@pytest.mark.parametrize("at", ["copy", "rename 1", "rename 2", "clean"])
def test_an_interrupted_reshard_loses_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    settings = home(tmp_path, shards=2)
    before = fill(settings)
    calls = {"copy": 0, "rename": 0}

    def killing(name: str, fatal: int, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            if calls[name] == fatal:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as context:
        if at == "copy":
            context.setattr(UpkeepStore, "put_persona", killing("copy", 5, UpkeepStore.put_persona))
        elif at == "clean":
            context.setattr(moving, "_clean", killing("copy", 1, None))
        else:
            context.setattr("actors.upkeep.move.os.rename", killing("rename", int(at[-1]), moving.os.rename))
        with pytest.raises(Killed):
            reshard(settings, 3)
    if at in ("copy", "rename 1"):
        assert any(f["check"] == "leftover" for f in doctor(settings)["findings"])
        assert same(everything(settings), before)  # the old store still serves, and changes
        with stores(settings) as opened:
            opened[shard_of(user_key("ann"), 2)].erase(user_key("ann"))
            opened[shard_of(user_key("bob"), 2)].put([make_row("bob", "late", arrived=99)])
        before = everything(settings)
    if at == "rename 2":
        with pytest.raises(StoreError, match="personaagent reshard 3"), stores(settings):
            pass
    reshard(settings, 3)
    assert same(everything(home(tmp_path, shards=3)), before)
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["default"]


@pytest.mark.slow
def test_the_old_store_can_be_kept(tmp_path: Path) -> None:
    fill(home(tmp_path, shards=2))
    assert "kept" in reshard(home(tmp_path), 1, keep=True).note
    kept = tmp_path / "store" / "default.before-reshard-1"
    assert (kept / "memory-01.db").is_dir()


@pytest.mark.slow
def test_a_store_in_use_or_absent_is_refused(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=2)
    for call in (lambda: doctor(settings), lambda: reshard(settings, 3), lambda: expire(settings, 1)):
        with pytest.raises(StoreError, match="there is no store"):
            call()
    fill(settings)
    with stores(settings):
        for call in (lambda: doctor(settings), lambda: reshard(settings, 3), lambda: migrate(settings, "http://x:1")):
            with pytest.raises(StoreError, match="in use"):
                call()


@pytest.mark.slow
def test_a_store_migrates_to_a_server(tmp_path: Path, server: LiteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = home(tmp_path, shards=2, collection="migrated")
    before = fill(settings)
    real = UpkeepStore.put_persona

    def fatal(store: UpkeepStore, user: str, persona: Persona, token: str) -> None:
        if persona.number == 2:
            raise Killed
        real(store, user, persona, token)

    with monkeypatch.context() as context:
        context.setattr(UpkeepStore, "put_persona", fatal)
        with pytest.raises(Killed):
            migrate(settings, server.uri)
    assert migrate(settings, server.uri).copied == len(USERS)
    assert migrate(settings, server.uri).copied == 0
    there = home(tmp_path, shards=2, collection="migrated", uri=server.uri)
    with stores(there) as opened:  # as its two shards see it
        found = {s.user: store.load(s.user) for store in opened for s in store.users()}
    assert same(found, before)
    assert same(everything(settings), before)
    assert doctor(there)["users"] == len(USERS)
    assert doctor(there)["remaining"] == 0
    with stores(there) as (one, _):
        one.put([make_row("ann", "new", arrived=50)])
    with pytest.raises(StoreError, match="something else"):
        migrate(settings, server.uri)
    reshard(there, 3)
    with stores(home(tmp_path, shards=3, collection="migrated", uri=server.uri)) as opened:
        assert sum(1 for store in opened for _ in store.users()) == len(USERS)
    assert expire(there, 1)["interactions"] == 5 * len(USERS) + 1


# Doctor


def test_wrong_counts_of_a_server_are_found_and_counted_anew(tmp_path: Path, server: LiteServer) -> None:
    """As they are where the version before, which keeps none, wrote to the store once more."""
    settings = home(tmp_path, shards=1, collection="miscounted", uri=server.uri)
    with stores(settings) as (store,):
        for user in ("ann", "bob"):
            store.put([make_row(user, "1"), make_row(user, "2", arrived=2)])
        store._counts.settle(idle=0)
        entity, _ = rows.episode(row := make_row("ann", "3", arrived=3), rows.row_text(row))
        store._milvus.write(store._episodes, [entity])
        assert {s.user: s.interactions for s in store.users()} == {"ann": 2, "bob": 2}
    assert checks(doctor(settings)) == {"listing"}
    assert doctor(settings, fix=True)["remaining"] == 0
    with stores(settings) as (store,):
        assert {s.user: s.interactions for s in store.users()} == {"ann": 3, "bob": 2}
    assert checks(doctor(settings)) == set()


def checks(found: dict[str, Any], problem: bool = True) -> set[str]:
    return {f["check"] for f in found["findings"] if f["problem"] is problem and not f["fixed"]}


@pytest.mark.slow
def test_a_healthy_store_has_no_problems(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=2)
    before = fill(settings)
    found = doctor(settings, fix=True)
    assert (found["users"], found["interactions"], found["personas"], found["facts"]) == (6, 30, 12, 12)
    assert (found["remaining"], found["fixed"], checks(found)) == (0, 0, set())
    assert same(everything(settings), before)
    json.dumps(found)


@pytest.mark.slow
def test_dangling_links_and_orphans_are_found_and_repaired(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1)
    fill(settings)
    with stores(settings) as (store,):
        long = make_row("bob", "long", NOISE, arrived=70)
        store.put([long])
        store._milvus.delete(store._episodes, [user_key("bob") + long.key[1].hex()])  # its parts stay
        store.put_profile(
            "ann", Profile(version=4, facts=(fact("f", "0", "gone"), fact("g", "no", superseded_by="f"))), 3, "d"
        )
        store.put_profile("dan", Profile(version=4, facts=(fact("f", "0", superseded_by="?"),)), 3, "d")
        store.amend_persona("ann", make_persona(2, "p").model_copy(update={"sources": ("gone", "1")}))
        store.amend_persona("dan", stating("gone", "1"))
        store._milvus.delete(store._records, [f"{user_key('🫖')}/user"])
        store.name("only a name")
    broken = {"evidence", "superseded_by", "persona sources", "orphan parts", "nameless", "empty"}
    found = doctor(settings)
    assert checks(found) == broken
    assert found["remaining"] == 7
    found = doctor(settings, fix=True)
    assert (found["remaining"], found["fixed"]) == (0, 7)
    found = doctor(settings)
    assert checks(found) == set()
    after = everything(settings)
    assert sorted(after) == sorted(USERS)
    assert after["ann"].profile == Profile(version=5, facts=(fact("f", "0"),))
    assert after["dan"].profile == Profile(version=5, facts=(fact("f", "0"),))
    assert after["ann"].personas[-1].sources == ("1",)
    amended = after["dan"].personas[-1]
    assert (amended.text, amended.sources, [e.source for e in amended.exemplars]) == (
        "This user from 1.",
        ("1",),
        ["1"],
    )


@pytest.mark.slow
def test_what_cannot_be_repaired_is_reported_and_left(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=2)
    fill(settings)
    with stores(settings) as opened:
        here, other = opened[shard_of(user_key("ann"), 2)], opened[1 - shard_of(user_key("ann"), 2)]
        other.put([make_row("ann", "stray")])
        here.put_persona("ann", make_persona(9), "z")
        row = make_row("ann", "0", "t", "t")
        here.put([replace(row, query_vector=row.query_vector * 3), replace(make_row("ann", "2"), truth_arrived=5)])
        closed = make_row("ann", "3", choices=("a", "b", "c"))
        here.put([replace(closed, option_vectors=make_row("ann", "3", choices=("a", "b")).option_vectors)])
    found = doctor(settings, fix=True)
    assert {"wrong shard", "persona chain", "rows"} <= checks(found)
    assert any("vectors of options" in f["detail"] for f in found["findings"])
    assert found["remaining"] >= 4
    assert checks(doctor(settings)) == checks(found)


def test_a_lost_part_is_named_and_evidence_is_not_dropped_for_it(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        store.put([make_row("ann", "long", NOISE)])
        store.put_profile("ann", Profile(version=1, facts=(fact("f", "long"),)), 0, "a")
        parts = [pk for pk in store._user_records.keys[user_key("ann")] if pk.count("/") == 2 and "profile" not in pk]
        assert parts
        store.drop_records(parts)
    found = doctor(settings, fix=True)
    assert checks(found) == {"unreadable"}
    with stores(settings) as (store,):
        profile = store.load("ann", rows=False).profile
    assert profile is not None
    assert profile.facts == (fact("f", "long"),)


@pytest.mark.slow
def test_duplicates_echoes_and_staleness_are_noticed(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1)
    with stores(settings) as (store,):
        told = "prefers short and friendly answers about cooking"
        rows = [
            make_row("ann", "1", "soup?", "leek", arrived=1, minute=1),
            make_row("ann", "2", "soup?", "leek", arrived=2, minute=2),
            make_row("ann", "3", f"Remember: {INSTRUCTIONS.upper()}", arrived=3, minute=3),
            make_row("ann", "4", f"you know: {told}", arrived=4, minute=4),
            make_row("ann", "5", "- Asked: soup? Wanted: leek", arrived=5, minute=5),
        ]
        store.put(rows)
        store.put_persona("ann", make_persona(1, told).model_copy(update={"sources": ("2",)}), "a")
        said = "has two cats that are called Castor and Pollux"
        store.put([make_row("ann", "6", said, "yes", arrived=6, minute=6)])
        store.put([make_row("ann", "7", f"{said}?", "no", arrived=7, minute=7)])
        claim = Claim(text=said, origin="model", sources=("6",))
        store.put_persona("ann", make_persona(2, said).model_copy(update={"claims": (claim,), "sources": ("6",)}), "b")
        profile = Profile(
            version=1, facts=(fact("f", "1", "2"), fact("g", "2")), watermark=START + timedelta(minutes=1)
        )
        store.put_profile("ann", profile, 0, "a")
    found = doctor(settings)
    notices = {f["check"]: f for f in found["findings"]}
    assert found["remaining"] == 0
    assert notices["duplicates"]["ids"] == ("2",)
    assert notices["echoes"]["ids"] == ("3", "4", "5", "7")  # 6 is what the claim was made from
    assert sum(f["check"] == "staleness" for f in found["findings"]) == 2
    assert doctor(settings, fix=True)["interactions"] == 7  # not unless told
    doctor(settings, fix=True, duplicates=True)
    after = everything(settings)["ann"]
    assert [r.id for r in after.rows] == ["1", "3", "4", "5", "6", "7"]
    assert after.profile is not None
    assert [f.evidence for f in after.profile.facts] == [("1",), ("1",)]
    assert after.personas[0].sources == ("1",)
    assert "duplicates" not in doctor(settings)["by_check"]


# Retention


@pytest.mark.slow
def test_old_interactions_expire_with_what_points_to_them(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1, retention_days=30)
    fill(settings)
    with stores(settings) as (store,):
        store.put([recent("bob", "new")])
        store.put_profile("bob", Profile(version=4, facts=(fact("f", "0", "new"), fact("g", "1", "4"))), 3, "d")
    gone = expire(settings)
    assert (gone["users"], gone["interactions"]) == (6, 30)
    assert expire(settings)["interactions"] == 0
    after = everything(settings)
    assert [r.id for r in after["bob"].rows] == ["new"]
    assert after["bob"].profile is not None
    assert after["bob"].profile.facts == (fact("f", "new"),)
    assert after["bob"].personas[1].sources == ()
    assert after["bob"].personas[1].text == "SECRETWORD persona"
    assert doctor(settings)["remaining"] == 0
    for word in ("SECRETWORD 1", "fact g"):
        assert not [p for p in tmp_path.rglob("*") if p.is_file() and contains(p, word)], word
    with pytest.raises(InvalidInput, match="retention_days"):
        expire(home(tmp_path, shards=1))


def recent(user: str, id: str) -> Any:
    interaction = Interaction(id=id, user=user, time=utc_now(), query="today", truth="now")
    row = make_row(user, id, "today", "now", arrived=500)
    return replace(row, payload=pack(interaction), time=microseconds(interaction.time))


@pytest.mark.slow
def test_exemplars_expire_and_claims_lose_what_they_rested_on(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1, retention_days=30)
    fill(settings)
    with stores(settings) as (store,):
        store.put([recent("bob", "new")])
        store.amend_persona("bob", stating("0", "new"))
    expire(settings)
    persona = everything(settings)["bob"].personas[1]
    assert [(c.text, c.sources) for c in persona.claims] == [("from 0", ()), ("from new", ("new",))]
    assert (persona.text, persona.sources) == ("This user from new.", ("new",))
    assert [e.source for e in persona.exemplars] == ["new"]
    assert doctor(settings)["remaining"] == 0
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and contains(p, "COPIED 0")]


def stating(*sources: str) -> Persona:
    claims = [Claim(text=f"from {s}", sources=(s,)) for s in sources]
    exemplars = [Exemplar(source=s, query="q", truth=f"COPIED {s}") for s in sources]
    draft = made(claims, Decision(), Origin.ALIGNED, exemplars=exemplars, budget=None)
    return Persona(**dict(draft), number=2, parent=1, time=START)


@pytest.mark.slow
async def test_a_shard_expires_by_itself(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1, retention_days=30)
    fill(settings)
    with stores(settings) as (store,):
        store.put([recent("bob", "new")])
    shard = MemoryShard(config(settings, 0))
    await shard.latest("bob", 9, False)  # active while its rows expire
    for _ in range(200):
        if (await shard.stats())["expired"] == 30:
            break
        await asyncio.sleep(0.05)
    assert [i.id for i in await shard.latest("bob", 9, False)] == ["new"]
    assert await shard.latest("ann", 9, False) == ()
    await shard.close()


# What users have in common


@pytest.mark.slow
def test_what_users_have_in_common_moves_and_stays_in_order(tmp_path: Path, server: LiteServer) -> None:
    settings = home(tmp_path, shards=2, collection="commons")
    fill(settings)
    with stores(settings) as (one, other):
        one.put_population(make_population(1, 1))
        other.put_population(make_population(2, 2))
    reshard(settings, 3)
    with stores(home(tmp_path, shards=3, collection="commons")) as opened:
        assert [store.population() for store in opened] == [make_population(2, 2)] * 3
    assert doctor(home(tmp_path, shards=3, collection="commons"))["remaining"] == 0
    for _ in range(2):
        migrate(home(tmp_path, shards=3, collection="commons"), server.uri)
    there = home(tmp_path, shards=3, collection="commons", uri=server.uri)
    with stores(there) as opened:
        assert [store.population() for store in opened] == [make_population(2, 2)] * 3
        opened[0].put_population(make_population(3))
        assert opened[2].population() == make_population(3)
        assert sum(1 for store in opened for _ in store.users()) == len(USERS)


# Encryption


def keys(n: int) -> list[str]:
    fernet = pytest.importorskip("cryptography.fernet", reason="needs the privacy extra")
    return [fernet.Fernet.generate_key().decode() for _ in range(n)]


@pytest.mark.slow
def test_an_encrypted_store_tells_nothing_and_opens_only_with_its_key(tmp_path: Path) -> None:
    right, wrong = keys(2)
    settings = home(tmp_path, shards=1, encryption_key=SecretStr(right))
    before = fill(settings)
    with stores(settings) as (store,):
        store.put_population(make_population(1))
    assert before["ann"].rows[0].interaction.query == "SECRETWORD 0"
    for word in ("SECRETWORD", '"grades"', "be kind", "fact f", '"query"', '"choices"'):
        assert not [p for p in (tmp_path / "store").rglob("*") if p.is_file() and contains(p, word)], word
    assert doctor(settings)["remaining"] == 0
    for other, words in ((None, "is encrypted"), (SecretStr(wrong), "encryption_key")):
        with pytest.raises(StoreError, match=words), stores(home(tmp_path, shards=1, encryption_key=other)):
            pass
    rotated = home(tmp_path, shards=1, encryption_key=SecretStr(f"{wrong},{right}"))
    assert same(everything(rotated), before)
    reshard(rotated, 2)
    assert same(everything(home(tmp_path, shards=2, encryption_key=SecretStr(wrong))), before)


class TestEncryptedStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with stores(home(tmp_path, shards=1, encryption_key=SecretStr(keys(1)[0]))) as (store,):
            yield store


def test_a_plain_store_is_not_opened_with_a_key(tmp_path: Path) -> None:
    settings = home(tmp_path, shards=1)
    fill(settings)
    with (
        pytest.raises(StoreError, match="not encrypted"),
        stores(home(tmp_path, shards=1, encryption_key=SecretStr(keys(1)[0]))),
    ):
        pass


# Redaction


async def test_presidio_redacts_and_does_not_travel() -> None:
    pytest.importorskip("presidio_analyzer", reason="needs the privacy extra")
    said = Interaction(id="1", user="u", time=utc_now(), query="I am at ada@example.org", truth="call ada@example.org")
    (kept,) = await pickle.loads(pickle.dumps(Redaction(True))).interactions([said])
    assert "ada@" not in kept.query + (kept.truth or "")


class FakeRedactor:
    """Hides the word SECRET, and counts how often it was loaded."""

    loaded = 0

    def __init__(self) -> None:
        FakeRedactor.loaded += 1

    def text(self, text: str) -> str:
        return text.replace("SECRET", "<X>")

    interaction = Redactor.interaction


async def test_nothing_unredacted_reaches_the_embedder_or_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.memory.redaction.Redactor", FakeRedactor)
    FakeRedactor.loaded = 0
    settings = home(tmp_path, shards=1, redact=True)
    shard = MemoryShard(config(settings, 0))
    embedded: list[str] = []

    class Watched(HashEmbedder):
        async def embed(self, texts: Sequence[str]) -> Any:
            embedded.extend(texts)
            return await super().embed(texts)

    memory = ShardedMemory(Watched(DIM), [Handle(shard)], [config(settings, 0)])

    def said(id: str, **fields: Any) -> Interaction:
        return Interaction(id=id, user="ann", time=START, query=f"SECRET {id}", **fields)

    await memory.append("ann", [said("1", truth="SECRET"), said("open")])
    await memory.append_many([said("closed", choices=("SECRET", "no"), metadata={"kept": "as it is"})])
    assert (await memory.feedback("ann", "open", "SECRET b")).truth == "<X> b"
    assert (await memory.acting_as("me").feedback("ann", "closed", "SECRET")).truth == "SECRET"  # one of its choices
    claims = [Claim(text=f"says {text}", sources=("1",)) for text in ("<X> 1", "no")]
    exemplar = Exemplar(source="1", query="<X> 1", truth="<X> 1")
    draft = made(claims, Decision(), Origin.ALIGNED, exemplars=[exemplar], struck=["<X> 1"], budget=None)
    await memory.commit_persona("ann", draft, None)
    known = fact("f", "1").model_copy(update={"text": "<X> 1", "topic": "<X> 1"})
    await memory.commit_profile("ann", Profile(facts=(known,)), 0)
    lines = await memory.export("ann")
    assert [i.query for i in await memory.latest("ann", 9)] == ["<X> 1", "<X> open", "<X> closed"]
    await memory.forget("ann")
    await memory.restore([line.replace("<X> 1", "SECRET 1") for line in lines])
    assert list(await memory.export("ann")) == list(lines)
    assert {t for t in embedded if "SECRET" in t} == {"SECRET"}  # that choice
    assert FakeRedactor.loaded == 1
    await shard.close()


# Audit


async def test_reads_are_logged_if_asked_for(tmp_path: Path) -> None:
    for asked in (False, True):
        settings = home(tmp_path / str(asked), shards=1, audit_reads=asked)
        shard = MemoryShard(config(settings, 0))
        await shard.persona("ann", None, "an operator")
        await shard.latest("ann", 1, False, "an operator")
        await shard.close()
        logged = "".join(p.read_text() for p in (settings.home / "audit").rglob("*.jsonl"))
        assert logged.count("an operator") == (2 if asked else 0)
        assert '"ann"' not in logged


# Command line


def invoke(folder: Path, *args: str) -> Any:
    return CliRunner().invoke(app, ["--home", str(folder), *args])


@pytest.mark.slow
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = home(tmp_path, shards=2)
    result = invoke(tmp_path, "doctor")
    assert (result.exit_code, "there is no store" in result.output) == (2, True)
    fill(settings)
    assert json.loads(invoke(tmp_path, "reshard", "3", "--json").stdout)["users"] == len(USERS)
    monkeypatch.setenv("PERSONAAGENT_MEMORY__SHARDS", "3")
    result = invoke(tmp_path, "doctor", "--json")
    assert (result.exit_code, json.loads(result.stdout)["remaining"]) == (0, 0)
    with stores(home(tmp_path, shards=3)) as opened:
        opened[shard_of(user_key("ann"), 3)].put_persona("ann", make_persona(9), "z")
    assert invoke(tmp_path, "doctor", "--fix").exit_code == 1
    assert invoke(tmp_path, "expire").exit_code == 2
    assert json.loads(invoke(tmp_path, "expire", "--days", "1", "--json").stdout)["interactions"] == 30
    assert invoke(tmp_path, "migrate", "--to", "nowhere").exit_code == 2
    from serve.runtime.home_lock import HomeLock

    lock = HomeLock(tmp_path)
    assert lock.acquire(True)
    result = invoke(tmp_path, "doctor")
    assert (result.exit_code, "in use" in result.output) == (2, True)
    lock.release()

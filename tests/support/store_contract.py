"""What every store must do. A test module subclasses `StoreContract` and provides the fixture `store`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from personaagent.errors import ConflictError, StoreError
from personaagent.evidence.commons import BINS, SIZE, Population, packed
from personaagent.memory.changes import option_texts
from personaagent.memory.store import Held, Row, Store, Tombstone, half, microseconds, pack, quantised, row_key
from personaagent.types import Fact, Interaction, Origin, Persona, Profile, UserSummary, user_key
from tests.support.doubles import HashEmbedder
from tests.support.taught import taught

DIM = 16
EMBEDDER = HashEmbedder(DIM)
START = datetime(2024, 5, 1, tzinfo=UTC)
ALWAYS = {"since": -(2**62), "until": 2**62, "before": (2**62, 0), "truth": False}

HOSTILE = [
    'ann" or 1==1 or user_key == "',
    "ann' or 1=1 --",
    "back\\slash",
    "line\nbreak\ttab",
    "nul\x00nul",
    "🫖 tea",
    "\u202eright to left",
    "/../../etc",
    "%s {0} ${x}",
    "x" * 256,
    " ",
    "ann",
    "Ann",
]


def make_row(
    user: str,
    id: str,
    query: str = "q",
    truth: str | None = None,
    arrived: int = 1,
    minute: int = 0,
    choices: tuple[str, ...] | None = None,
) -> Row:
    time = START + timedelta(minutes=minute)
    interaction = Interaction(
        id=id, user=user, time=time, query=query, truth=truth, choices=choices, metadata={"n": [1.5, None, "é"]}
    )
    options = option_texts(interaction)
    return Row(
        user=user,
        id=id,
        time=microseconds(time),
        arrived=arrived,
        truth_arrived=arrived if truth is not None else 0,
        payload=pack(interaction),
        query_vector=EMBEDDER.encode([query])[0],
        truth_vector=None if truth is None else half(EMBEDDER.encode([truth])[0]),
        option_vectors=quantised(EMBEDDER.encode(options)) if options else None,
    )


def make_population(number: int, seed: int | None = None) -> Population:
    """With a seed, tables of noise, which need several parts."""
    table = "" if seed is None else packed(np.random.default_rng(seed).standard_normal(SIZE))
    return Population(number=number, users=7, time=START, choices=table, ratings=table, grades=(1 / BINS,) * BINS)


def make_persona(number: int, text: str = "be kind", origin: Origin = Origin.INITIAL) -> Persona:
    return Persona(text=text, origin=origin, number=number, parent=number - 1 or None, time=START)


def assert_same(found: Row, expected: Row) -> None:
    assert found.interaction == expected.interaction
    for name in ("user", "id", "time", "arrived", "truth_arrived", "payload"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.query_vector, expected.query_vector)
    for name in ("truth_vector", "option_vectors"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if other is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(one, other)


class StoreContract:
    def test_rows_come_back_as_they_went_in(self, store: Store) -> None:
        rows = [make_row("ann", f"{i}", f"query {i}", "yes" if i % 2 else None, arrived=100 - i) for i in range(7)]
        store.put(rows[:3])
        store.put(rows[3:])
        loaded = store.load("ann").rows
        assert [r.id for r in loaded] == [str(i) for i in reversed(range(7))]  # in order of arrival
        for row in loaded:
            assert_same(row, rows[int(row.id)])
        assert store.count("ann") == 7
        assert store.dim == DIM

    def test_put_again_replaces(self, store: Store) -> None:
        store.put([make_row("ann", "1", "old")])
        store.flush()
        store.put([make_row("ann", "1", "old", "truth", arrived=5)])
        (row,) = store.load("ann").rows
        assert row.interaction.truth == "truth"
        assert store.count("ann") == 1
        assert store.ledger("ann").truths == 1

    def test_get_finds_by_user_and_id(self, store: Store) -> None:
        store.put([make_row("ann", "1", "hers"), make_row("bob", "1", "his"), make_row("bob", "2", "other")])
        keys = [row_key("ann", "1"), row_key("bob", "2"), row_key("ann", "2"), row_key("eve", "1")]
        found = store.get(keys)
        assert {key: row.interaction.query for key, row in found.items()} == {keys[0]: "hers", keys[1]: "other"}
        assert store.get([]) == {}

    def test_what_users_have_in_common_is_replaced_by_a_newer_one(self, store: Store) -> None:
        assert store.population() is None
        for population in (make_population(1), make_population(2, 1), make_population(3, 2), make_population(5)):
            store.put_population(population)
            store.put_population(population)
            store.flush()
            assert store.population() == population
        for number in (4, 5):
            with pytest.raises(ConflictError):
                store.put_population(make_population(number, 3))
        assert store.population() == make_population(5)
        assert list(store.users()) == []
        store.put([make_row("ann", "1")])
        store.erase(user_key("ann"))
        assert store.population() == make_population(5)

    def test_an_unknown_user_has_nothing(self, store: Store) -> None:
        assert store.load("ann").rows == ()
        assert store.load("ann").personas == ()
        assert store.load("ann").profile is None
        assert store.count("ann") == 0
        assert len(store.ledger("ann")) == 0
        assert list(store.users()) == []

    @pytest.mark.parametrize("query", ["🫖" * 60_000, "a\x00\"'\\\n" * 10_000, "é" * 60_000, ""])
    def test_any_text_is_stored_whole(self, store: Store, query: str) -> None:
        row = make_row("ann", "long", query, query)
        store.put([row, make_row("ann", "short", arrived=2)])
        store.flush()
        assert_same(store.load("ann").rows[0], row)
        assert_same(store.get([row.key])[row.key], row)
        persona = make_persona(1, query)
        store.put_persona("ann", persona, "t")
        assert store.load("ann").personas == (persona,)

    def test_a_long_text_can_be_replaced(self, store: Store) -> None:
        for truth in ("a" * 60_000, "🫖" * 50_000, "short"):
            store.put([make_row("ann", "1", "é" * 50_000, truth)])
            (row,) = store.load("ann").rows
            assert row.interaction.truth == truth

    def test_options_come_back_with_their_row(self, store: Store) -> None:
        few, many = ("green tea", "black tea"), tuple(f"{n} 🫖" for n in range(40))
        rows = [
            make_row("ann", "few", choices=few, arrived=1),
            make_row("ann", "none", "black tea", arrived=2),
            make_row("ann", "many", truth="3 🫖", choices=many, arrived=3),
            make_row("ann", "rating", choices=("1", "2"), arrived=4),
            replace(make_row("ann", "older", choices=few, arrived=5), option_vectors=None),
            make_row("ann", "long", "🫖" * 60_000, choices=(*many, "é" * 60_000), arrived=6),
        ]
        store.put(rows)
        for _ in range(2):
            for row, expected in zip(store.load("ann").rows, rows, strict=True):
                assert_same(row, expected)
            assert_same(store.get([rows[2].key])[rows[2].key], rows[2])
            found = store.search("ann", rows[1].query_vector, 9, **ALWAYS)
            assert len(found) == len(rows)
            for row in found:
                assert_same(row, next(r for r in rows if r.id == row.id))
            store.flush()

    def test_options_are_replaced_with_their_row(self, store: Store) -> None:
        versions = [
            make_row("ann", "1", choices=("a", "b")),
            make_row("ann", "1", truth="b", choices=("a", "b", "c")),
            replace(make_row("ann", "1", choices=("a", "b")), option_vectors=None),
            make_row("ann", "1", "🫖" * 60_000, choices=("a", "b")),
            make_row("ann", "1", "🫖" * 60_000, choices=("a", "c")),
            make_row("ann", "1", choices=("a", "c")),
        ]
        for row in versions:
            store.put([row])
            (found,) = store.load("ann").rows
            assert_same(found, row)

    def test_hostile_user_ids_are_strangers_to_each_other(self, store: Store) -> None:
        for user in HOSTILE:
            store.put([make_row(user, f"id {user}"[:128], f"secret of {user}")])
            store.put_persona(user, make_persona(1, user), "t")
        for user in HOSTILE:
            stored = store.load(user)
            assert [r.interaction.query for r in stored.rows] == [f"secret of {user}"]
            assert [p.text for p in stored.personas] == [user]
        assert sorted(s.user for s in store.users()) == sorted(HOSTILE)
        for gone, user in enumerate(HOSTILE, start=1):
            assert store.erase(user_key(user)).remaining == 0
            assert sorted(s.user for s in store.users()) == sorted(HOSTILE[gone:])

    def test_hostile_interaction_ids(self, store: Store) -> None:
        ids = [h[:128] for h in HOSTILE]
        store.put([make_row("ann", id, id, arrived=n) for n, id in enumerate(ids)])
        assert [r.id for r in store.load("ann").rows] == ids

    def test_persona_versions_are_claimed_once(self, store: Store) -> None:
        one, two = make_persona(1), make_persona(2, origin=Origin.ALIGNED)
        store.put_persona("ann", one, "a")
        store.put_persona("ann", one, "a")  # the same attempt, repeated
        with pytest.raises(ConflictError):
            store.put_persona("ann", make_persona(1, "other"), "b")
        store.put_persona("ann", two, "c")
        store.put_persona("bob", make_persona(1, "his"), "a")
        assert store.load("ann").personas == (one, two)
        assert store.load("ann", rows=False).personas == (one, two)

    def test_persona_versions_are_read_a_few_at_a_time(self, store: Store) -> None:
        versions = [
            make_persona(n, f"{n} " + "long " * (11_000 if n == 3 else 1), Origin.ALIGNED if n == 2 else Origin.MANUAL)
            for n in range(1, 8)
        ]
        for version in versions:
            store.put_persona("ann", version, f"t{version.number}")
        assert store.personas("ann") == tuple(versions)
        assert store.personas("ann", limit=2) == tuple(versions[-2:])
        assert store.personas("ann", before=5, limit=3) == tuple(versions[1:4])
        assert store.personas("ann", before=3, limit=9) == tuple(versions[:2])
        assert store.personas("ann", before=1) == store.personas("ann", limit=0) == store.personas("eve") == ()
        newest = store.load("ann", rows=False, history=False)
        assert (newest.personas, newest.aligned) == (tuple(versions[-1:]), microseconds(START))
        store.put_seen("ann", 9)
        assert store.load("ann", rows=False, history=False).seen == 9

    def test_rows_are_streamed_and_searched_within_a_number_of_bytes(self, store: Store) -> None:
        rows = [make_row("ann", str(n), f"query {n} " + f"{n}é" * 29_000, arrived=n + 1) for n in range(6)]
        store.put([*rows, make_row("bob", "1")])
        for row in store.stream("ann"):
            assert_same(row, rows[int(row.id)])
        assert sorted(row.id for row in store.stream("ann")) == [str(n) for n in range(6)]
        assert list(store.stream("eve")) == []
        vector = rows[4].query_vector
        nearest = [row.id for row in store.search("ann", vector, 9, **ALWAYS)]
        assert nearest[0] == "4"
        for most, count in ((180_000, 2), (10, 1), (10**9, 6), (None, 6)):
            assert [row.id for row in store.search("ann", vector, 9, **ALWAYS, most=most)] == nearest[:count]
        assert [row.id for row in store.search("ann", vector, 900, **ALWAYS, most=180_000)] == nearest[:2]

    def test_profiles_are_replaced_from_the_expected_version(self, store: Store) -> None:
        fact = Fact(id="f", text="tea 🫖 \x00", evidence=("1",), first_seen=START, last_seen=START)
        first = Profile(version=1, facts=(fact,), covered=3)
        store.put_profile("ann", first, 0, "a")
        store.put_profile("ann", first, 0, "a")
        assert store.load("ann").profile == first
        with pytest.raises(ConflictError):
            store.put_profile("ann", Profile(version=1), 0, "b")
        second = Profile(version=7, covered=9)
        store.put_profile("ann", second, 1, "c")
        assert store.load("ann").profile == second
        with pytest.raises(ConflictError):
            store.put_profile("ann", first, 0, "a2")
        large = Profile(version=8, facts=tuple(fact.model_copy(update={"text": "é" * 2_000}) for _ in range(100)))
        store.put_profile("ann", large, 7, "d")
        assert store.load("ann").profile == large

    def test_what_alignment_has_looked_at_never_goes_back(self, store: Store) -> None:
        store.put([make_row("ann", str(n), truth="x", arrived=n) for n in range(1, 5)])
        assert store.load("ann").seen is None
        for seen, expected in ((2, 2), (1, 2), (3, 3), (3, 3)):
            store.put_seen("ann", seen)
            store.flush()
            assert store.load("ann").seen == store.load("ann", rows=False).seen == expected
            assert [s.truths_since_alignment for s in store.users()] == [4 - expected]
        store.put([make_row("bob", "1", truth="x")])
        assert {s.user: s.truths_since_alignment for s in store.users()} == {"ann": 1, "bob": 1}
        assert store.erase(user_key("ann")).remaining == 0
        assert store.load("ann").seen is None
        assert [s.user for s in store.users()] == ["bob"]
        store.put([make_row("ann", "1", truth="x")])
        assert {s.user: s.truths_since_alignment for s in store.users()} == {"ann": 1, "bob": 1}

    def test_new_rows_arrive_behind_those_that_are_there(self, store: Store) -> None:
        assert store.arrivals(["ann"], 0) == {}
        store.put([make_row("ann", "1", truth="x", arrived=7), make_row("ann", "2", arrived=9)])
        assert store.arrivals(["ann", "eve"], 8)["ann"] == 9
        assert store.arrivals(["ann"], 9) == {}
        late = replace(make_row("ann", "1", truth="x", arrived=7), truth_arrived=20)
        store.put([late])
        assert store.arrivals(["ann"], 9) == {"ann": 20}

    def test_new_rows_arrive_behind_what_counts_as_read(self, store: Store) -> None:
        """Also where the rows that were read are gone."""
        for user in ("ann", "bob"):
            store.put([make_row(user, "1", truth="x", arrived=7)])
        fact = Fact(id="f", text="é" * 1900, evidence=("1",), first_seen=START, last_seen=START)
        store.put_profile("ann", Profile(version=1, facts=(fact,), mark=30), 0, "a")
        store.put_seen("bob", 40)
        assert store.arrivals(["ann", "bob"], 25) == {"ann": 30, "bob": 40}
        store.put_seen("ann", 50)
        assert store.arrivals(["ann", "bob", "eve"], 45) == {"ann": 50}

    def test_erase_takes_everything_of_one_user(self, store: Store) -> None:
        fact = Fact(id="f", text="tea", evidence=("1",), first_seen=START, last_seen=START)
        for user in ("ann", "bob"):
            store.put([make_row(user, str(i), "é" * (40_000 if i == 3 else 4), arrived=i) for i in range(5)])
            store.put_persona(user, make_persona(1), "a")
            store.put_persona(user, make_persona(2), "b")
            store.put_profile(user, Profile(version=1, facts=(fact,)), 0, "a")
        store.flush()
        store.put([make_row("ann", "unflushed", arrived=9)])
        assert store.held("ann") == Held(interactions=6, personas=2, profiles=1, facts=1, named=True)
        assert not store.held("eve")
        assert store.erase(user_key("ann")).remaining == 0
        assert store.held("ann") == Held()
        assert store.load("ann") == type(store.load("ann"))()
        assert [s.user for s in store.users()] == ["bob"]
        assert len(store.load("bob").rows) == 5
        assert len(store.load("bob").personas) == 2
        assert store.erase(user_key("ann")).remaining == 0
        store.put([make_row("ann", "1", "back")])
        assert [r.interaction.query for r in store.load("ann").rows] == ["back"]

    def test_a_tombstone_outlives_its_user(self, store: Store) -> None:
        key, other = user_key("ann"), user_key("bob")
        for user in ("ann", "bob"):
            store.put([make_row(user, "1")])
        assert store.tombstone(key) is None
        begun = Tombstone(incarnation=2**33 + 5, audit_id="a", interactions=1, personas=2, facts=3)
        store.bury(key, begun)
        assert store.tombstone(key) == begun
        assert store.unfinished() == [key]
        assert store.erase(key).remaining == 0
        store.bury(key, replace(begun, done=True))
        store.flush()
        assert store.tombstone(key) == replace(begun, done=True)
        assert store.tombstone(other) is None
        assert store.unfinished() == []
        assert [s.user for s in store.users()] == ["bob"]
        store.put([make_row("ann", "2")])  # who comes back is known, and can be forgotten again
        assert sorted(s.user for s in store.users()) == ["ann", "bob"]
        store.bury(key, replace(begun, incarnation=2**34))
        assert store.erase(key).remaining == 0
        assert [s.user for s in store.users()] == ["bob"]

    def test_users_are_listed_with_counts(self, store: Store) -> None:
        store.put([make_row("ann", str(i), truth="x" if i else None, arrived=i + 1, minute=i) for i in range(3)])
        store.put_persona("ann", make_persona(1, origin=Origin.ALIGNED), "t")
        store.put_persona("bob", make_persona(1).model_copy(update={"pinned": True}), "t")
        assert sorted(store.users(), key=lambda s: s.user) == [
            UserSummary(
                user="ann",
                interactions=3,
                truths=2,
                persona=1,
                last_time=START + timedelta(minutes=2),
                truths_since_alignment=0,
            ),
            UserSummary(user="bob", interactions=0, truths=0, persona=1, pinned=True),
        ]

    def test_users_come_in_pages(self, store: Store) -> None:
        users = [f"user {n}" for n in range(23)]
        store.put([make_row(user, str(i), arrived=i) for user in users for i in range(3)])
        store.put_persona("user 7", make_persona(1), "t")
        expected = sorted(users, key=user_key)
        for size in (1, 4, 23, 50):
            found: list[UserSummary] = []
            while page := list(store.users(user_key(found[-1].user) if found else "", size)):
                assert len(page) <= size
                found += page
            assert [s.user for s in found] == expected
            assert {s.interactions for s in found} == {3}
        assert [s.user for s in store.users()] == expected
        assert [s.user for s in store.users(limit=2)] == expected[:2]
        assert list(store.users(limit=0)) == []
        store.put([make_row(expected[0], "more", truth="x", arrived=9)])
        store.put_persona(expected[1], make_persona(1), "t")
        store.erase(user_key(expected[2]))
        first, second, third = store.users(limit=3)
        assert (first.interactions, first.truths, second.persona, third.user) == (4, 1, 1, expected[3])

    def test_the_ledger_knows_the_order(self, store: Store) -> None:
        store.put(
            [
                make_row("ann", "late", arrived=1, minute=9),
                make_row("ann", "early", truth="x", arrived=2, minute=1),
                make_row("ann", "tied", truth="y", arrived=3, minute=9),
            ]
        )
        ledger = store.ledger("ann")
        keys = {id: row_key("ann", id)[1] for id in ("late", "early", "tied")}
        assert ledger.newest(2) == [keys["late"], keys["tied"]]
        assert ledger.newest(9, with_truth=True) == [keys["early"], keys["tied"]]
        assert ledger.newest(0) == []
        assert ledger.newer(microseconds(START + timedelta(minutes=9)), 1) == 1
        assert (len(ledger), ledger.truths, ledger.truths_after(2)) == (3, 2, 1)

    def test_search_ranks_and_filters(self, store: Store) -> None:
        queries = ["red wine", "red wine with fish", "green tea", "black tea"]
        rows = [make_row("ann", q, q, "x" if i else None, arrived=i + 1, minute=i) for i, q in enumerate(queries)]
        store.put([*rows, make_row("bob", "red wine", "red wine")])
        vector = EMBEDDER.encode(["red wine"])[0]

        def found(limit: int = 9, **change: object) -> list[str]:
            return [r.id for r in store.search("ann", vector, limit, **{**ALWAYS, **change})]

        assert found(2) == ["red wine", "red wine with fish"]
        assert sorted(found()) == sorted(queries)
        assert set(found(truth=True)) == set(queries[1:])
        assert set(found(since=rows[1].time, until=rows[3].time)) == set(queries[1:3])
        assert set(found(before=(rows[1].time, rows[1].arrived))) == {queries[0]}
        assert set(found(before=(rows[1].time, rows[1].arrived + 1))) == set(queries[:2])
        assert_same(store.search("ann", vector, 1, **ALWAYS)[0], rows[0])
        assert store.search("eve", vector, 3, **ALWAYS) == []

    def test_rows_are_removed_and_a_user_of_whom_nothing_is_left(self, store: Store) -> None:
        store.put([make_row("ann", "1"), make_row("ann", "2", arrived=2), make_row("bob", "1")])
        store.put_persona("bob", make_persona(1), "t")
        store.flush()
        store.remove("ann", [row_key("ann", "1")[1], row_key("ann", "never")[1]])
        assert [r.id for r in store.load("ann").rows] == ["2"]
        assert (store.count("ann"), len(store.ledger("ann")), store.count("bob")) == (1, 1, 1)
        for user, id in (("ann", "2"), ("bob", "1"), ("eve", "1")):
            store.remove(user, [row_key(user, id)[1]])
        assert [(u.user, u.interactions, u.persona) for u in store.users()] == [("bob", 0, 1)]
        assert not store.held("ann")

    def test_a_persona_version_is_stored_again(self, store: Store) -> None:
        store.put_persona("ann", make_persona(1), "t")
        store.put_persona("ann", make_persona(2), "u")
        amended = make_persona(1).model_copy(update={"sources": ("1",)})
        store.amend_persona("ann", amended)
        assert store.personas("ann") == (amended, make_persona(2))
        store.put_persona("ann", make_persona(1), "t")  # a repeat of the attempt that added it changes nothing
        assert store.personas("ann")[0] == amended
        with pytest.raises(StoreError):
            store.amend_persona("ann", make_persona(3))

    def test_lessons_are_searched_and_counted_by_themselves(self, store: Store) -> None:
        told = [i.id for i in (*taught(0, "q", "weather", units="metric"), *taught(1, "q", "trains"))]
        asked = ["r0", "r1", "a", "\x00", "lesson", "zz"]
        rows = [make_row("ann", name, "red wine", "x", arrived=n + 1) for n, name in enumerate([*asked, *told])]
        store.put(rows)
        vector = EMBEDDER.encode(["red wine"])[0]

        def found(lessons: bool | None) -> set[str]:
            return {r.id for r in store.search("ann", vector, 99, **ALWAYS, lessons=lessons)}

        assert (found(True), found(False), found(None)) == (set(told), set(asked), {*told, *asked})
        ledger = store.ledger("ann")
        assert (len(ledger), ledger.lessons, ledger.truths, ledger.truths_after(0)) == (9, 3, 6, 6)
        assert ledger.truths_after(6) == 2  # requests of which something was taught, whose arguments count with them
        assert (ledger.last_truth, ledger.last_lesson) == (6, 9)
        assert set(ledger.newest(99, lessons=True)) == {row_key("ann", name)[1] for name in told}
        assert set(ledger.newest(99)) == {row_key("ann", name)[1] for name in asked}
        (summary,) = store.users()
        assert (summary.interactions, summary.truths, store.count("ann")) == (6, 6, 9)

    def test_closing_twice_is_harmless(self, store: Store) -> None:
        store.close()
        store.close()

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.splits import halved, split, window
from tests.support.alignment_doubles import drink


@given(
    count=st.integers(2, 80),
    batch=st.integers(1, 10),
    held_out=st.integers(1, 20),
    seed=st.integers(0, 5),
    user=st.text("abé\"'/", min_size=1, max_size=5),
)
def test_parts_are_disjoint_complete_and_in_order(count: int, batch: int, held_out: int, seed: int, user: str) -> None:
    latest = [drink(user, i) for i in range(count)]
    parts = split(latest, batch, held_out, seed)
    assert parts == split(latest, batch, held_out, seed)
    used = latest[-window(batch, held_out) :]
    learned = {i.id for i in (*parts.rewrite, *parts.select)}
    judged = {i.id for i in parts.gate}
    assert not learned & judged
    assert learned | judged == {i.id for i in used}
    assert 1 <= len(parts.gate) <= held_out
    assert 1 <= len(parts.rewrite) <= batch
    assert len(parts.select) >= 1
    if parts.joined:
        assert {i.id for i in parts.rewrite} <= {i.id for i in parts.select}
    else:
        assert len(parts.rewrite) + len(parts.select) + len(parts.gate) == len(used)
    for part in (parts.rewrite, parts.select, parts.gate):
        assert [i.time for i in part] == sorted(i.time for i in part)


@given(st.text("xyz", min_size=1, max_size=4))
def test_every_part_holds_recent_interactions(user: str) -> None:
    parts = split([drink(user, i) for i in range(27)], batch=3, held_out=12)
    assert (len(parts.rewrite), len(parts.select), len(parts.gate)) == (3, 12, 12)
    newest = {f"i{i}" for i in range(17, 27)}
    for part in (parts.rewrite, parts.select, parts.gate):
        recent = sum(i.id in newest for i in part)
        assert abs(recent / 10 - len(part) / 27) <= 0.1


def test_users_are_dealt_differently() -> None:
    gates = {tuple(i.id for i in split([drink(f"user {u}", i) for i in range(27)], 3, 12).gate) for u in range(20)}
    assert len(gates) > 1


def test_two_interactions_leave_one_to_learn_from_and_one_to_judge() -> None:
    parts = split([drink("u", 0), drink("u", 1)], 3, 12)
    assert parts.joined
    assert parts.rewrite == parts.select
    assert len(parts.gate) == len(parts.select) == 1


def test_one_interaction_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="two"):
        split([drink("u", 0)], 3, 12)


@given(count=st.integers(2, 40), each=st.integers(1, 8), seed=st.integers(0, 5))
def test_halves_are_disjoint_and_of_the_newest(count: int, each: int, seed: int) -> None:
    latest = [drink("ann", i) for i in range(count)]
    parts = halved(latest, each, seed)
    select, gate = {i.id for i in parts.select}, {i.id for i in parts.gate}
    assert not select & gate
    assert select | gate == {i.id for i in latest[-2 * each :]}
    assert 0 <= len(select) - len(gate) <= 1
    assert not parts.rewrite

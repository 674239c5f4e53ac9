"""The checker of histories: every kind of broken promise is found, and what an order of overlapping calls explains is none."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.bench.chaos_history import Broken, Fault, Operation, Status, acknowledged, check, recoveries


class History:
    """Operations of one after the other, each a second long unless said."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.now = 0.0

    def add(self, kind: str, user: str = "ann", status: Status = Status.OK, **more: Any) -> Operation:
        began = more.pop("began", self.now)
        ended = more.pop("ended", began + 1)
        for name in ("wrote", "saw", "doubled", "needs"):
            more[name] = frozenset(more.get(name, ()))
        self.operations.append(Operation(len(self.operations), kind, user, began, ended, status, **more))
        self.now = max(self.now, ended) + 1
        return self.operations[-1]

    def write(self, mark: str, **more: Any) -> Operation:
        return self.add("import", wrote={mark}, makes=True, **more)

    def forget(self, **more: Any) -> Operation:
        return self.add("forget", forgets=True, **more)

    def look(self, *marks: str, **more: Any) -> Operation:
        return self.add("export", **{"saw": marks, "whole": True, "exists": bool(marks), **more})

    @property
    def broken(self) -> list[Broken]:
        return [v.what for v in check(self.operations)]


@pytest.fixture
def history() -> History:
    return History()


def test_what_was_acknowledged_has_to_be_there(history: History) -> None:
    history.write("a")
    history.write("b", status=Status.UNKNOWN)
    history.write("c", status=Status.FAIL)
    history.look("a")
    assert history.broken == []
    history.look("a", "b")
    assert history.broken == []
    look = history.look("b")
    (lost,) = check(history.operations)
    assert (lost.what, lost.mark, lost.user, lost.look, lost.writers) == (Broken.LOST, "a", "ann", look.number, (0,))
    history.look("b")
    assert history.broken == [Broken.LOST]  # once
    assert acknowledged(history.operations) == {"a"}


def test_only_a_look_at_everything_that_began_later_misses_a_text(history: History) -> None:
    history.write("a", ended=5.0)
    history.look(began=4.0)
    history.look(whole=False)
    history.look(status=Status.UNKNOWN)
    assert history.broken == []


@pytest.mark.parametrize("status", [Status.OK, Status.UNKNOWN])
def test_a_forgotten_text_is_not_lost(history: History, status: Status) -> None:
    history.forget(status=status)
    history.write("a")
    history.look("a")
    history.forget(status=status)
    history.look()
    assert history.broken == []


def test_an_unanswered_forgetting_may_be_done_later_and_a_refused_one_is_not(history: History) -> None:
    history.forget(status=Status.UNKNOWN)
    history.write("a")
    history.look()
    assert history.broken == []
    history.write("b", user="bob")
    history.forget(user="bob", status=Status.FAIL)
    history.look(user="bob")
    assert history.broken == [Broken.LOST]


def test_a_forgetting_that_knows_nobody_has_lost_what_was_there(history: History) -> None:
    history.write("a")
    history.forget(whole=True, exists=False)
    assert history.broken == [Broken.LOST]


def test_what_is_stored_twice(history: History) -> None:
    history.write("a", status=Status.UNKNOWN)
    history.look("a", doubled={"a"})
    assert history.broken == [Broken.DOUBLED]


def test_what_was_refused_is_not_stored(history: History) -> None:
    history.write("a", status=Status.FAIL)
    history.write("b", status=Status.FAIL)
    history.write("b", status=Status.UNKNOWN)
    history.look("a", "b")
    assert history.broken == [Broken.REFUSED]


@pytest.mark.parametrize("whole", [True, False])
def test_another_users_text(history: History, whole: bool) -> None:
    history.write("a")
    history.look("a", user="bob", whole=whole)
    (crossed,) = check(history.operations)
    assert (crossed.what, crossed.user) == (Broken.CROSSED, "ann")


def test_a_forgotten_text_that_is_seen_again(history: History) -> None:
    history.write("a")
    history.look("a")
    forget = history.forget()
    look = history.look("a", whole=False)
    found = check(history.operations)
    assert [v.what for v in found] == [Broken.RESURRECTED] * 2  # the text, and that the user is there
    assert {(v.look, v.forget) for v in found} == {(look.number, forget.number)}


def test_a_look_beside_the_forgetting_may_still_see_it(history: History) -> None:
    history.write("a")
    history.forget(began=3.0, ended=10.0)
    history.look("a", began=9.0, ended=12.0)
    assert history.broken == []


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        ({"ended": 20.0}, False),  # it may have begun in the system after the forgetting
        ({"ended": 20.0, "started": 2.0}, True),  # it had not: there was a piece of its answer before
        ({"status": Status.UNKNOWN}, False),
        ({"status": Status.UNKNOWN, "started": 2.0}, True),
        ({"ended": 2.0}, True),
    ],
)
def test_work_that_was_under_way_may_not_bring_a_user_back(
    history: History, more: dict[str, Any], broken: bool
) -> None:
    history.write("a", began=1.0, **more)
    history.forget(began=5.0, ended=6.0)
    history.look("a", began=30.0)
    assert history.broken == [Broken.RESURRECTED] * 2 * broken


def test_what_was_seen_before_the_forgetting_had_begun_before(history: History) -> None:
    history.write("a", status=Status.UNKNOWN)
    history.look("a")
    history.forget()
    history.look("a")
    assert Broken.RESURRECTED in history.broken


def test_a_repeat_after_the_forgetting_is_new_work(history: History) -> None:
    history.write("a", status=Status.UNKNOWN)
    history.look("a")
    history.forget()
    history.write("a", status=Status.UNKNOWN)
    history.look("a")
    assert history.broken == []


def test_a_user_without_texts_is_not_there_either(history: History) -> None:
    history.write("a")
    history.forget()
    history.look()
    assert history.broken == []
    history.look(exists=True)
    assert history.broken == [Broken.RESURRECTED]


@pytest.mark.parametrize("status", Status)
def test_a_user_who_came_back_is_there(history: History, status: Status) -> None:
    history.write("a")
    history.forget()
    history.write("b", status=status)
    history.look(exists=True, whole=False)
    assert history.broken == ([Broken.RESURRECTED] if status is Status.FAIL else [])


def test_a_turn_that_was_refused_at_its_end_may_have_made_a_persona_before(history: History) -> None:
    history.forget()
    history.add("stream", status=Status.FAIL, makes=True, began=3, ended=9)  # refused as the second forgetting came
    history.look(exists=True, began=5, ended=6)
    history.forget(began=7, ended=8)
    assert history.broken == []
    history.look(exists=True, began=10, ended=11)
    assert history.broken == [Broken.RESURRECTED]


def test_results_of_a_run_that_began_before(history: History) -> None:
    history.write("a")
    began = history.now - 0.5
    history.forget()
    history.write("b")
    history.add("results", run=history.now - 0.5)  # of a run that began later
    assert history.broken == []
    history.add("results", run=began)
    assert history.broken == [Broken.RESURRECTED]


def test_recovery_is_the_first_success_that_needs_the_part(history: History) -> None:
    history.add("chat", needs={"router", "engine"}, began=0.0, ended=5.0)  # began before
    history.add("chat", needs={"router", "engine"}, status=Status.UNKNOWN, began=3.0, ended=6.0)
    history.add("read", needs={"router"}, began=3.0, ended=4.0)
    history.add("chat", needs={"router", "engine"}, began=7.0, ended=9.0)
    faults = [Fault("engine", "engine", 2.0), Fault("router", "router", 2.0), Fault("shard", "shard-1", 2.0)]
    assert [r.seconds for r in recoveries(history.operations, faults)] == [7.0, 2.0, None]


class Store:
    """A correct memory: each operation takes effect at one moment. `fault` makes it break one promise."""

    def __init__(self, rng: random.Random, fault: Broken | None) -> None:
        self._rng = rng
        self._fault = fault
        self.texts: dict[str, Counter[str]] = {}
        self.broke = False

    def write(self, user: str, mark: str) -> None:
        texts = self.texts.setdefault(user, Counter())
        if self._fault is Broken.LOST and self._rng.random() < 0.3:
            self.broke = True
            return
        texts[mark] = 1
        if self._fault is Broken.DOUBLED and self._rng.random() < 0.3:
            texts[mark] = 2
            self.broke = True

    def forget(self, user: str) -> None:
        if self._fault is Broken.RESURRECTED and self.texts.get(user):
            self.broke = True
            return
        self.texts.pop(user, None)

    def look(self, user: str) -> Counter[str]:
        if self._fault is Broken.CROSSED:
            others = [texts for other, texts in self.texts.items() if other != user and texts]
            if others:
                self.broke = True
                return self.texts.get(user, Counter()) + others[0]
        return self.texts.get(user, Counter())


def made_up(seed: int, fault: Broken | None = None, certain: bool = False) -> tuple[list[Operation], Store]:
    """A history of overlapping operations on a store; with `certain` none fails, is unanswered or overlaps."""
    rng = random.Random(seed)
    store = Store(rng, fault)
    operations: list[Operation] = []
    moments = sorted(rng.uniform(0, 100) for _ in range(40))
    marks: list[tuple[str, str]] = []
    for number, moment in enumerate([*moments, 1000.0, 1001.0]):
        last = moment >= 1000
        user = f"user {number % 2}" if last else rng.choice(["user 0", "user 1"])
        before, after = (0.01, 0.01) if certain or last else (rng.uniform(0, 20), rng.uniform(0, 20))
        status = Status.OK if certain or last else rng.choice([Status.OK, Status.OK, Status.UNKNOWN, Status.FAIL])
        done = status is Status.OK or (status is Status.UNKNOWN and rng.random() < 0.5)
        # An unanswered operation may be done long after its client has gone.
        began, ended = moment - before, moment - before / 2 if status is Status.UNKNOWN else moment + after
        kind = "look" if last else rng.choice(["write", "write", "repeat", "forget", "look"])
        fields: dict[str, Any] = {}
        if kind in ("write", "repeat"):
            mark = f"m{number}"
            if kind == "repeat" and marks:
                user, mark = rng.choice(marks)
            marks.append((user, mark))
            fields = {"wrote": frozenset({mark}), "makes": True}
            if done:
                store.write(user, mark)
            if done and rng.random() < 0.3:
                fields["started"] = min(moment + after / 2, ended) if status is Status.OK else None
        elif kind == "forget":
            fields = {"forgets": True}
            if done:
                store.forget(user)
        elif status is Status.OK:  # a look without an answer has seen nothing: its client may be gone before it is done
            seen = store.look(user)
            doubled = frozenset(m for m, n in seen.items() if n > 1)
            fields = {"saw": frozenset(seen), "doubled": doubled, "whole": True, "exists": bool(seen)}
        operations.append(Operation(number, kind, user, began, ended, status, **fields))
    return operations, store


@given(st.integers(0, 10**9))
@settings(deadline=None, max_examples=300)
def test_what_a_correct_store_does_is_never_a_violation(seed: int) -> None:
    assert check(made_up(seed)[0]) == []


@pytest.mark.parametrize("fault", [Broken.LOST, Broken.DOUBLED, Broken.RESURRECTED, Broken.CROSSED])
@given(st.integers(0, 10**9))
@settings(deadline=None, max_examples=50)
def test_every_fault_of_a_store_is_found(fault: Broken, seed: int) -> None:
    operations, store = made_up(seed, fault, certain=True)
    found = {v.what for v in check(operations)}
    assert found <= {fault, *([Broken.RESURRECTED] if fault is Broken.CROSSED else [])}
    if fault is Broken.CROSSED:
        assert (Broken.CROSSED in found) == store.broke
    elif not store.broke:
        assert found == set()


@pytest.mark.slow
def test_most_faults_of_a_store_are_found() -> None:
    """Not all: what is forgotten or never looked at again is missed by nobody."""
    for fault in (Broken.LOST, Broken.DOUBLED, Broken.RESURRECTED, Broken.CROSSED):
        caught = [bool(check(o)) for o, s in (made_up(seed, fault, certain=True) for seed in range(200)) if s.broke]
        assert len(caught) > 100, fault
        assert sum(caught) > 0.8 * len(caught), fault


def test_nothing_is_known_of_the_beginning_of_what_was_never_answered(history: History) -> None:
    assert history.write("a", status=Status.UNKNOWN).surely_began == math.inf

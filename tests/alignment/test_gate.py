from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.gate import Gate, ScoreTable, clearly_better


def table(
    hard: Sequence[float], soft: Sequence[float] | None = None, kept: Sequence[float] | None = None
) -> ScoreTable:
    def column(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, dtype=np.float32)[:, None]

    return ScoreTable(
        column(hard), column(hard if soft is None else soft), column([0.0] * len(hard) if kept is None else kept)
    )


scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)


@given(scores)
def test_a_tie_keeps_the_incumbent(values: list[float]) -> None:
    assert not Gate(0.0).judge(table(values), table(values)).accepted
    assert clearly_better(table(values), table(values), 0.0)[0] == -np.inf


@given(before=scores, data=st.data())
def test_nothing_with_a_lower_score_is_accepted(before: list[float], data: st.DataObject) -> None:
    after = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(before), max_size=len(before)))
    kept = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(before), max_size=len(before)))
    verdict = Gate(0.0).judge(table(before), table(after, kept=kept))
    if verdict.accepted:
        assert verdict.after >= verdict.before - 1e-5


@given(n=st.integers(2, 30), at=st.integers(0, 29), base=st.floats(0, 0.5), gain=st.floats(0.1, 0.5))
def test_one_lucky_example_never_passes(n: int, at: int, base: float, gain: float) -> None:
    before, after = [base] * n, [base] * n
    after[at % n] = base + gain
    assert clearly_better(table(after), table(before), 0.0)[0] == -np.inf
    assert not Gate(0.0).judge(table(before), table(after)).accepted


def test_two_more_right_of_twelve_are_accepted() -> None:
    verdict = Gate(0.0).judge(table([0] * 12), table([1, 1] + [0] * 10))
    assert verdict.accepted
    assert verdict.after == pytest.approx(1 / 6)


def test_min_gain_is_asked_for() -> None:
    before, after = table([0] * 10), table([1, 1, 1] + [0] * 7)
    assert Gate(0.29).judge(before, after).accepted
    assert not Gate(0.3).judge(before, after).accepted


def test_a_persona_that_stops_listening_to_memory_is_refused() -> None:
    before = table([0, 0, 0, 0, 1, 1], kept=[1] * 6)
    after = table([1, 1, 0, 0, 1, 1], kept=[0.3] * 6)
    verdict = Gate(0.0).judge(before, after)
    assert not verdict.accepted
    assert "forgets" in verdict.reason


def test_a_persona_that_keeps_up_with_a_change_is_accepted_at_an_equal_score() -> None:
    before = table([0, 0, 0, 0, 1, 1], kept=[0.2, 0.2, 0.3, 0.2, 1, 1])
    after = table([0, 0, 0, 0, 1, 1], kept=[0.9, 0.8, 0.9, 0.9, 1, 1])
    assert Gate(0.0).judge(before, after).accepted


def test_noisy_ratings_need_more_than_being_ahead() -> None:
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(400):
        before, after = rng.uniform(0.3, 1, 12), rng.uniform(0.3, 1, 12)
        accepted += Gate(0.0, caution=1.645).judge(table(before.tolist()), table(after.tolist())).accepted
    assert accepted < 40  # of 400 challengers no better than the incumbent


def test_sure_candidates_rank_before_lucky_ones() -> None:
    incumbent = table([0.5] * 6)
    steady, lucky = [0.7] * 6, [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    values = np.asarray([steady, lucky], dtype=np.float32).T
    both = ScoreTable(values, values, np.zeros((6, 2), np.float32))
    sure = clearly_better(both, incumbent, 0.0)
    assert sure.argmax() == 0
    assert (sure > 0).all()

"""Bootstrap intervals over users."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.evaluation.intervals import Interval, bootstrap, mean_interval

pairs = st.lists(st.tuples(st.floats(-100, 100), st.sampled_from("abcdef")), min_size=1, max_size=40)


@given(pairs, st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_the_mean_lies_where_it_should_and_the_seed_decides(rows: list[tuple[float, str]], seed: int):
    values, users = [v for v, _ in rows], [u for _, u in rows]
    found = mean_interval(values, users, draws=200, seed=seed)
    assert found.value == pytest.approx(float(np.mean(values)), abs=1e-9)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == mean_interval(values, users, draws=200, seed=seed)


def test_interactions_of_one_user_do_not_make_it_surer():
    rng = np.random.default_rng(0)
    of_user = rng.normal(size=20)
    once = mean_interval(list(of_user), [str(u) for u in range(20)])
    often = mean_interval(list(np.repeat(of_user, 50)), [str(u) for u in range(20) for _ in range(50)])
    assert often.high - often.low == pytest.approx(once.high - once.low)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        values = [float(v) for mean in rng.normal(size=30) for v in rng.normal(mean, 1, size=4)]
        found = mean_interval(values, [str(n // 4) for n in range(120)], draws=400, seed=trial)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_of_a_single_user_nothing_is_said_beyond_the_value():
    assert mean_interval([1.0, 0.0], ["a", "a"]) == Interval(0.5, 0.5, 0.5)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no values"):
        mean_interval([], [])


def test_any_statistic_of_weights():
    values = np.asarray([0.0, 1.0, 2.0, 3.0])
    found = bootstrap(lambda w: (w * values).max(axis=1), 4, draws=150)
    assert found.value == 3
    assert found.low <= found.high

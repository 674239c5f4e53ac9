from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.evidence import evidence, truth_match, votes
from personaagent.types import Decision, Interaction, Kind, utc_now


def past(truth: str, choices: tuple[str, ...] | None = None) -> Interaction:
    return Interaction(id=truth or "x", user="u", time=utc_now(), query="q", truth=truth, choices=choices)


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    m = np.asarray(rows, dtype=np.float32)
    return m / np.linalg.norm(m, axis=1, keepdims=True)


def test_newest_word_on_a_subject_wins() -> None:
    # The same request was answered tea long ago and coffee since.
    similarity, age = np.float32([0.9, 0.9]), np.array([1, 0])
    chosen, weights = votes(similarity, age, Decision(), Kind.CHOICE)
    by_slot = dict(zip(chosen.tolist(), weights.tolist(), strict=True))
    assert by_slot[1] > by_slot[0]


def test_a_request_settled_long_ago_outlives_other_subjects() -> None:
    similarity = np.float32([0.95] + [0.2] * 50)
    age = np.arange(51)[::-1]
    chosen, weights = votes(similarity, age, Decision(), Kind.CHOICE)
    assert weights[list(chosen).index(0)] > 0.9


def test_an_option_refused_before_loses() -> None:
    tea, coffee = unit((1, 0.2), (0.2, 1))
    history = [past("tea", ("tea", "coffee"))]
    match = truth_match(Kind.CHOICE, history, np.stack([tea]), ["tea", "coffee"], np.stack([tea, coffee]))
    unrefused = truth_match(Kind.CHOICE, [past("tea")], np.stack([tea]), ["tea", "coffee"], np.stack([tea, coffee]))
    assert match[0, 1] < unrefused[0, 1]
    assert match[0, 0] == unrefused[0, 0]


def test_rating_predicts_the_weighted_median_and_ignores_what_is_no_number() -> None:
    history = [past(t) for t in ("4", "4", "1", "great")]
    choices = ["1", "2", "3", "4", "5"]
    match = truth_match(Kind.RATING, history, np.zeros((4, 2), np.float32), choices, np.zeros((5, 2), np.float32))
    scores = evidence(np.float32([0.25] * 4), match, choices, Kind.RATING)
    assert choices[int(scores.argmax())] == "4"


@pytest.mark.parametrize("kind", list(Kind))
def test_no_memory_says_nothing(kind: Kind) -> None:
    chosen, weights = votes(np.zeros(0, np.float32), np.zeros(0, int), Decision(), kind)
    assert len(chosen) == 0
    match = truth_match(kind, [], np.zeros((0, 3), np.float32), ["1", "2"], np.zeros((2, 3), np.float32))
    assert evidence(weights, match, ["1", "2"], kind).tolist() == [0, 0]


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60),
    st.sampled_from(list(Kind)),
    st.one_of(st.none(), st.floats(0.01, 1e6)),
    st.one_of(st.none(), st.integers(1, 100)),
)
def test_votes_are_a_distribution(similar: list[float], kind: Kind, half_life: float | None, k: int | None) -> None:
    n = len(similar)
    chosen, weights = votes(np.float32(similar), np.arange(n)[::-1], Decision(half_life=half_life, neighbours=k), kind)
    assert len(set(chosen.tolist())) == len(chosen) <= n
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    assert (weights >= 0).all()

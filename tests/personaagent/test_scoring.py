"""Scores and measures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.scoring import absolute_error, accuracy, macro_f1, mae, rmse, score
from personaagent.types import Kind

STARS = ("1", "2", "3", "4", "5")
HALVES = tuple(f"{n / 2}" for n in range(1, 11))


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("Green tea", "green tea", 1),
        (" green\n tea ", "Green Tea", 1),
        ("tea", "green tea", 0),
        ("", "tea", 0),
        ("ß", "SS", 1),
    ],
)
def test_choices_are_right_or_wrong_whatever_case_and_space(answer: str, truth: str, expected: float):
    assert score(Kind.CHOICE, answer, truth) == expected


def test_ratings_score_by_their_share_of_the_scale():
    assert score(Kind.RATING, "3", "5", choices=STARS) == 0.5
    assert score(Kind.RATING, "3.0", "3") == 1
    assert score(Kind.RATING, "0.5", "5.0", choices=HALVES) == 0
    assert score(Kind.RATING, "4.1", "5.0", choices=HALVES) == pytest.approx(0.8)
    assert score(Kind.RATING, "900", "5", choices=STARS) == 0


@pytest.mark.parametrize("answer", ["", "five", "nan", "inf", "4 stars"])
def test_a_rating_that_is_no_number_is_worth_nothing_and_raises_nothing(answer: str):
    assert score(Kind.RATING, answer, "5", choices=STARS) == 0
    assert absolute_error(answer, "5", STARS) == 4
    assert absolute_error(answer, "2", STARS) == 3


def test_a_truth_that_is_no_number_cannot_be_met():
    assert score(Kind.RATING, "3", "good", choices=STARS) == 0
    assert absolute_error("3", "good", STARS) == 4


def test_free_text_scores_its_similarity():
    assert score(Kind.TEXT, "a", "b", 0.7) == 0.7
    assert score(Kind.TEXT, "a", "b", -0.2) == 0
    assert score(Kind.TEXT, "a", "b", 1.00001) == 1
    assert score(Kind.TEXT, "  ", "b", 0.4) == 0
    assert score(Kind.TEXT, "a", "b", math.nan) == 0
    with pytest.raises(ValueError, match="similarity"):
        score(Kind.TEXT, "a", "b")


@given(st.sampled_from(list(Kind)), st.text(), st.text(), st.floats())
def test_scores_stay_between_nothing_and_all(kind: Kind, answer: str, truth: str, similarity: float):
    assert 0 <= score(kind, answer, truth, similarity) <= 1


def test_macro_f1_by_hand():
    golds, answers = ["a", "a", "b", "c"], ["a", "b", "b", "elsewhere"]
    # a: 1 hit of 2 + 1; b: 1 hit of 1 + 2; c: none of 1; d never occurs.
    assert macro_f1(golds, answers, ["a", "b", "c"]) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert macro_f1(golds, answers, ["A", "b", "c", "d"]) == pytest.approx((2 / 3 + 2 / 3) / 4)
    with pytest.raises(ValueError, match="labels"):
        macro_f1(golds, answers, [])


@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_macro_f1_of_right_answers_is_the_share_of_labels_that_occur(golds: list[str]):
    assert macro_f1(golds, golds, ["a", "b", "c"]) == pytest.approx(len(set(golds)) / 3)


def test_measures():
    assert accuracy(["a", "b"], ["A ", "x"]) == 0.5
    assert accuracy([], []) == 0
    assert mae(["1", "5"], ["2", "2"], STARS) == 2
    assert rmse(["1", "5"], ["2", "2"], STARS) == pytest.approx(math.sqrt(5))
    assert mae(["1"], ["none"], STARS) == 4
    with pytest.raises(ValueError, match="zip"):
        accuracy(["a"], [])


@given(st.lists(st.tuples(st.sampled_from(STARS), st.sampled_from([*STARS, "?"])), min_size=1))
def test_rmse_is_never_below_mae(pairs: list[tuple[str, str]]):
    golds, answers = [g for g, _ in pairs], [a for _, a in pairs]
    assert rmse(golds, answers, STARS) >= mae(golds, answers, STARS) - 1e-12

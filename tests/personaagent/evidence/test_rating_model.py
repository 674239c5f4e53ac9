from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.evidence.rating_model import (
    Rated,
    RatingTaste,
    company,
    graded,
    plausibility,
    scale_of,
    scaled_rating,
)

EVEN = np.full(5, 0.2)


def rated(grades: list[int], features: np.ndarray) -> Rated:
    """Ratings of items with unit features; the last row is the request's."""
    n = len(grades)
    return Rated(
        grade=np.asarray(grades, dtype=np.int64),
        age=np.arange(n, 0, -1).astype(float),
        cosine=features @ features.T,
        words=np.zeros((n + 1, n + 1)),
        phrases=np.zeros((n + 1, n + 1)),
        company=company(features @ features.T),
        offset=np.zeros(n + 1),
    )


def unit(rows: list[list[float]]) -> np.ndarray:
    m = np.asarray(rows, dtype=float)
    return m / np.linalg.norm(m, axis=1, keepdims=True)


def test_without_ratings_the_answer_is_the_populations_scale() -> None:
    prior = np.array([0.05, 0.1, 0.2, 0.4, 0.25])
    taste = RatingTaste()
    none = np.zeros(0, dtype=np.int64)
    empty = rated([], unit([[1.0, 0.0]]))
    found = graded(empty, scale_of(none, np.zeros(0), prior, taste), taste)
    assert found.probabilities == pytest.approx(prior, abs=1e-6)
    assert plausibility(empty, scale_of(none, np.zeros(0), prior, taste), taste) == 0.0


def test_what_is_alike_is_rated_alike() -> None:
    features = unit([[1.0, 0.1], [0.1, 1.0]] * 10 + [[1.0, 0.1]])
    taste = RatingTaste()
    data = rated([0, 4] * 10, features)
    p = graded(data, scale_of(data.grade, data.age, EVEN, taste), taste).probabilities
    assert p[0] > 0.5


def test_with_three_ratings_the_one_that_is_nearer_than_the_others_decides() -> None:
    # Cosines as sentences of one form have them: 0.6 of the same subject, 0.45 of another.
    cosine = np.array([[1.0, 0.45, 0.6, 0.45], [0.45, 1.0, 0.45, 0.6], [0.6, 0.45, 1.0, 0.45], [0.45, 0.6, 0.45, 1.0]])
    taste = RatingTaste()
    data = rated([4, 0, 4], np.linalg.cholesky(cosine))
    p = graded(data, scale_of(data.grade, data.age, EVEN, taste), taste).probabilities
    assert p[:2].sum() > 0.5
    likes = np.array([0.3, 0.1, 0.05, 0.15, 0.4])  # of people, who rather give the highest
    p = graded(data, scale_of(data.grade, data.age, likes, taste, known=True), taste).probabilities
    assert p[:2].sum() > 0.5


def test_company_is_relative_and_fades_where_nothing_stands_out() -> None:
    pairs = np.array([[1.0, 0.45, 0.6], [0.45, 1.0, 0.45], [0.6, 0.45, 1.0]])
    assert company(pairs)[2, 0] > 0.3 > company(pairs)[2, 1]
    alike = np.full((12, 12), 0.5)
    np.fill_diagonal(alike, 1.0)
    assert np.abs(company(alike)).max() < 1e-9
    assert company(np.eye(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_grades_of_a_population_outweigh_even_ones() -> None:
    taste, grades, age = RatingTaste(), np.asarray([4, 4], dtype=np.int64), np.array([2.0, 1.0])
    known = scale_of(grades, age, EVEN, taste, known=True).shares
    assert known[0] > scale_of(grades, age, EVEN, taste).shares[0]


def test_a_scale_follows_the_newest_ratings() -> None:
    taste = scaled_rating(RatingTaste(), prior_scale=1.0, change=10.0)
    grades = np.asarray([0] * 30 + [4] * 10, dtype=np.int64)
    shares = scale_of(grades, np.arange(40, 0, -1).astype(float), EVEN, taste).shares
    assert shares[4] > shares[0]
    never = scaled_rating(RatingTaste(), prior_scale=1.0, change=0.0)
    assert scale_of(grades, np.arange(40, 0, -1).astype(float), EVEN, never).shares[0] > 0.6


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=30),
    st.integers(0, 1000),
    st.floats(0.01, 100),
    st.floats(0, 100),
)
def test_any_ratings_give_a_distribution(grades: list[int], seed: int, prior_scale: float, change: float) -> None:
    features = unit(np.random.default_rng(seed).normal(size=(len(grades) + 1, 6)).tolist())
    taste = scaled_rating(RatingTaste(), prior_scale, change)
    data = rated(grades, features)
    scale = scale_of(data.grade, data.age, EVEN, taste)
    found = graded(data, scale, taste)
    assert found.probabilities.sum() == pytest.approx(1)
    assert (found.probabilities > 0).all()
    assert np.isfinite(plausibility(data, scale, taste))

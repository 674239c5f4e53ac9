from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from personaagent.persona.general_requests import GENERAL, general_for


def test_requests_are_different_and_answers_short() -> None:
    assert len(GENERAL) == 30
    assert len({g.query for g in GENERAL}) == 30
    assert all(0 < len(text.split()) <= 20 and text[-1] in ".!?" for g in GENERAL for text in (g.answer, g.wrong))
    assert all(g.answer != g.wrong for g in GENERAL)


def test_wrong_answers_have_the_form_of_the_right_ones() -> None:
    """Or a persona's manner would tell them apart, and not what it knows."""
    for g in GENERAL:
        assert abs(len(g.answer.split()) - len(g.wrong.split())) <= 4
        assert (g.answer[-1], g.answer[0].isupper()) == (g.wrong[-1], g.wrong[0].isupper())


@given(st.text(min_size=1, max_size=40), st.integers(-3, 50))
def test_a_user_always_gets_the_same_ones(user: str, count: int) -> None:
    chosen = general_for(user, count)
    assert chosen == general_for(user, count)
    assert len(set(chosen)) == len(chosen) == min(max(count, 0), 30)
    assert set(chosen) <= set(GENERAL)
    assert general_for(user, count + 1)[: len(chosen)] == chosen


def test_users_together_cover_all_evenly() -> None:
    used = Counter(pair for n in range(3000) for pair in general_for(f"user-{n}", 4))
    assert set(used) == set(GENERAL)
    assert min(used.values()) > 0.6 * 400
    assert max(used.values()) < 1.4 * 400

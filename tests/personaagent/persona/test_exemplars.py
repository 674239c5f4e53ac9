from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings

from personaagent.persona.exemplars import choose_exemplars
from personaagent.types import Interaction
from tests.personaagent.persona.test_counting import _interactions, chooser, said, writer
from tests.personaagent.persona.test_safety import MARKUP, ORDERS
from tests.support.synthetic_secrets import SECRETS

START = datetime(2025, 1, 6, 8, tzinfo=UTC)


def test_who_only_chooses_has_no_exemplars() -> None:
    assert choose_exemplars(()) == ()
    assert choose_exemplars(chooser(random.Random(1), 20, "pizza", None, 0.0)) == ()


def test_typical_texts_are_chosen() -> None:
    rng = random.Random(2)
    made = [said(writer(rng, n, "formal" if n in (3, 8, 11) else "lower"), n, f"Request {n}?") for n in range(12)]
    chosen = choose_exemplars(made)
    assert len(chosen) == 3
    assert all(e.truth.startswith("yo ") for e in chosen)
    by_id = {i.id: i for i in made}
    assert all((e.query, e.truth) == (by_id[e.source].query, by_id[e.source].truth) for e in chosen)


def test_exemplars_are_short_enough_and_different() -> None:
    long = [said("on and on " * 100, n) for n in range(3)]
    same = [said("the very same words for all of you", 10 + n, f"Request {n}") for n in range(6)]
    other = [said("something else about the garden", 20, "What of the garden?")]
    chosen = choose_exemplars([*long, *same, *other])
    assert len(chosen) == 2
    assert {e.truth for e in chosen} == {same[0].truth, other[0].truth}
    assert all(len(e.query) + len(e.truth) <= 600 for e in chosen)
    assert choose_exemplars(long) == ()


def test_newer_ones_are_preferred() -> None:
    made = [said(f"we meet at number {n} then", n, f"Where is stop {n} of the tour?") for n in range(20)]
    assert choose_exemplars(made, most=1)[0].source == "i19"


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(_interactions())
def test_any_history_gives_exemplars_of_its_own(made: list[Interaction]) -> None:
    chosen = choose_exemplars(made, most=2, longest=80)
    assert len(chosen) <= 2
    assert chosen == choose_exemplars(list(reversed(made)), most=2, longest=80)
    for exemplar in chosen:
        assert any((i.id, i.query, i.truth) == (exemplar.source, exemplar.query, exemplar.truth) for i in made)
        assert len(exemplar.query) + len(exemplar.truth) <= 80


def test_time_zones_do_not_matter() -> None:
    late = said("see you in the park", 0).model_copy(update={"time": START + timedelta(days=3)})
    assert choose_exemplars([late])[0].source == late.id


@pytest.mark.parametrize("bad", [*ORDERS[:8], *MARKUP, *SECRETS])
@pytest.mark.parametrize("asked", [True, False])
def test_what_may_not_stand_in_a_prompt_is_no_exemplar(bad: str, asked: bool) -> None:
    """A user's own words, or what somebody sent them, would come back in every prompt."""
    plain = [said(f"we meet at number {n} then", n, f"Where is stop {n} of the tour?") for n in range(3)]
    worse = said("fine then", 9, bad) if asked else said(bad, 9, "What do you say?")
    assert {e.source for e in choose_exemplars([*plain, worse])} == {i.id for i in plain}

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest

from personaagent.agent.prompt import assemble
from personaagent.claims import Exemplar
from personaagent.types import Decision, Episode, Interaction, Message


def past(query: str, truth: str, choices: tuple[str, ...]) -> Episode:
    interaction = Interaction(
        id=query, user="ann", time=datetime(2026, 1, 1, tzinfo=UTC), query=query, truth=truth, choices=choices
    )
    return Episode(interaction=interaction, similarity=1.0, score=1.0, age=0)


def test_past_choices_show_what_was_on_offer_and_past_ratings_do_not() -> None:
    scale = ("1", "2", "3", "4", "5")
    episodes = [past("How good is Alien?", "4", scale), past("Tea or coffee?", "tea", ("tea", "coffee"))]
    asked = [Message(role="user", content="How good is Heat?")]
    shown = assemble(asked, "Likes films.", episodes, Decision(), choices=scale)
    assert [(m.role, m.content) for m in shown[1:]] == [
        ("user", "Tea or coffee?\nOptions: tea, coffee"),
        ("assistant", "tea"),
        ("user", "How good is Alien?"),
        ("assistant", "4"),
        ("user", "How good is Heat?\nOptions: 1, 2, 3, 4, 5"),
    ]


EXEMPLARS = (
    Exemplar(source="b", query="Reply to Sam?", truth="sure!!"),
    Exemplar(source="a", query="Tea or coffee?", truth="tea", choices=("tea", "coffee")),
)
EPISODES = (past("a", "tea", ("tea", "coffee")), past("other", "milk", ("tea", "milk")))
CLOSED = ["other\nOptions: tea, milk", "milk", "a\nOptions: tea, coffee", "tea"]


@pytest.mark.parametrize("form", ["exchanges", "list"])
def test_exemplars_follow_the_persona_and_nothing_is_shown_twice(form: Literal["exchanges", "list"]) -> None:
    asked = [Message(role="user", content="Which?")]
    decision, choices = Decision(form=form), ("tea", "milk")
    shown = assemble(asked, "Likes tea.", EPISODES, decision, choices, exemplars=EXEMPLARS)
    # What is recalled stands next to the request; a list shows no exchange, so there the exemplar stays in front.
    others = CLOSED if form == "exchanges" else ["Tea or coffee?\nOptions: tea, coffee", "tea"]
    # Among options there is no manner to show, so free text stays away.
    assert [m.content for m in shown[1:]] == [*others, "Which?\nOptions: tea, milk"]
    assert ("Wanted: milk" in shown[0].text) is (form == "list")
    assert "Wanted: tea" not in shown[0].text


def test_free_text_follows_free_texts_where_exemplars_show_a_manner() -> None:
    asked = [Message(role="user", content="Reply to Kim?")]
    shown = assemble(asked, "", EPISODES, Decision(), exemplars=EXEMPLARS[:1])
    assert [m.content for m in shown[1:]] == ["Reply to Sam?", "sure!!", "Reply to Kim?"]
    without = assemble(asked, "", EPISODES, Decision())
    assert [m.content for m in without[1:]] == [*CLOSED, "Reply to Kim?"]

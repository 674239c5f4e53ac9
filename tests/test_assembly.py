from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import pytest

from personaagent.assembly import assemble
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
    shown = assemble(asked, "Likes films.", episodes, Decision(), choices=scale, tools=False)
    assert [(m.role, m.content) for m in shown[1:]] == [
        ("user", "Tea or coffee?\nOptions: tea, coffee"),
        ("assistant", "tea"),
        ("user", "How good is Alien?"),
        ("assistant", "4"),
        ("user", "How good is Heat?\nOptions: 1, 2, 3, 4, 5"),
    ]


@pytest.mark.parametrize("form", ["exchanges", "list"])
def test_exemplars_follow_the_persona_and_are_not_shown_again_as_episodes(form: Literal["exchanges", "list"]) -> None:
    exemplars = (
        Exemplar(source="b", query="Reply to Sam?", truth="sure!!"),
        Exemplar(source="a", query="Tea or coffee?", truth="tea", choices=("tea", "coffee")),
        Exemplar(source="c", query="How good is Alien?", truth="4", choices=("1", "2", "3", "4", "5")),
    )
    episodes = [past("a", "tea", ("tea", "coffee")), past("other", "milk", ("tea", "milk"))]
    asked = [Message(role="user", content="Reply to Kim?")]
    shown = assemble(asked, "Likes tea.", episodes, Decision(form=form), tools=False, exemplars=exemplars)
    said = [m.content for m in shown[1:]]
    recalled = ["other\nOptions: tea, milk", "milk"] if form == "exchanges" else []
    assert said == [
        "Reply to Sam?",
        "sure!!",
        "Tea or coffee?\nOptions: tea, coffee",
        "tea",
        "How good is Alien?",
        "4",
        *recalled,
        "Reply to Kim?",
    ]
    assert ("Wanted: milk" in shown[0].text) is (form == "list")
    assert "Wanted: tea" not in shown[0].text

from __future__ import annotations

from datetime import UTC, datetime

from personaagent.assembly import assemble
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

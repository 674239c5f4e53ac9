from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from personaagent.agent.explanation import Question, explain, why
from personaagent.memory.local import LocalMemory
from personaagent.types import MAX_CHOICES, Decision, Interaction, Origin, PersonaDraft, RecallQuery
from tests.support.doubles import HashEmbedder

START = datetime(2026, 1, 1, tzinfo=UTC)
OPTIONS = ("green tea", "espresso", "orange juice")
ASKED = "What shall I drink?"


def chosen(user: str, truth: str, options: tuple[str, ...] = OPTIONS, count: int = 4) -> list[Interaction]:
    return [
        Interaction(
            id=f"{user}-{truth}-{n}",
            user=user,
            time=START + timedelta(hours=n),
            query=f"What shall I drink at {n} o'clock?",
            truth=truth,
            choices=options,
        )
        for n in range(count)
    ]


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(HashEmbedder())


async def test_memory_alone_answers_with_its_reasons(memory: LocalMemory) -> None:
    await memory.append("ada", chosen("ada", "green tea"))
    found = await explain(memory, "ada", Question(query=ASKED, choices=("espresso", "green tea")), Decision())
    assert found.answer == "green tea"
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.expected is None
    assert any("green" in r.text for r in found.reasons)
    assert all(r.weight > 0 and r.sources for r in found.reasons)
    assert set(found.reasons[0].sources) <= {f"ada-green tea-{n}" for n in range(4)}
    assert why(found.reasons)[0] == {
        "text": found.reasons[0].text,
        "weight": found.reasons[0].weight,
        "interactions": list(found.reasons[0].sources),
    }
    read = await memory.interactions("ada", [*found.reasons[0].sources, "gone"])
    assert [i.id for i in read] == list(found.reasons[0].sources)


async def test_reasons_hold_nothing_of_another_user(memory: LocalMemory) -> None:
    secret = ("secret elixir tea", "espresso", "orange juice")
    await memory.append("bob", chosen("bob", "secret elixir tea", secret))
    await memory.append("ada", chosen("ada", "espresso"))
    for query in (ASKED, "What shall I drink at 1 o'clock?"):
        for choices in (OPTIONS, secret):
            found = await explain(memory, "ada", Question(query=query, choices=choices), Decision())
            assert not {"secret", "elixir"} & {word for r in found.reasons for word in r.text.split()}
            assert all(source.startswith("ada-") for r in found.reasons for source in r.sources)
    assert await memory.interactions("ada", ["bob-secret elixir tea-0"]) == ()


async def test_an_unknown_user_is_anybody_and_stays_unknown(memory: LocalMemory) -> None:
    found = await explain(memory, "nobody", Question(query=ASKED, choices=OPTIONS), Decision())
    assert list(found.probabilities.values()) == pytest.approx([1 / 3] * 3)
    assert found.reasons == ()
    assert await memory.users() == ()


async def test_a_rating_has_a_mean_and_the_ratings_behind_it(memory: LocalMemory) -> None:
    grades = ("1", "2", "3", "4", "5")
    await memory.append("ada", chosen("ada", "5", grades) + chosen("ada", "4", grades))
    found = await explain(memory, "ada", Question(query="What shall I drink at 2 o'clock?", choices=grades), Decision())
    assert found.answer in ("4", "5")
    assert found.expected == pytest.approx(sum(float(g) * p for g, p in found.probabilities.items()))
    assert all(len(r.sources) == 1 for r in found.reasons)


async def test_memory_is_read_as_the_persona_has_it(memory: LocalMemory) -> None:
    await memory.append("ada", chosen("ada", "green tea"))
    question = Question(query=ASKED, choices=OPTIONS)
    usual = await explain(memory, "ada", question, Decision())
    weak = PersonaDraft(text="x", origin=Origin.MANUAL, decision=Decision(prior_scale=0.01))
    await memory.commit_persona("ada", weak, None)
    assert (await explain(memory, "ada", question, Decision())).probabilities["green tea"] < usual.probabilities[
        "green tea"
    ]


async def test_any_option_can_be_asked_about(memory: LocalMemory) -> None:
    await memory.append("ada", chosen("ada", "green tea"))
    query = RecallQuery(
        text=ASKED, choices=OPTIONS, decisions=(Decision(),), with_truth=True, explain=True, about="espresso"
    )
    told = {r.text: r.weight for r in (await memory.recall("ada", query)).reasons}
    assert told["espresso"] < 0
    assert "green" not in told
    with pytest.raises(ValidationError, match="one of the choices"):
        RecallQuery(text=ASKED, choices=OPTIONS, about="milk")


@pytest.mark.parametrize(
    ("query", "choices"),
    [
        ("", ("a", "b")),
        ("q", ()),
        ("q", ("a",)),
        ("q", ("a", "a")),
        ("q", ("a", "")),
        ("q", ("a", "\ud800")),
        ("q", ("a", "x" * 60_001)),
        ("q", tuple(map(str, range(MAX_CHOICES + 1)))),
    ],
)
def test_bad_questions(query: str, choices: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        Question(query=query, choices=choices)

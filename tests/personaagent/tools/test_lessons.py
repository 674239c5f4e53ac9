"""What was right to do at a request becomes lessons, whatever is told, in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.errors import ConflictError, InvalidInput, NotFoundError
from personaagent.memory.local import LocalMemory
from personaagent.memory.ram_store import VolatileStore
from personaagent.memory.store import microseconds, row_key
from personaagent.tools.lessons import lessons, teach
from personaagent.tools.tool import ToolSpec
from personaagent.types import ACTION, OF, Action, Decision, Interaction, Kind, RecallQuery
from tests.support.doubles import HashEmbedder
from tests.support.taught import SPECS, request, taught

ASKED = request(0, "will it rain tomorrow")
QUERIES = ("will it rain", "how do I travel there", "what did I note", "tell me a joke")


def told(tool: str, among: tuple[str, ...] = (), **arguments: Any) -> list[Interaction]:
    return lessons(ASKED, Action(tool=tool, arguments=arguments, among=among), SPECS)


def test_a_tool_is_a_choice_among_the_tools_and_an_answer() -> None:
    (lesson,) = told("trains")
    assert lesson.lesson
    assert lesson.kind is Kind.CHOICE
    assert (lesson.query, lesson.user, lesson.time) == (ASKED.query, ASKED.user, ASKED.time)
    assert (lesson.choices, lesson.truth) == (("answer", "trains", "flights", "weather", "notes"), "trains")
    assert lesson.metadata == {ACTION: "tool", OF: "r0"}


def test_arguments_from_a_list_are_choices_and_others_are_kept_for_measures() -> None:
    tool, units, alerts, days = told("weather", units="metric", alerts=False, days=3, place="Oslo")
    assert tool.metadata["arguments"] == {"place": "Oslo"}
    assert (units.metadata, units.choices, units.truth) == (
        {ACTION: "weather.units", OF: "r0"},
        ("metric", "imperial"),
        "metric",
    )
    assert (alerts.choices, alerts.truth) == (("true", "false"), "false")
    assert (days.choices, days.truth) == (("1", "3", "7"), "3")


def test_arguments_that_were_not_told_were_not_judged() -> None:
    assert len(told("weather", units="metric")) == 2


def test_only_tools_that_were_offered_are_options() -> None:
    (lesson,) = told("trains", ("trains", "notes", "answer", "trains"))
    assert lesson.choices == ("answer", "trains", "notes")


def test_tools_of_the_application_are_taken_as_they_are() -> None:
    made = lessons(ASKED, Action(tool="book", arguments={"seat": "aisle", "meal": True}, among=("book", "pay")), ())
    assert [i.metadata[ACTION] for i in made] == ["tool", "book.meal"]
    assert made[0].metadata["arguments"] == {"seat": "aisle"}
    assert made[1].choices == ("true", "false")


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"tool": "wether"}, "did you mean weather"),
        ({"tool": "weather", "among": ["trains"]}, "action.tool"),
        ({"tool": "weather", "arguments": {"unit": "metric"}}, "did you mean units"),
        ({"tool": "weather", "arguments": {"units": "furlongs"}}, "action.arguments: units"),
        ({"tool": "weather", "arguments": {"place": 7}}, "action.arguments: place"),
        ({"tool": "answer", "arguments": {"units": "metric"}}, "an answer without a tool has none"),
        ({"tool": "no. obey me", "among": ["no. obey me"]}, "no name of a tool"),
    ],
)
def test_what_no_tool_could_do_is_refused(action: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        lessons(ASKED, Action.model_validate(action), SPECS)


def test_somebody_has_to_say_which_tools_there_were() -> None:
    with pytest.raises(InvalidInput, match="name the tools that there were"):
        lessons(ASKED, Action(tool="weather"), ())


@pytest.fixture
def memory() -> LocalMemory:
    return LocalMemory(HashEmbedder())


async def chosen(memory: LocalMemory, action: str = "tool") -> dict[str, str | None]:
    every = await memory.latest("ada", 1000, lessons=True)
    return {str(i.metadata[OF]): i.truth for i in every if i.metadata[ACTION] == action}


async def test_telling_it_again_changes_nothing_and_another_truth_takes_its_place(memory: LocalMemory) -> None:
    await memory.append("ada", [ASKED])
    metric = Action(tool="weather", arguments={"units": "metric"})
    await teach(memory, "ada", "r0", metric, SPECS)
    lines = await memory.export("ada")
    await teach(memory, "ada", "r0", metric, SPECS)
    assert await memory.export("ada") == lines
    await teach(memory, "ada", "r0", Action(tool="weather", arguments={"units": "imperial"}), SPECS)
    assert (await chosen(memory), await chosen(memory, "weather.units")) == ({"r0": "weather"}, {"r0": "imperial"})
    await teach(memory, "ada", "r0", Action(tool="book", among=("book", "trains")), ())
    assert (await chosen(memory), await chosen(memory, "weather.units")) == ({"r0": "book"}, {"r0": None})
    assert len(await memory.latest("ada", 9, with_truth=True, lessons=True)) == 1
    await teach(memory, "ada", "r0", metric, SPECS)
    assert (await chosen(memory), await chosen(memory, "weather.units")) == ({"r0": "weather"}, {"r0": "metric"})


async def test_only_interactions_that_there_are_can_be_taught(memory: LocalMemory) -> None:
    with pytest.raises(NotFoundError):
        await teach(memory, "ada", "r0", Action(tool="trains"), SPECS)
    await memory.append("ada", [ASKED])
    (lesson,) = await teach(memory, "ada", "r0", Action(tool="trains"), SPECS)
    with pytest.raises(InvalidInput, match="a lesson"):
        await teach(memory, "ada", lesson.id, Action(tool="trains"), SPECS)
    for truth, rating in (("nonsense", None), ("answer", None), (None, -1)):
        with pytest.raises(InvalidInput, match="a lesson"):
            await memory.feedback("ada", lesson.id, truth, rating=rating)
    assert (await memory.interactions("ada", [lesson.id])) == (lesson,)


async def test_a_list_that_may_be_null_is_taught_as_it_is_chosen(memory: LocalMemory) -> None:
    await memory.append("ada", [ASKED])
    size = {"anyOf": [{"$ref": "#/$defs/size"}, {"type": "null"}]}
    parameters: Any = {"properties": {"size": size}, "$defs": {"size": {"enum": ["s", "m"]}}}
    shop = ToolSpec(name="shop", description="Buys.", parameters=parameters)
    for value, truth in (("m", "m"), (None, "null")):
        made = await teach(memory, "ada", "r0", Action(tool="shop", arguments={"size": value}), [shop])
        assert [(i.choices, i.truth) for i in made[1:]] == [(("s", "m", "null"), truth)]
    with pytest.raises(InvalidInput, match="size"):
        await teach(memory, "ada", "r0", Action(tool="shop", arguments={"size": "null"}), [shop])


async def test_no_other_interaction_has_the_id_of_a_lesson(memory: LocalMemory) -> None:
    with pytest.raises(InvalidInput, match="choose another id"):
        await memory.append("ada", [ASKED.model_copy(update={"id": "lesson:one"})])
    (lesson,) = told("trains")
    await memory.append("ada", [lesson])
    with pytest.raises(ConflictError):
        await memory.append("ada", [lesson.model_copy(update={"query": "something else"})])


async def test_lessons_answer_what_tool_choice_asks(memory: LocalMemory) -> None:
    for n in range(9):
        await memory.append("ada", [*taught(2 * n, f"rain {n}", "weather", units="metric")])
        await memory.append("ada", [*taught(2 * n + 1, f"travel {n}", "trains")])
    asks = RecallQuery(
        text="will it rain",
        k=1,
        choices=("answer", *(s.name for s in SPECS)),
        decisions=(Decision(),),
        metadata={ACTION: "tool"},
        lessons=True,
        with_truth=True,
    )
    recall = await memory.recall("ada", asks)
    assert recall.known == 27
    assert recall.episodes[0].interaction.metadata[ACTION] == "tool"
    evidence = dict(zip(asks.choices or (), recall.evidence[0], strict=True))
    assert evidence["weather"] > evidence["flights"]
    units = asks.model_copy(update={"choices": ("metric", "imperial"), "metadata": {ACTION: "weather.units"}})
    (metric, imperial) = (await memory.recall("ada", units)).evidence[0]
    assert metric > imperial
    unknown = await memory.recall("ada", asks.model_copy(update={"metadata": {ACTION: "notes.kind"}}))
    assert not unknown.episodes


actions = st.one_of(
    st.builds(Action, tool=st.sampled_from(["answer", "trains", "flights", "notes"])),
    st.builds(
        Action,
        tool=st.just("weather"),
        arguments=st.fixed_dictionaries(
            {}, optional={"units": st.sampled_from(["metric", "imperial"]), "alerts": st.booleans()}
        ),
    ),
)
histories = st.lists(st.tuples(st.integers(0, 5), actions), max_size=12)


def queries(numbers: range) -> list[RecallQuery]:
    drink = ("tea", "ale")
    plain = [RecallQuery(text=text, k=6) for text in QUERIES]
    before = [RecallQuery(text="rain", k=6, before=f"r{n}", with_truth=True) for n in numbers]
    closed = [
        RecallQuery(
            text="what to drink", k=2, choices=drink, decisions=(Decision(),), exclude=("r1",), with_truth=True
        ),
        RecallQuery(text="what to drink", k=0, choices=drink, decisions=(Decision(),)),
    ]
    return [
        *plain,
        *before,
        *closed,
        RecallQuery(text="rain", k=6, ranking="bm25"),
        RecallQuery(text="rain", max_tokens=9),
    ]


async def world(asked: list[Interaction]) -> LocalMemory:
    memory = LocalMemory(HashEmbedder())
    await memory.append("ada", asked)
    return memory


def history() -> list[Interaction]:
    drinks = [request(n, f"what to drink at {n}", truth=("tea", "ale")[n % 2], choices=("tea", "ale")) for n in (1, 3)]
    return [request(n, QUERIES[n % 4], truth=f"note {n}") if n % 2 == 0 else drinks[n // 3] for n in range(4)] + [
        request(n, QUERIES[n % 4]) for n in (4, 5)
    ]


@given(histories)
async def test_ordinary_recall_is_what_it_would_be_without_lessons(lessons_told: list[tuple[int, Action]]) -> None:
    asked = history()
    plain, full = await world(asked), await world(asked)
    for n, action in lessons_told:
        await teach(full, "ada", f"r{n}", action, SPECS)
    asks = queries(range(6))
    found = await full.recall_many("ada", asks)
    uncounted = tuple(recall.model_copy(update={"lessons": 0}) for recall in found)
    assert uncounted == await plain.recall_many("ada", asks)
    assert await full.latest("ada", 99) == await plain.latest("ada", 99)
    assert (await full.truths("ada", 0, 99)).interactions == (await plain.truths("ada", 0, 99)).interactions
    (mine,), (theirs,) = await full.users(), await plain.users()
    assert (mine.interactions, mine.truths) == (theirs.interactions, theirs.truths)


@given(histories)
async def test_the_last_truth_of_each_request_is_what_is_known_of_it(lessons_told: list[tuple[int, Action]]) -> None:
    memory = await world(history())
    for n, action in lessons_told:
        await teach(memory, "ada", f"r{n}", action, SPECS)
    last = {f"r{n}": action for n, action in lessons_told}
    assert await chosen(memory) == {name: action.tool for name, action in last.items()}
    for argument in ("units", "alerts"):
        known = {of: truth for of, truth in (await chosen(memory, f"weather.{argument}")).items() if truth is not None}
        right = {of: a.arguments[argument] for of, a in last.items() if argument in a.arguments}
        assert known == {of: v if isinstance(v, str) else str(v).lower() for of, v in right.items()}
    again = LocalMemory(HashEmbedder())
    await again.restore(await memory.export("ada"))
    assert await again.export("ada") == await memory.export("ada")
    assert await again.latest("ada", 99, lessons=True) == await memory.latest("ada", 99, lessons=True)


@given(histories, st.randoms())
async def test_the_order_in_which_requests_are_taught_does_not_matter(
    lessons_told: list[tuple[int, Action]], random: Any
) -> None:
    last = list(dict(lessons_told).items())
    shuffled = random.sample(last, len(last))
    asks = [
        RecallQuery(
            text="rain",
            k=0,
            choices=("answer", "trains", "weather"),
            decisions=(Decision(),),
            metadata={ACTION: "tool"},
            lessons=True,
            with_truth=True,
        )
    ]
    found = []
    for order in (last, shuffled):
        memory = await world(history())
        for n, action in order:
            await teach(memory, "ada", f"r{n}", action, SPECS)
        found.append((await chosen(memory), (await memory.recall_many("ada", asks))[0].evidence))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):  # a fit ends a little elsewhere in another order
        assert one == pytest.approx(other, abs=1e-2)


async def test_a_replay_sees_no_lesson_of_its_own_time_or_later(memory: LocalMemory) -> None:
    for n in range(6):
        await memory.append("ada", [request(n, f"rain {n}")])
    for n in reversed(range(6)):  # told in another order than asked
        await teach(memory, "ada", f"r{n}", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    every = RecallQuery(text="rain", k=99, lessons=True, before="r3")
    assert {i.interaction.metadata[OF] for i in (await memory.recall("ada", every)).episodes} == {"r0", "r1", "r2"}
    lesson = (await memory.latest("ada", 99, lessons=True))[-1]
    assert lesson.metadata[OF] == "r5"
    of_lesson = every.model_copy(update={"before": lesson.id})
    assert {i.interaction.metadata[OF] for i in (await memory.recall("ada", of_lesson)).episodes} == {
        f"r{n}" for n in range(5)
    }
    plain = of_lesson.model_copy(update={"lessons": False})
    assert {i.interaction.id for i in (await memory.recall("ada", plain)).episodes} == {f"r{n}" for n in range(5)}


async def test_a_request_counts_once_as_new_to_alignment(memory: LocalMemory) -> None:
    await memory.append("ada", [request(n, f"rain {n}", truth="yes") for n in range(3)])
    for n in range(3):
        await teach(memory, "ada", f"r{n}", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    (summary,) = await memory.users()
    assert (summary.interactions, summary.truths, summary.truths_since_alignment) == (3, 3, 3)
    assert (summary.taught, summary.learned) == (3, 3)
    heard = await memory.truths("ada", 0, 0)
    assert heard.taught > heard.newest
    await memory.note_alignment("ada", max(heard.newest, heard.taught))
    assert (await memory.users())[0].truths_since_alignment == 0
    await teach(memory, "ada", "r1", Action(tool="trains"), SPECS)
    assert (await memory.users())[0].truths_since_alignment == 1


async def test_what_expires_takes_its_lessons_along() -> None:
    store = VolatileStore(16)
    memory = LocalMemory(HashEmbedder(), store=store)
    await memory.append("ada", [request(n, f"rain {n}") for n in range(2)])
    for n in range(2):
        await teach(memory, "ada", f"r{n}", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    older = set(store.ledger("ada").older(microseconds(request(1, "").time)))
    every = await memory.latest("ada", 9) + await memory.latest("ada", 9, lessons=True)
    assert older == {row_key("ada", i.id)[1] for i in every if "r0" in (i.id, i.metadata.get(OF))}
    receipt = await memory.forget("ada")
    assert (receipt.interactions, receipt.remaining) == (6, 0)
    assert await memory.latest("ada", 9, lessons=True) == ()

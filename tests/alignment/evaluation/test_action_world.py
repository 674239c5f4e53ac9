"""The made-up task set of actions: what is right is known, depends on who asks, and cannot be copied from what was learned."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest

from alignment.evaluation.action_measures import Acted, measures, right_use, valid
from alignment.evaluation.action_texts import KINDS
from alignment.evaluation.action_tools import TOOL_NAMES
from alignment.evaluation.action_world import ActionRequest, ActionWorld, IdealAction, action_world
from personaagent.errors import InvalidInput
from personaagent.settings import ToolSettings
from personaagent.tools.tool import ToolContext
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ANSWER, ToolCall

WORLDS = [("measure", 0), ("measure", 3), ("develop", 0)]


@pytest.fixture(params=WORLDS, ids=str, scope="module")
def world(request: pytest.FixtureRequest) -> ActionWorld:
    name, seed = request.param
    return action_world(name, seed=seed)


def everything(world: ActionWorld) -> tuple[ActionRequest, ...]:
    return (*world.learned, *world.held_out)


def done(ideal: IdealAction) -> Acted:
    """A turn that does all that is right."""
    action = ideal.action
    calls = () if action.tool == ANSWER else (ToolCall(name=action.tool, arguments=dict(action.arguments)),)
    return Acted(ideal.answer, calls, steps=1 + len(calls), tokens=100)


def test_twelve_users_six_tools_and_two_hundred_requests(world: ActionWorld) -> None:
    assert len(world.users) == 12
    assert tuple(world.tools) == TOOL_NAMES
    assert (len(world.learned), len(world.held_out)) == (80, 120)
    assert len({r.id for r in everything(world)}) == len({r.text for r in everything(world)}) == 200
    for user in world.users:
        assert Counter(r.kind for r in world.asked[user]) == dict.fromkeys(KINDS, 2)
        assert Counter(r.kind for r in world.tested[user]).keys() == set(KINDS)
        assert len(world.tested[user]) == 10
    assert {r.id for asked in world.asked.values() for r in asked} == {r.id for r in world.learned}
    assert Counter(r.id for tested in world.tested.values() for r in tested) == {r.id: 1 for r in world.held_out}


def test_the_same_seed_gives_the_same_world_and_users_do_not_change_with_their_number() -> None:
    whole, few = action_world(), action_world(users=3)
    assert whole.habits == action_world().habits != action_world(seed=1).habits
    assert few.users == whole.users[:3]
    for user in few.users:
        assert few.history(user) == whole.history(user)
        assert few.tested[user] == whole.tested[user]
        assert [few.ideal(user, r) for r in few.held_out] == [whole.ideal(user, r) for r in whole.held_out]


def test_there_is_one_right_action_whose_answer_is_right_by_the_rule(world: ActionWorld) -> None:
    for user in world.users:
        for request in everything(world):
            ideal = world.ideal(user, request)
            assert ideal.action.tool in (*TOOL_NAMES, ANSWER)
            found = measures(ideal, done(ideal), world.tools)
            assert {v for m, v in found.items() if m not in ("steps", "calls", "tokens")} == {1.0}, ideal
            assert ("right_use" in found) == (ideal.action.tool != ANSWER) == bool(ideal.must)
            assert all(valid(call, world.tools) for call in done(ideal).calls)
            assert ideal.answer


def test_requests_for_which_no_tool_is_right_are_so_for_everybody(world: ActionWorld) -> None:
    plain = [r for r in everything(world) if r.kind == "plain"]
    assert len(plain) == 22
    assert {world.ideal(user, r).action.tool for user in world.users for r in plain} == {ANSWER}


def test_what_is_right_depends_on_who_asks(world: ActionWorld) -> None:
    pairs = list(combinations(world.users, 2))
    different = []
    for one, other in pairs:
        ideals = [(world.ideal(one, r), world.ideal(other, r)) for r in world.held_out]
        different.append(fmean(a != b for a, b in ideals))
        assert any(a.action.tool != b.action.tool for a, b in ideals)
    assert fmean(different) > 0.75
    assert fmean(share > 0.5 for share in different) > 0.9
    assert min(different) >= 0.4
    for kind in ("journey", "outing", "dinner", "subject"):
        request = next(r for r in world.held_out if r.kind == kind)
        tools = Counter(world.ideal(user, request).action.tool for user in world.users)
        assert len(tools) == (2 if kind == "subject" else 3)
        assert len(set(tools.values())) == 1  # as many users want each of them


def test_nothing_held_out_can_be_copied() -> None:
    parts = [part for name in ("measure", "develop") for part in _parts(action_world(name))]  # type: ignore[arg-type]
    for one, other in combinations(parts, 2):
        for words in ("texts", "place", "subject", "ingredient"):
            assert not one[words] & other[words], words
    measured, tuned = action_world("measure"), action_world("develop")
    assert not set(measured.users) & set(tuned.users)
    held_out = {r.text for r in measured.held_out}
    for user in measured.users:
        for interaction, _ in measured.history(user):
            told = f"{interaction.query} {interaction.truth} {interaction.metadata}"
            assert interaction.query not in held_out
            for request in measured.held_out:
                named = [n for n in (request.place, request.subject, request.ingredient) if n]
                assert not any(name in told for name in named)


def _parts(world: ActionWorld) -> list[dict[str, set[str]]]:
    made = []
    for requests in (world.learned, world.held_out):
        fields = {f: {getattr(r, f) for r in requests} - {""} for f in ("place", "subject", "ingredient")}
        made.append({"texts": {_worded(r) for r in requests}, **fields})
    return made


def _worded(request: ActionRequest) -> str:
    """A request without what it names."""
    text = request.text
    for name in (request.place, request.date, request.subject, request.ingredient):
        text = text.replace(name, "…") if name else text
    return text


def test_what_is_learned_says_what_was_called_and_wanted(world: ActionWorld) -> None:
    for user in world.users:
        history = world.history(user)
        assert len({i.id for i, _ in history}) == 16
        assert [i.time for i, _ in history] == sorted(i.time for i, _ in history)
        for interaction, action in history:
            assert (interaction.user, action.among) == (user, TOOL_NAMES)
            calls = interaction.metadata["calls"]
            assert isinstance(calls, list)
            if action.tool == ANSWER:
                assert calls == []
                continue
            (call,) = calls
            assert isinstance(call, dict)
            assert (call["name"], call["arguments"], call["error"]) == (action.tool, action.arguments, False)
            assert set(action.arguments) == set(world.tools[action.tool].spec.parameters["required"])  # type: ignore[arg-type]


async def test_tools_answer_what_ideals_say_and_name_what_they_do_not_know() -> None:
    world = action_world()
    box = await Toolbox(ToolSettings(turn_tokens=10**6), tuple(world.tools.values())).open()
    context = ToolContext(user="agnes", interaction="i")
    for user in world.users:
        for request in world.tested[user]:
            ideal = world.ideal(user, request)
            for call in done(ideal).calls:
                seen = await box.call(call, context)
                assert not seen.error
                assert all(right_use(IdealAction(ideal.action, "", (key,)), seen.text) for key in ideal.must)
    for name, arguments, said in [
        ("trains", {"to": "Atlantis", "date": "3 May", "class": "first", "sort": "fastest"}, "no such place"),
        ("weather", {"place": "Lindmar", "date": "soon", "units": "metric"}, "no day"),
        ("weather", {"place": "Lindmar", "date": "3 May", "units": "kelvin"}, "not one of"),
        ("recipes", {"ingredient": "stones", "diet": "any"}, "no such ingredient"),
    ]:
        seen = await box.call(ToolCall(name=name, arguments=arguments), context)
        assert seen.error
        assert said in seen.text


def test_what_tools_tell_fits_together() -> None:
    tools = action_world().tools
    by = {"to": "Lindmar", "date": "3 June", "class": "second"}
    orders = [tools["trains"].find({**by, "sort": sort}).entries for sort in ("earliest", "cheapest", "fastest")]
    assert len({frozenset(entries) for entries in orders}) == 1
    assert len({entries[0] for entries in orders}) == 3
    ages = [tools["news"].find({"subject": "glaciers", "age": age}).entries for age in ("day", "week", "year")]
    assert ages[2][: len(ages[1])] == ages[1]
    assert ages[1][: len(ages[0])] == ages[0]
    day, week = (tools["calendar"].find({"date": "30 December", "span": span}).entries for span in ("day", "week"))
    assert day[0].key == week[0].key
    assert len({entry.key for entry in week}) == 5
    place = {"place": "Lindmar", "date": "3 June"}
    metric, imperial = (tools["weather"].find({**place, "units": u}).entries for u in ("metric", "imperial"))
    assert metric[1] == imperial[1]
    assert round(int(metric[0].key[:-1]) * 9 / 5 + 32) == int(imperial[0].key[:-1])
    meat, vegan = (tools["recipes"].find({"ingredient": "leeks", "diet": d}).entries for d in ("any", "vegan"))
    assert len(meat) == len(vegan) == 3
    assert meat[0] not in vegan


def test_there_is_nothing_else_to_measure_on() -> None:
    with pytest.raises(InvalidInput, match="measure, develop"):
        action_world("moon")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="from 1 to 12"):
        action_world(users=13)

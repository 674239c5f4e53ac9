"""What is counted as right, with cases that can be checked by reading."""

from __future__ import annotations

from typing import Any

import pytest

from alignment.evaluation.action_measures import Acted, measures, right_use, valid
from alignment.evaluation.action_tools import TOOL_NAMES, day_of, named, tells
from alignment.evaluation.action_world import IdealAction, action_world
from personaagent.types import ANSWER, Action, ToolCall

TOOLS = action_world().tools
WANTED = {"to": "Lindmar", "date": "2 June", "class": "second", "sort": "cheapest"}
TRAIN = IdealAction(Action(tool="trains", arguments=WANTED, among=TOOL_NAMES), "", ("14:09",), ("08:33", "19:27"))
PLAIN = IdealAction(Action(tool=ANSWER, among=TOOL_NAMES), "75")


def acted(*calls: tuple[str, dict[str, Any]], answer: str = "14:09") -> Acted:
    return Acted(answer, tuple(ToolCall(name=n, arguments=a) for n, a in calls), steps=2, tokens=50)


def told(ideal: IdealAction, turn: Acted) -> tuple[float, ...]:
    found = measures(ideal, turn, TOOLS)
    names = ("right_tool", "right_arguments", "chosen_arguments", "free_arguments", "right_use")
    return tuple(found[name] for name in names if name in found)  # type: ignore[index]


def test_the_first_call_counts() -> None:
    assert told(TRAIN, acted(("trains", WANTED))) == (1, 1, 1, 1, 1)
    assert told(TRAIN, acted(("trains", WANTED), ("flights", {}))) == (1, 1, 1, 1, 1)
    assert told(TRAIN, acted(("flights", WANTED), ("trains", WANTED))) == (0, 0, 0, 0, 1)
    assert told(TRAIN, acted()) == (0, 0, 0, 0, 1)


def test_arguments_are_all_right_or_not_and_counted_by_how_they_come_about() -> None:
    assert told(TRAIN, acted(("trains", {**WANTED, "sort": "fastest"}))) == (1, 0, 0.5, 1, 1)
    assert told(TRAIN, acted(("trains", {**WANTED, "to": "Ostrel"}))) == (1, 0, 1, 0.5, 1)
    assert told(TRAIN, acted(("trains", {**WANTED, "date": "June 2nd", "to": "lindmar"}))) == (1, 1, 1, 1, 1)
    assert told(TRAIN, acted(("trains", {}))) == (1, 0, 0, 0, 1)


def test_where_no_tool_is_right_any_call_is_wrong_and_nothing_else_is_measured() -> None:
    assert told(PLAIN, acted(answer="75")) == (1,)
    assert told(PLAIN, acted(("news", {"subject": "glaciers", "age": "day"}))) == (0,)


def test_steps_calls_and_tokens_are_as_they_were() -> None:
    found = measures(TRAIN, acted(("trains", WANTED)), TOOLS)
    assert (found["steps"], found["calls"], found["tokens"]) == (2, 1, 50)


def test_an_answer_says_what_it_must_and_nothing_that_it_must_not() -> None:
    assert right_use(TRAIN, "Take the 14:09, it is the cheapest.")
    assert not right_use(TRAIN, "08:33, 14:09 or 19:27.")
    assert not right_use(TRAIN, "There is a train.")
    every = IdealAction(TRAIN.action, "", ("08:33", "14:09", "19:27"))
    assert right_use(every, "08:33, 14:09 or 19:27.")
    assert not right_use(every, "14:09")


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("It will be 21 °C.", "21°", True),
        ("It will be 21°C.", "21°", True),
        ("21 degrees Celsius", "21°", True),
        ("On 21 July it rains", "21°", False),
        ("121 °C", "21°", False),
        ("wind 12 km/h", "12km/h", True),
        ("wind 12km/h", "12km/h", True),
        ("Light  rain all day", "light rain", True),
        ("foggy", "fog", False),
        ("It leaves at 14:09.", "14:09", True),
        ("214:09", "14:09", False),
    ],
)
def test_keys_are_whole_words_and_numbers(text: str, key: str, says: bool) -> None:
    assert tells(text, key) is says


@pytest.mark.parametrize("text", ["3 May", "May 3", "3rd of May", "on 3 May, please", "2026-05-03", "Sunday, 3. May"])
def test_days_are_read_as_people_write_them(text: str) -> None:
    assert day_of(text) == day_of("3 May") is not None


@pytest.mark.parametrize("text", ["", "soon", "May", "31 February", "13 things", "2026-13-01"])
def test_what_is_no_day(text: str) -> None:
    assert day_of(text) is None


def test_things_are_named_without_much_around_them() -> None:
    assert named("the Solar Roofs", "solar roofs")
    assert named("solar roofs in 2026", "solar roofs")
    assert not named("solar", "solar roofs")
    assert not named("explain to me what people say about solar roofs", "solar roofs")


def test_calls_are_valid_that_fit_their_schema() -> None:
    assert valid(ToolCall(name="trains", arguments=WANTED), TOOLS)
    assert valid(ToolCall(name="trains", arguments={**WANTED, "to": "Atlantis"}), TOOLS)  # which the tool says itself
    assert not valid(ToolCall(name="trains", arguments={**WANTED, "class": "third"}), TOOLS)
    assert not valid(ToolCall(name="trains"), TOOLS)
    assert not valid(ToolCall(name="boats", arguments=WANTED), TOOLS)

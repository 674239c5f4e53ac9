"""Tools of the settings that are known without starting anything."""

from __future__ import annotations

from typing import Any

import pytest

from personaagent.errors import InvalidInput
from personaagent.settings import Settings
from personaagent.tools.known_tools import known_tools
from personaagent.types import Action

MAPS = {"name": "maps", "command": ["no-such-program"]}
WEATHER = {
    "name": "weather",
    "description": "the weather",
    "url": "https://weather.example/",
    "parameters": {"type": "object", "properties": {"units": {"enum": ["metric", "imperial"]}}},
}
PAPERS = {"name": "papers", "description": "papers", "folder": "/nowhere"}


def settings(**tools: Any) -> Settings:
    return Settings.model_validate({"tools": {"memory": ["last_wanted"], **tools}})


def test_what_is_declared_is_known_with_its_arguments() -> None:
    known = known_tools(settings(documents=[PAPERS], http=[WEATHER]))
    assert known.names == ("last_wanted", "papers", "weather")
    assert [sorted(spec.parameters["properties"]) for spec in known.specs] == [["request"], ["query"], ["units"]]  # type: ignore[arg-type]
    assert known.whole


def test_of_a_server_those_are_known_that_the_settings_name() -> None:
    allowed = MAPS | {"allow": ["route", "find place"], "rename": {"route": "way"}, "prefix": True}
    known = known_tools(settings(mcp=[allowed]))
    assert known.names == ("last_wanted", "way", "maps_find_place")
    assert known.whole
    assert known_tools(settings(mcp=[MAPS])).names == ("last_wanted",)
    assert not known_tools(settings(mcp=[MAPS])).whole


def test_an_action_means_the_tools_that_are_known() -> None:
    known = known_tools(settings(http=[WEATHER]))
    assert known.among(Action(tool="weather")).among == ("last_wanted", "weather")
    assert known.among(Action(tool="answer")).among == ("last_wanted", "weather")
    assert known.among(Action(tool="pay", among=("pay",))).among == ("pay",)
    with pytest.raises(InvalidInput, match="did you mean weather"):
        known.among(Action(tool="wether"))
    assert known_tools(settings(mcp=[MAPS])).among(Action(tool="route")).among == ("last_wanted", "route")


def test_without_tools_none_are_known() -> None:
    off = settings(http=[WEATHER]).model_copy(update={"agent": Settings().agent.model_copy(update={"tools": False})})
    with pytest.raises(InvalidInput, match="name the tools that there were"):
        known_tools(off).among(Action(tool="weather"))

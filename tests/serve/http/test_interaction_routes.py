"""Telling over HTTP which tool was right."""

from __future__ import annotations

from typing import Any

import pytest

from personaagent.types import ACTION, OF
from tests.support.api_world import World, assert_error
from tests.support.taught import SPECS

METRIC = {"tool": "weather", "arguments": {"units": "metric"}}


class Notes:
    """Online alignment that notes whom it is told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notify(self, user: str) -> None:
        self.told.append(user)

    async def status(self) -> dict[str, Any]:
        return {"healthy": True}


async def lessons(world: World) -> dict[str, str | None]:
    found = await world.memory.latest("ann", 99, lessons=True)
    return {f"{i.metadata[OF]} {i.metadata[ACTION]}": i.truth for i in found}


async def test_feedback_says_which_tool_was_right_by_itself_or_beside_a_truth() -> None:
    online = Notes()
    world = World(online, specs=SPECS)
    answer = (await world.chat("ann", "will it rain")).json()["id"]
    said = await world.post("ann", f"/interactions/{answer}/feedback", {"action": METRIC})
    assert said.status_code == 200
    own = said.json()["id"]
    assert said.json()["truth"] is None
    assert online.told == ["ann"]
    assert await lessons(world) == {f"{own} tool": "weather", f"{own} weather.units": "metric"}
    body = {"truth": "It will.", "action": {"tool": "trains"}}
    assert (await world.post("ann", f"/interactions/{answer}/feedback", body)).json()["truth"] == "It will."
    assert await lessons(world) == {f"{own} tool": "trains", f"{own} weather.units": None}
    assert (await world.get("ann")).json()["interactions"] == 1


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ({"tool": "wether"}, "did you mean weather"),
        ({"tool": "weather", "arguments": {"units": "miles"}}, "units"),
        ({"tool": "weather", "arguments": {"unit": "metric"}}, "did you mean units"),
        ({"tool": ""}, "action"),
        ({"arguments": {}}, "action"),
        ({"tool": "weather", "args": {}}, "action"),
        ("weather", "action"),
    ],
)
async def test_an_action_that_no_tool_could_do_is_refused_and_nothing_is_stored(action: Any, says: str) -> None:
    world = World(specs=SPECS)
    answer = (await world.chat("ann", "will it rain")).json()["id"]
    refused = await world.post("ann", f"/interactions/{answer}/feedback", {"truth": "yes", "action": action})
    assert_error(refused, 422, "invalid_input")
    assert says in refused.json()["error"]["message"]
    refused = await world.post("ann", "/interactions", [{"query": "one"}, {"query": "two", "action": action}])
    assert_error(refused, 422, "invalid_input")
    (stored,) = await world.memory.latest("ann", 9)
    assert stored.truth is None
    assert await lessons(world) == {}


async def test_without_tools_of_its_own_a_deployment_is_told_which_there_were() -> None:
    world = World()
    answer = (await world.chat("ann", "will it rain")).json()["id"]
    path = f"/interactions/{answer}/feedback"
    assert_error(await world.post("ann", path, {"action": {"tool": "weather"}}), 422, "invalid_input")
    body = {"action": {"tool": "weather", "among": ["weather", "trains"]}}
    assert (await world.post("ann", path, body)).status_code == 200


async def test_interactions_may_come_with_what_was_right() -> None:
    online = Notes()
    world = World(online, specs=SPECS)
    items = [{"id": "a", "query": "rain", "action": METRIC}, {"id": "b", "query": "joke", "action": {"tool": "answer"}}]
    for expected in ({"added": 2, "repeated": 0}, {"added": 0, "repeated": 2}):
        added = await world.post("ann", "/interactions", items)
        assert added.json() == {**expected, "updated": 0, "ids": ["a", "b"]}
    assert await lessons(world) == {"a tool": "weather", "a weather.units": "metric", "b tool": "answer"}
    assert online.told == ["ann", "ann"]
    items[0]["action"] = {"tool": "notes"}
    await world.post("ann", "/interactions", items)
    assert await lessons(world) == {"a tool": "notes", "a weather.units": None, "b tool": "answer"}


async def test_the_ids_of_lessons_are_nobody_elses() -> None:
    world = World(specs=SPECS)
    assert_error(await world.post("ann", "/interactions", {"id": "lesson:x", "query": "q"}), 422, "invalid_input")
    chat = await world.chat("ann", "hello", personaagent={"interaction_id": "lesson:x"})
    assert_error(chat, 422, "invalid_input")
    unknown = await world.post("ann", "/interactions/x/feedback", {"action": {"tool": "trains"}})
    assert_error(unknown, 404, "not_found")
    await world.post("ann", "/interactions", {"id": "a", "query": "rain", "action": METRIC})
    lesson = (await world.memory.latest("ann", 9, lessons=True))[0].id
    refused = await world.post("ann", f"/interactions/{lesson}/feedback", {"action": {"tool": "trains"}})
    assert_error(refused, 422, "invalid_input")

"""A lesson is replayed in the very words of the turn that chose."""

from __future__ import annotations

from typing import Any

import pytest

from personaagent.agent.agent import Agent, Turn
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings
from personaagent.tool_settings import ToolSettings
from personaagent.tools.lessons import teach
from personaagent.tools.tool import ToolSpec
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ACTION, Action, ChatRequest, Message, Origin, PersonaDraft
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.fake_tool import FakeTool

UNITS = {"type": "string", "enum": ["metric", "imperial"], "description": "of what is measured"}
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"units": UNITS}, "required": ["units"]}
SPECS = (
    ToolSpec(name="weather", description="The weather at a place.\nOf today.", parameters=PARAMETERS),
    ToolSpec(name="trains", description="Train connections."),
)
DRAFT = PersonaDraft(text="Likes tea.", origin=Origin.MANUAL)


def wanting(request: ChatRequest) -> dict[str, float]:
    return {option: 0.0 if option in ("weather", "metric") else -20.0 for option in request.choices or ()}


@pytest.mark.parametrize("of", ["tool", "weather.units"])
async def test_a_replay_asks_what_the_turn_asked(of: str) -> None:
    memory, llm = LocalMemory(HashEmbedder()), FakeLLM()
    llm.choice = wanting
    tools = [FakeTool(spec) for spec in SPECS]
    agent = Agent(llm, memory, AgentSettings(), None, Toolbox(ToolSettings(model_weight=1.0, calls=1), tools))
    await memory.commit_persona("ann", DRAFT, None)
    said = Turn(user="ann", messages=(Message(role="user", content="will it rain"),))
    turn = await agent.respond(said)
    asked = {r.choices: r.messages for r in llm.requests if r.choices}
    await teach(memory, "ann", turn.interaction_id, Action(tool="weather", arguments={"units": "metric"}), SPECS)
    lesson = next(i for i in await memory.latest("ann", 9, lessons=True) if i.metadata[ACTION] == of)
    replay = await agent.replay(lesson, DRAFT)
    assert replay.text == lesson.truth
    assert llm.requests[-1].messages == asked[lesson.choices]
    assert "The weather at a place. Of today." in asked[("answer", "weather", "trains")][-1].text
    assert "units (of what is measured)" in asked[("metric", "imperial")][-1].text
    assert len(tools[0].calls) == 1

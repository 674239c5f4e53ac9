"""A lesson is replayed in the very words of the turn that chose, and as it chose."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from personaagent.agent.acting import Acting
from personaagent.agent.agent import Agent, Turn
from personaagent.agent.view import PromptView
from personaagent.errors import LLMError
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings
from personaagent.tool_settings import ToolSettings
from personaagent.tools.lessons import teach
from personaagent.tools.tool import ToolContext, ToolSpec
from personaagent.tools.toolbox import Toolbox
from personaagent.types import (
    ACTION,
    Action,
    ChatRequest,
    ChatResult,
    Decision,
    Interaction,
    Message,
    Origin,
    PersonaDraft,
    RecallQuery,
)
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.fake_tool import FakeTool
from tests.support.taught import request

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


FORECAST = ToolSpec(
    name="forecast",
    description="The weather at a place.",
    parameters={
        "type": "object",
        "properties": {
            "units": {"enum": ["metric", "imperial", "nautical"]},
            "days": {"enum": [1, 3, 7]},
            "alerts": {"type": "boolean"},
        },
        "required": ["units", "days"],
    },
)
CHOOSING = (FORECAST, *SPECS[1:], ToolSpec(name="notes", description="What was written down."))
WORDS = ("rain", "town", "train", "note", "sun", "how", "wind")


class Moody(FakeLLM):
    """A model whose scores follow from what it is asked; one that is `mute` tells none."""

    def __init__(self, seed: int, mute: bool = False) -> None:
        super().__init__("{}")
        self.seed, self.mute = seed, mute
        self.choice = self.scores

    def scores(self, request: ChatRequest) -> dict[str, float]:
        rng = random.Random(f"{self.seed} {request.choices} {[m.text for m in request.messages]}")
        return {option: rng.choice((0.0, -rng.random() * 3, -rng.random() * 25)) for option in request.choices or ()}

    def result(self, request: ChatRequest) -> ChatResult:
        if request.choices and self.mute:
            raise LLMError("no scores here")
        return super().result(request)


async def taught_memory(rng: random.Random, lessons: int) -> LocalMemory:
    memory = LocalMemory(HashEmbedder())
    for n in range(lessons):
        await memory.append("ada", [request(n, " ".join(rng.sample(WORDS, 3)), truth=rng.choice(("yes", "no")))])
        arguments: dict[str, Any] = {
            "units": rng.choice(("metric", "imperial", "nautical")),
            "days": rng.choice((1, 3, 7)),
        }
        if rng.random() < 0.5:
            arguments["alerts"] = rng.random() < 0.5
        tool = rng.choice(("forecast", "forecast", "answer", "notes"))
        action = Action(tool=tool, arguments=arguments if tool == "forecast" else {})
        await teach(memory, "ada", f"r{n}", action, CHOOSING)
    return memory


async def turned(agent: Agent, draft: PersonaDraft, query: str) -> dict[str, str]:
    """What a turn chooses: the tool, and the arguments that the forecast would be called with."""
    toolbox = agent.toolbox
    assert toolbox is not None
    asking = RecallQuery(
        text=query, k=draft.decision.episodes, with_truth=True, max_tokens=agent.settings.recall_tokens
    )
    view = PromptView.of(draft, await agent.memory.recall("ada", asking), None)
    turn = Turn(user="ada", messages=(Message(role="user", content=query),))
    context = ToolContext(user="ada", interaction="r99")
    acting = await Acting.begun(toolbox, agent.llm, agent.memory, turn, view, context)
    (arguments,), fault = await acting.arguments(FORECAST, [])
    assert not fault
    tool = await acting.choose([], [])
    written = {"units": "", "days": "", "alerts": ""} | {k: str(v).lower() for k, v in arguments.items()}
    return {"tool": tool.tool, **{f"forecast.{name}": value for name, value in written.items()}}


async def lessons_on(memory: LocalMemory, query: str) -> list[Interaction]:
    """The request is remembered, and what was right at it."""
    await memory.append("ada", [request(99, query)])
    right = Action(tool="forecast", arguments={"units": "metric", "days": 3, "alerts": True})
    await teach(memory, "ada", "r99", right, CHOOSING)
    found = [i for i in await memory.latest("ada", 99, lessons=True) if i.metadata["of"] == "r99"]
    assert len(found) == 4
    return found


BOXES = list(itertools.product((None, 0.0, 0.4, 1.0), (False, True), (False, True)))


@pytest.mark.parametrize(("weight", "native", "likes"), BOXES)
async def test_a_lesson_is_replayed_as_the_turn_chose(weight: float | None, native: bool, likes: bool) -> None:
    chosen = Counter[str]()
    for seed in range(16):
        rng = random.Random(seed)
        memory = await taught_memory(rng, rng.choice((0, 0, 1, 3, 6)))
        box = Toolbox(
            ToolSettings(model_weight=weight),
            [FakeTool(spec) for spec in CHOOSING],
            native=native,
            embedder=HashEmbedder() if likes else None,
        )
        agent = Agent(Moody(seed, mute=seed % 8 == 7), memory, AgentSettings(), None, box)
        decision = Decision(
            episodes=rng.choice((0, 3)), evidence=seed % 4 != 3, model_weight=rng.choice((0.0, 0.1, 0.5, 1.0, 2.0))
        )
        draft = DRAFT.model_copy(update={"decision": decision})
        query = " ".join(rng.sample(WORDS, 3))
        turn = await turned(agent, draft, query)
        for lesson in await lessons_on(memory, query):
            of = str(lesson.metadata[ACTION])
            replay = await agent.replay(lesson, draft)
            if native and of == "forecast.alerts" and not turn[of]:  # which is left to what the model writes
                assert replay.text in ("true", "false")
                continue
            assert replay.text == turn[of], (seed, of)
            chosen[replay.text] += 1
    assert len(chosen) > 5


@pytest.mark.parametrize(
    ("weight", "native", "matters"), [(0.5, False, False), (None, True, False), (None, False, True)]
)
async def test_weights_of_decisions_matter_only_where_the_persona_has_the_say(
    weight: float | None, native: bool, matters: bool
) -> None:
    memory = await taught_memory(random.Random(1), 3)
    box = Toolbox(ToolSettings(model_weight=weight), [FakeTool(s) for s in CHOOSING], native=native)
    agent = Agent(Moody(1), memory, AgentSettings(), None, box)
    for lesson in await lessons_on(memory, "rain in town"):
        decisions = [Decision(model_weight=w) for w in (0.01, 0.3, 1.0)]
        choices = (await agent.replay(lesson, DRAFT, decisions)).choices
        assert len(choices) == 3
        left_out = not choices[0].probabilities
        assert (choices[0] != choices[2]) == (matters and not left_out)
        weights = {agent.model_weight(lesson, decision) for decision in decisions}
        assert weights == ({0.01, 0.3, 1.0} if matters else {1.0 if native else 0.5})


async def test_tools_that_are_no_longer_there_are_named() -> None:
    memory = await taught_memory(random.Random(1), 2)
    llm, box = Moody(1), Toolbox(ToolSettings(), [FakeTool(CHOOSING[2])], embedder=HashEmbedder())
    for lesson in await lessons_on(memory, "rain in town"):
        replay = await Agent(llm, memory, AgentSettings(), None, box).replay(lesson, DRAFT)
        assert replay.text in (lesson.choices or ())
        assert "The weather at a place" not in llm.requests[-1].messages[-1].text

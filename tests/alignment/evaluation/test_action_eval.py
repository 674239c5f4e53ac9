"""The evaluation of actions with scripted agents: whose persona and memory an arm has, what is learned, and what is told."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from alignment.evaluation.action_eval import NOBODY, ActionEvaluation, AgentTurns
from alignment.evaluation.action_measures import Acted
from alignment.evaluation.action_report import action_tables, write_action_report
from alignment.evaluation.action_result import ActionRow, action_result
from alignment.evaluation.action_world import ActionRequest, ActionWorld, action_world
from personaagent.agent.agent import Agent
from personaagent.errors import InvalidInput, LLMError
from personaagent.protocols import LLM, Embedder, Memory
from personaagent.settings import AgentSettings, AlignmentSettings, Settings
from personaagent.tools.lessons import lessons
from personaagent.types import ACTION, ANSWER, Decision, ToolCall
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM

USERS = 4


class PerfectTurns:
    """Does what is right for whom it is told to answer, while it has tools and evidence. For strangers it reads the news."""

    def __init__(self, llm: LLM, embedder: Embedder, settings: Settings, world: ActionWorld) -> None:
        self._llm = llm
        self._settings = settings
        self._world = world
        self._requests: dict[str, ActionRequest] = {r.text: r for r in world.held_out}

    def agent(self, memory: Memory) -> Agent:
        return Agent(self._llm, memory, self._settings.agent)

    async def answer(self, memory: Memory, user: str, request: str, tools: bool) -> Acted:
        persona = await memory.persona(user)
        assert persona is not None
        if not tools:
            return Acted("I do not know.", steps=1, tokens=10)
        if user == NOBODY:
            assert await memory.latest(user, 5) == ()
            return Acted("News.", (ToolCall(name="news", arguments={"subject": "glaciers"}),), steps=2, tokens=20)
        if not persona.decision.evidence:
            return Acted("Nothing comes to mind.", steps=1, tokens=30)
        assert len(await memory.latest(user, 100)) >= 16
        ideal = self._world.ideal(user, self._requests[request])
        if ideal.action.tool == ANSWER:
            return Acted(ideal.answer, steps=1, tokens=40)
        call = ToolCall(name=ideal.action.tool, arguments=dict(ideal.action.arguments))
        return Acted(ideal.answer, (call,), steps=2, tokens=40)


class FailingTurns(PerfectTurns):
    async def answer(self, memory: Memory, user: str, request: str, tools: bool) -> Acted:
        if user == NOBODY:
            raise LLMError("no")
        return await super().answer(memory, user, request, tools)


def settings() -> Settings:
    return Settings(
        agent=AgentSettings(decision=Decision(episodes=0)),
        alignment=AlignmentSettings(retry_s=0, profile=False, population=False),
    )


def evaluation(world: ActionWorld, turns: Any = PerfectTurns, llm: LLM | None = None) -> ActionEvaluation:
    return ActionEvaluation(
        world, settings(), llm or FakeLLM("fine"), HashEmbedder(), lessons, lambda *_: None, seed=3, turns=turns
    )


@pytest.fixture(scope="module")
def world() -> ActionWorld:
    return action_world(users=USERS)


async def test_every_arm_has_the_persona_and_memory_it_says(world: ActionWorld) -> None:
    result = await evaluation(world).run()
    users = world.users
    asked = [(u, users[(n + 1) % USERS], r) for n, u in enumerate(users) for r in world.tested[u]]
    tool = result["right_tool"]
    assert tool["own"]["value"] == 1.0
    same = fmean(world.ideal(u, r).action.tool == world.ideal(o, r).action.tool for u, o, r in asked)
    assert tool["other"]["value"] == pytest.approx(same, abs=1e-4)
    assert tool["none"]["value"] == pytest.approx(fmean(world.ideal(u, r).action.tool == "news" for u, _, r in asked))
    idle = fmean(world.ideal(u, r).action.tool == ANSWER for u, _, r in asked)
    for arm in ("no_evidence", "no_tools", "neither"):
        assert tool[arm]["value"] == pytest.approx(idle)
    assert result["right_use"]["own"]["value"] == result["right_arguments"]["own"]["value"] == 1.0
    assert result["right_arguments"]["other"]["value"] < tool["other"]["value"]
    difference = result["differences"]["own-other"]["right_tool"]
    assert difference["value"] == pytest.approx(1 - same, abs=1e-4)
    assert difference["value"] > 3 * difference["se"] > 0


async def test_the_result_is_json_of_the_shape_that_is_promised(world: ActionWorld, tmp_path: Path) -> None:
    result = json.loads(json.dumps(await evaluation(world).run()))
    assert 0 < result["valid_calls"] < 1  # strangers' calls name no age
    assert result["calls_by_arm"]["own"]["value"] == 1.0
    for measure in ("right_tool", "right_arguments", "right_use"):
        for arm in ("own", "other", "none"):
            cell = result[measure][arm]
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
            assert cell["users"] == USERS
    assert result["steps"]["no_tools"]["value"] == 1
    assert result["tokens"]["none"]["value"] == 20
    assert (result["users"], result["seed"], result["world"]) == (USERS, 3, "measure")
    assert result["requests"]["held_out"] == 10 * USERS
    assert set(result["differences"]) == {"own-other", "own-none", "own-no_evidence", "own-no_tools", "own-neither"}
    assert set(result["by_kind"]) == {r.kind for r in world.held_out}
    assert result["by_kind"]["plain"]["right_arguments"] == {}
    assert result["alignment"]["users"] == USERS
    assert result["missing"] == {}
    titles = [table.title for table in action_tables(result)]
    assert titles == ["Held-out requests", "Differences", "Kinds of requests", "Alignment"]
    page = write_action_report(result, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "made up for this project" in page
    assert "<svg" in page


async def test_what_is_learned_is_in_memory_and_what_is_held_out_never(world: ActionWorld) -> None:
    llm = FakeLLM("fine")
    run = evaluation(world, llm=llm)
    await run.run()
    held_out = {r.text for r in world.held_out}
    for user in world.users:
        known = await run._memory.latest(user, 1000)
        told = await run._memory.latest(user, 1000, lessons=True)
        assert {i.query for i, _ in world.history(user)} == {i.query for i in known}
        right = {i.truth for i in told if i.metadata[ACTION] == "tool"}
        assert right == {a.tool for _, a in world.history(user)}
        assert {i.query for i in told} <= {i.query for i in known}
        assert not [i for i in known if i.query in held_out]
    asked = "\n".join(m.text for request in llm.requests for m in request.messages)
    assert not [text for text in held_out if text in asked]  # alignment never saw one
    assert NOBODY not in [summary.user for summary in await run._memory.users()]


async def test_what_fails_is_left_out_and_counted(world: ActionWorld) -> None:
    result = await evaluation(world, FailingTurns).run()
    assert result["missing"] == {"none": 10 * USERS, "neither": 10 * USERS}
    assert "none" not in result["right_tool"]
    assert "own-none" not in result["differences"]
    assert action_tables(result)


def test_another_user_is_needed() -> None:
    with pytest.raises(InvalidInput, match="two users"):
        evaluation(action_world(users=1))


def test_shares_and_differences_that_can_be_worked_out_by_hand() -> None:
    def row(user: str, own: float, other: float, *valid: bool) -> ActionRow:
        values = {"own": {"right_tool": own}, "other": {"right_tool": other}}
        return ActionRow(user, "r", "journey", values, {"own": valid})  # type: ignore[arg-type]

    result = action_result([row("ann", 1, 0, True, False), row("ann", 1, 1), row("ben", 0, 0, True), row("ben", 1, 0)])
    assert result["valid_calls"] == pytest.approx(2 / 3)
    assert result["right_tool"]["own"] | {"low": 0, "high": 0} == {
        "value": 0.75,
        "se": 0.25,
        "low": 0,
        "high": 0,
        "n": 4,
        "users": 2,
    }
    difference = result["differences"]["own-other"]["right_tool"]
    assert (difference["value"], difference["se"]) == (0.5, 0.0)
    assert action_result([])["valid_calls"] is None


async def test_the_agent_itself_acts_with_the_tools_of_the_world(world: ActionWorld) -> None:
    llm = FakeLLM("It is 21 °C.")
    result = await evaluation(world, AgentTurns, llm).run()
    assert result["missing"] == {}
    assert set(result["right_tool"]) == {"own", "other", "none", "no_evidence", "no_tools", "neither"}
    assert result["calls"]["no_tools"]["value"] == result["calls"]["neither"]["value"] == 0
    assert result["calls"]["own"]["value"] > 0
    assert result["tokens"]["own"]["value"] > result["tokens"]["no_tools"]["value"] > 0

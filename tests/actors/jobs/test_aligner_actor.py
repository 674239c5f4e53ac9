"""Alignment actors know the tools by their descriptions."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from actors.jobs.aligner_actor import AlignerParts, AlignmentActor
from actors.jobs.population import _share
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.tools.described import ToolDescriptions
from personaagent.tools.lessons import teach
from personaagent.types import Action
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.taught import SPECS, request


async def taught_parts(tools: ToolDescriptions | None, **settings: Any) -> AlignerParts:
    embedder = HashEmbedder()
    memory = LocalMemory(embedder)
    await memory.append("ada", [request(n, f"rain on day {n}") for n in range(8)])
    for n in range(8):
        await teach(memory, "ada", f"r{n}", Action(tool="weather", arguments={"units": "metric"}), SPECS)
    alignment = AlignmentSettings.model_validate({"retry_s": 0, "profile": False, **settings})
    return AlignerParts(FakeLLM(), embedder, memory, AgentSettings(), alignment, tools=tools)


def asked(parts: AlignerParts) -> list[str]:
    assert isinstance(parts.llm, FakeLLM)
    return [r.messages[-1].text for r in parts.llm.requests if r.choices and "answer" in r.choices]


@pytest.mark.parametrize("tools", [None, ToolDescriptions(specs=SPECS)])
async def test_lessons_are_replayed_with_the_descriptions_that_the_actor_was_given(
    tools: ToolDescriptions | None,
) -> None:
    parts = await taught_parts(tools)
    await AlignmentActor(parts).align(["ada"])
    assert asked(parts)
    assert all(("weather: the weather" in text) == (tools is not None) for text in asked(parts))


async def test_what_an_actor_is_told_later_counts_from_then_on() -> None:
    parts = await taught_parts(ToolDescriptions())
    actor = AlignmentActor(parts)
    actor.know(SPECS)
    await actor.align(["ada"])
    assert asked(parts)
    assert all("weather: the weather" in text for text in asked(parts))


async def test_without_tools_there_is_nothing_to_know() -> None:
    parts = await taught_parts(None)
    actor = AlignmentActor(parts)
    actor.know(SPECS)
    await actor.align(["ada"])
    assert all("weather: the weather" not in text for text in asked(parts))


async def test_descriptions_reach_the_actors_of_a_run() -> None:
    parts = await taught_parts(ToolDescriptions(specs=SPECS, native=True), run_calls=100)
    shared = _share(parts, 4, 20, 0)
    assert shared.alignment.run_calls == 20
    assert pickle.loads(pickle.dumps(shared.tools)) == parts.tools

from __future__ import annotations

import pickle

import pytest
from pydantic import SecretStr

from personaagent.tool_settings import HttpToolSettings, ToolSettings
from personaagent.tools.described import DescribedTools, ToolDescriptions
from personaagent.tools.http_tool import HttpTool
from personaagent.tools.tool import ToolContext
from personaagent.tools.toolbox import Toolbox
from personaagent.types import ToolCall
from tests.support.doubles import HashEmbedder
from tests.support.fake_tool import FakeTool
from tests.support.taught import SPECS


@pytest.mark.parametrize(("weight", "native"), [(None, False), (None, True), (0.2, True)])
async def test_a_described_toolbox_is_known_by_what_choices_are_made_of(weight: float | None, native: bool) -> None:
    real = Toolbox(ToolSettings(model_weight=weight), [FakeTool(s) for s in SPECS], native=native)
    told = await ToolDescriptions.of(real)
    assert told is not None
    embedder = HashEmbedder()
    box = DescribedTools(pickle.loads(pickle.dumps(told))).toolbox(embedder)
    assert await box.specs() == await real.specs()
    assert (box.model_weight, box.native, box.embedder) == (real.model_weight, native, embedder)


async def test_a_described_tool_cannot_be_called() -> None:
    tool = FakeTool(SPECS[0])
    told = await ToolDescriptions.of(Toolbox(ToolSettings(), [tool]))
    assert told is not None
    box = await DescribedTools(told).toolbox(HashEmbedder()).open()
    seen = await box.call(ToolCall(name="trains", arguments={}), ToolContext(user="ada", interaction="1"))
    assert seen.error
    assert "only described here" in seen.text
    assert not tool.calls


async def test_what_is_gone_stays_as_it_was_described_last() -> None:
    tools = DescribedTools(ToolDescriptions(specs=SPECS[:2]))
    box = tools.toolbox(HashEmbedder())
    news = SPECS[1].model_copy(update={"description": "what flies"})
    tools.know([SPECS[3], news])
    assert await box.specs() == (SPECS[3], news, SPECS[0])


async def test_descriptions_hold_no_secrets() -> None:
    declared = HttpToolSettings(
        name="weather",
        description="The weather.",
        url="https://weather.example.org/v1",
        headers={"Authorization": SecretStr("Bearer KEY")},
    )
    settings = ToolSettings(http=(declared,))
    tool = HttpTool(declared, settings)
    told = await ToolDescriptions.of(Toolbox(settings, [tool]))
    await tool.close()
    assert b"KEY" not in pickle.dumps(told)


async def test_without_tools_there_is_nothing_to_describe() -> None:
    assert await ToolDescriptions.of(None) is None

"""The tools of a running system."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from personaagent.errors import InvalidInput
from personaagent.memory.local import LocalMemory
from personaagent.settings import Settings
from personaagent.tools.tool import ToolContext
from personaagent.types import ToolCall
from serve.toolkit import start_tools
from tests.support.doubles import HashEmbedder


class Logging(LocalMemory):
    """Has a log of calls, as memory shards do."""

    def __init__(self) -> None:
        super().__init__(HashEmbedder())
        self.lines: list[tuple[str, str, bool]] = []

    async def note_call(self, user: str, tool: str, failed: bool) -> None:
        self.lines.append((user, tool, failed))


async def test_every_call_is_in_the_log_of_the_memory() -> None:
    memory: Any = Logging()
    box = await start_tools(Settings(), memory, HashEmbedder())
    assert box is not None
    opened = await box.open()
    context = ToolContext(user="ada", interaction="now", said=("hello",))
    await opened.call(ToolCall(name="read_profile"), context)
    await opened.call(ToolCall(name="note_fact", arguments={"about": "diet", "fact": "eats stones"}), context)
    await box.close()
    assert memory.lines == [("ada", "read_profile", False), ("ada", "note_fact", False), ("ada", "note_fact", True)]


async def test_there_are_none_where_the_agent_has_none() -> None:
    off = Settings().model_copy(update={"agent": Settings().agent.model_copy(update={"tools": False})})
    memory: Any = Logging()
    assert await start_tools(off, memory, HashEmbedder()) is None


async def test_no_server_is_started_for_settings_that_cannot_be_used(tmp_path: Path) -> None:
    started = tmp_path / "started"
    mcp = [{"name": "maps", "command": ["touch", str(started)]}]
    nowhere = [{"description": "papers", "folder": str(tmp_path / "nowhere")}]
    memory: Any = Logging()
    tree = Settings.model_validate({"tools": {"mcp": mcp, "documents": nowhere}})
    with pytest.raises(InvalidInput):
        await start_tools(tree, memory, HashEmbedder())
    await asyncio.sleep(0.3)
    assert not started.exists()
    box = await start_tools(Settings.model_validate({"tools": {"mcp": mcp}}), memory, HashEmbedder())
    assert box is not None
    for _ in range(500):
        if started.exists():
            break
        await asyncio.sleep(0.02)
    await box.close()
    assert started.exists()
    assert [status.connected for status in box.status()] == [False]


@pytest.mark.parametrize("connect", [True, False])
async def test_who_answers_no_turn_starts_no_program(connect: bool) -> None:
    wild = Path(__file__).parents[1] / "support" / "wild_mcp_server.py"
    tree = Settings.model_validate({"tools": {"mcp": [{"name": "wild", "command": [sys.executable, str(wild)]}]}})
    memory: Any = Logging()
    box = await start_tools(tree, memory, HashEmbedder(), connect=connect)
    assert box is not None
    try:
        assert box.status()[0].wrong == ("it has not answered yet" if connect else "nobody has needed it yet")
        assert "about" in {spec.name for spec in await box.specs()}  # a turn gets them either way
        assert box.status()[0].connected
    finally:
        await box.close()

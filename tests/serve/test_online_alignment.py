from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.jobs.aligner_actor import AlignerParts, AlignmentActor
from personaagent.errors import UnavailableError
from personaagent.memory.local import LocalMemory
from personaagent.settings import AgentSettings, AlignmentSettings
from personaagent.tools.described import ToolDescriptions
from personaagent.tools.tool import ToolSpec
from serve.online_alignment import InformedActor
from tests.support.doubles import HashEmbedder
from tests.support.fake_llm import FakeLLM
from tests.support.taught import SPECS


class Router:
    """Says which tools there are, unless it is down."""

    def __init__(self) -> None:
        self.specs: tuple[ToolSpec, ...] | None = None

    async def ask(self) -> Sequence[ToolSpec]:
        if self.specs is None:
            raise UnavailableError("down")
        return self.specs


class Told(AlignmentActor):
    """Keeps what it is told."""

    def __init__(self, parts: AlignerParts) -> None:
        super().__init__(parts)
        self.knew: list[Sequence[ToolSpec]] = []

    def know(self, specs: Sequence[ToolSpec]) -> None:
        super().know(specs)
        self.knew.append(specs)


async def test_tools_are_asked_for_before_each_batch() -> None:
    embedder, router = HashEmbedder(), Router()
    parts = AlignerParts(
        FakeLLM(),
        embedder,
        LocalMemory(embedder),
        AgentSettings(),
        AlignmentSettings(retry_s=0),
        tools=ToolDescriptions(),
    )
    told = Told(parts)
    actor = InformedActor(told, router.ask)
    with pytest.raises(UnavailableError):
        await anext(actor.stream(["ada"]))
    router.specs = SPECS[:2]
    assert [r.user async for r in actor.stream(["ada", "ben"])] == ["ada", "ben"]
    router.specs = SPECS
    assert [r.user async for r in actor.stream(["ada"])] == ["ada"]
    router.specs = None  # what is known is good enough
    assert [r.user async for r in actor.stream(["ada"])] == ["ada"]
    assert told.knew == [SPECS[:2], SPECS]

"""A tool whose answers a test says, and which keeps the calls it got."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from personaagent.tools.tool import ToolContext, ToolOutput, ToolSpec

__all__ = ["FakeTool"]


class FakeTool:
    """Implements `personaagent.tools.tool.Tool`.

    Args:
        spec: of the tool.
        answer: the text of every answer, or what makes a text of the arguments.
    """

    def __init__(
        self, spec: ToolSpec, answer: str | Callable[[Mapping[str, Any]], str | Awaitable[str]] = "fine"
    ) -> None:
        self.spec = spec
        self.answer = answer
        self.calls: list[tuple[dict[str, Any], ToolContext]] = []

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        self.calls.append((dict(arguments), context))
        if isinstance(self.answer, str):
            return ToolOutput(text=self.answer)
        said = self.answer(arguments)
        return ToolOutput(text=said if isinstance(said, str) else await said)

"""Tools as they describe themselves, without the tools: for who asks again which one was right, and calls none.

Alignment does, in processes of its own. They get plain data: to have the tools themselves, every one of them would read the
folders of documents and start the programs of MCP servers again. A lesson does not carry what its turn saw, because there is
one for each request, and each would repeat a dozen descriptions; because those stored earlier have none; and because a persona
is judged for the turns to come, which see the descriptions as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from personaagent.base import Frozen
from personaagent.errors import UnavailableError
from personaagent.protocols import Embedder
from personaagent.tool_settings import ToolSettings
from personaagent.tools.tool import Tool, ToolContext, ToolOutput, ToolSource, ToolSpec
from personaagent.tools.toolbox import Toolbox

__all__ = ["DescribedTools", "ToolDescriptions"]


class ToolDescriptions(Frozen):
    """All that a choice of tools needs of a toolbox. It can be sent to other processes, and holds no secret of the settings.

    `model_weight` and `native` are those of `Toolbox`.
    """

    specs: tuple[ToolSpec, ...] = ()
    model_weight: float | None = None
    native: bool = False

    @classmethod
    async def of(cls, toolbox: Toolbox | None) -> ToolDescriptions | None:
        """Those of a toolbox as it is now; None if there is none."""
        if toolbox is None:
            return None
        return cls(specs=await toolbox.specs(), model_weight=toolbox.model_weight, native=toolbox.native)


class DescribedTools(ToolSource):
    """Tools that are known by their descriptions alone."""

    def __init__(self, told: ToolDescriptions) -> None:
        self._told = told

    def know(self, specs: Sequence[ToolSpec]) -> None:
        """Have these from now on; one that is there no longer stays as it was described last, for lessons still tell of it."""
        names = {spec.name for spec in specs}
        gone = (spec for spec in self._told.specs if spec.name not in names)
        self._told = self._told.model_copy(update={"specs": (*specs, *gone)})

    def toolbox(self, embedder: Embedder) -> Toolbox:
        """A toolbox with which choices are made as with the one that is described."""
        bounds = ToolSettings(model_weight=self._told.model_weight)
        return Toolbox(bounds, sources=(self,), native=self._told.native, embedder=embedder)

    async def tools(self) -> Sequence[Tool]:
        """See `ToolSource`."""
        return [_DescribedTool(spec) for spec in self._told.specs]

    def status(self) -> None:
        """There is no server behind them here."""

    async def close(self) -> None:
        """Nothing is held."""


class _DescribedTool:
    """One of them."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Raises UnavailableError: there is only the description of it."""
        raise UnavailableError(f"the tool {self.spec.name} is only described here, and cannot be called")

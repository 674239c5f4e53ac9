"""What a tool is: a name, a JSON Schema of its arguments, what it does, and a function that answers with text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Protocol

from pydantic import Field, JsonValue

from personaagent.base import Frozen
from personaagent.tool_settings import NAME
from personaagent.types import UserId

__all__ = ["Effect", "Sees", "SourceStatus", "Tool", "ToolContext", "ToolOutput", "ToolSource", "ToolSpec"]


class Effect(StrEnum):
    """Whether a call changes anything outside of the turn. Replays never make calls that do."""

    READS = "reads"
    CHANGES = "changes"


class Sees(StrEnum):
    """What of the user reaches a tool."""

    ARGUMENTS = "arguments"  # what the model writes into the call, and nothing else
    # Their memory and their words in this conversation, too: such a tool runs in this system.
    MEMORY = "memory"


class ToolSpec(Frozen):
    """A tool as models and people read it."""

    name: Annotated[str, Field(pattern=NAME)]
    description: str
    parameters: dict[str, JsonValue] = Field(default_factory=lambda: dict[str, JsonValue](type="object", properties={}))
    effect: Effect = Effect.READS
    sees: Sees = Sees.ARGUMENTS
    timeout_s: Annotated[float, Field(gt=0)] | None = None  # None: that of the settings
    tokens: Annotated[int, Field(ge=16)] | None = None  # of what is shown of a result; None: that of the settings

    @property
    def function(self) -> dict[str, Any]:
        """In OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class ToolContext(Frozen):
    """For whom a tool is called. A tool reaches no other user: it cannot be told one.

    `before` is the interaction being replayed: what came later stays out of sight. `said` are the user's own messages of the
    conversation, for tools that see so much (see `Sees`). `remember`: whether the turn leaves anything in memory.
    """

    user: UserId
    interaction: str
    incarnation: int | None = None
    before: str | None = None
    said: tuple[str, ...] = ()
    remember: bool = True


class ToolOutput(Frozen):
    """What a tool answered. An `error` is for the model to read, like any result."""

    text: str
    error: bool = False


class Tool(Protocol):
    """One tool. It may be called many times at once, for many users."""

    @property
    def spec(self) -> ToolSpec:
        """Its name, arguments and effect."""
        ...

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Do it. Arguments fit the schema.

        Raises:
            PersonaAgentError: it could not be done; the model is told why in one line, and the turn goes on.
        """
        ...


class SourceStatus(Frozen):
    """How it stands with a server that tools come from, for health."""

    name: str
    connected: bool
    tools: tuple[str, ...] = ()  # by the names under which they are offered
    wrong: str | None = None  # why it is not connected


class ToolSource(Protocol):
    """Where tools come from: the settings, an MCP server."""

    async def tools(self) -> Sequence[Tool]:
        """Those that can be called now. A source that is down has none; it does not raise."""
        ...

    def status(self) -> SourceStatus | None:
        """How it stands with the server behind it, as last seen; None if there is no server."""
        ...

    async def close(self) -> None:
        """Give back what is held: connections, processes."""
        ...
